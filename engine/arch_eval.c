/* Variables are resolved on first use, so their order in the file is free; a cycle is an error. */
#include "engine/arch_eval.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>

#include "engine/base/mem.h"

status arch_eval_init(arch_eval *e, const family *f, const json_t *config, const char *config_path,
                      tensor_names names, error *err) {
    *e = (arch_eval){.f = f,
                     .config = config,
                     .config_path = config_path,
                     .names = names,
                     .layer = -1,
                     .expert = -1,
                     .head = -1,
                     .prefix = ""};
    const char *key;
    json_t *v;
    json_object_foreach(js_get(f->root, "vars"), key, v) {
        if (e->n_vars == ARCH_VARS_MAX)
            return error_set(err, ERR_FORMAT, "%s: more than %d vars", f->file, ARCH_VARS_MAX);
        e->vars[e->n_vars++] = (arch_var){.name = key, .candidates = v};
    }
    return OK;
}

const json_t *arch_node(const arch_eval *e, const char *path) {
    const json_t *v = e->f->root;
    while (v && *path) {
        size_t n = strcspn(path, ".");
        v = json_object_getn(v, path, n);
        path += n + (path[n] == '.');
    }
    return v && !json_is_null(v) ? v : NULL;
}

status arch_unsupported(const arch_eval *e, const char *path, const char *what, error *err) {
    return error_set(err, ERR_UNSUPPORTED, "%s: %s: not supported: %s", e->f->file, path, what);
}

static bool scalar_value(const json_t *v, value *ret) {
    if (json_is_string(v))
        *ret = value_str(js_str(v));
    else if (json_is_boolean(v))
        *ret = value_bool(json_is_true(v));
    else if (json_is_number(v))
        *ret = value_num(json_number_value(v));
    else
        return false;
    return true;
}

/* A key of config.json, dotted for nested ones; false when absent, null or not a scalar. */
static bool config_value(const arch_eval *e, str key, value *ret) {
    const json_t *v = e->config;
    for (size_t at = 0; v && at < key.n;) {
        size_t end = at;
        while (end < key.n && key.p[end] != '.') end++;
        v = json_object_getn(v, key.p + at, end - at);
        at = end + 1;
    }
    return v && scalar_value(v, ret);
}

/* DeepSeek's factor of the softmax scale: yarn's m(factor, mscale_all_dim), 1 without it. */
static double mscale_all(const arch_eval *e) {
    const json_t *p = js_get(e->config, "rope_parameters");
    if (!json_is_object(p)) p = js_get(e->config, "rope_scaling");
    double factor = js_get_real(p, "factor", 1), m = js_get_real(p, "mscale_all_dim", 0);
    return factor <= 1 || m == 0 ? 1 : 0.1 * m * log(factor) + 1;
}

static void expand(const arch_eval *e, str pattern, strbuf *out);

static status env_name(void *ctx, str name, value *ret, error *err) {
    arch_eval *e = ctx;
    if (str_eqz(name, "i") && e->layer >= 0) {
        *ret = value_num(e->layer);
        return OK;
    }
    if (str_eqz(name, "mscale_all")) {
        *ret = value_num(mscale_all(e));
        return OK;
    }
    return arch_var_value(e, name, ret, err);
}

static bool list_has_number(const json_t *list, double x) {
    for (size_t k = 0; k < json_array_size(list); k++)
        if (json_number_value(json_array_get(list, k)) == x) return true;
    return false;
}

/* has('key'): the key is there, be it null. has_tensor('name'): in the checkpoint. listed('key',
 * i): the key is a list with the number i in it. layer_type(i, 'name', otherwise): layer_types[i]
 * is name; without such a list, otherwise. */
