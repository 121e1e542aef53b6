/* A GGUF vocabulary holds the same things as the files of the other readers, in llama.cpp's words:
 * a list of pieces with types and scores or merges, a few ids, and a few switches. Each of its four
 * models is brought into the form that we have already.
 *
 * Pieces of the types control, user-defined and unknown are recognised in the text before anything
 * else, as llama.cpp does it; a control piece is special. */
#include "tokenizer/gguf_tok.h"

#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/gguf.h"
#include "engine/base/mem.h"
#include "tokenizer/bert.h"
#include "tokenizer/hf_bpe.h"
#include "tokenizer/spm.h"

#define KEY "tokenizer.ggml."

typedef struct reading {
    const gguf *g;
    tokenizer *t;
    const gguf_value *tokens, *types, *scores;
    gguf_pre pre;
    int32_t unk, sep, cls;
    bool rstrip; /* special pieces swallow the white space that follows */
} reading;

static int type_of(const reading *r, uint64_t i) {
    int64_t v = SPM_NORMAL;
    if (r->types && !gguf_i64(r->types, i, &v)) v = SPM_NORMAL;
    return v < SPM_NORMAL || v > SPM_BYTE ? SPM_NORMAL : (int)v;
}

static status read_lists(reading *r, error *err) {
    const gguf *g = r->g;
    r->tokens = gguf_find(g, KEY "tokens");
    r->types = gguf_find(g, KEY "token_type");
    r->scores = gguf_find(g, KEY "scores");
    if (!r->tokens || !r->tokens->is_array || r->tokens->kind != GGUF_STRING || !r->tokens->n)
        return error_set(err, ERR_FORMAT, KEY "tokens is not a list of strings");
    if (r->tokens->n >= LIMIT_VOCAB)
        return error_set(err, ERR_TOO_LARGE, KEY "tokens has %llu entries, more than %d",
                         (unsigned long long)r->tokens->n, LIMIT_VOCAB - 1);
    if ((r->types && r->types->n != r->tokens->n) || (r->scores && r->scores->n != r->tokens->n))
        return error_set(err, ERR_FORMAT, KEY "tokens, token_type and scores differ in length");
    return OK;
}

static int32_t id_of(const reading *r, const char *key) {
    int64_t v = gguf_get_int(r->g, key, -1);
    return v < 0 || (uint64_t)v >= r->tokens->n ? -1 : (int32_t)v;
}

static status put_pieces(reading *r, error *err) {
    gguf_strings it = gguf_strings_of(r->tokens);
    str s;
    for (int32_t id = 0; gguf_next(&it, &s); id++)
        if (s.n && !vocab_put(&r->t->pieces, id, s))
            return error_set(err, ERR_TOO_LARGE, KEY "tokens is too large");
    return OK;
}

/* Recognise control, user-defined and unknown pieces in the text. */
static status add_tokens(reading *r, error *err) {
    for (uint64_t i = 0; i < r->tokens->n; i++) {
        int type = type_of(r, i);
        if (type != SPM_CONTROL && type != SPM_USER && type != SPM_UNKNOWN) continue;
        str s = vocab_piece(&r->t->pieces, (int32_t)i);
        if (!s.n) continue;
        bool plain = str_eqz(s, "<unk>") || str_eqz(s, "<s>") || str_eqz(s, "<|endoftext|>");
        added_spec a = {.id = (int32_t)i,
                        .content = s,
                        .special = type == SPM_CONTROL,
                        .rstrip = r->rstrip && !plain};
        TRY(tok_add(r->t, &a, err));
    }
    return OK;
}

/* ---- models ---- */

static status read_bpe(reading *r, error *err) {
    tokenizer *t = r->t;
    const gguf_value *merges = gguf_find(r->g, KEY "merges");
    TRY(gguf_pre_of(gguf_get_str(r->g, KEY "pre"), t, &r->pre, err));
    TRY(put_pieces(r, err));
    bpe *b = hf_bpe_make(t, true);
    b->ignore_merges = r->pre.ignore_merges;
    if (!merges || !merges->is_array || merges->kind != GGUF_STRING)
        return error_set(err, ERR_FORMAT, KEY "merges is not a list of strings");
    strbuf lines = {0};
    gguf_strings it = gguf_strings_of(merges);
    for (str s; gguf_next(&it, &s);) {
        strbuf_add(&lines, s);
        strbuf_addc(&lines, '\n');
    }
    status st = hf_merges_text(strbuf_str(&lines), &t->pieces, b, err);
    strbuf_done(&lines);
    TRY(st);
    hf_bpe_finish(t, b);
    t->dec = decoder_of_bytes();
    return OK;
}

