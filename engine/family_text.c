/* A family file in a register directory may say how its models' text becomes tokens:
 *
 *     "tokenizer": {"file": "NAME", "pretokenizer": "qwen2"}
 *
 * NAME lies beside the family's file (a tokenizer.json is called SOMETHING-tokenizer.json there, or
 * it would be read as a family) and serves models whose directory has no tokenizer. It is a name,
 * not a path: a family file reads nothing outside its own directory. */
#include <string.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "engine/family.h"

static status text_member(const family *f, const json_t *block, const char *key, str *ret,
                          error *err) {
    const json_t *v = js_get(block, key);
    *ret = js_str(v);
    if (ret->n || !v || json_is_null(v)) return OK;
    return error_set(err, ERR_FORMAT, "%s: tokenizer.%s must be a text", f->file, key);
}

/* The file beside the family's own. */
static status find_file(const family *f, str name, char **ret, error *err) {
    size_t dir = strlen(f->file) - path_base(f->file).n;
    strbuf path = {0};
    if (memchr(name.p, '/', name.n) || str_eqz(name, ".."))
        return error_set(err, ERR_FORMAT,
                         "%s: tokenizer.file: \"" STR_FMT "\" is not the name of a file", f->file,
                         STR_ARG(name));
    strbuf_add(&path, str_n(f->file, dir));
    strbuf_add(&path, name);
    *ret = strbuf_take(&path);
    if (file_exists(*ret)) return OK;
    return error_set(err, ERR_FORMAT, "%s: tokenizer.file: there is no %s", f->file, *ret);
}

static status read_block(const family *f, char **ret_file, char **ret_pretokenizer, error *err) {
    const json_t *block = js_get(f->root, "tokenizer");
    str file, pre;
    TRY(text_member(f, block, "file", &file, err));
    TRY(text_member(f, block, "pretokenizer", &pre, err));
    if (pre.n) *ret_pretokenizer = mem_strdup(pre.p);
    return file.n ? find_file(f, file, ret_file, err) : OK;
}

status engine_family_tokenizer(const char *model_dir, const char *register_path, char **ret_file,
                               char **ret_pretokenizer, error *err) {
    family_set set;
    const family *f;
    json_t *config = NULL;
    *ret_file = *ret_pretokenizer = NULL;
    if (!dir_exists(model_dir)) return OK;
    TRY(family_set_load(register_path, &set, err));
    char *path = path_join(model_dir, "config.json");
    status st = js_parse_file(path, LIMIT_CONFIG_BYTES, &config, err);
    if (st == OK) st = family_match(&set, config, path, &f, err);
    if (st == OK) st = read_block(f, ret_file, ret_pretokenizer, err);
    if (st != OK) {
        mem_free(*ret_file);
        mem_free(*ret_pretokenizer);
        *ret_file = *ret_pretokenizer = NULL;
    }
    json_decref(config);
    mem_free(path);
    family_set_done(&set);
    return st;
}
