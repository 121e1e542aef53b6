/* A model directory's tokenizer as a table. The tokenizer is opened as for use: its pieces, its
 * added tokens and what it puts around a text are taken from there, so that they are what
 * encoding does. Only what opening digests (merges, the split, scores) is read from the file again
 * (table_models.c). The table is then opened like a GGUF file's, and both must agree. */
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/table_parts.h"

/* ---- pieces ---- */

static status put_pieces(tok_table *t, int32_t n_rows, error *err) {
    tokenizer *s = t->source;
    int32_t n = tokenizer_vocab(s);
    if (n_rows && n > n_rows)
        return error_set(err, ERR_UNSUPPORTED, "the tokenizer has %d tokens, the model %d rows", n,
                         n_rows);
    tok_table_init(t, MAX(n, n_rows));
    t->source = s;
    for (int32_t id = 0; id < t->n; id++) {
        char hole[24];
        t->pieces[id] = tokenizer_piece(s, id);
        if (t->pieces[id].n) {
            if (tokenizer_is_special(s, id)) t->types[id] = SPM_CONTROL;
            continue;
        }
        snprintf(hole, sizeof hole, "[PAD%d]", id);
        t->pieces[id] = tok_table_keep(t, str_z(hole));
        t->types[id] = SPM_UNUSED;
    }
    return OK;
}

/* A flag of an added token that a table has no word for; NULL: none. `normalized` only matters
 * where the normaliser changes the token. */
static const char *lost_flag(const tok_table *t, const added_token *a) {
    if (a->lstrip) return "lstrip";
    if (a->rstrip) return "rstrip";
    if (a->single_word) return "single_word";
    return str_eq(a->pattern, tokenizer_piece(t->source, a->id)) ? NULL : "normalized";
}

static void put_added(tok_table *t) {
    const added_set *sets[] = {t->source->added, t->source->added_normalized};
    const char *lost = NULL;
    int n_lost = 0;
    str example = {0};
    for (size_t k = 0; k < ARRAY_LEN(sets); k++) {
        size_t n;
        const added_token *list = added_set_list(sets[k], &n);
        for (size_t i = 0; i < n; i++) {
            const added_token *a = &list[i];
            t->types[a->id] = tokenizer_is_special(t->source, a->id) ? SPM_CONTROL : SPM_USER;
            const char *flag = lost_flag(t, a);
            if (!flag) continue;
            n_lost++;
            lost = flag;
            example = tokenizer_piece(t->source, a->id);
        }
    }
    if (n_lost)
        tok_table_note(
            t, "flags of %d added tokens (%s of \"" STR_FMT "\"): GGUF has no word for them",
            n_lost, lost, STR_ARG(str_cut(example, 0, MIN(example.n, (size_t)60))));
}

/* ---- ids ---- */

static int32_t named_id(const tok_table *t, const tok_files *f, const char *hf) {
    const json_t *files[] = {f->config, f->map};
    char key[24];
    snprintf(key, sizeof key, "%s_token", hf);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        const json_t *v = js_get(files[i], key);
        str s = json_is_object(v) ? js_get_str(v, "content") : js_str(v);
        int32_t id = s.p ? tokenizer_id(t->source, s) : -1;
        if (id >= 0) return id;
    }
    return -1;
}

/* What ENCODE_SPECIAL puts around: GGUF can say one token before and one after. */
static status put_ends(tok_table *t, error *err) {
    const tokenizer *s = t->source;
    if (s->before.n > 1 || s->after.n > 1)
        return error_set(err, ERR_UNSUPPORTED,
                         "the tokenizer puts %zu tokens before a text and %zu after it; GGUF can "
                         "say one and one",
                         s->before.n, s->after.n);
    t->add_bos = s->before.n > 0;
    t->add_eos = t->add_sep = false;
    if (s->before.n) t->ids[TOK_BOS] = s->before.p[0];
    if (!s->after.n) return OK;
    int32_t last = s->after.p[0];
    if (t->ids[TOK_EOS] < 0) t->ids[TOK_EOS] = last;
    t->add_eos = t->ids[TOK_EOS] == last;
    if (t->add_eos) return OK;
    t->add_sep = true;
    t->ids[TOK_SEP] = last;
    return OK;
}

