/* The values a template computes with (Python's: None, bool, int, float, str, list, tuple, dict,
 * Undefined, ...) and the state of one rendering. Inside of the template engine only.
 *
 * Everything lives in the rendering's arena and is immutable once built, so lists and strings are
 * shared freely: a slice points into its source. Errors leave by longjmp to template_render (see
 * rt_raise): no code here owns anything outside the arena and the one output buffer, so nothing
 * has to be released on the way. */
#ifndef TOKENIZER_TEMPLATE_VALUE_H
#define TOKENIZER_TEMPLATE_VALUE_H

#include <jansson.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef enum vtype {
    V_MISSING, /* no value at all: an unset variable, an argument that was not given */
    V_UNDEFINED,
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STR,
    V_LIST,
    V_TUPLE,
    V_DICT,
    V_RANGE,
    V_VIEW,      /* dict.keys(), .values(), .items() */
    V_ITER,      /* a generator or iterator: can be walked once */
    V_NAMESPACE, /* namespace(): the only thing that can change */
    V_MACRO,
    V_LOOP,    /* the "loop" variable */
    V_BOUND,   /* a method with its object: "x.strip" */
    V_BUILTIN, /* range, dict, namespace, ... */
    V_CYCLER,
    V_JOINER,
} vtype;

enum {
    VAL_MARKUP = 1, /* flag of V_STR: came from |safe or |escape */
    VAL_GROUP = 2,  /* flag of V_TUPLE: from |groupby, has .grouper and .list */
};

typedef struct val {
    uint8_t type;  /* vtype */
    uint8_t flags; /* VAL_... */
    uint32_t n;    /* bytes of a string, items of a list or tuple */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s; /* UTF-8, not terminated */
        const struct val *items;
        struct dict *dict;
        const struct undefined *undefined;
        const struct range *range;
        const struct view *view;
        struct iter *iter;
        struct dict *ns;
        struct macro *macro;
        struct loop *loop;
        const struct bound *bound;
        const struct builtin *builtin;
        struct cycler *cycler;
    };
} val;

typedef struct undefined {
    val hint; /* V_STR: the whole message; V_MISSING: made from obj and name */
    val obj;  /* V_MISSING: a variable */
    val name;
    bool is_unsafe; /* SecurityError instead of UndefinedError */
} undefined;

typedef struct range {
    int64_t start, stop, step, n;
} range;

