/* Small tables: routes, connections per address, messages, defaults. */
#include <arpa/inet.h>
#include <check.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/messages.h"
#include "server/peers.h"
#include "server/routes.h"
#include "server/server.h"
#include "tests/unit/suite.h"

START_TEST(routes_are_found) {
    route_match m;
    route_find(METHOD_GET, STR("/health"), &m);
    ck_assert(m.route && (m.route->flags & ROUTE_OPEN));
    route_find(METHOD_HEAD, STR("/health/"), &m);
    ck_assert(m.route && m.route->id == ROUTE_ID_health);
    route_find(METHOD_POST, STR("/health"), &m);
    ck_assert(!m.route && m.path);
    ck_assert_str_eq(m.allow, "GET, HEAD, OPTIONS");
    route_find(METHOD_GET, STR("/v1/models/a/b"), &m);
    ck_assert(m.route->id == ROUTE_ID_model && str_eqz(m.arg, "a/b"));
    static const char *const unknown[] = {"",          "/",        "//health",       "/health//",
                                          "/Health",   "/healthx", "/v1/models2",    "/v1",
                                          "/./health", "health",   "/health/../live"};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
        route_find(METHOD_GET, str_z(unknown[i]), &m);
        ck_assert_msg(!m.path, "%s", unknown[i]);
    }
    ck_assert(route_method("GET") == METHOD_GET && route_method("get") == METHOD_OTHER);
}
END_TEST

static struct sockaddr_in address(uint32_t a) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(a)};
}

/* Random enters and leaves of many addresses against plain counters. */
START_TEST(peers_count_exactly) {
    enum { N = 300, LIMIT = 3 };
    peers *p = peers_new(LIMIT, 400);
    int count[N] = {0}, total = 0;
    for (uint64_t i = 0; i < 200000; i++) {
        rng_block r = rng_philox(1, 2, i);
        int k = (int)(r.x[0] % N);
        struct sockaddr_in a = address(0x0a000000u + (uint32_t)k * 97);
        if (r.x[1] % 2 && total < 400) {
            bool in = peers_enter(p, (struct sockaddr *)&a);
            ck_assert_int_eq(in, count[k] < LIMIT);
            count[k] += in;
            total += in;
        } else if (count[k] > 0) {
            peers_leave(p, (struct sockaddr *)&a);
            count[k]--;
            total--;
        }
    }
    peers_free(p);
    struct sockaddr_in a = address(1);
    p = peers_new(0, 10);
    for (int i = 0; i < 100; i++) ck_assert(peers_enter(p, (struct sockaddr *)&a));
    peers_free(p);
}
END_TEST

static json_t *read_ok(const char *text) {
    error e;
    json_t *body = NULL, *list = NULL;
    ck_assert(js_parse(str_z(text), &body, &e) == OK);
    ck_assert_msg(messages_read(body, &list, &e) == OK, "%s", e.text);
    json_decref(body);
    return list;
}

START_TEST(messages_take_their_form) {
    json_t *m = read_ok("{\"messages\":[{\"role\":\"developer\",\"content\":\"x\",\"evil\":1},"
                        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                        "{\"type\":\"text\",\"text\":\"b\"}]},"
                        "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\","
                        "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"k\\\":[1]}\"}}]}]}");
    strbuf b = {0};
    strbuf_add_js(&b, m);
    ck_assert_str_eq(b.p, "[{\"role\":\"system\",\"content\":\"x\"},"
                          "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
                          "{\"type\":\"text\",\"text\":\"b\"}]},"
                          "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\","
                          "\"type\":\"function\",\"function\":{\"name\":\"f\","
                          "\"arguments\":\"{\\\"k\\\":[1]}\"}}]}]");
    strbuf_done(&b);
    json_decref(m);
}
END_TEST

START_TEST(defaults_come_from_the_model) {
    char dir[] = "/tmp/pagoda-defaults-XXXXXX", path[64];
    error e;
    server_defaults d;
    ck_assert(mkdtemp(dir));
    ck_assert(server_defaults_read(dir, &d, &e) == OK);
    ck_assert(d.temperature == 1 && d.top_p == 1 && d.top_k == 0 && d.max_new_tokens == 0);
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    const char *text = "{\"temperature\":0.6,\"top_k\":20,\"top_p\":0.9,\"max_new_tokens\":64,"
                       "\"repetition_penalty\":1.1,\"min_p\":-3}";
    ck_assert(file_write_atomic(path, str_z(text), &e) == OK);
    ck_assert(server_defaults_read(dir, &d, &e) == OK);
    ck_assert(d.temperature == 0.6f && d.top_k == 20 && d.top_p == 0.9f && d.min_p == 0);
    ck_assert(d.max_new_tokens == 64 && d.repetition_penalty == 1.1f);
    ck_assert(file_write_atomic(path, STR("{"), &e) == OK);
    ck_assert(server_defaults_read(dir, &d, &e) != OK && strstr(e.text, "generation_config"));
    unlink(path);
    rmdir(dir);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tables");
    TCase *t = tcase_create("all");
    tcase_add_test(t, routes_are_found);
    tcase_add_test(t, peers_count_exactly);
    tcase_add_test(t, messages_take_their_form);
    tcase_add_test(t, defaults_come_from_the_model);
    suite_add_tcase(s, t);
    return suite_run(s);
}
