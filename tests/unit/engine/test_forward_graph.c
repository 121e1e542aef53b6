/* Buckets of recorded steps: which steps have one, how many there are, how much padding. */
#include <check.h>

#include "engine/base/mem.h"
#include "engine/forward_graph.h"
#include "tests/unit/suite.h"

START_TEST(buckets_grow_with_the_batch) {
    static const int32_t want[][2] = {{1, 1},     {2, 2},     {3, 4},     {5, 8},    {8, 8},
                                      {9, 16},    {17, 24},   {33, 40},   {64, 64},  {65, 72},
                                      {128, 128}, {129, 144}, {256, 256}, {257, 288}};
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        ck_assert_int_eq(forward_bucket(want[i][0], 512), want[i][1]);
    ck_assert_int_eq(forward_bucket(67, 70), 70); /* never over the most */
    ck_assert_int_eq(forward_bucket(1, 1), 1);
}
END_TEST

/* For every number of rows: a bucket that holds it, whose own bucket is itself, with little padding
 * and a number of its own. */
START_TEST(every_batch_has_one) {
    static const int32_t maxima[] = {1, 2, 3, 7, 8, 9, 63, 64, 65, 70, 256, 1000};
    for (size_t m = 0; m < ARRAY_LEN(maxima); m++) {
        int32_t most = maxima[m], last = -1, count = 0;
        for (int32_t n = 1; n <= most; n++) {
            int32_t b = forward_bucket(n, most), i = forward_bucket_index(b);
            ck_assert_int_ge(b, n);
            ck_assert_int_le(b, most);
            ck_assert_int_eq(forward_bucket(b, most), b);
            ck_assert_int_le(b - n, MAX(7, n / 8));
            ck_assert(i == last || i == last + 1);
            count += i != last;
            last = i;
        }
        ck_assert_int_eq(count, forward_n_buckets(most));
    }
    ck_assert_int_eq(forward_n_buckets(64), 11);
    ck_assert_int_eq(forward_n_buckets(256), 27);
    ck_assert_int_eq(forward_n_buckets(65536), 27 + 8 * 8);
}
END_TEST

START_TEST(only_plain_steps_of_decoding_have_one) {
    float pooled;
    sample_out described;
    batch_seq s[3] = {{.n_tokens = 1}, {.n_tokens = 1}, {.n_tokens = 1}};
    batch_plan plan = {.n_seqs = 3, .seqs = s};
    ck_assert_int_eq(forward_bucket_of(&plan, 64), 4);
    s[1].n_tokens = 2;
    ck_assert_int_eq(forward_bucket_of(&plan, 64), 0);
    s[1] = (batch_seq){.n_tokens = 1, .prompt_out = &described};
    ck_assert_int_eq(forward_bucket_of(&plan, 64), 0);
    s[1] = (batch_seq){.n_tokens = 1, .pool_out = &pooled};
    ck_assert_int_eq(forward_bucket_of(&plan, 64), 0);
    plan.n_seqs = 0;
    ck_assert_int_eq(forward_bucket_of(&plan, 64), 0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("forward_graph");
    TCase *t = tcase_create("all");
    tcase_add_test(t, buckets_grow_with_the_batch);
    tcase_add_test(t, every_batch_has_one);
    tcase_add_test(t, only_plain_steps_of_decoding_have_one);
    suite_add_tcase(s, t);
    return suite_run(s);
}
