/* Inputs that make a careless tokenizer quadratic or read outside its buffers: 128 KiB
 * of one character, of spaces, of combining marks, of random bytes. The bound is far above
 * linear time even under a sanitizer and far below quadratic. */
#include <check.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "tokenizer/detok.h"
#include "tokenizer/tokenizer.h"
#include "tests/unit/suite.h"

#define DIR       "tests/tokenizer/fixtures/"
#define BYTES     ((size_t)1 << 17)
#define CPU_S_MAX 30.0

static const char *const files[] = {
    DIR "byte_level.json",       DIR "spm_like.json",      DIR "metaspace_first.json",
    DIR "word_piece_lower.json", DIR "unigram_bytes.json", DIR "clip_like.json",
    DIR "splits_1.json",         DIR "splits_3.json",      DIR "byte_level_normal.json",
};

static void fill(strbuf *b, int kind) {
    static const char *const units[] = {
        "a", " ", "\n", "\xCC\x81\xCC\xA3", "\xE4\xB8\xAD", "ab ", "<|begin|", "    x", "'", "1"};
    if (kind < (int)ARRAY_LEN(units)) {
        while (b->n < BYTES) strbuf_addz(b, units[kind]);
        return;
    }
    for (uint64_t i = 0; b->n < BYTES; i++)
        strbuf_addc(b, (char)(rng_uniform(1, i, (uint32_t)kind) * 256));
}

/* The same ids with offsets, which lie in the text. */
static void check_spans(const tokenizer *t, str text, const vec_i32 *ids) {
    vec_i32 again = {0};
    token_spans spans = {0};
    error err;
    ck_assert(tokenizer_encode_spans(t, text, ENCODE_SPECIAL, 0, &again, &spans, &err) == OK);
    ck_assert(again.n == ids->n && spans.n == ids->n);
    for (size_t i = 0; i < ids->n; i++)
        ck_assert(again.p[i] == ids->p[i] && spans.p[i].from <= spans.p[i].to &&
                  spans.p[i].to <= text.n);
    again.n = spans.n = 0;
    if (ids->n > 100) {
        ck_assert(tokenizer_encode_spans(t, text, 0, 50, &again, &spans, &err) == ERR_TOO_LARGE);
        ck_assert(!again.n && !spans.n);
    }
    vec_done(&again);
    vec_done(&spans);
}

static void run(const tokenizer *t, str text) {
    vec_i32 ids = {0};
    strbuf whole = {0}, pieces = {0};
    error err;
    clock_t from = clock();
    ck_assert(tokenizer_encode(t, text, ENCODE_SPECIAL, 0, &ids, &err) == OK);
    for (size_t i = 0; i < ids.n; i++) ck_assert(ids.p[i] >= 0 && ids.p[i] < tokenizer_vocab(t));
    tokenizer_decode(t, ids.p, ids.n, true, &whole);
    detok *d = detok_new(t, true);
    for (size_t i = 0; i < ids.n; i++) detok_push(d, ids.p[i], &pieces);
    detok_flush(d, &pieces);
    detok_free(d);
    ck_assert(str_eq(strbuf_str(&whole), strbuf_str(&pieces)));
    ck_assert(utf8_valid(whole.p ? whole.p : "", whole.n));
    check_spans(t, text, &ids);
    double s = (double)(clock() - from) / CLOCKS_PER_SEC;
    ck_assert_msg(s < CPU_S_MAX, "%zu bytes took %.1f s of CPU", text.n, s);
    vec_done(&ids);
    strbuf_done(&whole);
    strbuf_done(&pieces);
}

START_TEST(long_texts_are_linear) {
    tokenizer *t;
    error err;
    ck_assert_msg(tokenizer_open(files[_i], NULL, &t, &err) == OK, "%s", err.text);
    for (int kind = 0; kind < 11; kind++) {
        strbuf b = {0};
        fill(&b, kind);
        run(t, strbuf_str(&b));
        strbuf_done(&b);
    }
    tokenizer_free(t);
}
END_TEST

START_TEST(too_many_tokens_is_an_answer) {
    tokenizer *t;
    error err;
    vec_i32 ids = {0};
    strbuf b = {0};
    ck_assert(tokenizer_open(files[0], NULL, &t, &err) == OK);
    fill(&b, 9);
    vec_push(&ids, 7);
    ck_assert(tokenizer_encode(t, strbuf_str(&b), 0, 100, &ids, &err) == ERR_TOO_LARGE);
    ck_assert(ids.n == 1 && strstr(err.text, "100"));
    strbuf_done(&b);
    vec_done(&ids);
    tokenizer_free(t);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tokenizer, hostile input");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 300);
    tcase_add_loop_test(c, long_texts_are_linear, 0, ARRAY_LEN(files));
    tcase_add_test(c, too_many_tokens_is_an_answer);
    suite_add_tcase(s, c);
    return suite_run(s);
}
