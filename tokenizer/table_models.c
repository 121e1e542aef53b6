/* What only the files say of each kind of model: merges and split, scores, the normalisation. A
 * setting that has no counterpart is refused here when it can be named; what remains is found by
 * the comparison in table_dir.c. */
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/gguf_tok.h"
#include "tokenizer/proto.h"
#include "tokenizer/spm.h"
#include "tokenizer/table_parts.h"

#define MARK "\u2581"

/* ---- merges ---- */

/* "left right", as the file writes it or as a pair. */
static bool merge_text(const json_t *j, strbuf *out) {
    strbuf_clear(out);
    str whole = js_str(j), l = js_str(json_array_get(j, 0)), r = js_str(json_array_get(j, 1));
    if (whole.p) {
        strbuf_add(out, whole);
    } else if (l.n && r.n) {
        strbuf_add(out, l);
        strbuf_addc(out, ' ');
        strbuf_add(out, r);
    }
    ptrdiff_t space = str_find(strbuf_str(out), STR(" "), 0);
    return space > 0 && str_find(strbuf_str(out), STR(" "), (size_t)space + 1) < 0;
}

static status put_merges(const json_t *list, tok_table *t, error *err) {
    strbuf text = {0};
    status st = OK;
    size_t n = json_array_size(list);
    t->merges = arena_array(t->mem, n + 1, sizeof *t->merges);
    for (size_t i = 0; i < n && st == OK; i++) {
        if (merge_text(json_array_get(list, i), &text))
            t->merges[t->n_merges++] = tok_table_keep(t, strbuf_str(&text));
        else
            st = error_set(err, ERR_UNSUPPORTED,
                           "model.merges[%zu]: GGUF has no form of merges whose parts have spaces",
                           i);
    }
    strbuf_done(&text);
    return st;
}

status table_of_merges(const char *path, tok_table *t, error *err) {
    strbuf b = {0};
    json_t *pre = json_pack("{s:s,s:b}", "type", "ByteLevel", "add_prefix_space", 0),
           *list = json_array();
    status st = file_read(path, LIMIT_TOKENIZER_BYTES, &b, err);
    for (size_t at = 0; st == OK && at < b.n;) {
        ptrdiff_t nl = str_find(strbuf_str(&b), STR("\n"), at);
        size_t end = nl < 0 ? b.n : (size_t)nl;
        str line = str_cut(strbuf_str(&b), at, end);
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        bool version = at == 0 && str_starts(line, STR("#version"));
        at = end + 1;
        if (line.n && !version) json_array_append_new(list, json_stringn(line.p, line.n));
    }
    t->model = STR("gpt2");
    if (st == OK) st = gguf_pre_name(pre, NULL, false, &t->pre, err);
    if (st == OK) st = put_merges(list, t, err);
    json_decref(pre);
    json_decref(list);
    strbuf_done(&b);
    return st;
}

/* ---- SentencePiece's form of a BPE over characters ---- */

/* How spaces become U+2581 in a tokenizer.json, read from both of its steps. */
typedef struct spaces {
    bool prefix, first_only, runs; /* one in front; of the whole text only; runs are one */
    str charsmap;                  /* base64 */
    str other;                     /* a step that is none of these */
} spaces;

static void read_spaces(const json_t *j, spaces *s) {
    str type = js_get_str(j, "type");
    json_t *list = js_get(j, "normalizers");
    if (!list) list = js_get(j, "pretokenizers");
    for (size_t i = 0; i < json_array_size(list); i++) read_spaces(json_array_get(list, i), s);
    if (!j || list) return;
    const json_t *pattern = js_get(j, "pattern");
    if (str_eqz(type, "Prepend") && str_eqz(js_get_str(j, "prepend"), MARK)) {
        s->prefix = true;
    } else if (str_eqz(type, "Metaspace")) {
        str scheme = js_get_str(j, "prepend_scheme");
        s->first_only |= str_eqz(scheme, "first");
        s->prefix |=
            scheme.p ? !str_eqz(scheme, "never") : js_get_bool(j, "add_prefix_space", true);
    } else if (str_eqz(type, "Precompiled")) {
        s->charsmap = js_get_str(j, "precompiled_charsmap");
    } else if (str_eqz(type, "WhitespaceSplit") ||
               (str_eqz(type, "Replace") && js_get_str(pattern, "Regex").p)) {
        s->runs = true;
    } else if (!str_eqz(type, "Strip") && !str_eqz(js_get_str(pattern, "String"), " ")) {
        s->other = type;
    }
}

