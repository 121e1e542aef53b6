/* Statements, macros and loops. Text goes to the end of the one output buffer; what must not be
 * printed yet (macro results, set and filter blocks) is cut off that end again. */
#include "engine/base/mem.h"
#include "tokenizer/template_run.h"

/* --- variables */

/* Activations are reused once no inner function can hold on to them. */
env *env_new(rt *r, env *up, const func_plan *f) {
    env *e = r->env_free[f->id];
    size_t bytes = sizeof *e + f->n_slots * sizeof e->slot[0];
    if (e) {
        r->env_free[f->id] = e->up;
        memset(e, 0, bytes);
    } else {
        e = rt_alloc(r, bytes);
    }
    e->up = up;
    return e;
}

void env_done(rt *r, env *e, const func_plan *f) {
    if (f->has_inner) return;
    e->up = r->env_free[f->id];
    r->env_free[f->id] = e;
}

static val *slot_at(env *e, slot_ref ref) {
    for (uint16_t i = 0; i < ref.hops; i++) e = e->up;
    return &e->slot[ref.idx];
}

/* A name of the context: converted when first asked for, since loops and macros ask again. */
static val resolve_context(rt *r, val name) {
    const val *known = dict_get(r, r->context, name);
    if (known) return *known;
    const json_t *j = json_object_getn(r->vars, name.s, name.n);
    val v = j ? val_from_json(r, j) : find_global(val_str(name));
    dict_set(r, r->context, name, v);
    return v;
}

void scope_enter(rt *r, env *e, const scope_plan *s) {
    for (uint32_t i = 0; i < s->n; i++) {
        const scope_load *l = &s->loads[i];
        e->slot[l->slot] = l->kind == LOAD_RESOLVE ? resolve_context(r, l->name)
                           : l->kind == LOAD_ALIAS ? *slot_at(e, l->from)
                                                   : val_missing();
    }
}

/* --- assignment */

static void unpack(rt *r, env *e, const node *target, val v) {
    if (!is_iterable(v))
        rt_raise(r, "TypeError", "cannot unpack non-iterable %s object", type_name(v));
    uint32_t want = target->items.n, n = 0;
    val *parts = rt_array(r, want, sizeof *parts);
    iter *it = iter_of(r, v);
    for (val x; iter_next(r, it, &x); n++) {
        if (n == want) rt_raise(r, "ValueError", "too many values to unpack (expected %u)", want);
        parts[n] = x;
    }
    if (n < want)
        rt_raise(r, "ValueError", "not enough values to unpack (expected %u, got %u)", want, n);
    for (uint32_t i = 0; i < want; i++) assign(r, e, target->items.p[i], parts[i]);
}

static dict *namespace_of(rt *r, env *e, const node *n) {
    val v = *slot_at(e, n->a->slot);
    if (v.type != V_NAMESPACE)
        rt_raise(r, "TemplateRuntimeError", "cannot assign attribute on non-namespace object");
    return v.ns;
}

void assign(rt *r, env *e, const node *target, val v) {
    rt_enter(r);
    if (target->kind == N_NAME)
        *slot_at(e, target->slot) = v;
    else if (target->kind == N_NSREF)
        dict_set(r, namespace_of(r, e, target), target->value, v);
    else
        unpack(r, e, target, v);
    rt_leave(r);
}

/* Namespaces are checked before the right side is evaluated. */
static void check_namespaces(rt *r, env *e, const node *target) {
    if (target->kind == N_NSREF) namespace_of(r, e, target);
    for (uint32_t i = 0; target->kind == N_TUPLE && i < target->items.n; i++)
        check_namespaces(r, e, target->items.p[i]);
}

/* --- macros */

static val macro_new(rt *r, env *e, const node *n) {
    macro *m = rt_alloc(r, sizeof *m);
    *m = (macro){.plan = n->macro, .closure = e};
    return (val){.type = V_MACRO, .macro = m};
}

static const char *macro_name(rt *r, const macro_plan *m) {
    return repr_z(r, m->name);
}

