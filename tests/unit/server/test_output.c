/* One choice's output with the toy tokenizer: whole characters, stop strings, logprob tokens. Over
 * random byte tokens a stream's pieces must be the whole text, and nothing shown is taken back. */
#include <check.h>
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "server/output.h"
#include "tests/unit/suite.h"
#include "tests/api/toy_tokenizer.h"

typedef struct fixture {
    arena *mem;
    gen_params p;
    stop_set *stops;
    output o;
} fixture;

static void begin(fixture *f, const str *stops, int32_t n_stops) {
    f->mem = arena_new(0);
    f->p.stops = (str *)stops;
    f->p.n_stops = n_stops;
    f->p.skip_special = true;
    f->stops = stop_set_new(f->mem, stops, n_stops);
    output_init(&f->o, &f->p, toy_tokenizer(), f->stops, NULL, 0);
}

static void done(fixture *f) {
    output_done(&f->o);
    arena_free(f->mem);
}

static bool push(fixture *f, int32_t id, finish_reason why) {
    token_event e = {.token = id, .finish = why, .logprob = -1};
    return output_push(&f->o, &e);
}

static str shown(const fixture *f) {
    return str_n(f->o.text.p, f->o.shown);
}

#define ck_shown(f, text)                                                                          \
    ck_assert_msg(str_eqz(shown(f), text), "shown: " STR_FMT, STR_ARG(shown(f)))

START_TEST(characters_appear_whole) {
    fixture f = {0};
    begin(&f, NULL, 0);
    push(&f, 0xE6, FINISH_NONE);
    push(&f, 0x97, FINISH_NONE);
    ck_shown(&f, "");
    push(&f, 0xA5, FINISH_NONE);
    ck_shown(&f, "日");
    push(&f, 0xE6, FINISH_NONE);
    ck_assert(push(&f, 'x', FINISH_LENGTH));
    ck_shown(&f, "日\xEF\xBF\xBDx");
    ck_assert_int_eq(f.o.n_tokens, 5);
    done(&f);
}
END_TEST

START_TEST(an_end_lets_out_what_was_held) {
    str stops[] = {STR("STOPPED")};
    fixture f = {0};
    begin(&f, stops, 1);
    push(&f, 260, FINISH_NONE); /* STOP */
    ck_shown(&f, "");
    ck_assert(push(&f, 256, FINISH_STOP));
    ck_shown(&f, "STOP");
    ck_assert(!f.o.by_string && f.o.finish == FINISH_STOP);
    ck_assert(!push(&f, 'x', FINISH_NONE));
    ck_shown(&f, "STOP");
    done(&f);
}
END_TEST

START_TEST(a_stop_string_over_tokens) {
    str stops[] = {STR("TOP")};
    fixture f = {.p.want_logprobs = true};
    begin(&f, stops, 1);
    push(&f, 'x', FINISH_NONE);
    push(&f, 261, FINISH_NONE); /* ST */
    ck_shown(&f, "xS");
    ck_assert_uint_eq(f.o.n_shown, 1);
    ck_assert(push(&f, 262, FINISH_NONE)); /* OP */
    ck_shown(&f, "xS");
    ck_assert(f.o.by_string && f.o.stop_idx == 0);
    ck_assert_uint_eq(f.o.n_shown, 2); /* x and ST, of which one letter is in the text */
    done(&f);
}
END_TEST

START_TEST(half_a_character_of_a_stop_string_stays_hidden) {
    str stops[] = {STR("é")};
    fixture f = {.p.want_logprobs = true};
    begin(&f, stops, 1);
    push(&f, 'a', FINISH_NONE);
    push(&f, 0xC3, FINISH_NONE);
    ck_assert_uint_eq(f.o.n_shown, 1);
    ck_assert(push(&f, 0xA9, FINISH_NONE));
    ck_shown(&f, "a");
    ck_assert_uint_eq(f.o.n_shown, 1);
    ck_assert_uint_eq(f.o.tokens.n, 1);
    done(&f);
}
END_TEST

START_TEST(special_tokens_are_hidden_or_not) {
    fixture f = {0};
    begin(&f, NULL, 0);
    push(&f, 257, FINISH_NONE);
    push(&f, 'a', FINISH_LENGTH);
    ck_shown(&f, "a");
    done(&f);
    fixture g = {0};
    begin(&g, NULL, 0);
    g.p.skip_special = false;
    output_done(&g.o);
    output_init(&g.o, &g.p, toy_tokenizer(), NULL, NULL, 0);
    push(&g, 257, FINISH_NONE);
    push(&g, 'a', FINISH_LENGTH);
    ck_shown(&g, "<bos>a");
    done(&g);
}
END_TEST

START_TEST(random_tokens) {
    uint64_t at = 0;
    for (int round = 0; round < 5000; round++) {
        static const char *const some[] = {"ST", "OP x", "日", "é", "本语", "a b", "OPS", "xx"};
        str stops[3];
        int32_t n_stops = (int32_t)(rng_philox(9, 0, at++).x[0] % 4);
        for (int32_t i = 0; i < n_stops; i++)
            stops[i] = str_z(some[rng_philox(9, 0, at++).x[0] % 8]);
        fixture f = {.p.want_logprobs = true};
        begin(&f, stops, n_stops);
        strbuf taken = {0};
        bool ended = false;
        for (int i = 0; i < 20 && !ended; i++) {
            uint32_t x = rng_philox(9, 0, at++).x[0];
            static const uint8_t bytes[] = {0xC3, 0xA9, 0xE6, 0x97, 0xA5, 'S', 'T', 'x', ' '};
            int32_t id = x % 2 ? 258 + (int32_t)(x / 2 % 13) : bytes[x / 2 % sizeof bytes];
            size_t before = f.o.shown, tokens = f.o.n_shown;
            ended = push(&f, id, i == 19 ? FINISH_LENGTH : FINISH_NONE);
            ck_assert(f.o.shown >= before && f.o.n_shown >= tokens);
            ck_assert(utf8_valid(f.o.text.p, f.o.shown));
            strbuf_add(&taken, str_cut(shown(&f), before, f.o.shown));
        }
        ck_assert(str_eq(strbuf_str(&taken), shown(&f)));
        for (int32_t i = 0; i < n_stops; i++)
            ck_assert_msg(str_find(shown(&f), stops[i], 0) < 0, "round %d shows a stop", round);
        ck_assert_uint_eq(f.o.n_shown, f.o.tokens.n);
        strbuf_done(&taken);
        done(&f);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("output");
    TCase *t = tcase_create("all");
    tcase_add_test(t, characters_appear_whole);
    tcase_add_test(t, an_end_lets_out_what_was_held);
    tcase_add_test(t, a_stop_string_over_tokens);
    tcase_add_test(t, half_a_character_of_a_stop_string_stays_hidden);
    tcase_add_test(t, special_tokens_are_hidden_or_not);
    tcase_add_test(t, random_tokens);
    suite_add_tcase(s, t);
    return suite_run(s);
}
