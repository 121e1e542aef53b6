/* Expressions: a walk over the tree. Every node costs a step; depth is counted, so neither deep
 * data nor recursive macros reach the end of the C stack. */
#include "conf/limits.h"
#include "engine/base/mem.h"
#include "tokenizer/template_run.h"

static val eval_name(rt *r, const env *e, const node *n) {
    for (uint16_t i = 0; i < n->slot.hops; i++) e = e->up;
    val v = e->slot[n->slot.idx];
    return v.type == V_MISSING ? val_undefined(r, val_missing(), n->value) : v;
}

static val eval_items(rt *r, env *e, const node *n) {
    val *p = rt_array(r, n->items.n, sizeof *p);
    for (uint32_t i = 0; i < n->items.n; i++) p[i] = eval(r, e, n->items.p[i]);
    return n->kind == N_LIST ? val_list(p, n->items.n) : val_tuple(p, n->items.n);
}

static val eval_dict(rt *r, env *e, const node *n) {
    dict *d = dict_new(r, n->items.n / 2);
    for (uint32_t i = 0; i < n->items.n; i += 2) {
        val key = eval(r, e, n->items.p[i]);
        dict_set(r, d, key, eval(r, e, n->items.p[i + 1]));
    }
    return val_dict(d);
}

static val eval_slice(rt *r, env *e, const node *n) {
    val object = eval(r, e, n->a), part[3];
    for (int i = 0; i < 3; i++) part[i] = n->items.p[i] ? eval(r, e, n->items.p[i]) : val_none();
    return slice(r, object, part[0], part[1], part[2]);
}

static val eval_concat(rt *r, env *e, const node *n) {
    val v = to_str(r, eval(r, e, n->items.p[0]));
    for (uint32_t i = 1; i < n->items.n; i++)
        v = str_concat(r, v, to_str(r, eval(r, e, n->items.p[i])));
    v.flags = 0;
    return v;
}

static bool compare(rt *r, uint8_t op, val a, val b) {
    switch (op) {
    case T_EQ: return val_equal(r, a, b);
    case T_NE: return !val_equal(r, a, b);
    case T_LT: return val_order(r, a, b, "<");
    case T_LE: return val_order(r, a, b, "<=");
    case T_GT: return val_order(r, a, b, ">");
    case T_GE: return val_order(r, a, b, ">=");
    case OP_IN: return contains(r, b, a);
    default: return !contains(r, b, a);
    }
}

static val eval_compare(rt *r, env *e, const node *n) {
    val left = eval(r, e, n->a);
    for (uint32_t i = 0; i < n->items.n; i++) {
        val right = eval(r, e, n->items.p[i]);
        if (!compare(r, n->ops[i], left, right)) return val_bool(false);
        left = right;
    }
    return val_bool(true);
}

static val eval_cond(rt *r, env *e, const node *n) {
    if (is_true(r, eval(r, e, n->a))) return eval(r, e, n->b);
    if (n->c) return eval(r, e, n->c);
    char hint[160];
    snprintf(hint, sizeof hint,
             "the inline if-expression on line %u evaluated to false and no else section was "
             "defined.",
             n->line);
    return val_undefined_hint(r, hint);
}

/* --- calls */

static void add_star(rt *r, val star, vals *pos) {
    if (!is_iterable(star))
        rt_raise(r, "TypeError", "Value after * must be an iterable, not %s", type_name(star));
    iter *it = iter_of(r, star);
    for (val v; iter_next(r, it, &v);) vals_add(r, pos, v);
}

static void add_star_star(rt *r, val star, vals *names, vals *kw) {
    if (star.type != V_DICT)
        rt_raise(r, "TypeError", "argument after ** must be a mapping, not %s", type_name(star));
    for (uint32_t i = 0; i < star.dict->n; i++) {
        if (!is_str(star.dict->e[i].key)) rt_raise(r, "TypeError", "keywords must be strings");
        for (uint32_t k = 0; k < names->n; k++)
            if (val_equal(r, names->p[k], star.dict->e[i].key))
                rt_raise(r, "TypeError", "got multiple values for keyword argument %s",
                         repr_z(r, names->p[k]));
        vals_add(r, names, star.dict->e[i].key);
        vals_add(r, kw, star.dict->e[i].value);
    }
}

