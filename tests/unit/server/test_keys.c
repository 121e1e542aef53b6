/* API keys: file formats, checking, limits by the minute, reload. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "server/keys.h"
#include "tests/unit/suite.h"

static char path[64];

static status load(const char *text, keys **ret, error *err) {
    snprintf(path, sizeof path, "/tmp/pagoda-keys-%d", (int)getpid());
    ck_assert(file_write_atomic(path, str_z(text), err) == OK);
    return keys_load(NULL, 0, path, ret, err);
}

static status check(keys *k, const char *header, key **ret) {
    error e;
    return keys_check(k, header, ret, &e);
}

START_TEST(lines) {
    keys *k = NULL;
    key *who = NULL;
    error e;
    ck_assert(load("# team\nsk-one\n\n  sk-two  \n", &k, &e) == OK);
    ck_assert_int_eq(keys_count(k), 2);
    ck_assert(check(k, "Bearer sk-two", &who) == OK && key_index(who) == 1);
    ck_assert(check(k, "bearer sk-one", &who) == OK && key_index(who) == 0);
    ck_assert(check(k, "Bearer sk-three", &who) == ERR_UNAUTHORIZED);
    ck_assert(check(k, "Bearer # team", &who) == ERR_UNAUTHORIZED);
    ck_assert(check(k, "Bearer ", &who) == ERR_UNAUTHORIZED);
    ck_assert(check(k, "sk-one", &who) == ERR_UNAUTHORIZED);
    ck_assert(check(k, NULL, &who) == ERR_UNAUTHORIZED);
    ck_assert(key_allows(who, STR("anything")));
    keys_release(k);
}
END_TEST

START_TEST(json_entries) {
    keys *k = NULL;
    key *who = NULL;
    error e;
    ck_assert(load("[{\"name\":\"a\",\"key\":\"sk-a\",\"weight\":2.5,\"models\":[\"demo\"]},"
                   "{\"sha256\":\"ba7816bf8f01cfea414140de5dae2223"
                   "b00361a396177a9cb410ff61f20015ad\"}]",
                   &k, &e) == OK);
    ck_assert(check(k, "Bearer sk-a", &who) == OK);
    ck_assert_str_eq(key_name(who), "a");
    ck_assert(key_weight(who) == 2.5f);
    ck_assert(key_allows(who, STR("demo")) && !key_allows(who, STR("other")));
    ck_assert(!key_is_admin(who));
    uint64_t salt[2], other[2];
    key_salt(who, salt);
    ck_assert(check(k, "Bearer abc", &who) == OK);
    ck_assert_str_eq(key_name(who), "key-2");
    key_salt(who, other);
    ck_assert(salt[0] != other[0] && salt[1] != other[1]);
    keys_release(k);
}
END_TEST

START_TEST(who_may_change_the_server) {
    static const char *const plain[] = {"sk-plain"};
    keys *k = NULL;
    key *who = NULL;
    error e;
    ck_assert(load("[{\"key\":\"a\",\"admin\":true},{\"key\":\"b\",\"admin\":false}]", &k, &e) ==
              OK);
    ck_assert(check(k, "Bearer a", &who) == OK && key_is_admin(who));
    ck_assert(check(k, "Bearer b", &who) == OK && !key_is_admin(who));
    keys_release(k);
    ck_assert(keys_load(plain, 1, NULL, &k, &e) == OK);
    ck_assert(check(k, "Bearer sk-plain", &who) == OK && key_is_admin(who));
    keys_release(k);
}
END_TEST

START_TEST(bad_files) {
    static const char *const bad[][2] = {
        {"[{\"name\":\"a\"}]", "entry 1"},
        {"[{\"key\":\"a\",\"rmp\":5}]", "rmp"},
        {"[{\"key\":\"a\",\"weight\":0}]", "weight"},
        {"[{\"key\":\"a\",\"rpm\":-1}]", "negative"},
        {"[{\"sha256\":\"zz\"}]", "sha256"},
        {"[{\"key\":\"a\",\"models\":\"demo\"}]", "models"},
        {"[{\"key\":\"a\",\"admin\":1}]", "admin"},
        {"[3]", "object"},
        {"[", "JSON"},
        {"# nothing\n", "no key"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        keys *k = NULL;
        error e = {0};
        ck_assert_msg(load(bad[i][0], &k, &e) != OK, "%s", bad[i][0]);
        ck_assert_msg(strstr(e.text, bad[i][1]) && strstr(e.text, path), "%s", e.text);
        ck_assert(!k);
    }
}
END_TEST

START_TEST(limits) {
    keys *k = NULL;
    key *who = NULL;
    error e;
    int retry = 0;
    uint64_t now = 1000000;
    ck_assert(load("[{\"key\":\"a\",\"rpm\":2,\"tpm\":100,\"max_in_flight\":2}]", &k, &e) == OK);
    ck_assert(check(k, "Bearer a", &who) == OK);
    ck_assert(key_enter(who, 10, now, &retry, &e) == OK);
    ck_assert(key_enter(who, 10, now, &retry, &e) == OK);
    ck_assert(key_enter(who, 10, now, &retry, &e) == ERR_RATE && strstr(e.text, "in flight"));
    key_leave(who, 0);
    ck_assert(key_enter(who, 10, now, &retry, &e) == ERR_RATE && strstr(e.text, "requests"));
    ck_assert_int_eq(retry, 30);
    now += 30000000; /* half a minute: one request more, tokens full again */
    ck_assert(key_enter(who, 90, now, &retry, &e) == OK);
    key_leave(who, 200); /* an answer that was begun may overdraw */
    now += 60000000;
    ck_assert(key_enter(who, 50, now, &retry, &e) == ERR_RATE && strstr(e.text, "tokens"));
    now += 120000000;
    ck_assert(key_enter(who, 50, now, &retry, &e) == OK);
    key_use u;
    key_use_get(who, &u);
    ck_assert(u.n_requests == 4 && u.prompt_tokens == 160 && u.generation_tokens == 200);
    keys_release(k);
}
END_TEST