typedef struct view {
    const struct dict *dict;
    uint8_t kind; /* VIEW_KEYS, ... */
} view;
enum { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

typedef struct dict_entry {
    val key, value;
} dict_entry;
/* Insertion-ordered. A hash index appears from DICT_INDEX_MIN entries on. */
typedef struct dict {
    uint32_t n, cap;
    dict_entry *e;
    uint32_t *index; /* entry number + 1, 0 = free; mask + 1 slots */
    uint32_t mask;
} dict;

typedef struct cycler {
    const val *items;
    uint32_t n, pos;
    bool used; /* joiner */
} cycler;

/* Arguments of a call. Names are V_STR. */
typedef struct call_args {
    const val *pos;
    uint32_t n_pos;
    uint32_t n_kw;
    const val *kw_names, *kw;
} call_args;

/* One rendering. */
typedef struct rt {
    arena *mem;
    strbuf out; /* all text; what a macro or block set captures is cut off its end again */
    jmp_buf fail;
    error *err;
    status st;
    const struct template *t;
    const json_t *vars;
    dict *context;   /* members of vars that were asked for, converted once */
    void **env_free; /* spare activations by function */
    int64_t steps;   /* left */
    int64_t tick;    /* steps until the clock is read */
    uint64_t deadline_us;
    size_t output_max;
    int64_t unix_time;
    int depth;
    char *grow_end; /* end of the newest concatenation and the room behind it (see str_concat) */
    size_t grow_room;
} rt;

enum { DEPTH_MAX = 1000, DICT_INDEX_MIN = 9 };

/* --- errors and bounds (template_value.c) */

/* Python's exception as text, "TypeError: ...", status ERR_INVALID. */
_Noreturn void rt_raise(rt *r, const char *kind, const char *fmt, ...) PRINTF_LIKE(3, 4);
_Noreturn void rt_too_large(rt *r, const char *what, int64_t limit);
_Noreturn void rt_raise_undefined(rt *r, val v);
void rt_clock(rt *r); /* the slow part of rt_tick */
/* Account for work: one unit is about one node evaluated or 64 bytes moved. */
static inline void rt_tick(rt *r, int64_t units) {
    r->tick -= units;
    if (r->tick < 0) rt_clock(r);
}
void *rt_alloc(rt *r, size_t bytes);
void *rt_array(rt *r, size_t n, size_t size);
static inline void rt_enter(rt *r) {
    if (++r->depth > DEPTH_MAX) rt_raise(r, "RecursionError", "maximum recursion depth exceeded");
}
static inline void rt_leave(rt *r) {
    r->depth--;
}

/* --- output (template_value.c) */
void rt_add(rt *r, const char *p, size_t n);
void rt_addz(rt *r, const char *z);
void rt_addc(rt *r, char c);
void rt_addf(rt *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Everything added since `mark` (an earlier r->out.n) as a string, taken off the output again. */
val rt_cut(rt *r, size_t mark);

/* --- making values */
static inline val val_none(void) {
    return (val){.type = V_NONE};
}
static inline val val_missing(void) {
    return (val){.type = V_MISSING};
}
static inline val val_bool(bool b) {
    return (val){.type = V_BOOL, .b = b};
}
static inline val val_int(int64_t i) {
    return (val){.type = V_INT, .i = i};
}
static inline val val_float(double f) {
    return (val){.type = V_FLOAT, .f = f};
}
static inline val val_strn(const char *p, size_t n) {
    return (val){.type = V_STR, .n = (uint32_t)n, .s = p};
}
static inline val val_strz(const char *z) {
    return val_strn(z, strlen(z));
}
static inline val val_list(const val *items, size_t n) {
    return (val){.type = V_LIST, .n = (uint32_t)n, .items = items};
}
static inline val val_tuple(const val *items, size_t n) {
    return (val){.type = V_TUPLE, .n = (uint32_t)n, .items = items};
}
static inline val val_dict(dict *d) {
    return (val){.type = V_DICT, .dict = d};
}
static inline str val_str(val v) {
    return (str){v.s, v.n};
}
static inline bool is_str(val v) {
    return v.type == V_STR;
}
static inline bool is_int(val v) { /* bool is an int, as in Python */
    return v.type == V_INT || v.type == V_BOOL;
}
static inline bool is_number(val v) {
    return is_int(v) || v.type == V_FLOAT;
}
static inline bool is_undefined(val v) {
    return v.type == V_UNDEFINED;
}
static inline int64_t int_of(val v) {
    return v.type == V_BOOL ? v.b : v.i;
}
static inline double float_of(val v) {
    return v.type == V_FLOAT ? v.f : (double)int_of(v);
}

val str_copy(rt *r, const char *p, size_t n);
val str_concat(rt *r, val a, val b); /* both V_STR; no escaping */
val val_pair(rt *r, val a, val b);   /* a tuple of two */
val val_undefined(rt *r, val obj, val name);
val val_undefined_hint(rt *r, const char *hint);
val val_from_json(rt *r, const json_t *j);

/* --- a list that grows */
typedef struct vals {
    val *p;
    uint32_t n, cap;
} vals;
void vals_add(rt *r, vals *v, val x);

/* --- dicts: keys are hashable values (unhashable ones raise TypeError) */
dict *dict_new(rt *r, size_t cap);
void dict_set(rt *r, dict *d, val key, val value);
const val *dict_get(rt *r, const dict *d, val key); /* NULL if absent */

/* --- what Python's built-ins say about a value */
const char *type_name(val v); /* "str", "dict", "Undefined", ... */
bool is_true(rt *r, val v);
bool has_length(val v);
int64_t val_length(rt *r, val v); /* len(): TypeError if it has none */
bool val_equal(rt *r, val a, val b);
/* a < b etc.; TypeError for kinds that do not compare. `op` is "<", "<=", ">", ">=". */
bool val_less(rt *r, val a, val b); /* a < b, errors name '<' */
bool val_order(rt *r, val a, val b, const char *op);
uint64_t val_hash(rt *r, val v);
bool val_same(val a, val b); /* "is" */

/* --- text of values (template_text.c) */
void rt_add_str(rt *r, val v);  /* str() */
void rt_add_repr(rt *r, val v); /* repr() */
val to_str(rt *r, val v);       /* str(): plain; soft_str keeps the Markup flag */
val soft_str(rt *r, val v);
val to_repr(rt *r, val v);
void float_repr(double f, char out[32]);
/* %s for error texts: a repr bounded in length, in the arena. */
const char *repr_z(rt *r, val v);
const char *str_zcopy(rt *r, val v); /* NUL-terminated copy of a V_STR for error texts */

#endif