static status env_call(void *ctx, str name, const value *a, int n, value *ret, error *err) {
    arch_eval *e = ctx;
    if (str_eqz(name, "has") && n == 1 && a[0].kind == VAL_STR) {
        *ret = value_bool(json_object_getn(e->config, a[0].text.p, a[0].text.n) != NULL);
        return OK;
    }
    if (str_eqz(name, "has_tensor") && n == 1 && a[0].kind == VAL_STR) {
        strbuf tensor = {0};
        expand(e, a[0].text, &tensor);
        *ret = value_bool(e->names.has(e->names.ctx, tensor.p ? tensor.p : ""));
        strbuf_done(&tensor);
        return OK;
    }
    if (str_eqz(name, "listed") && n == 2 && a[0].kind == VAL_STR && a[1].kind == VAL_NUM) {
        const json_t *list = json_object_getn(e->config, a[0].text.p, a[0].text.n);
        *ret = value_bool(list_has_number(list, a[1].num));
        return OK;
    }
    if (str_eqz(name, "item") && n == 3 && a[0].kind == VAL_STR && a[1].kind == VAL_NUM) {
        const json_t *list = json_object_getn(e->config, a[0].text.p, a[0].text.n);
        bool inside = a[1].num >= 0 && a[1].num < (double)json_array_size(list);
        const json_t *v = inside ? json_array_get(list, (size_t)a[1].num) : NULL;
        if (!v || !scalar_value(v, ret)) *ret = a[2];
        return OK;
    }
    if (str_eqz(name, "layer_type") && n == 3 && a[0].kind == VAL_NUM && a[1].kind == VAL_STR) {
        const json_t *types = js_get(e->config, "layer_types");
        if (!json_is_array(types)) {
            *ret = a[2];
            return OK;
        }
        if (!(a[0].num >= 0 && a[0].num < (double)json_array_size(types)))
            return error_set(err, ERR_FORMAT, "%s: layer_types has %zu entries, layer %g needs one",
                             e->config_path, json_array_size(types), a[0].num);
        *ret = value_bool(str_eq(js_str(json_array_get(types, (size_t)a[0].num)), a[1].text));
        return OK;
    }
    return error_set(err, ERR_FORMAT, "no such function: " STR_FMT " with %d arguments",
                     STR_ARG(name), n);
}

static status eval_text(arch_eval *e, str text, const char *path, value *ret, error *err) {
    expr_env env = {env_name, env_call, e};
    status st = expr_eval(text, &env, ret, err);
    if (st != OK) error_prefix(err, "%s: %s", e->f->file, path);
    return st;
}

/* First candidate that exists: "=expression", a config key, and last a word as it stands. */
static status first_of(arch_eval *e, const json_t *list, const char *path, bool *ret_found,
                       value *ret, error *err) {
    size_t n = json_is_array(list) ? json_array_size(list) : 1;
    *ret_found = true;
    for (size_t k = 0; k < n; k++) {
        const json_t *c = json_is_array(list) ? json_array_get(list, k) : list;
        str s = js_str(c);
        if (!s.p) {
            if (scalar_value(c, ret)) return OK;
            continue;
        }
        if (s.n && s.p[0] == '=') return eval_text(e, str_cut(s, 1, s.n), path, ret, err);
        if (config_value(e, s, ret)) return OK;
        bool named = json_object_getn(e->config, s.p, s.n) != NULL;
        if (k == n - 1 && k > 0 && !named) {
            *ret = value_str(s);
            return OK;
        }
    }
    *ret_found = false;
    return OK;
}

static status resolve_var(arch_eval *e, arch_var *v, error *err) {
    char path[128];
    bool found;
    snprintf(path, sizeof path, "vars.%s", v->name);
    if (v->state == 1)
        return error_set(err, ERR_FORMAT, "%s: %s depends on itself", e->f->file, path);
    v->state = 1;
    TRY(first_of(e, v->candidates, path, &found, &v->v, err));
    if (!found) {
        str first =
            js_str(json_is_array(v->candidates) ? json_array_get(v->candidates, 0) : v->candidates);
        return error_set(err, ERR_FORMAT, "%s: key \"" STR_FMT "\" is missing (%s: %s)",
                         e->config_path, STR_ARG(first), e->f->file, path);
    }
    v->state = 2;
    return OK;
}

status arch_var_value(arch_eval *e, str name, value *ret, error *err) {
    for (int i = 0; i < e->n_vars; i++) {
        arch_var *v = &e->vars[i];
        if (!str_eqz(name, v->name)) continue;
        if (v->state != 2) TRY(resolve_var(e, v, err));
        *ret = v->v;
        return OK;
    }
    return error_set(err, ERR_FORMAT, "no variable \"" STR_FMT "\"", STR_ARG(name));
}

status arch_dim(arch_eval *e, const char *var, int32_t min, int32_t max, int32_t *ret, error *err) {
    value v;
    TRY(arch_var_value(e, str_z(var), &v, err));
    if (v.kind != VAL_NUM || v.num != floor(v.num) || v.num < min || v.num > max) {
        char found[64];
        if (v.kind == VAL_NUM)
            snprintf(found, sizeof found, "%.17g", v.num);
        else
            snprintf(found, sizeof found, "%s", v.kind == VAL_NONE ? "null" : "no number");
        return error_set(err, ERR_FORMAT,
                         "%s: %s (%s: vars.%s) must be a whole number from %d to %d, found %s",
                         e->config_path, var, e->f->file, var, min, max, found);
    }
    *ret = (int32_t)v.num;
    return OK;
}

