/* Between the tokenizer's table and the engine's writer of GGUF keys; neither knows the other. */
#include "server/cmd_convert_tok.h"

#include <stdio.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/gguf.h"

#define KEY "tokenizer.ggml."

/* ---- into a header ---- */

static void put_strings(gguf_writer *g, const char *key, const str *list, uint64_t n) {
    gguf_begin_strings(g, key, n);
    for (uint64_t i = 0; i < n; i++) gguf_add_str(g, list[i]);
}

static void put_switch(gguf_writer *g, const char *key, int8_t value) {
    if (value != TOK_UNSAID) gguf_put_bool(g, key, value);
}

static void put_types(gguf_writer *g, const tok_table *t) {
    int32_t *types = mem_alloc((size_t)t->n * sizeof *types);
    for (int32_t i = 0; i < t->n; i++) types[i] = t->types[i];
    gguf_put_i32s(g, KEY "token_type", types, (uint64_t)t->n);
    mem_free(types);
}

static void put_ids(gguf_writer *g, const tok_table *t) {
    char key[64];
    for (int i = 0; i < TOK_IDS; i++) {
        snprintf(key, sizeof key, KEY "%s_token_id", tok_id_names[i].gguf);
        if (t->ids[i] >= 0) gguf_put_u32(g, key, (uint32_t)t->ids[i]);
    }
}

void convert_put_table(const tok_table *t, gguf_writer *g) {
    gguf_put_str(g, KEY "model", t->model);
    if (t->pre.n) gguf_put_str(g, KEY "pre", t->pre);
    put_strings(g, KEY "tokens", t->pieces, (uint64_t)t->n);
    put_types(g, t);
    if (t->scores) gguf_put_f32s(g, KEY "scores", t->scores, (uint64_t)t->n);
    if (t->merges) put_strings(g, KEY "merges", t->merges, t->n_merges);
    put_ids(g, t);
    put_switch(g, KEY "add_bos_token", t->add_bos);
    put_switch(g, KEY "add_eos_token", t->add_eos);
    put_switch(g, KEY "add_sep_token", t->add_sep);
    put_switch(g, KEY "add_space_prefix", t->add_space_prefix);
    put_switch(g, KEY "remove_extra_whitespaces", t->remove_extra_spaces);
    if (t->charsmap.n) gguf_put_u8s(g, KEY "precompiled_charsmap", t->charsmap);
    if (t->chat_template.n) gguf_put_str(g, "tokenizer.chat_template", t->chat_template);
}

static void print_notes(const char *name, const tok_table *t) {
    str rest = strbuf_str(&t->notes);
    for (ptrdiff_t nl; (nl = str_find(rest, STR("\n"), 0)) >= 0;) {
        fprintf(stderr, "%s: not kept: " STR_FMT "\n", name, STR_ARG(str_cut(rest, 0, (size_t)nl)));
        rest = str_cut(rest, (size_t)nl + 1, rest.n);
    }
}

status convert_add_tokenizer(void *dir, int32_t rows, gguf_writer *g, error *err) {
    tok_table t;
    status st = tok_table_of_dir(dir, rows, &t, err);
    if (st != OK) {
        error_prefix(err, "tokenizer (--no-tokenizer leaves it out)");
        return st;
    }
    convert_put_table(&t, g);
    print_notes(dir, &t);
    tok_table_done(&t);
    return OK;
}

/* ---- into files ---- */

/* The first part of a split model has the vocabulary. */
static char *first_part(const char *path) {
    str stem;
    int32_t no, count;
    strbuf first = {0};
    if (!gguf_split_name(str_z(path), &stem, &no, &count)) return mem_strdup(path);
    strbuf_addf(&first, STR_FMT "-%05d-of-%05d.gguf", STR_ARG(stem), 1, count);
    return strbuf_take(&first);
}

status convert_make_files(const char *gguf_path, tok_files_text *ret, error *err) {
    char *path = first_part(gguf_path);
    tok_table t;
    gguf g;
    status st = gguf_open(path, &g, err);
    bool opened = st == OK;
    if (opened) {
        st = tok_table_of_gguf(&g, &t, err);
        if (st != OK) error_prefix(err, "%s", path);
        if (st == OK) {
            st = tok_table_files(&t, path, ret, err);
            tok_table_done(&t);
        }
        gguf_close(&g);
    }
    if (opened && st != OK) error_prefix(err, "tokenizer (--no-tokenizer leaves it out)");
    mem_free(path);
    return st;
}

status convert_write_files(const tok_files_text *f, const char *dir, error *err) {
    const struct {
        const char *name;
        const strbuf *text;
    } files[] = {{"tokenizer.json", &f->tokenizer},
                 {"tokenizer_config.json", &f->config},
                 {"generation_config.json", &f->generation}};
    status st = OK;
    for (size_t i = 0; i < ARRAY_LEN(files) && st == OK; i++) {
        char *path = path_join(dir, files[i].name);
        if (files[i].text->n) st = file_write_atomic(path, strbuf_str(files[i].text), err);
        mem_free(path);
    }
    return st;
}
