/* jansson recurses per nesting level, so depth is counted before it sees the text: a cheap scan
 * that knows strings and brackets. */
#include "engine/base/json.h"

#include "conf/limits.h"
#include "engine/base/file.h"

static bool too_deep(str s) {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (quoted) {
            if (c == '\\')
                i++;
            else if (c == '"')
                quoted = false;
        } else if (c == '"')
            quoted = true;
        else if (c == '[' || c == '{') {
            if (++depth > LIMIT_JSON_DEPTH) return true;
        } else if (c == ']' || c == '}')
            depth--;
    }
    return false;
}

/* An integer that does not fit 64 bits (real files hold 10^30 as "no limit") is a real number to
 * us, an error to jansson: a copy of text in which every integer of 19 digits or more has "e0"
 * behind it. */
static void widen_integers(str s, strbuf *out) {
    bool quoted = false;
    for (size_t i = 0; i < s.n;) {
        size_t from = i;
        char c = s.p[i++];
        if (quoted && c == '\\' && i < s.n) i++;
        if (c == '"') quoted = !quoted;
        if (!quoted && c >= '0' && c <= '9') {
            while (i < s.n && ((s.p[i] >= '0' && s.p[i] <= '9') || s.p[i] == '.' ||
                               (s.p[i] | 0x20) == 'e' || s.p[i] == '+' || s.p[i] == '-'))
                i++;
        }
        str run = str_cut(s, from, i);
        strbuf_add(out, run);
        bool integer = run.n >= 19 && str_find(run, STR("."), 0) < 0 &&
                       str_find(run, STR("e"), 0) < 0 && str_find(run, STR("E"), 0) < 0;
        if (!quoted && integer) strbuf_addz(out, "e0");
    }
}

static json_t *load_wide(str text, size_t flags, json_error_t *e) {
    strbuf wide = {0};
    widen_integers(text, &wide);
    json_t *v = json_loadb(wide.p, wide.n, flags, e);
    strbuf_done(&wide);
    return v;
}

static status parse(str text, size_t flags, json_t **ret, error *err) {
    if (too_deep(text))
        return error_set(err, ERR_INVALID, "JSON is nested deeper than %d levels",
                         LIMIT_JSON_DEPTH);
    json_error_t e;
    flags |= JSON_DECODE_ANY | JSON_ALLOW_NUL;
    json_t *v = json_loadb(text.p ? text.p : "", text.n, flags, &e);
    if (!v && json_error_code(&e) == json_error_numeric_overflow) v = load_wide(text, flags, &e);
    if (!v)
        return error_set(err, ERR_INVALID, "not valid JSON: %s (line %d, column %d)", e.text,
                         e.line, e.column);
    *ret = v;
    return OK;
}

status js_parse(str text, json_t **ret, error *err) {
    return parse(text, 0, ret, err);
}

status js_parse_unique(str text, json_t **ret, error *err) {
    return parse(text, JSON_REJECT_DUPLICATES, ret, err);
}

status js_parse_file(const char *path, size_t bytes_max, json_t **ret, error *err) {
    strbuf b = {0};
    status st = file_read(path, bytes_max, &b, err);
    if (st == OK) {
        st = js_parse(strbuf_str(&b), ret, err);
        if (st != OK) error_prefix(err, "%s", path);
    }
    strbuf_done(&b);
    return st;
}

json_t *js_get(const json_t *obj, const char *key) {
    json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

str js_str(const json_t *v) {
    return json_is_string(v) ? str_n(json_string_value(v), json_string_length(v)) : (str){0};
}

str js_get_str(const json_t *obj, const char *key) {
    return js_str(js_get(obj, key));
}

bool js_get_bool(const json_t *obj, const char *key, bool fallback) {
    json_t *v = js_get(obj, key);
    return json_is_boolean(v) ? json_is_true(v) : fallback;
}

int64_t js_get_int(const json_t *obj, const char *key, int64_t fallback) {
    json_t *v = js_get(obj, key);
    return json_is_integer(v) ? json_integer_value(v) : fallback;
}

double js_get_real(const json_t *obj, const char *key, double fallback) {
    json_t *v = js_get(obj, key);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

static int append(const char *p, size_t n, void *ctx) {
    return strbuf_add(ctx, str_n(p, n)) ? 0 : -1;
}

void strbuf_add_js(strbuf *b, const json_t *v) {
    json_dump_callback(v, append, b, JSON_COMPACT | JSON_ENCODE_ANY);
}
