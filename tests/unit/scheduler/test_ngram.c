/* The index of a text's pairs against looking through all of it. */
#include "scheduler/ngram.h"

#include <check.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/unit/suite.h"

enum { LEN = 600 };

static ngram open_index(int32_t len) {
    ngram x;
    ngram_init(&x, mem_calloc(1, ngram_bytes(len)), len);
    return x;
}

static int32_t match(const int32_t *ids, int32_t p, int32_t n) {
    int32_t m = 0;
    while (m < NGRAM_MOST && m < p && ids[p - 1 - m] == ids[n - 1 - m]) m++;
    return m;
}

/* Chains are cut after some places: so nothing is claimed that is not there, what is found is as
 * long as claimed, and where the pair stands at a few places only the best of them is found. */
START_TEST(finds_what_is_there) {
    int32_t ids[LEN], n_found = 0, vocab = _i;
    ngram x = open_index(LEN);
    for (int32_t n = 0; n < LEN; n++) {
        int32_t said = -1, at, n_pairs = 0, best = 0, want = 0;
        if (n > 0) {
            ngram_enter(&x, ids, n);
            at = ngram_find(&x, ids, n, &said);
            for (int32_t p = n - 1; p >= NGRAM_LEAST; p--) {
                int32_t m = match(ids, p, n);
                n_pairs += m >= NGRAM_LEAST;
                if (m > best) best = m, want = p;
            }
            if (at) {
                ck_assert_int_lt(at, n);
                ck_assert_int_eq(match(ids, at, n), said);
                ck_assert_int_ge(said, NGRAM_LEAST);
                n_found++;
            }
            if (vocab > 50 && n_pairs <= 2) {
                ck_assert_int_eq(at, best >= NGRAM_LEAST ? want : 0);
            }
        }
        uint32_t r = rng_philox(3, 0, (uint64_t)n).x[0];
        ids[n] = n > 100 && n % 40 < 20 ? ids[n - 60] : (int32_t)(r % (uint32_t)vocab);
    }
    ck_assert_int_gt(n_found, 100);
    mem_free(x.head);
}
END_TEST

START_TEST(the_latest_of_the_longest) {
    static const int32_t ids[] = {1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3, 6, 1, 2, 3};
    int32_t m;
    ngram x = open_index(16);
    ngram_enter(&x, ids, 15);
    ck_assert_int_eq(ngram_find(&x, ids, 15, &m), 11);
    ck_assert_int_eq(m, 3);
    ngram_enter(&x, ids, 7);
    ck_assert_int_eq(ngram_find(&x, ids, 2, &m), 0);
    mem_free(x.head);
}
END_TEST

/* What repeats itself is found one round back, and copied from there goes on for ever. */
START_TEST(circles) {
    int32_t ids[64], m;
    ngram x = open_index(64);
    for (int32_t i = 0; i < 30; i++) ids[i] = i % 3;
    ngram_enter(&x, ids, 30);
    int32_t from = ngram_find(&x, ids, 30, &m);
    ck_assert_int_eq(from, 27);
    ck_assert_int_eq(m, NGRAM_MOST);
    for (int32_t j = 0; j < 10; j++) ids[30 + j] = ids[from + j];
    for (int32_t j = 0; j < 10; j++) ck_assert_int_eq(ids[30 + j], (30 + j) % 3);
    mem_free(x.head);
}
END_TEST

int main(void) {
    static const int vocabs[] = {2, 5, 60, 5000, 50000};
    Suite *s = suite_create("ngram");
    TCase *t = tcase_create("all");
    for (size_t i = 0; i < ARRAY_LEN(vocabs); i++)
        tcase_add_loop_test(t, finds_what_is_there, vocabs[i], vocabs[i] + 1);
    tcase_add_test(t, the_latest_of_the_longest);
    tcase_add_test(t, circles);
    suite_add_tcase(s, t);
    return suite_run(s);
}