call_args eval_args(rt *r, env *e, const args_node *a) {
    call_args args = {.n_pos = a->pos.n, .n_kw = a->kw.n, .kw_names = a->kw_names};
    if (!a->pos.n && !a->kw.n && !a->star && !a->star_star) return args;
    val *p = rt_array(r, (size_t)a->pos.n + a->kw.n, sizeof *p);
    for (uint32_t i = 0; i < a->pos.n; i++) p[i] = eval(r, e, a->pos.p[i]);
    for (uint32_t i = 0; i < a->kw.n; i++) p[a->pos.n + i] = eval(r, e, a->kw.p[i]);
    args.pos = p;
    args.kw = p + a->pos.n;
    if (a->star) {
        vals pos = {0};
        for (uint32_t i = 0; i < args.n_pos; i++) vals_add(r, &pos, args.pos[i]);
        add_star(r, eval(r, e, a->star), &pos);
        args.pos = pos.p;
        args.n_pos = pos.n;
    }
    if (a->star_star) {
        vals names = {0}, kw = {0};
        for (uint32_t i = 0; i < args.n_kw; i++) {
            vals_add(r, &names, args.kw_names[i]);
            vals_add(r, &kw, args.kw[i]);
        }
        add_star_star(r, eval(r, e, a->star_star), &names, &kw);
        args.kw_names = names.p;
        args.kw = kw.p;
        args.n_kw = kw.n;
    }
    return args;
}

static val joiner_call(rt *r, cycler *c) {
    bool first = !c->used;
    c->used = true;
    return first ? val_strn("", 0) : c->items[0];
}

val call(rt *r, val function, const call_args *a) {
    val in[PARAMS_MAX];
    switch ((vtype)function.type) {
    case V_MACRO: return macro_call(r, function.macro, a);
    case V_LOOP: return loop_call(r, function.loop, a);
    case V_BOUND:
        bind_args(r, &function.bound->m->sig, NULL, a, in);
        return function.bound->m->run(r, function.bound->self, in, a);
    case V_BUILTIN:
        bind_args(r, &function.builtin->sig, NULL, a, in);
        return function.builtin->run(r, in, a);
    case V_JOINER: return joiner_call(r, function.cycler);
    case V_UNDEFINED: rt_raise_undefined(r, function);
    default: rt_raise(r, "TypeError", "'%s' object is not callable", type_name(function));
    }
}

/* Filters and tests: the parameters of the value in front and those in parentheses. */
val filter_run(rt *r, const filter *f, val v, const call_args *a) {
    val in[PARAMS_MAX];
    bind_args(r, &f->sig, &v, a, in);
    return f->run(r, in, a);
}

bool is_test_run(rt *r, const is_test *t, val v, const call_args *a) {
    val in[PARAMS_MAX];
    bind_args(r, &t->sig, &v, a, in);
    return t->run(r, in);
}

/* `block`: what a filter at the innermost end without operand works on (filter and set blocks). */
val eval_filter(rt *r, env *e, const node *n, const val *block) {
    val v = !n->a                             ? *block
            : block && n->a->kind == N_FILTER ? eval_filter(r, e, n->a, block)
                                              : eval(r, e, n->a);
    call_args args = eval_args(r, e, n->args);
    if (!n->filter)
        rt_raise(r, "TemplateRuntimeError", "No filter named '" STR_FMT "' found.",
                 STR_ARG(val_str(n->value)));
    return filter_run(r, n->filter, v, &args);
}

static val eval_test(rt *r, env *e, const node *n) {
    val v = eval(r, e, n->a);
    call_args args = eval_args(r, e, n->args);
    if (!n->test)
        rt_raise(r, "TemplateRuntimeError", "No test named '" STR_FMT "' found.",
                 STR_ARG(val_str(n->value)));
    return val_bool(is_test_run(r, n->test, v, &args));
}

static val eval_call(rt *r, env *e, const node *n) {
    val function = eval(r, e, n->a);
    call_args args = eval_args(r, e, n->args);
    return call(r, function, &args);
}

static val eval_tree(rt *r, env *e, const node *n) {
    switch (n->kind) {
    case N_LIST:
    case N_TUPLE: return eval_items(r, e, n);
    case N_DICT: return eval_dict(r, e, n);
    case N_ATTR: return get_attr(r, eval(r, e, n->a), n->value);
    case N_ITEM: {
        val object = eval(r, e, n->a);
        return get_item(r, object, eval(r, e, n->b));
    }
    case N_SLICE: return eval_slice(r, e, n);
    case N_CALL: return eval_call(r, e, n);
    case N_FILTER: return eval_filter(r, e, n, NULL);
    case N_TEST: return eval_test(r, e, n);
    case N_NEG: return negate(r, eval(r, e, n->a), false);
    case N_POS: return negate(r, eval(r, e, n->a), true);
    case N_NOT: return val_bool(!is_true(r, eval(r, e, n->a)));
    case N_AND: {
        val left = eval(r, e, n->a);
        return is_true(r, left) ? eval(r, e, n->b) : left;
    }
    case N_OR: {
        val left = eval(r, e, n->a);
        return is_true(r, left) ? left : eval(r, e, n->b);
    }
    case N_BINARY: {
        val left = eval(r, e, n->a);
        return binary_op(r, n->op, left, eval(r, e, n->b));
    }
    case N_CONCAT: return eval_concat(r, e, n);
    case N_COMPARE: return eval_compare(r, e, n);
    default: return eval_cond(r, e, n);
    }
}