static status put_spm(reading *r, spm *s, error *err) {
    gguf_strings it = gguf_strings_of(r->tokens);
    str piece;
    for (int32_t id = 0; gguf_next(&it, &piece); id++) {
        double score = 0;
        int type = type_of(r, (uint64_t)id);
        if (r->scores && (!gguf_f64(r->scores, (uint64_t)id, &score) || score != score))
            return error_set(err, ERR_FORMAT, KEY "scores[%d] is not a number", id);
        if (!piece.n) continue;
        /* what is recognised before takes no part in the model */
        bool apart =
            type == SPM_USER || type == SPM_CONTROL || (type == SPM_UNKNOWN && id != r->unk);
        TRY(spm_put(s, r->t, id, piece, (float)score, (uint8_t)(apart ? SPM_UNUSED : type), err));
    }
    return OK;
}

static status read_spm(reading *r, spm_algorithm algorithm, error *err) {
    spm *s = spm_new(r->t);
    const gguf_value *chars = gguf_find(r->g, KEY "precompiled_charsmap");
    bool t5 = algorithm == SPM_UNIGRAM;
    s->algorithm = algorithm;
    s->byte_fallback = s->unused_apart = true;
    s->dummy_prefix = gguf_get_bool(r->g, KEY "add_space_prefix", true);
    s->remove_extra = gguf_get_bool(r->g, KEY "remove_extra_whitespaces", t5);
    r->pre.bos = !t5;
    if (chars && chars->is_array && (chars->kind == GGUF_U8 || chars->kind == GGUF_I8))
        TRY(charsmap_new(str_n((const char *)chars->p, chars->n), &s->map, err));
    TRY(put_spm(r, s, err));
    if (!s->types.n) return error_set(err, ERR_FORMAT, KEY "tokens: all are empty");
    TRY(spm_finish(s, r->t, STR(""), err));
    /* for the decoder they are text */
    for (int32_t id = 0; id < r->t->pieces.n; id++)
        if (r->t->types[id] != SPM_BYTE) r->t->types[id] = SPM_NORMAL;
    return OK;
}

/* llama.cpp's form of a WordPiece vocabulary: words begin with U+2581 and what continues one is
 * bare. Back to BERT's own form, which says ## in front of the latter. */
static status put_word_pieces(reading *r, bool *lower, error *err) {
    static const str mark = {"\u2581", 3};
    gguf_strings it = gguf_strings_of(r->tokens);
    strbuf b = {0};
    status st = OK;
    str s;
    *lower = true;
    for (int32_t id = 0; st == OK && gguf_next(&it, &s); id++) {
        bool plain = type_of(r, (uint64_t)id) != SPM_NORMAL ||
                     (s.n > 1 && s.p[0] == '[' && s.p[s.n - 1] == ']');
        if (!s.n) continue;
        strbuf_clear(&b);
        if (!plain && !str_starts(s, mark)) strbuf_addz(&b, "##");
        strbuf_add(&b, !plain && str_starts(s, mark) ? str_cut(s, mark.n, s.n) : s);
        for (size_t i = 0; i < b.n && !plain; i++)
            if (b.p[i] >= 'A' && b.p[i] <= 'Z') *lower = false;
        if (b.n && !vocab_put(&r->t->pieces, id, strbuf_str(&b)))
            st = error_set(err, ERR_TOO_LARGE, KEY "tokens is too large");
    }
    strbuf_done(&b);
    return st;
}

static status read_bert(reading *r, error *err) {
    bert_options o = {.unk = r->unk, .chinese = true};
    TRY(put_word_pieces(r, &o.lowercase, err));
    o.strip_accents = o.lowercase;
    TRY(bert_make(r->t, &o, err));
    if (r->t->bos < 0) r->t->bos = r->cls >= 0 ? r->cls : tokenizer_id(r->t, STR("[CLS]"));
    r->pre = (gguf_pre){.bos = true, .sep = true};
    return OK;
}

