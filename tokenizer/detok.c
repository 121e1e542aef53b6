/* A thin layer over decode_stream. tokenizer_decode() is the same stream run to its end, so that
 * "the pieces concatenated equal the whole" holds by construction.
 *
 * Context: the prompt's ids go through the stream and their text is thrown away. What of it is
 * still held back (a run of byte tokens, an incomplete character) is known from a second stream
 * that is flushed; when it comes out of the first one later, it is recognised as already said and
 * dropped, character by character. */
#include "tokenizer/detok.h"

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/tok.h"

struct detok {
    const tokenizer *t;
    decode_stream *s;
    bool skip_special;
    strbuf said; /* text of the context that may still come out */
    size_t said_at;
    strbuf tmp;
};

static void push(const tokenizer *t, decode_stream *s, int32_t id, bool skip_special, strbuf *out) {
    str piece = tok_for_decoder(t, id);
    spm_type type = t->types && piece.p ? (spm_type)t->types[id] : SPM_NORMAL;
    /* A control piece has no text, but it ends a run of byte pieces: it is always passed on. */
    if (!piece.p || (skip_special && t->special[id] && type != SPM_CONTROL)) return;
    decode_push(s, piece, type, out);
}

void tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      strbuf *out) {
    decode_stream *s = decode_begin(t->dec);
    for (size_t i = 0; i < n; i++) push(t, s, ids[i], skip_special, out);
    decode_flush(s, out);
    decode_end(s);
}

detok *detok_new(const tokenizer *t, bool skip_special) {
    detok *d = mem_calloc(1, sizeof *d);
    d->t = t;
    d->s = decode_begin(t->dec);
    d->skip_special = skip_special;
    return d;
}

void detok_free(detok *d) {
    if (!d) return;
    decode_end(d->s);
    strbuf_done(&d->said);
    strbuf_done(&d->tmp);
    mem_free(d);
}

/* A prompt's text is as long as the prompt, what may still come out of it a few bytes at most: an
 * open answer holds on to those only. */
static void keep_unsaid(detok *d) {
    strbuf left = {0};
    strbuf_add(&left, str_cut(strbuf_str(&d->said), d->said_at, d->said.n));
    strbuf_done(&d->said);
    strbuf_done(&d->tmp);
    d->said = left;
    d->said_at = 0;
}

void detok_context(detok *d, const int32_t *ids, size_t n) {
    strbuf_clear(&d->tmp);
    strbuf_clear(&d->said);
    d->said_at = 0;
    for (size_t i = 0; i < n; i++) push(d->t, d->s, ids[i], d->skip_special, &d->tmp);
    tokenizer_decode(d->t, ids, n, d->skip_special, &d->said);
    size_t out = MIN(d->tmp.n, d->said.n);
    d->said_at = out;
    while (d->said.n >= out + 3 && memcmp(d->said.p + d->said.n - 3, "\xEF\xBF\xBD", 3) == 0)
        d->said.n -= 3; /* an incomplete character was not said */
    keep_unsaid(d);
}

/* The part of text that was not said before. */
static str unsaid(detok *d, str text) {
    while (text.n && d->said_at < d->said.n) {
        uint32_t cp;
        size_t k = utf8_get(text.p, text.n, &cp);
        if (k == 0 || k > d->said.n - d->said_at ||
            memcmp(text.p, d->said.p + d->said_at, k) != 0) {
            d->said_at = d->said.n;
            break;
        }
        text = str_cut(text, k, text.n);
        d->said_at += k;
    }
    return text;
}

void detok_push(detok *d, int32_t id, strbuf *out) {
    if (d->said_at == d->said.n) {
        push(d->t, d->s, id, d->skip_special, out);
        return;
    }
    strbuf_clear(&d->tmp);
    push(d->t, d->s, id, d->skip_special, &d->tmp);
    strbuf_add(out, unsaid(d, strbuf_str(&d->tmp)));
}

void detok_flush(detok *d, strbuf *out) {
    strbuf_clear(&d->tmp);
    decode_flush(d->s, &d->tmp);
    strbuf_add(out, unsaid(d, strbuf_str(&d->tmp)));
}
