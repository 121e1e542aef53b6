/* The way of a text: invalid UTF-8 repaired -> added tokens cut out -> each rest normalised ->
 * normalised added tokens cut out -> each rest pre-tokenised -> each word through the model ->
 * special ids around. All scratch is on this call's stack or heap: a tokenizer is never written
 * after opening (the model's word cache excepted, which is made for that). */
#include "tokenizer/tokenizer.h"

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/bytechars.h"
#include "tokenizer/tok.h"

#define TEXT_MAX ((size_t)1 << 30)

/* ---- building ---- */

tokenizer *tok_new(void) {
    tokenizer *t = mem_calloc(1, sizeof *t);
    t->bos = t->eos = -1;
    t->added = added_set_new();
    t->added_normalized = added_set_new();
    return t;
}

void tokenizer_free(tokenizer *t) {
    if (!t) return;
    if (t->model.free) t->model.free(t->model.self);
    vocab_done(&t->pieces);
    vocab_done(&t->raw);
    mem_free(t->special);
    mem_free(t->types);
    normalizer_free(t->norm);
    pretok_free(t->pre);
    added_set_free(t->added);
    added_set_free(t->added_normalized);
    vec_done(&t->before);
    vec_done(&t->after);
    decoder_free(t->dec);
    strbuf_done(&t->template);
    mem_free(t);
}

/* `special` and `types` follow the vocabulary's length. */
static void grow_tables(tokenizer *t, int32_t n_before) {
    size_t from = (size_t)n_before, to = (size_t)t->pieces.n;
    if (to <= from && t->special) return;
    if (!t->special) from = 0;
    t->special = mem_realloc(t->special, to + 1);
    memset(t->special + from, 0, to + 1 - from);
    if (!t->types) return;
    t->types = mem_realloc(t->types, to + 1);
    memset(t->types + n_before, SPM_USER, to + 1 - (size_t)n_before);
}

status tok_add(tokenizer *t, const added_spec *a, error *err) {
    int32_t n_before = t->pieces.n, id = vocab_id(&t->pieces, a->content);
    if (id < 0) {
        id = a->id;
        if (!vocab_put(&t->pieces, id, a->content))
            return error_set(err, ERR_TOO_LARGE, "the added tokens are too large");
    }
    grow_tables(t, n_before);
    if (a->special) t->special[id] = 1;
    if (t->types) t->types[id] = SPM_USER; /* visible when decoded, whatever it was */
    added_token tok = {.id = id,
                       .pattern = a->content,
                       .lstrip = a->lstrip,
                       .rstrip = a->rstrip,
                       .single_word = a->single_word};
    if (!a->normalized) {
        added_set_add(t->added, &tok);
        return OK;
    }
    normal_work w = {0};
    if (t->norm) tok.pattern = normalizer_run(t->norm, &w, a->content);
    added_set_add(t->added_normalized, &tok);
    normal_work_done(&w);
    return OK;
}

status tok_put(tokenizer *t, int32_t id, str piece, error *err) {
    int32_t n_before = t->pieces.n;
    if (id < 0 || id >= LIMIT_VOCAB || !vocab_put(&t->pieces, id, piece))
        return error_set(err, ERR_TOO_LARGE, "the added tokens are too large");
    grow_tables(t, n_before);
    return OK;
}

status tok_put_special(tokenizer *t, int32_t id, str piece, error *err) {
    TRY(tok_put(t, id, piece, err));
    t->special[id] = 1;
    return OK;
}

void tok_finish(tokenizer *t) {
    grow_tables(t, t->special ? t->pieces.n : 0);
    if (!t->dec || !decoder_wants_raw(t->dec) || t->raw_is_stored) return;
    vocab_done(&t->raw);
    strbuf raw = {0};
    for (int32_t id = 0; id < t->pieces.n; id++) {
        str s = vocab_piece(&t->pieces, id);
        if (!s.p) continue;
        strbuf_clear(&raw);
        vocab_set(&t->raw, id, bytechars_decode(s, &raw) ? strbuf_str(&raw) : s);
    }
    strbuf_done(&raw);
}

/* ---- encoding ---- */

typedef struct encoder {
    const tokenizer *t;
    unsigned flags;
    size_t ids_max;
    vec_i32 *ids;
    normal_work norm;
    pretok_work pre;
    added_parts raw_parts, norm_parts;
    strbuf repaired;
} encoder;

static bool over(const encoder *e) {
    return e->ids_max && e->ids->n > e->ids_max;
}

static void encode_words(encoder *e, str text, bool is_first) {
    str words_text = text;
    const span_vec *words;
    if (!e->t->pre) {
        e->t->model.encode(e->t->model.self, text, e->ids);
        return;
    }
    pretok_run(e->t->pre, &e->pre, text, is_first, &words_text, &words);
    for (size_t i = 0; i < words->n && !over(e); i++)
        e->t->model.encode(e->t->model.self, str_n(words_text.p + words->p[i].off, words->p[i].len),
                           e->ids);
}

