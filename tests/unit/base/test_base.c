/* Unit tests of engine/base: published vectors for hashes and random numbers, edges for the rest.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/arena.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/hash.h"
#include "engine/base/json.h"
#include "engine/base/map.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"
#include "engine/base/rng.h"
#include "engine/base/thread.h"
#include "engine/base/utf8.h"
#include "engine/base/vec.h"
#include "tests/unit/suite.h"

START_TEST(status_table_is_complete) {
    for (int s = 0; s < STATUS_COUNT; s++) {
        ck_assert(status_http(s) >= 200);
        ck_assert(status_name(s) && status_type(s));
    }
    error e;
    ck_assert(error_set_param(&e, ERR_INVALID, "top_p", "top_p is %d", 3) == ERR_INVALID);
    error_prefix(&e, "file %s", "a");
    ck_assert_str_eq(e.text, "file a: top_p is 3");
    ck_assert_str_eq(e.param, "top_p");
}
END_TEST

START_TEST(siphash_vectors) {
    /* key 00..0f, inputs "", 00: from the reference implementation's 128-bit table */
    hash_key k = {{0x0706050403020100u, 0x0f0e0d0c0b0a0908u}};
    hash128 a = hash128_of(k, "", 0), b = hash128_of(k, "\0", 1);
    ck_assert(a.h[0] == 0xe6a825ba047f81a3u && a.h[1] == 0x930255c71472f66du);
    ck_assert(b.h[0] == 0x44af996bd8c187dau && b.h[1] == 0x45fc229b11597634u);
}
END_TEST

