/* The evaluator's parts and what they call of each other. Inside of the template engine only. */
#ifndef TOKENIZER_TEMPLATE_RUN_H
#define TOKENIZER_TEMPLATE_RUN_H

#include "tokenizer/template_ast.h"
#include "tokenizer/template_value.h"

/* --- variables: one activation of a function */
typedef struct env {
    struct env *up;
    val slot[];
} env;

env *env_new(rt *r, env *up, const func_plan *f);
void env_done(rt *r, env *e, const func_plan *f);
void scope_enter(rt *r, env *e, const scope_plan *s);

/* --- evaluation (template_eval.c, template_exec.c) */
val eval(rt *r, env *e, const node *n);
typedef enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
flow exec(rt *r, env *e, body b);
void assign(rt *r, env *e, const node *target, val v);
call_args eval_args(rt *r, env *e, const args_node *a);
val call(rt *r, val function, const call_args *a);
val eval_filter(rt *r, env *e, const node *n, const val *block);

/* --- macros and loops */
typedef struct macro {
    const macro_plan *plan;
    env *closure;
} macro;
val macro_call(rt *r, const macro *m, const call_args *a);

typedef struct loop {
    struct iter *it;
    val source, after, current, before, changed;
    int64_t index0, length, depth0; /* length: -1 = not known yet */
    const node *node;               /* of a recursive loop, else NULL */
    env *closure;
} loop;
int64_t loop_length(rt *r, loop *l);
bool loop_next(rt *r, loop *l, val *ret);
val loop_attr(rt *r, loop *l, str name); /* V_MISSING: no such attribute */
val loop_call(rt *r, loop *l, const call_args *a);

/* --- iteration (template_iter.c) */
typedef struct iter iter;
struct iter {
    const char *type_name;
    bool (*next)(rt *r, iter *it, val *ret);
    val source;
    iter *inner;
    int64_t i, n;
    const void *plan;
    void *state;
    bool is_done;
};
/* iter(): TypeError "'int' object is not iterable" if it cannot. */
iter *iter_of(rt *r, val v);
bool is_iterable(val v);
bool iter_next(rt *r, iter *it, val *ret);
val iter_val(iter *it);
iter *iter_new(rt *r, const char *type_name, bool (*next)(rt *, iter *, val *), val source);
/* reversed(): NULL if the value has no order to reverse. */
iter *iter_reversed(rt *r, val v);
val to_list(rt *r, val v);
val range_at(const range *g, int64_t i);

/* --- operators (template_ops.c) */
val binary_op(rt *r, uint8_t op, val a, val b);
val negate(rt *r, val v, bool plus);
bool contains(rt *r, val container, val x);
val slice(rt *r, val v, val start, val stop, val step);
int64_t index_int(rt *r, val v, const char *what);     /* an int, or TypeError */
val str_slice(rt *r, val s, int64_t from, int64_t to); /* code points */
val str_at(val s, int64_t i);                          /* V_MISSING: out of range */
val str_repeat(rt *r, val s, int64_t n);

/* --- attributes and items (template_attr.c) */
val get_attr(rt *r, val obj, val name); /* obj.name */
val get_item(rt *r, val obj, val key);  /* obj[key], falling back to attributes */
/* "a.b.0" as filters take it: parts looked up one after the other. V_NONE: the value itself. */
val get_path(rt *r, val obj, val path, val fallback);

/* --- functions, filters, methods, tests: one signature with named parameters */
enum { PARAMS_MAX = 8 };
typedef struct signature {
    const char *name;   /* as error texts name it */
    const char *params; /* "value,width=,first=": '=' marks what may be left out; "*": any */
    uint8_t hidden;     /* parameters that only Python counts */
} signature;
/* Fill in[PARAMS_MAX] in the order of params; V_MISSING for what was not given. `first` (may be
 * NULL) goes before the positional arguments. params that begin with '/' take no names. */
void bind_args(rt *r, const signature *s, const val *first, const call_args *a, val in[PARAMS_MAX]);

typedef struct method {
    signature sig;
    val (*run)(rt *r, val self, const val *in, const call_args *a);
} method;
typedef struct bound {
    val self;
    const method *m;
} bound;

typedef struct filter {
    const char *name;
    signature sig;
    val (*run)(rt *r, const val *in, const call_args *a); /* in[0] is the value */
} filter;
const filter *find_filter(str name);
val filter_run(rt *r, const filter *f, val in, const call_args *a);

typedef struct is_test {
    const char *name;
    signature sig;
    bool (*run)(rt *r, const val *in);
} is_test;
const is_test *find_is_test(str name);
bool is_test_run(rt *r, const is_test *t, val in, const call_args *a);

typedef struct builtin {
    signature sig;
    val (*run)(rt *r, const val *in, const call_args *a);
} builtin;
/* A global of that name, V_MISSING if there is none. */
val find_global(str name);

/* Method tables; NULL if the type has no such method. */
const method *str_method(str name);
const method *list_method(str name);
const method *tuple_method(str name);
const method *dict_method(str name);
const method *number_method(val v, str name);
val bind_method(rt *r, val self, const method *m);

/* --- text (template_format.c, template_json.c) */
val format_percent(rt *r, val format, val args);
val format_braces(rt *r, val format, const call_args *a);
val escape_html(rt *r, val v); /* a Markup string */
val to_json(rt *r, const val *in);

#endif