static void encode_section(encoder *e, str text, bool is_first) {
    const tokenizer *t = e->t;
    if (t->norm) text = normalizer_run(t->norm, &e->norm, text);
    if (!text.n) return;
    if (e->flags & ENCODE_NO_ADDED || added_set_empty(t->added_normalized)) {
        encode_words(e, text, is_first);
        return;
    }
    e->norm_parts.n = 0;
    added_set_split(t->added_normalized, text, &e->norm_parts);
    for (size_t i = 0; i < e->norm_parts.n && !over(e); i++) {
        added_part p = e->norm_parts.p[i];
        if (p.id >= 0)
            vec_push(e->ids, p.id);
        else
            encode_words(e, str_cut(text, p.from, p.to), is_first && p.from == 0);
    }
}

static void encode_text(encoder *e, str text) {
    if (!text.n) return;
    if (e->flags & ENCODE_NO_ADDED || added_set_empty(e->t->added)) {
        encode_section(e, text, true);
        return;
    }
    added_set_split(e->t->added, text, &e->raw_parts);
    for (size_t i = 0; i < e->raw_parts.n && !over(e); i++) {
        added_part p = e->raw_parts.p[i];
        if (p.id >= 0)
            vec_push(e->ids, p.id);
        else
            encode_section(e, str_cut(text, p.from, p.to), p.from == 0);
    }
}

/* Each maximal invalid part becomes one U+FFFD. */
static str repair(str text, strbuf *out) {
    size_t at = 0, from = 0;
    while (at < text.n) {
        uint32_t cp;
        size_t k = utf8_get(text.p + at, text.n - at, &cp);
        if (k) {
            at += k;
            continue;
        }
        strbuf_add(out, str_cut(text, from, at));
        strbuf_addz(out, "\xEF\xBF\xBD");
        size_t bad = 1;
        while (at + bad < text.n && utf8_partial_tail(text.p + at, bad + 1) == bad + 1) bad++;
        from = at += bad;
    }
    strbuf_add(out, str_cut(text, from, at));
    return strbuf_str(out);
}

static void encoder_done(encoder *e) {
    normal_work_done(&e->norm);
    pretok_work_done(&e->pre);
    vec_done(&e->raw_parts);
    vec_done(&e->norm_parts);
    strbuf_done(&e->repaired);
}

status tokenizer_encode(const tokenizer *t, str text, unsigned flags, size_t ids_max, vec_i32 *ids,
                        error *err) {
    if (text.n > TEXT_MAX)
        return error_set(err, ERR_TOO_LARGE, "the text has %zu bytes, more than %zu", text.n,
                         TEXT_MAX);
    encoder e = {.t = t, .flags = flags, .ids_max = ids_max, .ids = ids};
    size_t n_before = ids->n;
    if (text.n && !utf8_valid(text.p, text.n)) text = repair(text, &e.repaired);
    if (flags & ENCODE_SPECIAL)
        for (size_t i = 0; i < t->before.n; i++) vec_push(ids, t->before.p[i]);
    encode_text(&e, text);
    if (flags & ENCODE_SPECIAL)
        for (size_t i = 0; i < t->after.n; i++) vec_push(ids, t->after.p[i]);
    bool failed = e.pre.match.failed || e.norm.match.failed, large = over(&e);
    encoder_done(&e);
    if (!large && !failed) return OK;
    ids->n = n_before;
    if (large) return error_set(err, ERR_TOO_LARGE, "the text has more than %zu tokens", ids_max);
    return error_set(err, ERR_TOO_LARGE,
                     "the tokenizer's regular expression gave up on this text (match limit)");
}

/* ---- looking ---- */

int32_t tokenizer_vocab(const tokenizer *t) {
    return t->pieces.n;
}

int32_t tokenizer_id(const tokenizer *t, str piece) {
    return vocab_id(&t->pieces, piece);
}

str tokenizer_piece(const tokenizer *t, int32_t id) {
    return vocab_piece(&t->pieces, id);
}

void tokenizer_bytes(const tokenizer *t, int32_t id, strbuf *out) {
    str s = tok_for_decoder(t, id);
    if (!s.p) return;
    decoder_token_bytes(t->dec, s, t->types ? (spm_type)t->types[id] : SPM_NORMAL, out);
}

bool tokenizer_is_special(const tokenizer *t, int32_t id) {
    return id >= 0 && id < t->pieces.n && t->special[id];
}

int32_t tokenizer_bos(const tokenizer *t) {
    return t->bos;
}

int32_t tokenizer_eos(const tokenizer *t) {
    return t->eos;
}

str tokenizer_template(const tokenizer *t) {
    return t->template.n ? strbuf_str(&t->template) : (str){0};
}

const char *tokenizer_kind(const tokenizer *t) {
    return t->model.kind;
}