status arch_node_value(arch_eval *e, const json_t *node, const char *path, value fallback,
                       value *ret, error *err) {
    if (!node || json_is_null(node)) {
        *ret = fallback;
        return OK;
    }
    str s = js_str(node);
    if (s.n && s.p[0] == '=') s = str_cut(s, 1, s.n);
    if (s.p) return eval_text(e, s, path, ret, err);
    if (!scalar_value(node, ret))
        return error_set(err, ERR_FORMAT, "%s: %s is not a scalar", e->f->file, path);
    return OK;
}

status arch_value(arch_eval *e, const char *path, value fallback, value *ret, error *err) {
    const json_t *node = e->override ? js_get(e->override, path) : NULL;
    return arch_node_value(e, node ? node : arch_node(e, path), path, fallback, ret, err);
}

status arch_real(arch_eval *e, const char *path, double fallback, double *ret, error *err) {
    value v;
    TRY(arch_value(e, path, value_num(fallback), &v, err));
    if (v.kind != VAL_NUM && v.kind != VAL_BOOL)
        return error_set(err, ERR_FORMAT, "%s: %s (%s) must be a number", e->config_path, path,
                         e->f->file);
    *ret = v.num;
    return OK;
}

status arch_bool(arch_eval *e, const char *path, bool fallback, bool *ret, error *err) {
    value v;
    TRY(arch_value(e, path, value_bool(fallback), &v, err));
    *ret = value_true(v);
    return OK;
}

status arch_word(arch_eval *e, const json_t *node, const char *path, const char *fallback, str *ret,
                 error *err) {
    value v = value_str(str_z(fallback));
    bool found = true;
    str s = js_str(node);
    if (json_is_array(node))
        TRY(first_of(e, node, path, &found, &v, err));
    else if (s.n && s.p[0] == '=')
        TRY(eval_text(e, str_cut(s, 1, s.n), path, &v, err));
    else if (node)
        v = value_str(s);
    if (!found || v.kind != VAL_STR)
        return error_set(err, ERR_FORMAT, "%s: %s is not a word", e->f->file, path);
    *ret = v.text;
    return OK;
}

static void expand(const arch_eval *e, str pattern, strbuf *out) {
    for (size_t at = 0; at < pattern.n;) {
        str rest = str_cut(pattern, at, pattern.n);
        value v = {0};
        if (str_starts(rest, STR("{i}"))) {
            strbuf_addf(out, "%d", e->layer);
        } else if (str_starts(rest, STR("{e}")) && e->expert >= 0) {
            strbuf_addf(out, "%d", e->expert);
        } else if (str_starts(rest, STR("{h}")) && e->head >= 0) {
            strbuf_addf(out, "%d", e->head);
        } else if (str_starts(rest, STR("{p}"))) {
            strbuf_addz(out, e->prefix);
        } else if (str_starts(rest, STR("{L}")) &&
                   arch_var_value((arch_eval *)e, STR("L"), &v, NULL) == OK) {
            strbuf_addf(out, "%.0f", v.num);
        } else {
            strbuf_addc(out, pattern.p[at++]);
            continue;
        }
        at += 3;
    }
}

status arch_tensor_name(arch_eval *e, const json_t *ref, const char *path, char **ret, error *err) {
    *ret = NULL;
    if (!ref || json_is_null(ref)) return OK;
    if (json_is_object(ref)) {
        value cond;
        TRY(arch_node_value(e, js_get(ref, "if"), path, value_bool(true), &cond, err));
        if (!value_true(cond)) return OK;
        ref = js_get(ref, "tensor");
    }
    str pattern = js_str(ref);
    if (pattern.n && pattern.p[0] == '=') {
        value v;
        TRY(eval_text(e, str_cut(pattern, 1, pattern.n), path, &v, err));
        pattern = v.kind == VAL_STR ? v.text : (str){0};
    }
    if (pattern.n == 0) return OK;
    strbuf name = {0};
    expand(e, pattern, &name);
    *ret = strbuf_take(&name);
    return OK;
}

bool arch_is_transposed(const arch_eval *e, const char *name) {
    const json_t *list = js_get(e->f->root, "transpose");
    for (size_t k = 0; k < json_array_size(list); k++)
        if (fnmatch(json_string_value(json_array_get(list, k)), name, 0) == 0) return true;
    return false;
}
