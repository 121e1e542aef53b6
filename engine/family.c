/* Parse, check keys, merge `extends`. The merged JSON tree stays the in-memory form: arch.c reads
 * it by path, so a new key needs a rule here and a reader there, nothing between. */
#include "engine/family.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/embedded.h"
#include "engine/expr.h"

extern const embedded_file embedded_families[];

/* Does rule `pattern` describe `path`? "*" stands for one member name; a name of per_layer[].set
 * may hold dots itself, which compares equal as text. */
static bool path_matches(const char *pattern, str path) {
    size_t at = 0;
    for (const char *q = pattern; *q; q++) {
        if (*q == '*') {
            size_t from = at;
            while (at < path.n && path.p[at] != '.') at++;
            if (at == from) return false;
        } else if (at == path.n || path.p[at++] != *q)
            return false;
    }
    return at == path.n;
}

static const key_rule *find_rule(str path) {
    for (int i = 0; i < family_n_keys; i++)
        if (path_matches(family_keys[i].path, path)) return &family_keys[i];
    return NULL;
}

static bool is_scalar(const json_t *v) {
    return !json_is_object(v) && !json_is_array(v);
}

static bool is_scalar_list(const json_t *v) {
    if (!json_is_array(v)) return false;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!is_scalar(json_array_get(v, i))) return false;
    return true;
}

static bool only_keys(const json_t *v, const char *const *keys, size_t n) {
    const char *key;
    json_t *member;
    if (!json_is_object(v)) return false;
    json_object_foreach((json_t *)v, key, member) {
        bool found = false;
        for (size_t i = 0; i < n; i++) found |= strcmp(key, keys[i]) == 0;
        if (!found || !is_scalar(member)) return false;
    }
    return true;
}

static bool kind_fits(key_kind kind, const json_t *v) {
    static const char *const tensor_keys[] = {"tensor", "if"};
    static const char *const bias_keys[] = {"q",   "k",    "v",    "o",  "q_a",
                                            "q_b", "kv_a", "gate", "up", "down"};
    switch (kind) {
    case KEY_ANY: return true;
    case KEY_SCALAR: return is_scalar(v);
    case KEY_LIST: return is_scalar_list(v);
    case KEY_EITHER: return is_scalar(v) || is_scalar_list(v);
    case KEY_TENSOR:
        return json_is_string(v) || json_is_null(v) ||
               (only_keys(v, tensor_keys, 2) && json_is_string(js_get(v, "tensor")));
    case KEY_NORM: return json_is_boolean(v) || kind_fits(KEY_TENSOR, v);
    case KEY_OBJECT: return json_is_object(v);
    case KEY_BIAS: return is_scalar(v) || only_keys(v, bias_keys, ARRAY_LEN(bias_keys));
    }
    return false;
}

static status check_keys(const char *file, const json_t *obj, str path, error *err);

static status check_key(const char *file, const json_t *v, str path, error *err) {
    const key_rule *rule = find_rule(path);
    if (!rule)
        return error_set(err, ERR_FORMAT, "%s: unknown key \"" STR_FMT "\"", file, STR_ARG(path));
    if (!kind_fits(rule->kind, v))
        return error_set(err, ERR_FORMAT, "%s: key \"" STR_FMT "\" has a value of the wrong type",
                         file, STR_ARG(path));
    return rule->kind == KEY_OBJECT ? check_keys(file, v, path, err) : OK;
}

static status check_list(const char *file, const json_t *list, strbuf *path, error *err) {
    strbuf_addz(path, "[]");
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(check_key(file, json_array_get(list, i), strbuf_str(path), err));
    return OK;
}

static status check_keys(const char *file, const json_t *obj, str path, error *err) {
    const char *key;
    json_t *v;
    status st = OK;
    json_object_foreach((json_t *)obj, key, v) {
        strbuf sub = {0};
        if (path.n) strbuf_addf(&sub, STR_FMT ".", STR_ARG(path));
        strbuf_addz(&sub, key);
        bool list = str_eqz(strbuf_str(&sub), "mlp") || str_eqz(strbuf_str(&sub), "per_layer");
        if (list && !json_is_array(v))
            st = error_set(err, ERR_FORMAT, "%s: key \"%s\" must be a list of objects", file, key);
        else
            st = list ? check_list(file, v, &sub, err) : check_key(file, v, strbuf_str(&sub), err);
        strbuf_done(&sub);
        if (st != OK) return st;
    }
    return OK;
}