static status read_model(reading *r, error *err) {
    str kind = gguf_get_str(r->g, KEY "model");
    if (str_eqz(kind, "gpt2")) return read_bpe(r, err);
    if (str_eqz(kind, "llama")) return read_spm(r, SPM_BPE, err);
    if (str_eqz(kind, "t5")) return read_spm(r, SPM_UNIGRAM, err);
    if (str_eqz(kind, "bert")) return read_bert(r, err);
    if (!kind.p) return error_set(err, ERR_NOT_FOUND, "there is no vocabulary (" KEY "model)");
    return error_set(err, ERR_UNSUPPORTED,
                     KEY "model \"" STR_FMT "\" is not supported (llama, gpt2, bert and t5 are)",
                     STR_ARG(str_cut(kind, 0, MIN(kind.n, (size_t)40))));
}

/* What goes around a text, and the rest that every model has. */
static status read_rest(reading *r, error *err) {
    tokenizer *t = r->t;
    str template = gguf_get_str(r->g, "tokenizer.chat_template");
    bool t5 = str_eqz(gguf_get_str(r->g, KEY "model"), "t5");
    TRY(add_tokens(r, err));
    if (gguf_get_bool(r->g, KEY "add_bos_token", r->pre.bos) && t->bos >= 0)
        vec_push(&t->before, t->bos);
    int32_t sep = r->sep >= 0 ? r->sep : t->eos;
    if (gguf_get_bool(r->g, KEY "add_sep_token", r->pre.sep) && sep >= 0) vec_push(&t->after, sep);
    if (gguf_get_bool(r->g, KEY "add_eos_token", t5) && t->eos >= 0) vec_push(&t->after, t->eos);
    if (template.n) strbuf_add(&t->template, template);
    return OK;
}

static bool is_phi3(str name) {
    char low[64];
    size_t n = MIN(name.n, sizeof low - 1);
    for (size_t i = 0; i < n; i++)
        low[i] = name.p[i] >= 'A' && name.p[i] <= 'Z' ? (char)(name.p[i] + 32) : name.p[i];
    low[n] = 0;
    return strstr(low, "phi-3") || strstr(low, "phi3");
}

static status open_parsed(const gguf *g, tokenizer **ret, error *err) {
    tokenizer *t = tok_new();
    reading r = {.g = g, .t = t, .rstrip = is_phi3(gguf_get_str(g, "general.name"))};
    status st = read_lists(&r, err);
    if (st == OK) {
        r.unk = id_of(&r, KEY "unknown_token_id");
        r.sep = id_of(&r, KEY "seperator_token_id"); /* the format's own spelling */
        if (r.sep < 0) r.sep = id_of(&r, KEY "separator_token_id");
        r.cls = id_of(&r, KEY "cls_token_id");
        for (uint64_t i = 0; r.unk < 0 && i < r.tokens->n; i++)
            if (type_of(&r, i) == SPM_UNKNOWN) r.unk = (int32_t)i;
        t->bos = id_of(&r, KEY "bos_token_id");
        t->eos = id_of(&r, KEY "eos_token_id");
        st = read_model(&r, err);
    }
    if (st == OK) st = read_rest(&r, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    tok_finish(t);
    *ret = t;
    return OK;
}

bool gguf_magic(const char *path) {
    char magic[4] = {0};
    FILE *f = fopen(path, "rb");
    bool is = f && fread(magic, 1, 4, f) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (f) fclose(f);
    return is;
}

status gguf_tok_open(const char *path, tokenizer **ret, error *err) {
    gguf g;
    TRY(gguf_open(path, &g, err));
    status st = open_parsed(&g, ret, err);
    if (st != OK) error_prefix(err, "%s", path);
    gguf_close(&g);
    return st;
}

status gguf_tok_parse(str bytes, const char *name, tokenizer **ret, error *err) {
    gguf g;
    TRY(gguf_parse((const uint8_t *)bytes.p, bytes.n, name, &g, err));
    status st = open_parsed(&g, ret, err);
    gguf_close(&g);
    return st;
}