static status put_spaces(const json_t *root, tok_table *t, error *err) {
    spaces s = {0};
    read_spaces(js_get(root, "normalizer"), &s);
    read_spaces(js_get(root, "pre_tokenizer"), &s);
    if (s.other.p)
        return error_set(err, ERR_UNSUPPORTED,
                         "GGUF has no word for \"" STR_FMT "\" of a vocabulary with U+2581",
                         STR_ARG(s.other));
    t->add_space_prefix = s.prefix;
    t->remove_extra_spaces = s.runs;
    if (s.first_only)
        tok_table_note(t, "the space before a text is put after special tokens too: GGUF has no "
                          "word for prepend_scheme \"first\"");
    if (!s.charsmap.n) return OK;
    strbuf raw = {0};
    bool ok = base64_decode(s.charsmap, &raw);
    if (ok) t->charsmap = tok_table_keep(t, strbuf_str(&raw));
    strbuf_done(&raw);
    return ok ? OK : error_set(err, ERR_FORMAT, "precompiled_charsmap is not base64");
}

static void put_unknown(tok_table *t, int32_t id) {
    if (id < 0 || id >= t->n) return;
    t->ids[TOK_UNK] = id;
    t->types[id] = SPM_UNKNOWN;
}

static bool is_byte(str s) {
    if (s.n != 6 || !str_starts(s, STR("<0x")) || s.p[5] != '>') return false;
    for (int i = 3; i < 5; i++)
        if (!strchr("0123456789ABCDEF", s.p[i])) return false;
    return true;
}

static void put_bytes(tok_table *t) {
    for (int32_t id = 0; id < t->n; id++)
        if (is_byte(t->pieces[id])) t->types[id] = SPM_BYTE;
}

/* A score says when a piece is made: by the first merge that makes it. What no merge makes and is
 * more than a character takes no part. */
static void put_scores(tok_table *t) {
    strbuf product = {0};
    float *score = tok_table_scores(t);
    for (size_t i = 0; i < t->n_merges; i++) {
        size_t space = (size_t)str_find(t->merges[i], STR(" "), 0);
        strbuf_clear(&product);
        strbuf_add(&product, str_cut(t->merges[i], 0, space));
        strbuf_add(&product, str_cut(t->merges[i], space + 1, t->merges[i].n));
        int32_t id = tokenizer_id(t->source, strbuf_str(&product));
        if (id >= 0 && id < t->n && score[id] == 0) score[id] = -(float)(i + 1);
    }
    strbuf_done(&product);
    for (int32_t id = 0; id < t->n; id++) {
        if (t->types[id] != SPM_NORMAL || score[id] != 0) continue;
        score[id] = -(float)t->n_merges - 1 - (float)id;
        if (utf8_count(t->pieces[id].p, t->pieces[id].n) > 1) t->types[id] = SPM_UNUSED;
    }
    t->merges = NULL;
    t->n_merges = 0;
}

static status of_characters(const json_t *root, tok_table *t, error *err) {
    const json_t *m = js_get(root, "model");
    str unk = js_get_str(m, "unk_token");
    t->model = STR("llama");
    TRY(put_spaces(root, t, err));
    TRY(put_merges(js_get(m, "merges"), t, err));
    if (js_get_bool(m, "byte_fallback", false)) put_bytes(t);
    if (unk.n) put_unknown(t, tokenizer_id(t->source, unk));
    put_scores(t);
    return OK;
}

/* ---- tokenizer.json ---- */

static status of_bytes(const json_t *root, tok_table *t, error *err) {
    const json_t *m = js_get(root, "model");
    t->model = STR("gpt2");
    TRY(gguf_pre_name(js_get(root, "pre_tokenizer"), js_get(root, "normalizer"),
                      js_get_bool(m, "ignore_merges", false), &t->pre, err));
    return put_merges(js_get(m, "merges"), t, err);
}

static status of_unigram(const json_t *root, tok_table *t, error *err) {
    const json_t *m = js_get(root, "model"), *list = js_get(m, "vocab");
    t->model = STR("t5");
    TRY(put_spaces(root, t, err));
    tok_table_scores(t);
    for (int32_t id = 0; id < t->n && (size_t)id < json_array_size(list); id++)
        t->scores[id] =
            (float)json_number_value(json_array_get(json_array_get(list, (size_t)id), 1));
    if (js_get_bool(m, "byte_fallback", false)) put_bytes(t);
    put_unknown(t, (int32_t)js_get_int(m, "unk_id", -1));
    return OK;
}

