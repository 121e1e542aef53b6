/* MindFormers describes the architecture in its YAML, pagoda reads it from the model's config.json.
 * When the two differ the user means another model than the one named: better said before the
 * weights are read than in wrong answers. A key that config.json does not have is only noted. */
#include "server/cmd_foreign.h"

#include <math.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"

static void log_lines(const strbuf *lines, log_level level) {
    str all = strbuf_str(lines);
    for (size_t from = 0; from < all.n;) {
        ptrdiff_t end = str_find(all, STR("\n"), from);
        size_t to = end < 0 ? all.n : (size_t)end;
        log_line(level, "%.*s", (int)(to - from), all.p + from);
        from = to + 1;
    }
}

/* "a.b" below root. */
static json_t *member(const json_t *root, str path) {
    json_t *at = (json_t *)(uintptr_t)root;
    for (size_t from = 0; at && from <= path.n;) {
        ptrdiff_t dot = str_find(path, STR("."), from);
        size_t to = dot < 0 ? path.n : (size_t)dot;
        at = json_object_getn(at, path.p + from, to - from);
        from = to + 1;
    }
    return at && !json_is_null(at) ? at : NULL;
}

/* The first of the keys that is there. */
static json_t *first_of(const json_t *root, const char *keys, str *ret_key) {
    for (size_t n; *keys; keys += n + (keys[n] != 0)) {
        n = strcspn(keys, "|");
        *ret_key = str_n(keys, n);
        json_t *v = member(root, *ret_key);
        if (v) return v;
    }
    return NULL;
}

static bool equal(const char *want, const json_t *have) {
    double x;
    if (json_is_string(have)) return str_eqz(js_str(have), want);
    if (!json_is_number(have) || !str_to_f64(str_z(want), &x)) return false;
    double y = json_number_value(have);
    return fabs(x - y) <= 1e-6 * fmax(fabs(x), fabs(y));
}

static status check_one(const conf_expect *e, const json_t *config, const char *path, error *err) {
    str key;
    const json_t *have = first_of(config, e->keys, &key);
    if (!have) {
        log_info("%s: %s does not say it", e->where, path);
        return OK;
    }
    if (equal(e->value, have)) return OK;
    strbuf text = {0};
    strbuf_add_js(&text, have);
    error_set(err, ERR_INVALID, "%s is %.60s, but " STR_FMT " in %s is %.60s", e->where, e->value,
              STR_ARG(key), path, text.p);
    strbuf_done(&text);
    return ERR_INVALID;
}

status cmd_foreign_check(const conf *c, error *err) {
    const conf_foreign *f = c->foreign;
    if (!f) return OK;
    log_lines(&f->notes, LOG_INFO);
    log_lines(&f->unknown, LOG_WARN);
    if (!f->n_expect || !dir_exists(c->model)) return OK;
    char *path = path_join(c->model, "config.json");
    json_t *config = NULL;
    status st = js_parse_file(path, LIMIT_CONFIG_BYTES, &config, err);
    for (int i = 0; i < f->n_expect && st == OK; i++)
        st = check_one(&f->expect[i], config, path, err);
    json_decref(config);
    mem_free(path);
    return st;
}
