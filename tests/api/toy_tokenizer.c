/* A tokenizer for tests of the front end: every behaviour that matters there, no files.
 *
 *   0..255     the byte itself (so characters can be split over tokens at will)
 *   256, 257   <eos>, <bos>: special, no text when special tokens are skipped
 *   258..      whole pieces, among them stop strings cut in every way, and multi-byte text
 *
 * Encoding takes the longest piece at each place; decoding is the bytes put together. */
#include "tests/api/toy_tokenizer.h"

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/detok.h"

static const char *const pieces[] = {"hello",  " world", "STOP", "ST", "OP",   " one", " two",
                                     " three", "Grüße",  "日本", "语", "\n\n", "a",    "b"};
enum { EOS = 256, BOS = 257, FIRST = 258, VOCAB = 512, N_PIECES = ARRAY_LEN(pieces) };

struct tokenizer {
    char bytes[256];
};

tokenizer *toy_tokenizer(void) {
    static tokenizer t;
    for (int i = 0; i < 256; i++) t.bytes[i] = (char)i;
    return &t;
}

const chat *toy_chat(void) {
    return (const chat *)toy_tokenizer();
}

status tokenizer_open(const char *path, const tokenizer_options *o, tokenizer **ret, error *err) {
    *ret = toy_tokenizer();
    return OK;
}

void tokenizer_free(tokenizer *t) {}

static int32_t longest(str text, size_t at, size_t *ret_n) {
    int32_t best = (unsigned char)text.p[at];
    *ret_n = 1;
    for (int32_t i = 0; i < (int32_t)N_PIECES; i++) {
        size_t n = strlen(pieces[i]);
        if (n > *ret_n && text.n - at >= n && memcmp(text.p + at, pieces[i], n) == 0) {
            best = FIRST + i;
            *ret_n = n;
        }
    }
    return best;
}

status tokenizer_encode(const tokenizer *t, str text, unsigned flags, size_t ids_max, vec_i32 *ids,
                        error *err) {
    if (flags & ENCODE_SPECIAL) vec_push(ids, BOS);
    for (size_t at = 0, n; at < text.n; at += n) {
        vec_push(ids, longest(text, at, &n));
        if (ids_max && ids->n > ids_max) return error_set(err, ERR_TOO_LARGE, "too many tokens");
    }
    return OK;
}

/* Bytes count as characters here. */
status tokenizer_encode_spans(const tokenizer *t, str text, unsigned flags, size_t ids_max,
                              vec_i32 *ids, token_spans *spans, error *err) {
    if (flags & ENCODE_SPECIAL) vec_push(spans, ((token_span){0, 0}));
    for (size_t at = 0, n; at < text.n; at += n) {
        longest(text, at, &n);
        vec_push(spans, ((token_span){(uint32_t)at, (uint32_t)(at + n)}));
    }
    return tokenizer_encode(t, text, flags, ids_max, ids, err);
}

str tokenizer_template(const tokenizer *t) {
    return (str){0};
}

void tokenizer_bytes(const tokenizer *t, int32_t id, strbuf *out) {
    if (id >= 0 && id < 256)
        strbuf_addc(out, (char)id);
    else if (id == EOS)
        strbuf_addz(out, "<eos>");
    else if (id == BOS)
        strbuf_addz(out, "<bos>");
    else if (id >= FIRST && id < FIRST + (int32_t)N_PIECES)
        strbuf_addz(out, pieces[id - FIRST]);
}

/* Invalid bytes become U+FFFD; at most an incomplete character at the end is left in place. */
static size_t put_valid(str s, bool all, strbuf *out) {
    size_t keep = all ? 0 : utf8_partial_tail(s.p, s.n), at = 0;
    while (at < s.n - keep) {
        uint32_t cp;
        size_t n = utf8_get(s.p + at, s.n - keep - at, &cp);
        if (n)
            strbuf_add(out, str_n(s.p + at, n));
        else
            strbuf_addcp(out, 0xFFFD);
        at += n ? n : 1;
    }
    return at;
}

void tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      strbuf *out) {
    strbuf raw = {0};
    for (size_t i = 0; i < n; i++)
        if (!skip_special || !tokenizer_is_special(t, ids[i])) tokenizer_bytes(t, ids[i], &raw);
    (void)put_valid(strbuf_str(&raw), true, out);
    strbuf_done(&raw);
}

int32_t tokenizer_vocab(const tokenizer *t) {
    return VOCAB;
}

str tokenizer_piece(const tokenizer *t, int32_t id) {
    if (id >= 0 && id < 256) return str_n(&t->bytes[id], 1);
    if (id == EOS) return STR("<eos>");
    if (id == BOS) return STR("<bos>");
    return id >= FIRST && id < FIRST + (int32_t)N_PIECES ? str_z(pieces[id - FIRST]) : (str){0};
}

int32_t tokenizer_id(const tokenizer *t, str piece) {
    for (int32_t id = 0; id < VOCAB; id++)
        if (piece.n && str_eq(tokenizer_piece(t, id), piece)) return id;
    return -1;
}

bool tokenizer_is_special(const tokenizer *t, int32_t id) {
    return id == EOS || id == BOS;
}

int32_t tokenizer_bos(const tokenizer *t) {
    return BOS;
}

int32_t tokenizer_eos(const tokenizer *t) {
    return EOS;
}

const char *tokenizer_kind(const tokenizer *t) {
    return "toy";
}

struct detok {
    const tokenizer *t;
    bool skip_special;
    strbuf held; /* an incomplete character */
};

detok *detok_new(const tokenizer *t, bool skip_special) {
    detok *d = mem_calloc(1, sizeof *d);
    d->t = t;
    d->skip_special = skip_special;
    return d;
}

void detok_free(detok *d) {
    if (!d) return;
    strbuf_done(&d->held);
    mem_free(d);
}

void detok_context(detok *d, const int32_t *ids, size_t n) {}

static void give(detok *d, bool all, strbuf *out) {
    size_t n = put_valid(strbuf_str(&d->held), all, out);
    if (!n) return;
    memmove(d->held.p, d->held.p + n, d->held.n - n);
    d->held.n -= n;
}

void detok_push(detok *d, int32_t id, strbuf *out) {
    if (d->skip_special && tokenizer_is_special(d->t, id)) return;
    tokenizer_bytes(d->t, id, &d->held);
    give(d, false, out);
}

void detok_flush(detok *d, strbuf *out) {
    give(d, true, out);
}

/* "role: content" a line, then "assistant: " when asked for. */
status chat_render(const chat *c, const chat_request *q, strbuf *out, error *err) {
    size_t i;
    json_t *m;
    json_array_foreach((json_t *)(uintptr_t)q->messages, i, m) {
        str content = js_get_str(m, "content");
        if (str_eqz(content, "raise"))
            return error_set(err, ERR_INVALID, "the template does not like this message");
        if (i) strbuf_addc(out, '\n');
        strbuf_addf(out, "%s: ", json_string_value(js_get(m, "role")));
        strbuf_add(out, content);
    }
    if (!q->continue_final_message) strbuf_addc(out, '\n');
    if (js_get_bool(q->kwargs, "shout", false)) strbuf_addz(out, "!");
    if (q->add_generation_prompt) strbuf_addz(out, "assistant: ");
    return OK;
}
