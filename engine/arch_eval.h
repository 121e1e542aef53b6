/* Reading a family's tree by path with its expressions evaluated against one config.json: the
 * lower half of arch.c. */
#ifndef ENGINE_ARCH_EVAL_H
#define ENGINE_ARCH_EVAL_H

#include "engine/arch.h"
#include "engine/expr.h"

#define ARCH_VARS_MAX 96

typedef struct arch_var {
    const char *name;
    const json_t *candidates;
    int state; /* 0 untouched, 1 being resolved, 2 done */
    value v;
} arch_var;

typedef struct arch_eval {
    const family *f;
    const json_t *config;
    const char *config_path;
    tensor_names names;
    arch_var vars[ARCH_VARS_MAX];
    int n_vars;
    int32_t layer;          /* {i}; -1 outside layers */
    int32_t expert, head;   /* {e}, {h}; -1 outside */
    const char *prefix;     /* {p} */
    const json_t *override; /* per_layer's `set` for this layer, or NULL */
} arch_eval;

NODISCARD status arch_eval_init(arch_eval *e, const family *f, const json_t *config,
                                const char *config_path, tensor_names names, error *err);

/* Node at a dotted path of the family, NULL when absent or null. */
const json_t *arch_node(const arch_eval *e, const char *path);
/* ERR_UNSUPPORTED naming file:path. */
status arch_unsupported(const arch_eval *e, const char *path, const char *what, error *err);

/* A scalar as an expression; `fallback` when absent. per_layer's set wins over the file. */
NODISCARD status arch_value(arch_eval *e, const char *path, value fallback, value *ret, error *err);
NODISCARD status arch_real(arch_eval *e, const char *path, double fallback, double *ret,
                           error *err);
NODISCARD status arch_bool(arch_eval *e, const char *path, bool fallback, bool *ret, error *err);
/* A word ("rms"): literal, "=expression", or a list of candidates as in vars. Borrowed. */
NODISCARD status arch_word(arch_eval *e, const json_t *node, const char *path, const char *fallback,
                           str *ret, error *err);
/* Any scalar node (not by path): for mlp alternatives. */
NODISCARD status arch_node_value(arch_eval *e, const json_t *node, const char *path, value fallback,
                                 value *ret, error *err);
/* A variable as a whole number in [min, max]. */
NODISCARD status arch_dim(arch_eval *e, const char *var, int32_t min, int32_t max, int32_t *ret,
                          error *err);
NODISCARD status arch_var_value(arch_eval *e, str name, value *ret, error *err);

/* The tensor name of a reference with {i}, {e}, {h}, {p}, {L} put in: fresh (mem_free), NULL when
 * the reference is absent, null, "" or its `if` does not hold. "@pack.part" comes back as it is. */
NODISCARD status arch_tensor_name(arch_eval *e, const json_t *ref, const char *path, char **ret,
                                  error *err);

/* Is the tensor stored [in, out], by the family's `transpose` list? */
bool arch_is_transposed(const arch_eval *e, const char *name);

#endif
