/* A GGUF vocabulary holds the same things as the files of the other readers, in llama.cpp's words:
 * a list of pieces with types and scores or merges, a few ids, and a few switches (table.h). Each
 * of its four models is brought into the form that we have already.
 *
 * Pieces of the types control, user-defined and unknown are recognised in the text before anything
 * else, as llama.cpp does it; a control piece is special. */
#include "tokenizer/gguf_tok.h"

#include <stdio.h>

#include "engine/base/gguf.h"
#include "engine/base/mem.h"
#include "tokenizer/bert.h"
#include "tokenizer/hf_bpe.h"
#include "tokenizer/spm.h"

#define KEY "tokenizer.ggml."

typedef struct reading {
    const tok_table *from;
    tokenizer *t;
    gguf_pre pre;
} reading;

static bool said(int8_t value, bool fallback) {
    return value == TOK_UNSAID ? fallback : value;
}

static status put_pieces(reading *r, error *err) {
    for (int32_t id = 0; id < r->from->n; id++)
        if (r->from->pieces[id].n && !vocab_put(&r->t->pieces, id, r->from->pieces[id]))
            return error_set(err, ERR_TOO_LARGE, KEY "tokens is too large");
    return OK;
}

/* Recognise control, user-defined and unknown pieces in the text. */
static status add_tokens(reading *r, error *err) {
    for (int32_t i = 0; i < r->from->n; i++) {
        uint8_t type = r->from->types[i];
        if (type != SPM_CONTROL && type != SPM_USER && type != SPM_UNKNOWN) continue;
        str s = vocab_piece(&r->t->pieces, i);
        if (!s.n) continue;
        bool plain = str_eqz(s, "<unk>") || str_eqz(s, "<s>") || str_eqz(s, "<|endoftext|>");
        added_spec a = {.id = i,
                        .content = s,
                        .special = type == SPM_CONTROL,
                        .rstrip = r->from->rstrip && !plain};
        TRY(tok_add(r->t, &a, err));
    }
    return OK;
}

/* ---- models ---- */

static status read_bpe(reading *r, error *err) {
    tokenizer *t = r->t;
    TRY(gguf_pre_of(r->from->pre, t, &r->pre, err));
    TRY(put_pieces(r, err));
    bpe *b = hf_bpe_make(t, true);
    b->ignore_merges = r->pre.ignore_merges;
    if (!r->from->merges) return error_set(err, ERR_FORMAT, KEY "merges is not a list of strings");
    strbuf lines = {0};
    for (size_t i = 0; i < r->from->n_merges; i++) {
        strbuf_add(&lines, r->from->merges[i]);
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
    const tok_table *from = r->from;
    for (int32_t id = 0; id < from->n; id++) {
        uint8_t type = from->types[id];
        if (!from->pieces[id].n) continue;
        /* what is recognised before takes no part in the model */
        bool apart = type == SPM_USER || type == SPM_CONTROL ||
                     (type == SPM_UNKNOWN && id != from->ids[TOK_UNK]);
        TRY(spm_put(s, r->t, id, from->pieces[id], from->scores ? from->scores[id] : 0,
                    apart ? SPM_UNUSED : type, err));
    }
    return OK;
}

static status read_spm(reading *r, spm_algorithm algorithm, error *err) {
    spm *s = spm_new(r->t);
    bool t5 = algorithm == SPM_UNIGRAM;
    s->algorithm = algorithm;
    s->byte_fallback = s->unused_apart = s->double_sums = true; /* as llama.cpp */
    s->dummy_prefix = said(r->from->add_space_prefix, true);
    s->remove_extra = said(r->from->remove_extra_spaces, t5);
    r->pre.bos = !t5;
    if (r->from->charsmap.p) TRY(charsmap_new(r->from->charsmap, &s->map, err));
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
void gguf_word_piece(str s, uint8_t type, strbuf *out) {
    static const str mark = {"\u2581", 3};
    bool plain = type != SPM_NORMAL || (s.n > 1 && s.p[0] == '[' && s.p[s.n - 1] == ']');
    bool begins = !plain && str_starts(s, mark);
    strbuf_clear(out);
    if (!plain && !begins && s.n) strbuf_addz(out, "##");
    strbuf_add(out, begins ? str_cut(s, mark.n, s.n) : s);
}

bool gguf_words_lower(const tok_table *from) {
    for (int32_t id = 0; id < from->n; id++) {
        str s = from->pieces[id];
        bool plain =
            from->types[id] != SPM_NORMAL || (s.n > 1 && s.p[0] == '[' && s.p[s.n - 1] == ']');
        for (size_t i = 0; i < s.n && !plain; i++)
            if (s.p[i] >= 'A' && s.p[i] <= 'Z') return false;
    }
    return true;
}

static status put_word_pieces(reading *r, error *err) {
    strbuf b = {0};
    status st = OK;
    for (int32_t id = 0; st == OK && id < r->from->n; id++) {
        gguf_word_piece(r->from->pieces[id], r->from->types[id], &b);
        if (b.n && !vocab_put(&r->t->pieces, id, strbuf_str(&b)))
            st = error_set(err, ERR_TOO_LARGE, KEY "tokens is too large");
    }
    strbuf_done(&b);
    return st;
}

static status read_bert(reading *r, error *err) {
    bert_options o = {.unk = r->from->ids[TOK_UNK], .chinese = true};
    TRY(put_word_pieces(r, err));
    o.lowercase = o.strip_accents = gguf_words_lower(r->from);
    TRY(bert_make(r->t, &o, err));
    int32_t cls = r->from->ids[TOK_CLS];
    if (r->t->bos < 0) r->t->bos = cls >= 0 ? cls : tokenizer_id(r->t, STR("[CLS]"));
    r->pre = (gguf_pre){.bos = true, .sep = true};
    return OK;
}

static status read_model(reading *r, error *err) {
    str kind = r->from->model;
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
    const tok_table *from = r->from;
    tokenizer *t = r->t;
    bool t5 = str_eqz(from->model, "t5");
    TRY(add_tokens(r, err));
    if (said(from->add_bos, r->pre.bos) && t->bos >= 0) vec_push(&t->before, t->bos);
    int32_t sep = from->ids[TOK_SEP] >= 0 ? from->ids[TOK_SEP] : t->eos;
    if (said(from->add_sep, r->pre.sep) && sep >= 0) vec_push(&t->after, sep);
    if (said(from->add_eos, t5) && t->eos >= 0) vec_push(&t->after, t->eos);
    if (from->chat_template.n) strbuf_add(&t->template, from->chat_template);
    return OK;
}

status tok_table_open(const tok_table *from, tokenizer **ret, error *err) {
    tokenizer *t = tok_new();
    reading r = {.from = from, .t = t};
    t->bos = from->ids[TOK_BOS];
    t->eos = from->ids[TOK_EOS];
    status st = read_model(&r, err);
    if (st == OK) st = read_rest(&r, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    tok_finish(t);
    *ret = t;
    return OK;
}

static status open_parsed(const gguf *g, tokenizer **ret, error *err) {
    tok_table table;
    TRY(tok_table_of_gguf(g, &table, err));
    status st = tok_table_open(&table, ret, err);
    tok_table_done(&table);
    return st;
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
