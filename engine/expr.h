/* Expressions of family files: a small, bounded part of Python's.
 *
 *   a if c else b, or, and, not, == != < <= > >=, + - * / % **, unary -, ( ), numbers, 'text',
 *   names, calls. `/` is real division, `%` floors, names and calls ask the environment.
 *   Built in: true false none, min(a,b) max(a,b) int(x) bf16(x). */
#ifndef ENGINE_EXPR_H
#define ENGINE_EXPR_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef enum value_kind { VAL_NONE, VAL_BOOL, VAL_NUM, VAL_STR } value_kind;

/* Numbers are doubles (whole ones exact to 2^53); text is borrowed from its source. */
typedef struct value {
    value_kind kind;
    double num; /* VAL_BOOL: 0 or 1 */
    str text;
} value;

static inline value value_num(double x) {
    return (value){.kind = VAL_NUM, .num = x};
}
static inline value value_bool(bool b) {
    return (value){.kind = VAL_BOOL, .num = b};
}
static inline value value_str(str s) {
    return (value){.kind = VAL_STR, .text = s};
}
bool value_true(value v); /* Python's truth */

typedef struct expr_env {
    status (*name)(void *ctx, str name, value *ret, error *err);
    status (*call)(void *ctx, str name, const value *args, int n_args, value *ret, error *err);
    void *ctx;
} expr_env;

/* Evaluate text. Errors quote it. At most EXPR_BYTES long and EXPR_DEPTH deep; both sides of
 * and / or / if are evaluated only when needed. */
#define EXPR_BYTES 1024
#define EXPR_DEPTH 32
NODISCARD status expr_eval(str text, const expr_env *env, value *ret, error *err);

#endif
