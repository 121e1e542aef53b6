/* The table of pieces against a plain list: strings that move to another id, ids that get another
 * string, through several sizes of the table. */
#include <check.h>
#include <stdio.h>

#include "engine/base/rng.h"
#include "tests/unit/suite.h"
#include "tokenizer/vocab.h"

#define STRINGS 400
#define IDS     300

static str name_of(uint32_t i, char buf[32]) {
    int n = i ? snprintf(buf, 32, i % 3 ? "%u" : "a longer name: %u", i) : 0;
    return str_n(buf, (size_t)n);
}

START_TEST(every_string_keeps_its_id) {
    int32_t id_of[STRINGS], shown[IDS];
    char buf[32];
    vocab v = {0};
    memset(id_of, 0xFF, sizeof id_of);
    memset(shown, 0xFF, sizeof shown);
    for (int step = 0; step < 1500; step++) {
        rng_block r = rng_philox((uint64_t)_i, 0, (uint64_t)step);
        uint32_t s = r.x[0] % STRINGS, id = r.x[1] % IDS;
        ck_assert(vocab_put(&v, (int32_t)id, name_of(s, buf)));
        if (id_of[s] != (int32_t)id) shown[id] = (int32_t)s;
        id_of[s] = (int32_t)id;
        if (step % 50) continue;
        for (uint32_t i = 0; i < STRINGS; i++)
            ck_assert_int_eq(vocab_id(&v, name_of(i, buf)), id_of[i]);
        for (int32_t i = 0; i < IDS; i++) {
            str want = shown[i] < 0 ? (str){0} : name_of((uint32_t)shown[i], buf);
            str have = vocab_piece(&v, i);
            ck_assert(str_eq(have, want) && !have.p == !want.p);
        }
    }
    size_t found = 0;
    bool seen[STRINGS] = {0};
    for (size_t i = 0; i < (size_t)v.n + v.aliases.n; i++) {
        int32_t id;
        str s = vocab_string(&v, i, &id);
        ck_assert_int_eq(id, s.p ? vocab_id(&v, s) : -1);
        for (uint32_t k = 0; s.p && k < STRINGS; k++)
            if (str_eq(s, name_of(k, buf)) && !seen[k]) seen[k] = true, found++;
    }
    ck_assert_uint_eq(found, v.n_keys);
    ck_assert(v.crossed);
    vocab_done(&v);
}
END_TEST

START_TEST(one_to_one_is_not_crossed) {
    vocab v = {0};
    ck_assert(vocab_put(&v, 3, STR("a")) && vocab_put(&v, 1, STR("")));
    ck_assert(vocab_put(&v, 3, STR("a")));
    ck_assert(!v.crossed && v.n_keys == 2);
    ck_assert(vocab_put(&v, 3, STR("b")) && v.crossed);
    vocab_done(&v);
}
END_TEST

int main(void) {
    Suite *s = suite_create("vocab");
    TCase *c = tcase_create("all");
    tcase_add_loop_test(c, every_string_keeps_its_id, 0, 8);
    tcase_add_test(c, one_to_one_is_not_crossed);
    suite_add_tcase(s, c);
    return suite_run(s);
}