static const family *find_family(const family_set *s, str name) {
    for (int i = 0; i < s->n; i++)
        if (str_eqz(name, s->list[i].name)) return &s->list[i];
    return NULL;
}

/* child over parent: members of these groups one by one, everything else as a whole. */
static json_t *merge(const json_t *parent, const json_t *child) {
    static const char *const groups[] = {"vars", "embed", "norms", "attn",
                                         "rope", "final", "packs"};
    json_t *all = json_deep_copy(parent);
    json_object_del(all, "match");
    json_object_del(all, "hf");
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)child, key, v) {
        bool group = false;
        for (size_t i = 0; i < ARRAY_LEN(groups); i++) group |= strcmp(key, groups[i]) == 0;
        json_t *own = json_deep_copy(v);
        if (group && json_is_object(json_object_get(all, key))) {
            json_object_update(json_object_get(all, key), own);
            json_decref(own);
        } else
            json_object_set_new(all, key, own);
    }
    return all;
}

static status check_head(const char *file, const json_t *root, error *err) {
    if (!json_is_object(root)) return error_set(err, ERR_FORMAT, "%s: not a JSON object", file);
    if (js_get_int(root, "schema", 0) != 1)
        return error_set(err, ERR_FORMAT, "%s: \"schema\" must be 1", file);
    str name = js_get_str(root, "family");
    if (name.n == 0 || name.n >= sizeof((family *)0)->name)
        return error_set(err, ERR_FORMAT, "%s: \"family\" must be a name of 1 to 31 bytes", file);
    if (!json_is_object(js_get(root, "match")))
        return error_set(err, ERR_FORMAT, "%s: \"match\" is missing", file);
    return check_keys(file, root, (str){0}, err);
}

static void put_family(family_set *s, family f) {
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->list[i].name, f.name) == 0) {
            mem_free(s->list[i].file);
            json_decref(s->list[i].root);
            s->list[i] = f;
            return;
        }
    s->list = mem_realloc(s->list, (size_t)(s->n + 1) * sizeof *s->list);
    s->list[s->n++] = f;
}

status family_set_add(family_set *s, const char *file, str text, error *err) {
    json_t *root = NULL, *merged = NULL;
    status st = js_parse(text, &root, err);
    if (st != OK) {
        error_prefix(err, "%s", file);
        return st;
    }
    st = check_head(file, root, err);
    if (st != OK) goto out;
    str extends = js_get_str(root, "extends");
    const family *parent = extends.n ? find_family(s, extends) : NULL;
    if (extends.n && !parent) {
        st = error_set(err, ERR_FORMAT, "%s: extends \"" STR_FMT "\", which is not known", file,
                       STR_ARG(extends));
        goto out;
    }
    merged = parent ? merge(parent->root, root) : json_incref(root);
    family f = {.file = mem_strdup(file), .root = merged};
    str name = js_get_str(root, "family");
    memcpy(f.name, name.p, name.n);
    put_family(s, f);
out:
    json_decref(root);
    return st;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* Tokenizers (family_text.c) lie beside the families. */
static int is_family(const struct dirent *d) {
    str name = str_z(d->d_name);
    return str_ends(name, STR(".json")) && !str_ends(name, STR("tokenizer.json"));
}

/* Files of a directory in the order of their names; those whose parent is not there yet wait. */
static status load_dir(family_set *s, const char *dir, error *err) {
    struct dirent **list = NULL;
    int n = scandir(dir, &list, is_family, by_name);
    if (n < 0)
        return error_set(err, ERR_NOT_FOUND, "%s: cannot read the directory of family files", dir);
    status st = OK;
    int left = n;
    for (bool moved = true; left > 0 && st == OK;) {
        bool last_try = !moved;
        moved = false;
        for (int i = 0; i < n && (st == OK || !last_try); i++) {
            if (!list[i]) continue;
            char *path = path_join(dir, list[i]->d_name);
            strbuf text = {0};
            st = file_read(path, LIMIT_CONFIG_BYTES, &text, err);
            if (st == OK) st = family_set_add(s, path, strbuf_str(&text), err);
            strbuf_done(&text);
            mem_free(path);
            if (st == OK) {
                free(list[i]);
                list[i] = NULL;
                left--;
                moved = true;
            } else if (!last_try)
                st = OK;
        }
    }
    for (int i = 0; i < n; i++) free(list[i]);
    free(list);
    return st;
}

status family_set_load(const char *register_path, family_set *ret, error *err) {
    family_set s = {0};
    status st = OK;
    for (const embedded_file *f = embedded_families; f->name && st == OK; f++) {
        char file[128];
        snprintf(file, sizeof file, "conf/archs/%s", f->name);
        st = family_set_add(&s, file, str_n((const char *)f->data, f->bytes), err);
    }
    if (st == OK && register_path) st = load_dir(&s, register_path, err);
    if (st == OK)
        *ret = s;
    else
        family_set_done(&s);
    return st;
}

void family_set_done(family_set *s) {
    for (int i = 0; i < s->n; i++) {
        mem_free(s->list[i].file);
        json_decref(s->list[i].root);
    }
    mem_free(s->list);
    *s = (family_set){0};
}

static bool list_has(const json_t *list, str name) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (name.n && str_eq(js_str(json_array_get(list, i)), name)) return true;
    return false;
}