START_TEST(reload_keeps_plain_keys_and_counts) {
    const char *plain[] = {"sk-plain"};
    keys *old = NULL, *fresh = NULL;
    key *who = NULL;
    error e;
    int retry;
    ck_assert(load("[{\"name\":\"n\",\"key\":\"a\"}]", &fresh, &e) == OK);
    keys_release(fresh);
    ck_assert(keys_load(plain, 1, path, &old, &e) == OK);
    ck_assert(keys_count(old) == 2);
    ck_assert(check(old, "Bearer a", &who) == OK);
    ck_assert(key_enter(who, 7, 1, &retry, &e) == OK);
    ck_assert(load("[{\"key\":\"b\"},{\"name\":\"n\",\"key\":\"a\"}]", &fresh, &e) == OK);
    keys_inherit(fresh, old);
    keys_release(old);
    ck_assert(check(fresh, "Bearer sk-plain", &who) == OK);
    ck_assert(check(fresh, "Bearer a", &who) == OK);
    key_use u;
    key_use_get(who, &u);
    ck_assert(u.prompt_tokens == 7);
    keys_release(fresh);
}
END_TEST

START_TEST(no_keys) {
    keys *k = NULL;
    error e;
    const char *empty[] = {""};
    ck_assert(keys_load(NULL, 0, NULL, &k, &e) == OK && !k);
    ck_assert(keys_load(empty, 1, NULL, &k, &e) == ERR_INVALID);
    ck_assert(keys_load(NULL, 0, "/nonexistent/keys", &k, &e) == ERR_NOT_FOUND);
}
END_TEST

int main(void) {
    Suite *s = suite_create("keys");
    TCase *t = tcase_create("all");
    tcase_add_test(t, lines);
    tcase_add_test(t, json_entries);
    tcase_add_test(t, who_may_change_the_server);
    tcase_add_test(t, bad_files);
    tcase_add_test(t, limits);
    tcase_add_test(t, reload_keeps_plain_keys_and_counts);
    tcase_add_test(t, no_keys);
    suite_add_tcase(s, t);
    int code = suite_run(s);
    if (path[0]) unlink(path);
    return code;
}
