/* A restricted reader of Python pickles (protocols 2 to 5): what builds numbers, text, lists,
 * tuples and dicts, and calls of those functions that the caller's rules know. Nothing of the
 * pickle is ever run: any other opcode or global is refused by name, whatever it would have done.
 * Format: CPython, Lib/pickletools.py. */
#ifndef ENGINE_PICKLE_H
#define ENGINE_PICKLE_H

#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,  /* i */
    PICKLE_INT,   /* i */
    PICKLE_FLOAT, /* f */
    PICKLE_TEXT,  /* text: str or bytes, borrowed from the pickle */
    PICKLE_LIST,  /* items */
    PICKLE_TUPLE, /* items */
    PICKLE_DICT,  /* items: key, value, key, value, ... */
    PICKLE_GLOBAL,
    PICKLE_OBJECT, /* made by the rules: `object` is theirs */
} pickle_kind;

typedef struct pickle_value pickle_value;
struct pickle_value {
    pickle_kind kind;
    uint32_t n, cap; /* of items */
    union {
        int64_t i; /* of a global: its number in the rules */
        double f;
        str text;
        pickle_value **items;
        void *object;
    };
};

typedef struct pickle pickle;

/* What the reader's owner allows. Each fills *ret or answers with an error. */
typedef struct pickle_rules {
    /* Number of a global, or -1: refused by name. */
    int (*global)(str module, str name);
    /* global number g called with a tuple of arguments. */
    status (*call)(pickle *k, int g, const pickle_value *args, pickle_value **ret, error *err);
    /* A persistent id (torch: a storage). */
    status (*persistent)(pickle *k, const pickle_value *id, pickle_value **ret, error *err);
    void *ctx;
} pickle_rules;

struct pickle {
    const char *path; /* for errors */
    const pickle_rules *rules;
    arena *mem; /* values live as long as it does */
};

/* Reads one pickle at the beginning of `text`; *ret_bytes is its length with the final STOP. Errors
 * name path and opcode, global or bound. */
NODISCARD status pickle_read(pickle *k, str text, pickle_value **ret, size_t *ret_bytes,
                             error *err);

/* A fresh value in k->mem; NULL when its bound is reached. */
pickle_value *pickle_new(pickle *k, pickle_kind kind);
/* Value of a text key in a dict, NULL if there is none or v is no dict. The last one wins. */
const pickle_value *pickle_member(const pickle_value *v, const char *key);

#endif
