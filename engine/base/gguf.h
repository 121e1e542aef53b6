/* The header of a GGUF file: typed key/values (what the model is, its tokenizer, its chat template)
 * and the list of tensors. Versions 2 and 3, little endian.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
 *
 * Everything is checked when a file is opened: every length and count against the bytes that are
 * left, duplicate tensors and keys (a
 * number said twice alike is let pass), alignment, tensors inside the file and apart from each
 * other. What the functions below return is borrowed from the mapping and lives until gguf_close.
 */
#ifndef ENGINE_BASE_GGUF_H
#define ENGINE_BASE_GGUF_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/file.h"
#include "engine/base/map.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef enum gguf_kind { /* numbers of the format */
                         GGUF_U8 = 0,
                         GGUF_I8 = 1,
                         GGUF_U16 = 2,
                         GGUF_I16 = 3,
                         GGUF_U32 = 4,
                         GGUF_I32 = 5,
                         GGUF_F32 = 6,
                         GGUF_BOOL = 7,
                         GGUF_STRING = 8,
                         GGUF_ARRAY = 9,
                         GGUF_U64 = 10,
                         GGUF_I64 = 11,
                         GGUF_F64 = 12,
                         GGUF_KINDS
} gguf_kind;

/* A key's value: n values of one kind, one after another at p. */
typedef struct gguf_value {
    str key;
    gguf_kind kind; /* of the elements: never GGUF_ARRAY */
    bool is_array;
    uint64_t n; /* 1 unless is_array */
    const uint8_t *p;
} gguf_value;

#define GGUF_DIMS 4

typedef struct gguf_tensor {
    str name;
    uint32_t type; /* number of the format; gguf_type_of names it */
    int32_t n_dims;
    int64_t ne[GGUF_DIMS]; /* inner to outer: ne[0] elements are consecutive; 1 past n_dims */
    uint64_t off, bytes;   /* in the file */
} gguf_tensor;

typedef struct gguf {
    const uint8_t *bytes; /* the file's first: offsets of tensors count from it */
    file_map map;         /* {0} when the bytes are the caller's */
    uint32_t version;
    gguf_value *values;
    gguf_tensor *tensors; /* in the order of the file */
    size_t n_values, n_tensors;
    map by_key, by_name;
    uint64_t alignment;
} gguf;

/* How a tensor type stores a row: blocks of `block` elements in `bytes` bytes. bytes 0: a type that
 * is known by name alone. */
typedef struct gguf_type {
    uint32_t id;
    char name[12]; /* "Q4_K" */
    uint16_t block, bytes;
} gguf_type;
const gguf_type *gguf_type_of(uint32_t id); /* NULL: none of the format's */

/* Errors name the path and the key or tensor at fault. */
NODISCARD status gguf_open(const char *path, gguf *ret, error *err);
/* The same of bytes that the caller keeps until gguf_close; `path` is for errors. */
NODISCARD status gguf_parse(const uint8_t *p, size_t n, const char *path, gguf *ret, error *err);
void gguf_close(gguf *g);

const gguf_value *gguf_find(const gguf *g, const char *key);          /* NULL: absent */
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name); /* NULL: absent */

/* Element i < v->n of a value; integers of any width, also in F32/F64 (f64) and BOOL (i64). False:
 * the kind does not fit, or the number is out of int64's range. */
bool gguf_i64(const gguf_value *v, uint64_t i, int64_t *ret);
bool gguf_f64(const gguf_value *v, uint64_t i, double *ret);
/* A scalar of that key, or the fallback when it is absent or of another kind. */
int64_t gguf_get_int(const gguf *g, const char *key, int64_t fallback);
bool gguf_get_bool(const gguf *g, const char *key, bool fallback);
str gguf_get_str(const gguf *g, const char *key); /* {NULL,0} if absent or not one string */

/* The strings of an array (or the one of a scalar), in order:
 *     gguf_strings it = gguf_strings_of(gguf_find(g, "tokenizer.ggml.tokens"));
 *     for (str s; gguf_next(&it, &s);) ...
 * None when v is NULL or holds something else. */
typedef struct gguf_strings {
    const uint8_t *p;
    uint64_t left;
} gguf_strings;
gguf_strings gguf_strings_of(const gguf_value *v);
bool gguf_next(gguf_strings *it, str *ret);

#endif