START_TEST(sha256_vectors) {
    static const char *const hex[] = {
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"};
    static const char *const in[] = {"", "abc",
                                     "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"};
    for (int i = 0; i < 3; i++) {
        uint8_t out[32];
        char text[65];
        sha256(in[i], strlen(in[i]), out);
        for (int j = 0; j < 32; j++) sprintf(text + 2 * j, "%02x", out[j]);
        ck_assert_str_eq(text, hex[i]);
    }
}
END_TEST

START_TEST(philox_vectors) {
    rng_block z = rng_philox(0, 0, 0);
    ck_assert(z.x[0] == 0x6627e8d5 && z.x[1] == 0xe169c58d && z.x[2] == 0xbc57ac4c &&
              z.x[3] == 0x9b00dbd8);
    rng_block f = rng_philox(~0ull, ~0ull, ~0ull);
    ck_assert(f.x[0] == 0x408f276d && f.x[1] == 0x41c83b0e && f.x[2] == 0xa20bc7c6 &&
              f.x[3] == 0x6d5451fd);
    double sum = 0;
    for (int i = 0; i < 10000; i++) {
        double u = rng_uniform(7, (uint64_t)i, 0);
        ck_assert(u >= 0 && u < 1);
        sum += u;
    }
    ck_assert(sum > 4850 && sum < 5150);
}
END_TEST

/* RFC 3720, B.4, and pieces against the whole. */
START_TEST(crc32c_is_the_standards) {
    static unsigned char p[4 * 1001];
    uint32_t four[4];
    ck_assert_uint_eq(crc32c(p, 32, 0), 0x8A9136AAu);
    memset(p, 0xFF, 32);
    ck_assert_uint_eq(crc32c(p, 32, 0), 0x62A8AB43u);
    for (int i = 0; i < 32; i++) p[i] = (unsigned char)i;
    ck_assert_uint_eq(crc32c(p, 32, 0), 0x46DD794Eu);
    ck_assert_uint_eq(crc32c("123456789", 9, 0), 0xE3069283u);
    for (size_t i = 0; i < sizeof p; i++) p[i] = (unsigned char)(i * i >> 3);
    uint32_t whole = crc32c(p, sizeof p, 0);
    for (size_t cut = 0; cut < 100; cut++)
        ck_assert_uint_eq(crc32c(p + cut, sizeof p - cut, crc32c(p, cut, 0)), whole);
    crc32c_four(p, 1001, four);
    for (size_t k = 0; k < 4; k++) ck_assert_uint_eq(four[k], crc32c(p + k * 1001, 1001, 0));
}
END_TEST

START_TEST(hash64_spreads) {
    int buckets[64] = {0};
    for (uint32_t i = 0; i < 64000; i++) buckets[hash64(&i, 4, 0) & 63]++;
    for (int i = 0; i < 64; i++) ck_assert(buckets[i] > 800 && buckets[i] < 1200);
    char text[40] = {0};
    ck_assert(hash64(text, 3, 0) != hash64(text, 4, 0));
}
END_TEST

START_TEST(utf8_is_strict) {
    static const char *const bad[] = {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                      "\x80",     "\xE2\x82",     "\xFF"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) ck_assert(!utf8_valid(bad[i], strlen(bad[i])));
    for (uint32_t cp = 1; cp < 0x110000; cp += 7) {
        if (cp >= 0xD800 && cp < 0xE000) continue;
        char b[4];
        uint32_t back;
        size_t n = utf8_put(cp, b);
        ck_assert(utf8_get(b, n, &back) == n && back == cp);
        for (size_t cut = 1; cut < n; cut++) ck_assert(utf8_partial_tail(b, cut) == cut);
    }
    ck_assert(utf8_partial_tail("a\xE2\x82", 3) == 2);
    ck_assert(utf8_partial_tail("a\xE2\x41", 3) == 0);
    ck_assert(utf8_partial_tail("\xED\xA0", 2) == 0);
}
END_TEST

START_TEST(strbuf_bounds_and_json) {
    strbuf b = {.max = 8};
    ck_assert(strbuf_addz(&b, "12345678"));
    ck_assert(!strbuf_addc(&b, '9') && b.full && b.n == 8);
    strbuf_done(&b);
    strbuf_add_json(&b, STR("a\"\\\n\x01\xFF\xE2\x82\xAC"));
    ck_assert_str_eq(b.p, "\"a\\\"\\\\\\n\\u0001\xEF\xBF\xBD\xE2\x82\xAC\"");
    strbuf_done(&b);
    strbuf_add_json(&b, STR("a\xE2\x80\xA8\xC2\x85z\xE2\x80\xA7"));
    ck_assert_str_eq(b.p, "\"a\\u2028\\u0085z\xE2\x80\xA7\"");
    strbuf_done(&b);
    ck_assert(str_distance(STR("--max-seqs"), STR("--max-seq")) == 1);
    int64_t v;
    ck_assert(!str_to_i64(STR("12x"), &v) && !str_to_i64(STR("99999999999999999999"), &v));
    double d;
    ck_assert(!str_to_f64(STR("nan"), &d) && str_to_f64(STR("1e-3"), &d));
}
END_TEST

START_TEST(arena_is_bounded) {
    arena *a = arena_new(10000);
    ck_assert(arena_alloc(a, 5000) && !arena_alloc(a, 6000) && arena_alloc(a, 4000));
    ck_assert(!arena_array(a, SIZE_MAX / 2, 4));
    arena_free(a);
}
END_TEST

START_TEST(map_grows) {
    map m = {0};
    static char keys[5000][8];
    for (uint64_t i = 0; i < 5000; i++) {
        sprintf(keys[i], "k%d", (int)i);
        ck_assert(map_put(&m, str_z(keys[i]), i));
    }
    uint64_t v;
    for (uint64_t i = 0; i < 5000; i++) ck_assert(map_get(&m, str_z(keys[i]), &v) && v == i);
    ck_assert(!map_get(&m, STR("nope"), &v));
    ck_assert(!map_put(&m, STR("k1"), 9) && map_get(&m, STR("k1"), &v) && v == 9);
    map_done(&m);
}
END_TEST

START_TEST(json_is_bounded) {
    error e;
    json_t *v;
    strbuf deep = {0};
    for (int i = 0; i < 200; i++) strbuf_addc(&deep, '[');
    ck_assert(js_parse(strbuf_str(&deep), &v, &e) == ERR_INVALID && strstr(e.text, "deeper"));
    strbuf_done(&deep);
    ck_assert(js_parse(STR("{\"a\":[1,2],\"b\":\"[[[\\\"[\"}"), &v, &e) == OK);
    ck_assert(str_eqz(js_get_str(v, "b"), "[[[\"["));
    json_t *wide;
    ck_assert(
        js_parse(STR("{\"n\":1000000000000000000000000000000,\"s\":\"1000000000000000000000\"}"),
                 &wide, &e) == OK);
    ck_assert(js_get_real(wide, "n", 0) == 1e30);
    ck_assert(str_eqz(js_get_str(wide, "s"), "1000000000000000000000"));
    json_decref(wide);
    strbuf b = {0};
    strbuf_add_js(&b, v);
    ck_assert_str_eq(b.p, "{\"a\":[1,2],\"b\":\"[[[\\\"[\"}");
    strbuf_done(&b);
    json_decref(v);
    ck_assert(js_parse(STR("{\"a\":NaN}"), &v, &e) == ERR_INVALID);
}
END_TEST

START_TEST(file_errors_name_the_path) {
    error e;
    strbuf b = {0};
    ck_assert(file_read("/nonexistent/x", 10, &b, &e) == ERR_NOT_FOUND);
    ck_assert(strstr(e.text, "/nonexistent/x"));
    char path[] = "/tmp/pagoda-test-XXXXXX";
    int fd = mkstemp(path);
    ck_assert(fd >= 0);
    close(fd);
    ck_assert(file_write_atomic(path, STR("version https://git-lfs.github.com/spec/v1\n"), &e) ==
              OK);
    ck_assert(file_read(path, 1000, &b, &e) == ERR_FORMAT && strstr(e.text, "LFS"));
    ck_assert(file_write_atomic(path, STR("/annex/objects/SHA256E-s4--00.bin\n"), &e) == OK);
    ck_assert(file_read(path, 1000, &b, &e) == ERR_FORMAT && strstr(e.text, "git-annex"));
    ck_assert(file_read(path, 4, &b, &e) == ERR_TOO_LARGE);
    unlink(path);
    strbuf_done(&b);
}
END_TEST

enum { PUSHES = 20000 };

static void *producer(void *q) {
    for (uintptr_t i = 1; i <= PUSHES; i++)
        while (!mpsc_push(q, (void *)i)) sched_yield();
    return NULL;
}

START_TEST(mpsc_loses_nothing) {
    mpsc *q = mpsc_new(64);
    pthread_t t[3];
    for (int i = 0; i < 3; i++) t[i] = thread_start("producer", producer, q);
    uint64_t sum = 0, n = 0;
    while (n < 3 * PUSHES) {
        void *p = mpsc_pop(q);
        if (!p) {
            sched_yield();
            continue;
        }
        sum += (uintptr_t)p;
        n++;
    }
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    ck_assert(sum == 3ull * PUSHES * (PUSHES + 1) / 2 && !mpsc_pop(q));
    mpsc_free(q);
}
END_TEST

static void *ring_producer(void *q) {
    for (uint64_t i = 0; i < PUSHES; i++)
        while (!spsc_push(q, &i)) sched_yield();
    return NULL;
}

START_TEST(spsc_keeps_order) {
    spsc *q = spsc_new(16, sizeof(uint64_t));
    pthread_t t = thread_start("producer", ring_producer, q);
    for (uint64_t want = 0, got; want < PUSHES;) {
        if (!spsc_pop(q, &got)) {
            sched_yield();
            continue;
        }
        ck_assert(got == want++);
    }
    pthread_join(t, NULL);
    ck_assert(spsc_count(q) == 0);
    spsc_free(q);
}
END_TEST

START_TEST(waker_counts) {
    waker w;
    waker_init(&w);
    ck_assert(!waker_wait(&w, 1000));
    waker_signal(&w);
    waker_signal(&w);
    ck_assert(waker_wait(&w, UINT64_MAX));
    ck_assert(!waker_wait(&w, 0));
    waker_done(&w);
    ck_assert(cpu_count() >= 1);
}
END_TEST

START_TEST(mem_map_is_aligned) {
    for (size_t n = 1; n < (9u << 20); n = n * 3 + 1) {
        char *p = mem_map(n);
        ck_assert(p && (uintptr_t)p % 64 == 0);
        p[0] = p[n - 1] = 1;
        mem_unmap(p, n);
    }
}
END_TEST

START_TEST(mem_reserve_is_memory) {
    size_t n = (size_t)64 << 20;
    char *p = mem_reserve(n);
    ck_assert_ptr_nonnull(p);
    ck_assert_uint_eq((uintptr_t)p % 64, 0);
    ck_assert(p[0] == 0 && p[n - 1] == 0);
    p[n / 2] = 1;
    ck_assert_int_eq(p[n / 2], 1);
    mem_unmap(p, n);
}
END_TEST

int main(void) {
    Suite *s = suite_create("base");
    TCase *t = tcase_create("all");
    tcase_add_test(t, status_table_is_complete);
    tcase_add_test(t, siphash_vectors);
    tcase_add_test(t, sha256_vectors);
    tcase_add_test(t, philox_vectors);
    tcase_add_test(t, hash64_spreads);
    tcase_add_test(t, crc32c_is_the_standards);
    tcase_add_test(t, utf8_is_strict);
    tcase_add_test(t, strbuf_bounds_and_json);
    tcase_add_test(t, arena_is_bounded);
    tcase_add_test(t, map_grows);
    tcase_add_test(t, json_is_bounded);
    tcase_add_test(t, file_errors_name_the_path);
    tcase_add_test(t, mpsc_loses_nothing);
    tcase_add_test(t, spsc_keeps_order);
    tcase_add_test(t, waker_counts);
    tcase_add_test(t, mem_map_is_aligned);
    tcase_add_test(t, mem_reserve_is_memory);
    suite_add_tcase(s, t);
    return suite_run(s);
}
