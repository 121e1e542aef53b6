/* The HTTP client: URLs, responses fed in pieces of every size, events. */
#include <check.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "server/client.h"
#include "tests/unit/suite.h"

static void url_is(const char *text, const char *host, const char *port, const char *base) {
    client_url u;
    error err;
    ck_assert_msg(client_url_parse(text, &u, &err) == OK, "%s", err.text);
    ck_assert_str_eq(u.host, host);
    ck_assert_str_eq(u.port, port);
    ck_assert_str_eq(u.base, base);
}

START_TEST(test_urls) {
    url_is("http://127.0.0.1:8000", "127.0.0.1", "8000", "");
    url_is("http://127.0.0.1:8000/", "127.0.0.1", "8000", "");
    url_is("http://127.0.0.1:8000/v1", "127.0.0.1", "8000", "");
    url_is("http://127.0.0.1:8000/v1/", "127.0.0.1", "8000", "");
    url_is("host/a/b/v1", "host", "80", "/a/b");
    url_is("localhost:81", "localhost", "81", "");
    url_is("http://[::1]:8000", "::1", "8000", "");
    url_is("[::1]", "::1", "80", "");
    client_url u;
    error err;
    ck_assert_int_eq(client_url_parse("unix:/tmp/s", &u, &err), OK);
    ck_assert_str_eq(u.path, "/tmp/s");
    static const char *const bad[] = {"",          "http://", "http://h:0", "h:x",
                                      "https://h", "h:70000", "unix:",      ":80"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ck_assert_msg(client_url_parse(bad[i], &u, &err) == ERR_INVALID, "%s", bad[i]);
}
END_TEST

/* Feed text in pieces of n bytes, then (if cut) the end of the connection. */
static status feed(client_reply *r, const char *text, size_t n, bool closes, error *err) {
    size_t total = strlen(text);
    for (size_t at = 0; at < total && !r->done;) {
        size_t take = MIN(n, total - at), used;
        TRY(client_reply_feed(r, text + at, take, &used, err));
        at += used;
    }
    size_t used;
    return closes && !r->done ? client_reply_feed(r, "", 0, &used, err) : OK;
}

static void reply_is(const char *text, bool closes, int http, const char *body) {
    for (size_t n = 1; n < 64; n++) {
        client_reply r = {0};
        error err;
        ck_assert_msg(feed(&r, text, n, closes, &err) == OK, "pieces of %zu: %s", n, err.text);
        ck_assert_msg(r.done, "pieces of %zu: not done", n);
        ck_assert_int_eq(r.http, http);
        ck_assert_msg(str_eqz(strbuf_str(&r.body), body), "pieces of %zu: " STR_FMT, n,
                      STR_ARG(strbuf_str(&r.body)));
        client_reply_done(&r);
    }
}

START_TEST(test_replies) {
    reply_is("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello");
    reply_is("HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", false, 200, "");
    reply_is("HTTP/1.0 503 Busy\r\n\r\nto the end", true, 503, "to the end");
    reply_is("HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", false, 204, "");
    reply_is("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false,
             200, "x");
    reply_is("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n"
             "0\r\nTrailer: t\r\n\r\n",
             false, 200, "hello!");
}
END_TEST

START_TEST(test_bad_replies) {
    static const char *const bad[] = {
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        "HTTP/1.1 200 OK\r\n",
        "",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        client_reply r = {0};
        error err;
        ck_assert_msg(feed(&r, bad[i], 7, true, &err) == ERR_IO, "%s", bad[i]);
        client_reply_done(&r);
    }
}
END_TEST

START_TEST(test_events) {
    static const char text[] = ": keep-alive\n\ndata: one\n\ndata:two\n\nevent: x\n\n"
                               "data: [DONE]\n\ndata: cut";
    for (size_t n = 1; n < sizeof text; n++) {
        client_reply r = {0};
        strbuf seen = {0};
        size_t pos = 0;
        for (size_t at = 0; at < sizeof text - 1; at += n) {
            str data;
            strbuf_add(&r.body, str_n(text + at, MIN(n, sizeof text - 1 - at)));
            while (client_event(&r, &pos, &data)) strbuf_addf(&seen, STR_FMT "|", STR_ARG(data));
        }
        ck_assert_str_eq(seen.p, "one|two|[DONE]|");
        strbuf_done(&seen);
        client_reply_done(&r);
    }
}
END_TEST

/* What was read does not pile up. */
START_TEST(test_events_are_dropped) {
    client_reply r = {0};
    size_t pos = 0;
    for (int i = 0; i < 100000; i++) {
        str data;
        strbuf_addz(&r.body, "data: some text that repeats\n\n");
        ck_assert(client_event(&r, &pos, &data));
        ck_assert(!client_event(&r, &pos, &data));
    }
    ck_assert_uint_lt(r.body.n, 20000);
    client_reply_done(&r);
}
END_TEST

START_TEST(test_refusal) {
    error err;
    ck_assert_int_eq(client_refusal(200, STR("{\"id\": 1}"), &err), OK);
    ck_assert_int_eq(client_refusal(200, STR("{\"error\": null}"), &err), OK);
    ck_assert_int_eq(client_refusal(400, STR("{\"error\": {\"message\": \"no\"}}"), &err),
                     ERR_INVALID);
    ck_assert_str_eq(err.text, "no");
    ck_assert_int_eq(client_refusal(200, STR("{\"error\": {\"message\": \"late\"}}"), &err),
                     ERR_INVALID);
    ck_assert_int_eq(client_refusal(502, STR("<html>"), &err), ERR_INVALID);
    ck_assert_str_eq(err.text, "the server answered with status 502 and no reason");
}
END_TEST

typedef struct peer {
    int listener;
    const char *answer;
    char asked[1024];
} peer;

/* One connection: read the request, answer, close. */
static void *serve_one(void *arg) {
    peer *p = arg;
    int fd = accept(p->listener, NULL, NULL);
    ssize_t n = recv(fd, p->asked, sizeof p->asked - 1, 0);
    if (n > 0) p->asked[n] = 0;
    send(fd, p->answer, strlen(p->answer), MSG_NOSIGNAL);
    close(fd);
    return NULL;
}

static status count_events(void *ctx, const json_t *event, error *err) {
    ++*(int *)ctx;
    return OK;
}

START_TEST(test_stream_over_a_socket) {
    char path[] = "/tmp/pagoda-test-client.XXXXXX", url[128];
    ck_assert_ptr_nonnull(mkdtemp(path));
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", path);
    snprintf(url, sizeof url, "unix:%s", a.sun_path);
    peer p = {.listener = socket(AF_UNIX, SOCK_STREAM, 0),
              .answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: {\"a\":1}\n\n"
                        "data: {\"a\":2}\n\ndata: [DONE]\n\n"};
    ck_assert_int_eq(bind(p.listener, (struct sockaddr *)&a, sizeof a), 0);
    ck_assert_int_eq(listen(p.listener, 1), 0);
    pthread_t t;
    pthread_create(&t, NULL, serve_one, &p);
    client_url u;
    error err;
    int n = 0;
    ck_assert_int_eq(client_url_parse(url, &u, &err), OK);
    ck_assert_msg(client_stream(&u, "/v1/x", "key", STR("{}"), count_events, &n, NULL, &err) == OK,
                  "%s", err.text);
    pthread_join(t, NULL);
    ck_assert_int_eq(n, 2);
    ck_assert_ptr_nonnull(strstr(p.asked, "POST /v1/x HTTP/1.1\r\n"));
    ck_assert_ptr_nonnull(strstr(p.asked, "\r\nAuthorization: Bearer key\r\n"));
    ck_assert_ptr_nonnull(strstr(p.asked, "\r\nContent-Length: 2\r\n\r\n{}"));
    close(p.listener);
    unlink(a.sun_path);
    rmdir(path);
    ck_assert_int_eq(client_stream(&u, "/", NULL, STR(""), count_events, &n, NULL, &err), ERR_IO);
}
END_TEST

int main(void) {
    Suite *s = suite_create("client");
    TCase *t = tcase_create("client");
    suite_add_tcase(s, t);
    tcase_add_test(t, test_urls);
    tcase_add_test(t, test_replies);
    tcase_add_test(t, test_bad_replies);
    tcase_add_test(t, test_events);
    tcase_add_test(t, test_events_are_dropped);
    tcase_add_test(t, test_refusal);
    tcase_add_test(t, test_stream_over_a_socket);
    return suite_run(s);
}
