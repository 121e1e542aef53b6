/* Pages and their hashes: who holds, who is evicted, what is found. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/prefix.h"
#include "tests/unit/suite.h"

static hash128 name(uint64_t x) {
    return (hash128){{x, ~x}};
}

START_TEST(all_are_given_once_and_then_none) {
    pages ps;
    pages_init(&ps, 5);
    bool seen[5] = {0};
    for (int i = 0; i < 5; i++) {
        int32_t id = pages_take(&ps);
        ck_assert(id >= 0 && id < 5 && !seen[id]);
        seen[id] = true;
    }
    ck_assert_int_eq(pages_take(&ps), -1);
    for (int32_t i = 0; i < 5; i++) pages_unref(&ps, i);
    ck_assert_int_eq(ps.n_free, 5);
    ck_assert(pages_consistent(&ps));
    pages_done(&ps);
}
END_TEST

START_TEST(cached_pages_are_revived_or_evicted) {
    pages ps;
    pages_init(&ps, 2);
    int32_t a = pages_take(&ps), b = pages_take(&ps);
    ck_assert(pages_announce(&ps, a, name(1), PAGE_READY));
    ck_assert(pages_announce(&ps, b, name(2), PAGE_READY));
    pages_unref(&ps, b);
    pages_unref(&ps, a);
    ck_assert_int_eq(ps.n_cached, 2);
    ck_assert_int_eq(pages_find(&ps, name(1)), a);
    pages_ref(&ps, a); /* revived from the middle of the list */
    ck_assert_int_eq(ps.n_cached, 1);
    ck_assert_int_eq(pages_take(&ps), b); /* evicted */
    ck_assert_int_eq(pages_find(&ps, name(2)), -1);
    ck_assert_int_eq(pages_take(&ps), -1);
    ck_assert(pages_consistent(&ps));
    pages_done(&ps);
}
END_TEST

/* Freed from the last page to the first: the end of a text is evicted before its beginning, and
 * pages without a name before both. */
START_TEST(prefixes_outlive_what_follows) {
    pages ps;
    pages_init(&ps, 4);
    int32_t id[4];
    for (int i = 0; i < 4; i++) id[i] = pages_take(&ps);
    for (int i = 0; i < 3; i++)
        ck_assert(pages_announce(&ps, id[i], name((uint64_t)i), PAGE_READY));
    for (int i = 3; i >= 0; i--) pages_unref(&ps, id[i]);
    ck_assert_int_eq(pages_take(&ps), id[3]);
    ck_assert_int_eq(pages_take(&ps), id[2]);
    ck_assert_int_eq(pages_take(&ps), id[1]);
    ck_assert_int_eq(pages_find(&ps, name(0)), id[0]);
    pages_done(&ps);
}
END_TEST

START_TEST(a_name_belongs_to_one_page) {
    pages ps;
    pages_init(&ps, 3);
    int32_t a = pages_take(&ps), b = pages_take(&ps);
    ck_assert(pages_announce(&ps, a, name(9), PAGE_PENDING));
    ck_assert(!pages_announce(&ps, b, name(9), PAGE_READY));
    ck_assert_int_eq(pages_find(&ps, name(9)), a);
    pages_unref(&ps, a); /* pending and given up: nobody will compute it */
    ck_assert_int_eq(pages_find(&ps, name(9)), -1);
    ck_assert(pages_announce(&ps, b, name(9), PAGE_READY));
    pages_forget(&ps, b);
    ck_assert_int_eq(pages_find(&ps, name(9)), -1);
    pages_unref(&ps, b);
    ck_assert_int_eq(ps.n_cached, 0);
    ck_assert(pages_consistent(&ps));
    pages_done(&ps);
}
END_TEST

START_TEST(a_hash_names_the_whole_text_before) {
    hash_key k = {{1, 2}}, k2 = {{1, 3}};
    uint64_t salt[2] = {0, 0}, salt2[2] = {0, 1};
    int32_t x[4] = {1, 2, 3, 4}, y[4] = {1, 2, 3, 5};
    hash128 root = prefix_root(k, salt, 0), h = prefix_next(k, root, x, 4);
    hash128 others[] = {prefix_next(k, root, y, 4), prefix_next(k, h, x, 4),
                        prefix_next(k, prefix_root(k, salt2, 0), x, 4),
                        prefix_next(k, prefix_root(k, salt, 1), x, 4),
                        prefix_next(k2, prefix_root(k2, salt, 0), x, 4)};
    hash128 again = prefix_next(k, prefix_root(k, salt, 0), x, 4);
    ck_assert(memcmp(&h, &again, sizeof h) == 0);
    for (size_t i = 0; i < 5; i++) ck_assert(memcmp(&h, &others[i], sizeof h) != 0);
}
END_TEST

START_TEST(a_match_ends_at_the_first_gap) {
    pages ps;
    pages_init(&ps, 8);
    hash128 h[5];
    for (uint64_t i = 0; i < 5; i++) h[i] = name(i + 1);
    int32_t id[5];
    for (int i = 0; i < 5; i++) id[i] = pages_take(&ps);
    ck_assert_int_eq(prefix_find(&ps, NULL, h, 5).n, 0);
    ck_assert(pages_announce(&ps, id[0], h[0], PAGE_READY));
    ck_assert(pages_announce(&ps, id[1], h[1], PAGE_READY));
    ck_assert(pages_announce(&ps, id[3], h[3], PAGE_READY));
    pages_unref(&ps, id[1]);
    prefix_match m = prefix_find(&ps, NULL, h, 5);
    ck_assert(m.n == 2 && m.n_free == 1 && !m.is_pending);
    ck_assert(pages_announce(&ps, id[2], h[2], PAGE_PENDING));
    m = prefix_find(&ps, NULL, h, 5);
    ck_assert(m.n == 2 && m.is_pending);
    pages_ready(&ps, id[2]);
    m = prefix_find(&ps, NULL, h, 5);
    ck_assert(m.n == 4 && !m.is_pending);
    ck_assert_int_eq(prefix_find(&ps, NULL, h, 1).n, 1);
    pages_done(&ps);
}
END_TEST

int main(void) {
    Suite *s = suite_create("scheduler/pages");
    TCase *tc = tcase_create("pages");
    tcase_add_test(tc, all_are_given_once_and_then_none);
    tcase_add_test(tc, cached_pages_are_revived_or_evicted);
    tcase_add_test(tc, prefixes_outlive_what_follows);
    tcase_add_test(tc, a_name_belongs_to_one_page);
    tcase_add_test(tc, a_hash_names_the_whole_text_before);
    tcase_add_test(tc, a_match_ends_at_the_first_gap);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
