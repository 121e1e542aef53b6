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
        if (a.content.n) TRY(tok_add(t, &a, err));
    }
    return OK;
}

static void read_ends(tokenizer *t, const json_t *config) {
    int32_t bos = token_id(t, config, "bos_token"), eos = token_id(t, config, "eos_token");
    if (bos >= 0) t->bos = bos;
    if (eos >= 0) t->eos = eos;
}

status tok_config(tokenizer *t, const char *dir, bool complete, bool bos_default, error *err) {
    json_t *map, *config = NULL;
    TRY(load(dir, "special_tokens_map.json", &map, err));
    status st = load(dir, "tokenizer_config.json", &config, err);
    if (st == OK && complete) st = add_config_tokens(t, config, err);
    if (st == OK) {
        read_ends(t, map);
        read_ends(t, config);
        if (complete && js_get_bool(config, "add_bos_token", bos_default) && t->bos >= 0)
            vec_push(&t->before, t->bos);
        if (complete && js_get_bool(config, "add_eos_token", false) && t->eos >= 0)
            vec_push(&t->after, t->eos);
        if (complete) tok_finish(t);
    } else
        error_prefix(err, "%s", dir);
    json_decref(map);
    json_decref(config);
    return st;
}
