/* Building a tokenizer and looking things up in it. */
#include "tokenizer/tokenizer.h"

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/bytechars.h"
#include "tokenizer/tok.h"

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