static status put_ids(tok_table *t, const tok_files *f, error *err) {
    for (int i = 0; i < TOK_IDS; i++)
        if (tok_id_names[i].hf) t->ids[i] = named_id(t, f, tok_id_names[i].hf);
    if (t->source->bos >= 0) t->ids[TOK_BOS] = t->source->bos;
    if (t->source->eos >= 0) t->ids[TOK_EOS] = t->source->eos;
    return put_ends(t, err);
}

/* ---- chat template ---- */

/* chat_template is a text, or a list of named ones whose "default" is kept. */
static void put_template_value(tok_table *t, const json_t *v) {
    str text = js_str(v);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *one = json_array_get(v, i);
        str name = js_get_str(one, "name");
        if (str_eqz(name, "default"))
            text = js_get_str(one, "template");
        else
            tok_table_note(t, "chat template \"" STR_FMT "\": one template goes into the file",
                           STR_ARG(name));
    }
    if (text.n) t->chat_template = tok_table_keep(t, text);
}

static status put_template(tok_table *t, const tok_files *f, error *err) {
    char *path = path_join(f->dir, "chat_template.jinja");
    strbuf text = {0};
    status st = OK;
    if (file_exists(path)) {
        st = file_read(path, LIMIT_TEMPLATE_BYTES, &text, err);
        if (st == OK) t->chat_template = tok_table_keep(t, strbuf_str(&text));
    } else {
        put_template_value(t, js_get(f->config, "chat_template"));
    }
    strbuf_done(&text);
    mem_free(path);
    return st;
}

/* ---- models ---- */

/* In the order of open.c. */
static const struct {
    const char *name;
    status (*read)(const char *path, tok_table *t, error *err); /* NULL: no form in GGUF */
} files[] = {
    {"tokenizer.json", table_of_json},
    {"tekken.json", NULL},
    {"ice_text.model", NULL},
    {"tokenizer.model", table_of_spm},
    {"sentencepiece.bpe.model", NULL},
    {"merges.txt", table_of_merges},
    {"qwen.tiktoken", NULL},
    {"cl100k_base.tiktoken", NULL},
    {"o200k_base.tiktoken", NULL},
    {"rwkv_vocab_v20230424.txt", NULL},
    {"vocab.txt", NULL},
};

static status read_file(const char *dir, tok_table *t, error *err) {
    const char *kind = tokenizer_kind(t->source);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *path = path_join(dir, files[i].name);
        bool there = file_exists(path);
        status st = OK;
        if (there && strcmp(kind, "wordpiece") == 0)
            st = table_of_words(t, err);
        else if (there && files[i].read)
            st = files[i].read(path, t, err);
        else if (there)
            st =
                error_set(err, ERR_UNSUPPORTED, "GGUF has no form of %s (%s)", files[i].name, kind);
        mem_free(path);
        if (there) return st;
    }
    return error_set(err, ERR_UNSUPPORTED, "GGUF has no form of this tokenizer (%s)", kind);
}

static status check(tok_table *t, error *err) {
    tokenizer *made = NULL;
    bool few = str_eqz(t->model, "t5"); /* sums in another precision: ties */
    int differ = 0;
    TRY(tok_table_open(t, &made, err));
    status st = tok_compare(t->source, made, few, &differ, err);
    tokenizer_free(made);
    if (st == OK && differ)
        tok_table_note(t, "%d of the sample texts differ: near ties of scores", differ);
    return st;
}

static status fill(tok_table *t, const tok_files *f, int32_t n_rows, error *err) {
    TRY(put_pieces(t, n_rows, err));
    put_added(t);
    TRY(put_ids(t, f, err));
    TRY(put_template(t, f, err));
    TRY(read_file(f->dir, t, err));
    return check(t, err);
}

status tok_table_of_dir(const char *dir, int32_t n_rows, tok_table *t, error *err) {
    tok_files f;
    tokenizer *source = NULL;
    *t = (tok_table){0};
    TRY(tokenizer_open(dir, NULL, &source, err));
    t->source = source;
    status st = tok_files_load(dir, &f, err);
    if (st == OK) {
        st = fill(t, &f, n_rows, err);
        tok_files_done(&f);
        if (st != OK) error_prefix(err, "%s", dir);
    }
    if (st != OK) tok_table_done(t);
    return st;
}
