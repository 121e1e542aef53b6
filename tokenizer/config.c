/* What tokenizer_config.json and special_tokens_map.json add: which tokens begin and end a text,
 * and, where there is no tokenizer.json, the tokens added to the plain vocabulary. */
#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/tok.h"

/* A token is a string or an object with "content". */
static str token_text(const json_t *j) {
    return json_is_object(j) ? js_get_str(j, "content") : js_str(j);
}

static int32_t token_id(const tokenizer *t, const json_t *config, const char *key) {
    str s = token_text(js_get(config, key));
    return s.p ? tokenizer_id(t, s) : -1;
}

static status load(const char *dir, const char *name, json_t **ret, error *err) {
    char *path = path_join(dir, name);
    status st = OK;
    *ret = NULL;
    if (file_exists(path)) st = js_parse_file(path, LIMIT_CONFIG_BYTES * 4, ret, err);
    if (st == ERR_INVALID) st = ERR_FORMAT;
    mem_free(path);
    return st;
}

status tok_files_load(const char *dir, tok_files *ret, error *err) {
    *ret = (tok_files){.dir = dir};
    status st = load(dir, "config.json", &ret->model, err);
    if (st == OK) st = load(dir, "tokenizer_config.json", &ret->config, err);
    if (st == OK) st = load(dir, "special_tokens_map.json", &ret->map, err);
    if (st == OK) st = load(dir, "added_tokens.json", &ret->added, err);
    if (st != OK) tok_files_done(ret);
    return st;
}

void tok_files_done(tok_files *f) {
    json_decref(f->model);
    json_decref(f->config);
    json_decref(f->map);
    json_decref(f->added);
    *f = (tok_files){0};
}

bool tok_files_say(const tok_files *f, const char *class, const char *model_type) {
    str c = js_get_str(f->config, "tokenizer_class");
    if (class && c.p) return str_eqz(c, class);
    return model_type && str_eqz(js_get_str(f->model, "model_type"), model_type);
}

/* At its own id, even where the vocabulary has the string at another. */
static status add_at(tokenizer *t, const added_spec *a, error *err) {
    if (tokenizer_id(t, a->content) != a->id) TRY(tok_put(t, a->id, a->content, err));
    return tok_add(t, a, err);
}

static status add_config_tokens(tokenizer *t, const json_t *config, error *err) {
    const char *key;
    json_t *j;
    int64_t id;
    json_object_foreach(js_get(config, "added_tokens_decoder"), key, j) {
        if (!str_to_i64(str_z(key), &id) || id < 0 || id >= LIMIT_VOCAB)
            return error_set(err, ERR_FORMAT, "added_tokens_decoder: \"%.40s\" is not an id", key);
        added_spec a = {.id = (int32_t)id,
                        .content = js_get_str(j, "content"),
                        .special = js_get_bool(j, "special", false),
                        .lstrip = js_get_bool(j, "lstrip", false),
                        .rstrip = js_get_bool(j, "rstrip", false),
                        .single_word = js_get_bool(j, "single_word", false)};
        if (a.content.n) TRY(add_at(t, &a, err));
    }
    return OK;
}

/* {"token": id}: tokens added to a vocabulary, in files of before added_tokens_decoder. */
static status add_listed_tokens(tokenizer *t, const json_t *added, error *err) {
    const char *key;
    json_t *j;
    json_object_foreach((json_t *)added, key, j) {
        json_int_t id = json_integer_value(j);
        if (!json_is_integer(j) || id < 0 || id >= LIMIT_VOCAB)
            return error_set(err, ERR_FORMAT, "added_tokens.json: \"%.40s\" has no id", key);
        added_spec a = {.id = (int32_t)id, .content = str_z(key), .special = false};
        if (a.content.n) TRY(add_at(t, &a, err));
    }
    return OK;
}

static status add_special(tokenizer *t, const json_t *j, error *err) {
    str s = token_text(j);
    int32_t id = s.n ? tokenizer_id(t, s) : -1;
    if (id < 0) return OK;
    added_spec a = {.id = id,
                    .content = s,
                    .special = true,
                    .lstrip = js_get_bool(j, "lstrip", false),
                    .rstrip = js_get_bool(j, "rstrip", false),
                    .single_word = js_get_bool(j, "single_word", false)};
    return tok_add(t, &a, err);
}

/* Tokens that the files call special are recognised in the text, where the vocabulary has them. */
static status add_named_specials(tokenizer *t, const json_t *config, error *err) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) TRY(add_special(t, js_get(config, keys[i]), err));
    json_t *more = js_get(config, "additional_special_tokens");
    for (size_t i = 0; i < json_array_size(more); i++)
        TRY(add_special(t, json_array_get(more, i), err));
    return OK;
}

/* tokenizer_config.json has the last word. */
static void read_ends(tokenizer *t, const tok_files *f) {
    const json_t *files[] = {f->map, f->config};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        int32_t bos = token_id(t, files[i], "bos_token"), eos = token_id(t, files[i], "eos_token");
        if (bos >= 0) t->bos = bos;
        if (eos >= 0) t->eos = eos;
    }
}

/* The vocabulary alone does not say what a tokenizer.json says. */
static status complete(tokenizer *t, const tok_files *f, bool bos_default, error *err) {
    TRY(add_config_tokens(t, f->config, err));
    TRY(add_listed_tokens(t, f->added, err));
    TRY(add_named_specials(t, f->map, err));
    TRY(add_named_specials(t, f->config, err));
    read_ends(t, f);
    if (js_get_bool(f->config, "add_bos_token", bos_default) && t->bos >= 0)
        vec_push(&t->before, t->bos);
    if (js_get_bool(f->config, "add_eos_token", false) && t->eos >= 0) vec_push(&t->after, t->eos);
    return OK;
}

status tok_config(tokenizer *t, const tok_files *f, tok_config_how how, error *err) {
    if (how == TOK_CONFIG_ENDS) {
        read_ends(t, f);
        return OK;
    }
    status st = complete(t, f, how == TOK_CONFIG_ALL_BOS, err);
    if (st != OK) {
        error_prefix(err, "%s", f->dir);
        return st;
    }
    tok_finish(t);
    return OK;
}