static status when_name(void *ctx, str name, value *ret, error *err) {
    const json_t *v = json_object_getn(ctx, name.p, name.n);
    *ret = json_is_string(v)    ? value_str(js_str(v))
           : json_is_number(v)  ? value_num(json_number_value(v))
           : json_is_boolean(v) ? value_bool(json_is_true(v))
                                : (value){0};
    return OK;
}

static status when_call(void *ctx, str name, const value *args, int n, value *ret, error *err) {
    if (!str_eqz(name, "has") || n != 1 || args[0].kind != VAL_STR)
        return error_set(err, ERR_FORMAT, "only has('key') may be called in match.when");
    *ret = value_bool(json_object_getn(ctx, args[0].text.p, args[0].text.n) != NULL);
    return OK;
}

static status when_holds(const family *f, const json_t *config, bool *ret, error *err) {
    str when = js_get_str(js_get(f->root, "match"), "when");
    value v = value_bool(true);
    expr_env env = {when_name, when_call, (void *)config};
    if (when.n) {
        status st = expr_eval(when, &env, &v, err);
        if (st != OK) {
            error_prefix(err, "%s", f->file);
            return st;
        }
    }
    *ret = value_true(v);
    return OK;
}

/* As many names as an error text has room for. */
static status unknown_architecture(const family_set *s, str arch, str type, const char *path,
                                   error *err) {
    enum { ROOM = 160 };
    strbuf known = {0};
    for (int i = 0; i < s->n && known.n < ROOM; i++)
        strbuf_addf(&known, "%s%s", i ? ", " : "", s->list[i].name);
    status st =
        error_set(err, ERR_UNSUPPORTED,
                  "%s: architecture \"" STR_FMT "\" (model_type \"" STR_FMT
                  "\") is not supported. A family with known layers is one JSON file in the "
                  "directory of --register-path (see engine/README.md); %d are known: %s%s",
                  path, STR_ARG(arch), STR_ARG(type), s->n, known.p ? known.p : "none",
                  known.n < ROOM ? "" : ", ...");
    strbuf_done(&known);
    return st;
}

status family_match(const family_set *s, const json_t *config, const char *config_path,
                    const family **ret, error *err) {
    str arch = js_str(json_array_get(js_get(config, "architectures"), 0));
    str type = js_get_str(config, "model_type");
    for (int i = s->n - 1; i >= 0; i--) {
        const json_t *match = js_get(s->list[i].root, "match");
        const json_t *names = js_get(match, arch.n ? "architectures" : "model_type");
        bool holds = false;
        if (!list_has(names, arch.n ? arch : type)) continue;
        TRY(when_holds(&s->list[i], config, &holds, err));
        if (!holds) continue;
        *ret = &s->list[i];
        return OK;
    }
    str text = js_get_str(config, "text_model_type");
    return unknown_architecture(s, arch.n ? arch : STR("(none)"), text.n ? text : type, config_path,
                                err);
}
