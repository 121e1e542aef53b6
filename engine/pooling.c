#include "engine/pooling.h"

#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"

/* Older files have a flag for each mode, newer ones a word. */
static const struct {
    const char *key, *word;
    pool_kind kind;
} modes[] = {
    {"pooling_mode_cls_token", "cls", POOL_FIRST},
    {"pooling_mode_mean_tokens", "mean", POOL_MEAN},
    {"pooling_mode_lasttoken", "lasttoken", POOL_LAST},
};

static void take_mode(model_info *info, const char *key, str word) {
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        if (strcmp(key, modes[i].key) != 0 && !str_eqz(word, modes[i].word)) continue;
        info->pool = modes[i].kind;
        return;
    }
    snprintf(info->pool_unsupported, sizeof info->pool_unsupported, "%.40s" STR_FMT, key,
             (int)MIN(word.n, (size_t)20), word.p ? word.p : "");
}

static status read_json(const char *dir, const char *name, json_t **ret, error *err) {
    char *path = path_join(dir, name);
    *ret = NULL;
    status st = file_exists(path) ? js_parse_file(path, LIMIT_CONFIG_BYTES, ret, err) : OK;
    mem_free(path);
    return st;
}

/* Exactly one mode may be on; the ones that are not computed are told by name. */
static status read_pooling(const char *dir, str folder, model_info *info, error *err) {
    char name[256];
    json_t *c;
    int n = 0;
    const char *key;
    json_t *v;
    snprintf(name, sizeof name, STR_FMT "/config.json", (int)MIN(folder.n, (size_t)200), folder.p);
    TRY(read_json(dir, name, &c, err));
    if (!c) return error_set(err, ERR_FORMAT, "%s/%s: is missing (modules.json)", dir, name);
    json_object_foreach(c, key, v) {
        bool word = strcmp(key, "pooling_mode") == 0 && json_is_string(v);
        if (!word && (strncmp(key, "pooling_mode_", 13) != 0 || !json_is_true(v))) continue;
        take_mode(info, word ? "pooling_mode " : key, word ? js_str(v) : (str){0});
        n++;
    }
    json_decref(c);
    if (n == 1) return OK;
    return error_set(err, ERR_FORMAT, "%s/%s: %d pooling modes are on, expected one", dir, name, n);
}

static status read_module(const char *dir, const json_t *m, model_info *info, error *err) {
    str type = js_get_str(m, "type");
    if (str_ends(type, STR(".Transformer"))) return OK;
    if (str_ends(type, STR(".Pooling"))) return read_pooling(dir, js_get_str(m, "path"), info, err);
    if (str_ends(type, STR(".Normalize"))) {
        info->pool_normalize = true;
        return OK;
    }
    snprintf(info->pool_unsupported, sizeof info->pool_unsupported, STR_FMT,
             (int)MIN(type.n, (size_t)63), type.p ? type.p : "");
    return OK;
}

status pooling_read(const char *model_dir, str family_word, model_info *info, error *err) {
    json_t *list;
    info->pool = str_eqz(family_word, "mean")    ? POOL_MEAN
                 : str_eqz(family_word, "first") ? POOL_FIRST
                 : str_eqz(family_word, "last")  ? POOL_LAST
                 : info->has_head                ? POOL_LAST
                                                 : POOL_MEAN;
    info->pool_normalize = true;
    if (!dir_exists(model_dir)) return OK; /* one file */
    TRY(read_json(model_dir, "modules.json", &list, err));
    if (!list) return OK;
    status st = OK;
    if (!json_is_array(list))
        st = error_set(err, ERR_FORMAT, "%s/modules.json: expected a list of modules", model_dir);
    info->pool_normalize = false; /* unless a module says so */
    for (size_t i = 0; i < json_array_size(list) && st == OK; i++)
        st = read_module(model_dir, json_array_get(list, i), info, err);
    json_decref(list);
    return st;
}