val eval(rt *r, env *e, const node *n) {
    rt_tick(r, 1);
    if (n->kind == N_CONST) return n->value;
    if (n->kind == N_NAME) return eval_name(r, e, n);
    rt_enter(r);
    val v = eval_tree(r, e, n);
    rt_leave(r);
    return v;
}

/* --- parameters */

typedef struct param {
    str name;
    bool optional;
} param;

/* The next of "a,b=,*": false at the end or at "*". */
static bool param_next(const char **at, param *ret) {
    if (!**at || **at == '*') return false;
    const char *from = *at;
    while (**at && **at != ',' && **at != '=') ++*at;
    *ret = (param){.name = str_n(from, (size_t)(*at - from)), .optional = **at == '='};
    if (**at == '=') ++*at;
    if (**at == ',') ++*at;
    return true;
}

/* The wrong number of arguments, in the words of Python functions and of built-in ones. */
_Noreturn static void fail_arity(rt *r, const signature *s, uint32_t required, uint32_t max,
                                 uint32_t given) {
    const char *dot = strchr(s->name, '.'), *name = dot ? dot + 1 : s->name;
    uint32_t limit = given < required ? required : max;
    if (s->params[0] == '/' && !max)
        rt_raise(r, "TypeError", "%s() takes no arguments (%u given)", s->name, given);
    if (s->params[0] == '/' && max == 1 && required == 1)
        rt_raise(r, "TypeError", "%s() takes exactly one argument (%u given)", s->name, given);
    if (s->params[0] == '/')
        rt_raise(r, "TypeError", "%s expected at %s %u argument%s, got %u", name,
                 given < required ? "least" : "most", limit, limit == 1 ? "" : "s", given);
    required += s->hidden;
    max += s->hidden;
    given += s->hidden;
    if (required == max)
        rt_raise(r, "TypeError", "%s() takes %u positional argument%s but %u %s given", s->name,
                 max, max == 1 ? "" : "s", given, given == 1 ? "was" : "were");
    rt_raise(r, "TypeError", "%s() takes from %u to %u positional arguments but %u were given",
             s->name, required, max, given);
}

/* "f() missing 2 required positional arguments: 'a' and 'b'" */
_Noreturn static void fail_missing(rt *r, const signature *s, const val in[PARAMS_MAX]) {
    const char *at = s->params;
    str names[PARAMS_MAX];
    uint32_t n = 0, i = 0;
    for (param p; i < PARAMS_MAX && param_next(&at, &p); i++)
        if (!p.optional && in[i].type == V_MISSING) names[n++] = p.name;
    size_t mark = r->out.n;
    for (i = 0; i < n; i++) {
        rt_addz(r, !i ? "" : i + 1 < n ? ", " : n == 2 ? " and " : ", and ");
        rt_add_repr(r, val_strn(names[i].p, names[i].n));
    }
    const char *list = str_zcopy(r, rt_cut(r, mark));
    rt_raise(r, "TypeError", "%s() missing %u required positional argument%s: %s", s->name, n,
             n == 1 ? "" : "s", list);
}

_Noreturn static void fail_keyword(rt *r, const signature *s, val name, bool is_known) {
    if (is_known)
        rt_raise(r, "TypeError", "%s() got multiple values for argument %s", s->name,
                 repr_z(r, name));
    rt_raise(r, "TypeError", "%s() got an unexpected keyword argument %s", s->name,
             repr_z(r, name));
}

void bind_args(rt *r, const signature *s, const val *first, const call_args *a,
               val in[PARAMS_MAX]) {
    const char *at = s->params;
    bool no_keywords = *at == '/';
    if (no_keywords) {
        at++;
        if (a->n_kw) rt_raise(r, "TypeError", "%s() takes no keyword arguments", s->name);
    }
    uint32_t n = 0, required = 0, given = a->n_pos + (first != NULL), used = 0;
    bool missing = false;
    for (param p; n < PARAMS_MAX && param_next(&at, &p); n++) {
        in[n] = n < given ? (first ? (n ? a->pos[n - 1] : *first) : a->pos[n]) : val_missing();
        for (uint32_t k = 0; k < a->n_kw; k++) {
            if (!str_eq(val_str(a->kw_names[k]), p.name)) continue;
            if (in[n].type != V_MISSING) fail_keyword(r, s, a->kw_names[k], true);
            in[n] = a->kw[k];
            used++;
        }
        required += !p.optional;
        missing |= !p.optional && in[n].type == V_MISSING;
    }
    for (uint32_t i = n; i < PARAMS_MAX; i++) in[i] = val_missing();
    if (*at == '*' && !missing) return;
    if (given > n || (missing && no_keywords)) fail_arity(r, s, required, n, given);
    if (used == a->n_kw && !missing) return;
    for (uint32_t k = 0; k < a->n_kw; k++) {
        bool known = false;
        at = s->params;
        for (param p; param_next(&at, &p);) known |= str_eq(val_str(a->kw_names[k]), p.name);
        if (!known && *at != '*') fail_keyword(r, s, a->kw_names[k], false);
    }
    fail_missing(r, s, in);
}