static status of_root(const json_t *root, tok_table *t, error *err) {
    const json_t *m = js_get(root, "model");
    const char *kind = tokenizer_kind(t->source);
    if (js_get_str(m, "continuing_subword_prefix").n || js_get_str(m, "end_of_word_suffix").n)
        return error_set(err, ERR_UNSUPPORTED,
                         "GGUF has no word for continuing_subword_prefix and end_of_word_suffix of "
                         "a BPE");
    if (strcmp(kind, "bpe (byte level)") == 0) return of_bytes(root, t, err);
    if (strcmp(kind, "bpe (characters)") == 0) return of_characters(root, t, err);
    if (strcmp(kind, "unigram") == 0) return of_unigram(root, t, err);
    return error_set(err, ERR_UNSUPPORTED, "GGUF has no form of this tokenizer (%s)", kind);
}

status table_of_json(const char *path, tok_table *t, error *err) {
    json_t *root = NULL;
    TRY(js_parse_file(path, LIMIT_TOKENIZER_BYTES, &root, err));
    status st = of_root(root, t, err);
    json_decref(root);
    if (st != OK) error_prefix(err, "%s", path);
    return st;
}

/* ---- WordPiece: words begin with U+2581, what continues one is bare ---- */

status table_of_words(tok_table *t, error *err) {
    strbuf b = {0};
    t->model = STR("bert");
    t->add_eos = false;
    for (int32_t id = 0; id < t->n; id++) {
        str s = t->pieces[id];
        if (t->types[id] != SPM_NORMAL || (s.n > 1 && s.p[0] == '[' && s.p[s.n - 1] == ']'))
            continue;
        bool goes_on = s.n > 2 && str_starts(s, STR("##"));
        strbuf_clear(&b);
        if (!goes_on) strbuf_addz(&b, MARK);
        strbuf_add(&b, goes_on ? str_cut(s, 2, s.n) : s);
        t->pieces[id] = tok_table_keep(t, strbuf_str(&b));
    }
    strbuf_done(&b);
    /* what this model puts around a text has names of its own */
    if (t->ids[TOK_CLS] < 0 && t->add_bos) t->ids[TOK_CLS] = t->ids[TOK_BOS];
    if (t->source->after.n) t->ids[TOK_SEP] = t->source->after.p[0];
    t->add_sep = t->source->after.n > 0;
    if (t->ids[TOK_UNK] < 0) t->ids[TOK_UNK] = tokenizer_id(t->source, STR("[UNK]"));
    return OK;
}

/* ---- SentencePiece's own file ---- */

/* The precompiled map, field 2 of normalizer_spec (field 3). */
static str charsmap_of(str file) {
    proto p = {.text = file};
    proto_field f, g;
    str found = {0};
    while (proto_next(&p, &f)) {
        proto q = {.text = f.bytes};
        while (f.number == 3 && f.wire == 2 && proto_next(&q, &g))
            if (g.number == 2 && g.wire == 2) found = g.bytes;
    }
    return found;
}

static status put_charsmap(const char *path, tok_table *t, error *err) {
    strbuf b = {0};
    status st = file_read(path, LIMIT_TOKENIZER_BYTES, &b, err);
    str found = st == OK ? charsmap_of(strbuf_str(&b)) : (str){0};
    if (found.n) t->charsmap = tok_table_keep(t, found);
    strbuf_done(&b);
    return st;
}

status table_of_spm(const char *path, tok_table *t, error *err) {
    if (!str_starts(str_z(tokenizer_kind(t->source)), STR("sentencepiece")))
        return error_set(err, ERR_UNSUPPORTED, "%s: GGUF has no form of it (%s)", path,
                         tokenizer_kind(t->source));
    const spm *s = t->source->model.self;
    bool first_only = t->source->pre != NULL;
    if (!s->escape || s->suffix)
        return error_set(err, ERR_UNSUPPORTED, "%s: GGUF has no word for %s", path,
                         s->suffix ? "treat_whitespace_as_suffix" : "escape_whitespaces false");
    t->model = s->algorithm == SPM_BPE ? STR("llama") : STR("t5");
    t->add_space_prefix = s->dummy_prefix || first_only;
    t->remove_extra_spaces = s->remove_extra;
    if (first_only)
        tok_table_note(t, "the space before a text is put after special tokens too: GGUF has no "
                          "word for \"legacy\": false");
    tok_table_scores(t);
    for (int32_t id = 0; id < t->n && (size_t)id < s->types.n; id++) {
        uint8_t type = s->types.p[id];
        t->scores[id] = s->scores.p[id];
        if (type == SPM_UNKNOWN)
            put_unknown(t, id);
        else if (type != SPM_NORMAL && t->types[id] == SPM_NORMAL)
            t->types[id] = type;
    }
    return put_charsmap(path, t, err);
}
