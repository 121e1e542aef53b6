/* Stop strings against the plain definition (search the whole text), over random texts, patterns
 * and cuts: same place, same string, and nothing of it shown too early. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/arena.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/stop.h"
#include "tests/unit/suite.h"

static uint32_t draw(uint64_t *at, uint32_t n) {
    return rng_philox(0x5707, 0, (*at)++).x[0] % n;
}

/* Where the first-ending string ends (the longest of those), by looking at every place. */
static stop_hit by_definition(const str *s, int32_t n, str text) {
    stop_hit best = {.which = -1};
    for (size_t end = 1; end <= text.n && best.which < 0; end++)
        for (int32_t i = 0; i < n; i++)
            if (s[i].n <= end && s[i].n > best.n_bytes &&
                memcmp(text.p + end - s[i].n, s[i].p, s[i].n) == 0)
                best = (stop_hit){i, end, s[i].n};
    return best;
}

START_TEST(equals_the_definition_however_cut) {
    uint64_t at = 0;
    for (int round = 0; round < 20000; round++) {
        arena *mem = arena_new(0);
        char bytes[4][6], text[24];
        str s[4];
        int32_t n = 1 + (int32_t)draw(&at, 4);
        for (int32_t i = 0; i < n; i++) {
            s[i] = str_n(bytes[i], 1 + draw(&at, 6));
            for (size_t k = 0; k < s[i].n; k++) bytes[i][k] = (char)('a' + draw(&at, 2));
        }
        size_t len = draw(&at, sizeof text + 1);
        for (size_t k = 0; k < len; k++) text[k] = (char)('a' + draw(&at, 2));
        stop_hit want = by_definition(s, n, str_n(text, len)), got = {.which = -1};
        stop_set *set = stop_set_new(mem, s, n);
        stop_state st = {0};
        size_t from = 0, shown = 0;
        while (from < len && got.which < 0) {
            size_t piece = 1 + draw(&at, 5);
            if (piece > len - from) piece = len - from;
            got = stop_push(set, &st, str_n(text + from, piece));
            if (got.which >= 0) {
                got.end += from;
                break;
            }
            from += piece;
            shown = from - stop_held(set, &st);
        }
        ck_assert_int_eq(got.which >= 0, want.which >= 0);
        if (got.which >= 0) {
            ck_assert_uint_eq(got.end, want.end);
            ck_assert_uint_eq(got.n_bytes, want.n_bytes);
            ck_assert_msg(shown <= got.end - got.n_bytes, "round %d: part of it was shown", round);
        }
        arena_free(mem);
    }
}
END_TEST

START_TEST(nothing_to_stop) {
    stop_state st = {0};
    ck_assert_int_eq(stop_push(NULL, &st, STR("abc")).which, -1);
    ck_assert_uint_eq(stop_held(NULL, &st), 0);
    ck_assert_int_eq(stop_set_count(NULL), 0);
}
END_TEST

START_TEST(holds_back_no_more_than_needed) {
    arena *mem = arena_new(0);
    str s[] = {STR("\n\nHuman:"), STR("aab")};
    stop_set *set = stop_set_new(mem, s, 2);
    stop_state st = {0};
    ck_assert_int_eq(stop_set_count(set), 2);
    ck_assert_int_eq(stop_push(set, &st, STR("text\n")).which, -1);
    ck_assert_uint_eq(stop_held(set, &st), 1);
    ck_assert_int_eq(stop_push(set, &st, STR("\n\n")).which, -1);
    ck_assert_uint_eq(stop_held(set, &st), 2);
    ck_assert_int_eq(stop_push(set, &st, STR("x")).which, -1);
    ck_assert_uint_eq(stop_held(set, &st), 0);
    stop_hit h = stop_push(set, &st, STR("aaab tail"));
    ck_assert(h.which == 1 && h.end == 4 && h.n_bytes == 3);
    arena_free(mem);
}
END_TEST

int main(void) {
    Suite *s = suite_create("stop");
    TCase *t = tcase_create("all");
    tcase_add_test(t, equals_the_definition_however_cut);
    tcase_add_test(t, nothing_to_stop);
    tcase_add_test(t, holds_back_no_more_than_needed);
    suite_add_tcase(s, t);
    return suite_run(s);
}
