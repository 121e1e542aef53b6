/* What every target does with a tokenizer that opened: encode, with offsets too, and decode, whole
 * and as a stream. Traps where two ways that must agree do not. Frees it. */
#ifndef TESTS_FUZZ_USE_TOKENIZER_H
#define TESTS_FUZZ_USE_TOKENIZER_H

#include <stdint.h>
#include <string.h>

#include "tokenizer/detok.h"
#include "tokenizer/tokenizer.h"

static inline void use_tokenizer(tokenizer *t, str text) {
    vec_i32 ids = {0}, again = {0};
    token_spans spans = {0};
    strbuf out = {0}, pieces = {0};
    error err;
    status st = tokenizer_encode(t, text, ENCODE_SPECIAL, 0, &ids, &err);
    if (tokenizer_encode_spans(t, text, ENCODE_SPECIAL, 0, &again, &spans, &err) != st)
        __builtin_trap();
    if (st == OK) {
        if (ids.n != again.n || spans.n != ids.n) __builtin_trap();
        for (size_t i = 0; i < ids.n; i++)
            if (ids.p[i] != again.p[i] || spans.p[i].from > spans.p[i].to || spans.p[i].to > text.n)
                __builtin_trap();
        tokenizer_decode(t, ids.p, ids.n, false, &out);
        detok *d = detok_new(t, false);
        for (size_t i = 0; i < ids.n; i++) detok_push(d, ids.p[i], &pieces);
        detok_flush(d, &pieces);
        detok_free(d);
        if (!str_eq(strbuf_str(&out), strbuf_str(&pieces))) __builtin_trap();
    }
    for (int32_t id = 0; id < 16; id++) tokenizer_bytes(t, id, &out);
    strbuf_done(&out);
    strbuf_done(&pieces);
    vec_done(&ids);
    vec_done(&again);
    vec_done(&spans);
    tokenizer_free(t);
}

/* A file's bytes and the text behind a line "====" (or a text of our own). */
static inline str split_text(str all, str *ret_text) {
    static const str mark = {"\n====", 5};
    ptrdiff_t cut = str_find(all, mark, 0);
    *ret_text = cut < 0 ? STR("the page  <mask> caf\u00e9 1234\n")
                        : str_cut(all, (size_t)cut + mark.n, all.n);
    return cut < 0 ? all : str_cut(all, 0, (size_t)cut);
}

#endif
