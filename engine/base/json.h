/* JSON: jansson behind bounds and error sentences. Writing goes through strbuf_add_json and
 * strbuf_addf; nothing here builds output. */
#ifndef ENGINE_BASE_JSON_H
#define ENGINE_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

/* Parse one JSON value. Duplicate keys: the last wins. NULs in strings are allowed. Nesting is
 * bounded by LIMIT_JSON_DEPTH of conf/limits.h (checked before parsing). Integers past 64 bits are
 * read as reals. The caller owns *ret
 * (json_decref). Errors say line and column. */
NODISCARD status js_parse(str text, json_t **ret, error *err);
/* The same, but a duplicate key is an error: for files where the last one winning hides damage. */
NODISCARD status js_parse_unique(str text, json_t **ret, error *err);
/* A file; errors name the path. */
NODISCARD status js_parse_file(const char *path, size_t bytes_max, json_t **ret, error *err);

/* Member `key` of obj, NULL when absent or JSON null. */
json_t *js_get(const json_t *obj, const char *key);
str js_str(const json_t *v); /* the bytes of a string value, {NULL,0} for anything else */
str js_get_str(const json_t *obj, const char *key); /* {NULL,0} if absent or not a string */
bool js_get_bool(const json_t *obj, const char *key, bool fallback);
int64_t js_get_int(const json_t *obj, const char *key, int64_t fallback);
double js_get_real(const json_t *obj, const char *key, double fallback); /* ints too */
/* Append a value as compact JSON (keys in document order, non-ASCII kept as UTF-8). */
void strbuf_add_js(strbuf *b, const json_t *v);

#endif
