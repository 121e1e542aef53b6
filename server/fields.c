/* One sentence per kind of mistake, always with the field's name, what was expected, and the value
 * found where it is a number. */
#include "server/fields.h"

#include <math.h>
#include <stdio.h>

#include "engine/base/json.h"

const char *json_kind(const json_t *v) {
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

void field_fail(fields *f, status code, const char *name, const char *fmt, ...) {
    if (f->st != OK) return;
    va_list ap;
    va_start(ap, fmt);
    f->st = error_setv(f->err, code, fmt, ap);
    va_end(ap);
    snprintf(f->err->param, sizeof f->err->param, "%s%s", f->prefix, name);
}

static void wrong_kind(fields *f, const char *name, const char *expected, const json_t *v) {
    field_fail(f, ERR_INVALID, name, "%s%s must be %s, found %s", f->prefix, name, expected,
               json_kind(v));
}

json_t *field_get(const fields *f, const char *name) {
    return f->st == OK ? js_get(f->obj, name) : NULL;
}

bool field_bool(fields *f, const char *name, bool fallback) {
    json_t *v = field_get(f, name);
    if (!v) return fallback;
    if (json_is_boolean(v)) return json_is_true(v);
    wrong_kind(f, name, "true or false", v);
    return fallback;
}

/* Whole numbers may be written 5.0, as some clients do. */
static bool whole(const json_t *v, int64_t *ret) {
    if (json_is_integer(v)) {
        *ret = json_integer_value(v);
        return true;
    }
    double d = json_is_real(v) ? json_real_value(v) : NAN;
    if (!(d >= -9007199254740992.0 && d <= 9007199254740992.0) || d != floor(d)) return false;
    *ret = (int64_t)d;
    return true;
}

int64_t field_int(fields *f, const char *name, int64_t fallback, int64_t min, int64_t max) {
    json_t *v = field_get(f, name);
    int64_t n;
    if (!v) return fallback;
    if (!whole(v, &n)) {
        wrong_kind(f, name, "an integer", v);
        return fallback;
    }
    if (n >= min && n <= max) return n;
    field_fail(f, ERR_INVALID, name, "%s%s must be from %lld to %lld, found %lld", f->prefix, name,
               (long long)min, (long long)max, (long long)n);
    return fallback;
}

double field_real(fields *f, const char *name, double fallback, double min, double max) {
    json_t *v = field_get(f, name);
    if (!v) return fallback;
    if (!json_is_number(v)) {
        wrong_kind(f, name, "a number", v);
        return fallback;
    }
    double d = json_number_value(v);
    if (d >= min && d <= max) return d; /* false for NaN */
    field_fail(f, ERR_INVALID, name, "%s%s must be from %g to %g, found %g", f->prefix, name, min,
               max, d);
    return fallback;
}

str field_str(fields *f, const char *name, size_t bytes_max) {
    json_t *v = field_get(f, name);
    if (!v) return (str){0};
    if (!json_is_string(v)) {
        wrong_kind(f, name, "a string", v);
        return (str){0};
    }
    if (json_string_length(v) <= bytes_max) return js_str(v);
    field_fail(f, ERR_INVALID, name, "%s%s is longer than %zu bytes", f->prefix, name, bytes_max);
    return (str){0};
}

json_t *field_object(fields *f, const char *name) {
    json_t *v = field_get(f, name);
    if (!v || json_is_object(v)) return v;
    wrong_kind(f, name, "an object", v);
    return NULL;
}

json_t *field_array(fields *f, const char *name, size_t n_max) {
    json_t *v = field_get(f, name);
    if (!v) return NULL;
    if (!json_is_array(v)) {
        wrong_kind(f, name, "a list", v);
        return NULL;
    }
    if (json_array_size(v) <= n_max) return v;
    field_fail(f, ERR_INVALID, name, "%s%s has %zu entries, the limit is %zu", f->prefix, name,
               json_array_size(v), n_max);
    return NULL;
}

int32_t *field_ids(fields *f, const char *name, int64_t min, int64_t max, size_t n_max, arena *mem,
                   size_t *ret_n) {
    *ret_n = 0;
    json_t *list = field_array(f, name, n_max);
    size_t n = list ? json_array_size(list) : 0;
    if (!n) return NULL;
    int32_t *ids = arena_array(mem, n, sizeof *ids);
    if (!ids) {
        field_fail(f, ERR_TOO_LARGE, name, "%s%s is too large", f->prefix, name);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (!whole(json_array_get(list, i), &id) || id < min || id > max) {
            field_fail(f, ERR_INVALID, name, "%s%s[%zu] must be an integer from %lld to %lld",
                       f->prefix, name, i, (long long)min, (long long)max);
            return NULL;
        }
        ids[i] = (int32_t)id;
    }
    *ret_n = n;
    return ids;
}
