/* The list of adapters: names, references, and who lets go of the engine's part when. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "server/adapters.h"
#include "tests/unit/suite.h"

/* A host that keeps count. A path that begins with '!' cannot be loaded. */
static bool used[9];
static int n_loaded;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static status load(void *self, const char *dir, adapter_info *ret, error *err) {
    int32_t id = 1;
    if (dir[0] == '!') return error_set(err, ERR_FORMAT, "%s: damaged", dir);
    pthread_mutex_lock(&lock);
    while (id <= 8 && used[id]) id++;
    if (id <= 8) used[id] = true, n_loaded++;
    pthread_mutex_unlock(&lock);
    if (id > 8) return error_set(err, ERR_BUSY, "full");
    *ret = (adapter_info){.id = id, .rank = 4};
    return OK;
}

static void unload(void *self, int32_t id) {
    pthread_mutex_lock(&lock);
    ck_assert(used[id]);
    used[id] = false;
    n_loaded--;
    pthread_mutex_unlock(&lock);
}

static adapters *make(void) {
    return adapters_new((adapter_host){.max = 8, .load = load, .unload = unload});
}

static void add_name(void *ctx, const adapter_entry *e) {
    strbuf_addf(ctx, "%s=%s ", e->name, e->dir);
}

static void listed_are(adapters *a, const char *want) {
    strbuf got = {0};
    strbuf_addz(&got, "");
    adapters_each(a, add_name, &got);
    ck_assert_str_eq(got.p, want);
    strbuf_done(&got);
}

START_TEST(names) {
    adapters *a = make();
    error err;
    ck_assert_int_eq(adapters_load(a, STR("x"), "some/dir/", &err), OK);
    ck_assert_int_eq(adapters_load(a, STR("y"), "other", &err), OK);
    listed_are(a, "x=dir y=other ");
    ck_assert_int_eq(adapters_load(a, STR("x"), "other", &err), ERR_INVALID);
    ck_assert_int_eq(adapters_load(a, STR(""), "other", &err), ERR_INVALID);
    ck_assert_int_eq(adapters_load(a, STR("a b"), "other", &err), ERR_INVALID);
    ck_assert_int_eq(adapters_load(a, STR("z"), "!bad", &err), ERR_FORMAT);
    ck_assert_int_eq(adapters_load(a, STR("z"), "good", &err), OK);
    ck_assert_int_eq(adapters_unload(a, STR("y"), &err), OK);
    ck_assert_int_eq(adapters_unload(a, STR("y"), &err), ERR_NOT_FOUND);
    listed_are(a, "x=dir z=good ");
    ck_assert_ptr_null(adapters_take(a, STR("y")));
    ck_assert_int_eq(n_loaded, 2);
    adapters_free(a);
    ck_assert_int_eq(n_loaded, 0);
}
END_TEST

START_TEST(what_is_used_stays) {
    adapters *a = make();
    error err;
    strbuf running = {0};
    uint64_t bits[4] = {1};
    ck_assert_int_eq(adapters_load(a, STR("x"), "d", &err), OK);
    adapter_entry *one = adapters_take(a, STR("x")), *two = adapter_entry_ref(one);
    ck_assert_int_eq(adapters_unload(a, STR("x"), &err), OK);
    listed_are(a, "");
    ck_assert_ptr_null(adapters_take(a, STR("x")));
    ck_assert_int_eq(n_loaded, 1);
    adapters_names(a, bits, &running); /* a request of it still runs */
    ck_assert_str_eq(running.p, "x");
    ck_assert_int_eq(adapters_load(a, STR("x"), "new", &err), OK); /* the name is free again */
    listed_are(a, "x=new ");
    adapter_entry_release(one);
    ck_assert_int_eq(n_loaded, 2);
    adapter_entry_release(two);
    ck_assert_int_eq(n_loaded, 1);
    adapter_entry_release(NULL);
    adapters_free(a);
    strbuf_done(&running);
}
END_TEST

START_TEST(an_empty_list_takes_none) {
    adapters *a = adapters_new((adapter_host){0});
    error err;
    ck_assert_int_eq(adapters_load(a, STR("x"), "d", &err), ERR_INVALID);
    ck_assert(adapters_max(a) == 0 && !adapters_take(a, STR("x")));
    adapters_free(a);
}
END_TEST

static void *churn(void *arg) {
    adapters *a = arg;
    error err;
    for (int i = 0; i < 2000; i++) {
        adapter_entry *e = adapters_take(a, STR("x"));
        status st = OK;
        if (i % 3 == 0) st = adapters_load(a, STR("x"), "d", &err);
        if (i % 3 == 1) st = adapters_unload(a, STR("x"), &err);
        ck_assert(st == OK || st == ERR_INVALID || st == ERR_NOT_FOUND);
        if (e) ck_assert_int_eq(e->info.rank, 4);
        adapter_entry_release(e);
    }
    return NULL;
}

/* Leaks of references are found at the end: nothing may stay loaded but what is listed. */
START_TEST(threads) {
    adapters *a = make();
    pthread_t t[4];
    for (int i = 0; i < 4; i++) ck_assert_int_eq(pthread_create(&t[i], NULL, churn, a), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    adapter_entry *e = adapters_take(a, STR("x"));
    ck_assert_int_eq(n_loaded, e != NULL);
    adapter_entry_release(e);
    adapters_free(a);
    ck_assert_int_eq(n_loaded, 0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("adapters");
    TCase *t = tcase_create("all");
    tcase_add_test(t, names);
    tcase_add_test(t, what_is_used_stays);
    tcase_add_test(t, an_empty_list_takes_none);
    tcase_add_test(t, threads);
    suite_add_tcase(s, t);
    return suite_run(s);
}
