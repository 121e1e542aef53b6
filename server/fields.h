/* Typed members of a JSON request, with bounds. Every number that a client sends passes here.
 *
 * Errors stick: after the first failure every getter returns its fallback and leaves the error as
 * it is, so a parser reads all its fields and looks at `st` once. JSON null counts as absent. */
#ifndef SERVER_FIELDS_H
#define SERVER_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct fields {
    const json_t *obj;
    const char *prefix; /* "stream_options." before names in errors, or "" */
    status st;
    error *err;
} fields;

static inline fields fields_of(const json_t *obj, error *err) {
    return (fields){obj, "", OK, err};
}

/* A failure of one's own about field `name`. */
void field_fail(fields *f, status code, const char *name, const char *fmt, ...) PRINTF_LIKE(4, 5);

json_t *field_get(const fields *f, const char *name); /* NULL: absent or null */
bool field_bool(fields *f, const char *name, bool fallback);
int64_t field_int(fields *f, const char *name, int64_t fallback, int64_t min, int64_t max);
double field_real(fields *f, const char *name, double fallback, double min, double max);
str field_str(fields *f, const char *name, size_t bytes_max); /* {NULL,0}: absent; borrowed */
/* An object or an array, NULL when absent. */
json_t *field_object(fields *f, const char *name);
json_t *field_array(fields *f, const char *name, size_t n_max);
/* A list of integers in [min, max], in the arena; *ret_n = 0 and NULL when absent. */
int32_t *field_ids(fields *f, const char *name, int64_t min, int64_t max, size_t n_max, arena *mem,
                   size_t *ret_n);

/* "number", "string", "list", ... for messages. */
const char *json_kind(const json_t *v);

#endif