/* Arguments to slots, by Jinja's order: positional, by name, caller, the rest. */
static void macro_bind(rt *r, const macro_plan *m, env *e, const call_args *a) {
    bool *used = rt_alloc(r, a->n_kw + 1);
    bool found_caller = a->n_pos >= m->n_args ? m->explicit_caller : false;
    for (uint32_t i = 0; i < m->n_args; i++) {
        val v = i < a->n_pos ? a->pos[i] : val_missing();
        for (uint32_t k = 0; i >= a->n_pos && k < a->n_kw; k++) {
            if (used[k] || !val_equal(r, a->kw_names[k], m->arg_names[i])) continue;
            v = a->kw[k];
            used[k] = true;
        }
        if (i >= a->n_pos && str_eqz(val_str(m->arg_names[i]), "caller")) found_caller = true;
        e->slot[m->arg_slots[i]] = v;
    }
    dict *rest = m->takes_kwargs ? dict_new(r, 0) : NULL;
    val caller = val_none();
    for (uint32_t k = 0; k < a->n_kw; k++) {
        bool is_caller = str_eqz(val_str(a->kw_names[k]), "caller");
        if (used[k]) continue;
        if (is_caller && m->takes_caller && !found_caller)
            caller = a->kw[k];
        else if (rest)
            dict_set(r, rest, a->kw_names[k], a->kw[k]);
        else if (is_caller)
            rt_raise(r, "TypeError",
                     "macro %s was invoked with two values for the special caller "
                     "argument. This is most likely a bug.",
                     macro_name(r, m));
        else
            rt_raise(r, "TypeError", "macro %s takes no keyword argument %s", macro_name(r, m),
                     repr_z(r, a->kw_names[k]));
    }
    if (m->takes_caller && !found_caller)
        e->slot[m->caller_slot] =
            caller.type == V_NONE ? val_undefined_hint(r, "No caller defined") : caller;
    if (rest) e->slot[m->kwargs_slot] = val_dict(rest);
    uint32_t extra = a->n_pos > m->n_args ? a->n_pos - m->n_args : 0;
    if (m->takes_varargs)
        e->slot[m->varargs_slot] = val_tuple(extra ? a->pos + m->n_args : NULL, extra);
    else if (extra)
        rt_raise(r, "TypeError", "macro %s takes not more than %u argument(s)", macro_name(r, m),
                 m->n_args);
}

static void macro_defaults(rt *r, const macro_plan *m, env *e) {
    for (uint32_t i = 0; i < m->n_args; i++) {
        val *v = &e->slot[m->arg_slots[i]];
        if (v->type != V_MISSING) continue;
        uint32_t first = m->n_args - m->n_defaults;
        if (i >= first) {
            *v = eval(r, e, m->defaults[i - first]);
            continue;
        }
        char hint[160];
        snprintf(hint, sizeof hint, "parameter %s was not provided", repr_z(r, m->arg_names[i]));
        *v = val_undefined_hint(r, hint);
    }
}

val macro_call(rt *r, const macro *m, const call_args *a) {
    rt_enter(r);
    env *e = env_new(r, m->closure, &m->plan->func);
    macro_bind(r, m->plan, e, a);
    scope_enter(r, e, &m->plan->scope);
    macro_defaults(r, m->plan, e);
    size_t mark = r->out.n;
    exec(r, e, m->plan->body);
    env_done(r, e, &m->plan->func);
    rt_leave(r);
    return rt_cut(r, mark);
}

static void exec_call_block(rt *r, env *e, const node *n) {
    val caller = macro_new(r, e, n);
    val function = eval(r, e, n->b->a);
    call_args a = eval_args(r, e, n->b->args);
    val *names = rt_array(r, a.n_kw + 1, sizeof *names), *kw = rt_array(r, a.n_kw + 1, sizeof *kw);
    for (uint32_t i = 0; i < a.n_kw; i++) {
        names[i] = a.kw_names[i];
        kw[i] = a.kw[i];
    }
    names[a.n_kw] = val_strz("caller");
    kw[a.n_kw++] = caller;
    a.kw_names = names;
    a.kw = kw;
    rt_add_str(r, call(r, function, &a));
}

/* --- loops */

/* What the targets hold now: a tuple target gives a tuple, whatever was unpacked into it. */
static val target_value(rt *r, env *e, const node *target, val v) {
    if (target->kind != N_TUPLE) return v;
    val *p = rt_array(r, target->items.n, sizeof *p);
    for (uint32_t i = 0; i < target->items.n; i++) {
        const node *part = target->items.p[i];
        p[i] = target_value(r, e, part, part->kind == N_NAME ? *slot_at(e, part->slot) : v);
    }
    return val_tuple(p, target->items.n);
}

/* The loop's filter: binds the target in a scope of its own and tests. */
static bool for_filter_next(rt *r, iter *it, val *ret) {
    const node *n = it->plan;
    env *e = it->state;
    while (iter_next(r, it->inner, ret)) {
        assign(r, e, n->loop->test_target, *ret);
        if (!is_true(r, eval(r, e, n->c))) continue;
        *ret = target_value(r, e, n->loop->test_target, *ret);
        return true;
    }
    return false;
}

static val for_filter(rt *r, env *closure, const node *n, val source) {
    iter *it = iter_new(r, "generator", for_filter_next, source);
    env *e = env_new(r, closure, &n->loop->test_func);
    scope_enter(r, e, &n->loop->test);
    it->inner = iter_of(r, source);
    it->plan = n;
    it->state = e;
    return iter_val(it);
}

bool loop_next(rt *r, loop *l, val *ret) {
    val v = l->after;
    if (v.type != V_MISSING)
        l->after = val_missing();
    else if (!iter_next(r, l->it, &v))
        return false;
    l->index0++;
    l->before = l->current;
    l->current = v;
    *ret = v;
    return true;
}

/* Run the body over source in e; `closure` is where the filter's names come from. */
static flow run_loop(rt *r, env *e, env *closure, const node *n, val source, int64_t depth0) {
    const for_plan *plan = n->loop;
    if (n->c) source = for_filter(r, closure, n, source);
    loop *l = NULL;
    iter *it = iter_of(r, source);
    if (n->op) {
        l = rt_alloc(r, sizeof *l);
        *l = (loop){.it = it, .source = source, .index0 = -1, .length = -1, .depth0 = depth0};
        if (n->op & FOR_RECURSIVE) l->node = n, l->closure = closure;
    }
    bool finished_one = false; /* reached the end of the body: what the else branch asks */
    for (val v; l ? loop_next(r, l, &v) : iter_next(r, it, &v);) {
        rt_tick(r, 1);
        assign(r, e, n->a, v);
        if (l) e->slot[plan->loop_slot] = (val){.type = V_LOOP, .loop = l};
        scope_enter(r, e, &plan->loop);
        flow f = exec(r, e, n->body);
        if (f == FLOW_BREAK) break;
        if (f == FLOW_ON) finished_one = true;
    }
    if (finished_one || !n->orelse.n) return FLOW_ON;
    scope_enter(r, e, &plan->orelse);
    return exec(r, e, n->orelse);
}

static val run_recursive(rt *r, env *closure, const node *n, val source, int64_t depth0) {
    rt_enter(r);
    env *e = env_new(r, closure, &n->loop->func);
    size_t mark = r->out.n;
    run_loop(r, e, closure, n, source, depth0);
    env_done(r, e, &n->loop->func);
    rt_leave(r);
    return rt_cut(r, mark);
}

val loop_call(rt *r, loop *l, const call_args *a) {
    static const signature sig = {"LoopContext.__call__", "iterable", 1};
    val in[PARAMS_MAX];
    bind_args(r, &sig, NULL, a, in);
    if (!l->node)
        rt_raise(r, "TypeError",
                 "The loop must have the 'recursive' marker to be called recursively.");
    return run_recursive(r, l->closure, l->node, in[0], l->depth0 + 1);
}

static flow exec_for(rt *r, env *e, const node *n) {
    val source = eval(r, e, n->b);
    if (!(n->op & FOR_RECURSIVE)) return run_loop(r, e, e, n, source, 0);
    rt_add_str(r, run_recursive(r, e, n, source, 0));
    return FLOW_ON;
}

/* --- blocks */

static flow exec_if(rt *r, env *e, const node *n) {
    if (is_true(r, eval(r, e, n->a))) return exec(r, e, n->body);
    for (uint32_t i = 0; i < n->items.n; i++)
        if (is_true(r, eval(r, e, n->items.p[i]->a))) return exec(r, e, n->items.p[i]->body);
    return exec(r, e, n->orelse);
}

/* The text of a block, filtered; FLOW_ON only if it was not left by break or continue. */
static flow capture(rt *r, env *e, const node *n, val *ret) {
    size_t mark = r->out.n;
    scope_enter(r, e, n->scope);
    flow f = exec(r, e, n->body);
    *ret = rt_cut(r, mark);
    if (f == FLOW_ON && n->b) *ret = eval_filter(r, e, n->b, ret);
    return f;
}

static flow exec_set_block(rt *r, env *e, const node *n) {
    val v;
    flow f = capture(r, e, n, &v);
    if (f == FLOW_ON) assign(r, e, n->a, v);
    return f;
}

static flow exec_filter_block(rt *r, env *e, const node *n) {
    val v;
    flow f = capture(r, e, n, &v);
    if (f == FLOW_ON) rt_add_str(r, v);
    return f;
}

static flow exec_with(rt *r, env *e, const node *n) {
    scope_enter(r, e, n->scope);
    for (uint32_t i = 0; i < n->items.n; i += 2)
        assign(r, e, n->items.p[i], eval(r, e, n->items.p[i + 1]));
    return exec(r, e, n->body);
}

static flow exec_one(rt *r, env *e, const node *n) {
    switch (n->kind) {
    case N_DATA: rt_add(r, n->value.s, n->value.n); return FLOW_ON;
    case N_PRINT: rt_add_str(r, eval(r, e, n->a)); return FLOW_ON;
    case N_IF: return exec_if(r, e, n);
    case N_FOR: return exec_for(r, e, n);
    case N_SET:
        check_namespaces(r, e, n->a);
        assign(r, e, n->a, eval(r, e, n->b));
        return FLOW_ON;
    case N_SET_BLOCK: return exec_set_block(r, e, n);
    case N_MACRO: assign(r, e, n->a, macro_new(r, e, n)); return FLOW_ON;
    case N_CALL_BLOCK: exec_call_block(r, e, n); return FLOW_ON;
    case N_FILTER_BLOCK: return exec_filter_block(r, e, n);
    case N_WITH: return exec_with(r, e, n);
    case N_GENERATION: rt_add_str(r, call(r, macro_new(r, e, n), &(call_args){0})); return FLOW_ON;
    case N_BREAK: return FLOW_BREAK;
    default: return FLOW_CONTINUE;
    }
}

flow exec(rt *r, env *e, body b) {
    rt_enter(r);
    flow f = FLOW_ON;
    for (uint32_t i = 0; i < b.n && f == FLOW_ON; i++) {
        rt_tick(r, 1);
        f = exec_one(r, e, b.p[i]);
    }
    rt_leave(r);
    return f;
}
