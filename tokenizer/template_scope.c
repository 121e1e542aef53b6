/* Names to slots: Jinja's rules of which assignment a name sees, decided once per template.
 *
 * Jinja compiles each template to nested Python functions, and what a name means follows from that:
 * a scope (loop body, macro, with, set block) decides for each of its names, before it runs,
 * whether it starts unset, as a copy of the outer variable, or as the value in the rendering's
 * context. "set" in a loop therefore never leaks out, a macro sees the template's variables as they
 * are when it is called, and a name that any branch of an "if" assigns belongs to the scope around
 * the "if". This pass follows the same two steps: collect the names of one scope (analyse), then
 * walk it again, give each name its slot and open the scopes inside (resolve).
 *
 * Lookups are linear: a template has a few dozen names; NAMES_MAX bounds a hostile one. */
#include <string.h>

#include "engine/base/mem.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_run.h"

enum { NAMES_MAX = 4096 }; /* of all scopes together */

typedef struct func {
    func_plan *plan;
    struct func *up;
} func;

typedef struct symbol {
    str name;
    uint8_t load; /* load_kind */
    bool is_stored;
    uint16_t slot;
    slot_ref from;
} symbol;

typedef struct symbols {
    symbol *p;
    uint32_t n, cap;
} symbols;

typedef struct scope {
    struct scope *parent;
    func *func;
    symbols seen;     /* names of this scope */
    symbols slots;    /* every name that ever was in `seen`: keeps its slot over branches */
    uint32_t *stored; /* journal: entries of `seen` whose is_stored was set */
    uint32_t n_stored, cap_stored;
} scope;

typedef struct pass {
    parse_ctx *p;
    struct template *t;
    scope *scope;
    bool in_loop; /* break and continue are possible */
    bool soft;    /* in a conditional part: unknown filters fail when reached */
} pass;

static void analyse(pass *w, node *n);
static void resolve(pass *w, node *n);

/* --- symbols */

static symbol *symbol_add(pass *w, symbols *s, symbol x) {
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 8;
        symbol *p = parse_alloc(w->p, s->cap * sizeof *p);
        if (s->n) memcpy(p, s->p, s->n * sizeof *p);
        s->p = p;
    }
    s->p[s->n] = x;
    return &s->p[s->n++];
}

static symbol *symbol_find(const symbols *s, str name) {
    for (uint32_t i = s->n; i-- > 0;)
        if (str_eq(s->p[i].name, name)) return &s->p[i];
    return NULL;
}

static scope *scope_new(pass *w, func *f) {
    scope *s = parse_alloc(w->p, sizeof *s);
    s->parent = w->scope;
    s->func = f;
    return s;
}

static bool scope_ref(scope *from, func *f, str name, slot_ref *ret) {
    for (scope *s = from; s; s = s->parent) {
        const symbol *x = symbol_find(&s->seen, name);
        if (!x) continue;
        ret->idx = x->slot;
        ret->hops = 0;
        for (; f != s->func; f = f->up) ret->hops++;
        return true;
    }
    return false;
}

static uint16_t slot_new(pass *w, func *f) {
    if (++w->t->n_names > NAMES_MAX) parse_fail(w->p, 1, "more than %d variables", NAMES_MAX);
    return (uint16_t)f->plan->n_slots++;
}

static symbol *define(pass *w, str name, load_kind load, slot_ref from) {
    scope *s = w->scope;
    symbol *slot = symbol_find(&s->slots, name);
    if (!slot)
        slot = symbol_add(w, &s->slots, (symbol){.name = name, .slot = slot_new(w, s->func)});
    symbol *x = symbol_find(&s->seen, name);
    if (!x) x = symbol_add(w, &s->seen, (symbol){.name = name, .slot = slot->slot});
    x->load = (uint8_t)load;
    x->from = from;
    return x;
}

static void mark_stored(pass *w, symbol *x) {
    if (x->is_stored) return;
    scope *s = w->scope;
    x->is_stored = true;
    if (s->n_stored == s->cap_stored) {
        s->cap_stored = s->cap_stored ? s->cap_stored * 2 : 8;
        uint32_t *p = parse_alloc(w->p, s->cap_stored * sizeof *p);
        if (s->n_stored) memcpy(p, s->stored, s->n_stored * sizeof *p);
        s->stored = p;
    }
    s->stored[s->n_stored++] = (uint32_t)(x - s->seen.p);
}

static void name_load(pass *w, str name) {
    slot_ref ref;
    if (!scope_ref(w->scope, w->scope->func, name, &ref))
        define(w, name, LOAD_RESOLVE, (slot_ref){0});
}

static void name_store(pass *w, str name) {
    slot_ref ref;
    symbol *x = symbol_find(&w->scope->seen, name);
    if (!x) {
        bool outer = w->scope->parent && scope_ref(w->scope->parent, w->scope->func, name, &ref);
        x = define(w, name, outer ? LOAD_ALIAS : LOAD_UNSET, outer ? ref : (slot_ref){0});
    }
    mark_stored(w, x);
}

static void name_param(pass *w, str name) {
    mark_stored(w, define(w, name, LOAD_PARAM, (slot_ref){0}));
}

static uint16_t slot_of(pass *w, str name) {
    return symbol_find(&w->scope->seen, name)->slot;
}

/* --- the names of one scope */

static void analyse_body(pass *w, body b) {
    for (uint32_t i = 0; i < b.n; i++) analyse(w, b.p[i]);
}

static void analyse_target(pass *w, node *n, bool is_param) {
    if (n->kind == N_TUPLE) {
        for (uint32_t i = 0; i < n->items.n; i++) analyse_target(w, n->items.p[i], is_param);
    } else if (n->kind == N_NSREF) {
        name_load(w, val_str(n->a->value));
    } else if (is_param) {
        name_param(w, val_str(n->value));
    } else {
        name_store(w, val_str(n->value));
    }
}

/* One branch of an "if", on its own copy of the scope's names: returns what it added. */
typedef struct branch {
    symbols added;    /* new names */
    uint32_t *stored; /* names of before that it assigns */
    uint32_t n_stored;
} branch;

static branch analyse_branch(pass *w, body b) {
    scope *s = w->scope;
    uint32_t n = s->seen.n, n_stored = s->n_stored;
    analyse_body(w, b);
    branch r = {0};
    for (uint32_t i = n; i < s->seen.n; i++) symbol_add(w, &r.added, s->seen.p[i]);
    r.stored = parse_alloc(w->p, (s->n_stored - n_stored) * sizeof *r.stored);
    for (uint32_t i = n_stored; i < s->n_stored; i++) {
        if (s->stored[i] >= n) continue;
        r.stored[r.n_stored++] = s->stored[i];
        s->seen.p[s->stored[i]].is_stored = false;
    }
    s->seen.n = n;
    s->n_stored = n_stored;
    return r;
}

/* A name that not every branch assigns starts as what it is outside. */
static void merge_partial(pass *w, symbol *x) {
    slot_ref ref;
    bool outer = w->scope->parent && scope_ref(w->scope->parent, w->scope->func, x->name, &ref);
    x->load = outer ? LOAD_ALIAS : LOAD_RESOLVE;
    x->from = outer ? ref : (slot_ref){0};
}

static bool branch_stores(const branch *b, const symbol *x, uint32_t idx) {
    const symbol *own = symbol_find(&b->added, x->name);
    if (own) return own->is_stored;
    for (uint32_t i = 0; i < b->n_stored; i++)
        if (b->stored[i] == idx) return true;
    return false;
}

static void merge_branches(pass *w, const branch b[3]) {
    scope *s = w->scope;
    for (int k = 0; k < 3; k++) {
        for (uint32_t i = 0; i < b[k].added.n; i++) {
            const symbol *x = &b[k].added.p[i];
            define(w, x->name, (load_kind)x->load, x->from);
        }
    }
    for (uint32_t i = 0; i < s->seen.n; i++) {
        symbol *x = &s->seen.p[i];
        if (x->is_stored) continue;
        int count = 0;
        for (int k = 0; k < 3; k++) count += branch_stores(&b[k], x, i);
        if (!count) continue;
        mark_stored(w, x);
        if (count < 3) merge_partial(w, x);
    }
}

static void analyse_if(pass *w, node *n) {
    analyse(w, n->a);
    branch b[3];
    b[0] = analyse_branch(w, n->body);
    b[1] = analyse_branch(w, n->items); /* all elif together, as Jinja does */
    b[2] = analyse_branch(w, n->orelse);
    merge_branches(w, b);
}

static void analyse_child(void *ctx, node *child) {
    analyse(ctx, child);
}

static void analyse(pass *w, node *n) {
    if (!n) return;
    switch (n->kind) {
    case N_NAME: name_load(w, val_str(n->value)); break;
    case N_IF: analyse_if(w, n); break;
    case N_FOR:
    case N_FILTER_BLOCK:
    case N_CALL_BLOCK: analyse(w, n->b); break;
    case N_SET:
        analyse(w, n->b);
        analyse_target(w, n->a, false);
        break;
    case N_SET_BLOCK: analyse_target(w, n->a, false); break;
    case N_MACRO: name_store(w, val_str(n->a->value)); break;
    case N_WITH:
        for (uint32_t i = 1; i < n->items.n; i += 2) analyse(w, n->items.p[i]);
        break;
    case N_GENERATION: break;
    default: node_children(n, analyse_child, w);
    }
}

/* --- which of some names a body uses without assigning them first */

typedef struct undeclared {
    str names[3];
    bool found[3], hidden[3];
} undeclared;

static void find_undeclared(void *ctx, node *n);

static void hide_target(undeclared *u, const node *n) {
    if (n->kind == N_TUPLE)
        for (uint32_t i = 0; i < n->items.n; i++) hide_target(u, n->items.p[i]);
    for (int i = 0; i < 3 && n->kind == N_NAME; i++)
        if (!u->found[i] && str_eq(u->names[i], val_str(n->value))) u->hidden[i] = true;
}

static void hide_macro(undeclared *u, const macro_plan *m) {
    for (uint32_t k = 0; k < m->n_args; k++)
        for (int i = 0; i < 3; i++)
            if (!u->found[i] && str_eq(u->names[i], val_str(m->arg_names[k]))) u->hidden[i] = true;
}

static void find_undeclared(void *ctx, node *n) {
    undeclared *u = ctx;
    if (!n) return;
    if (n->kind == N_NAME)
        for (int i = 0; i < 3; i++)
            if (!u->hidden[i] && str_eq(u->names[i], val_str(n->value))) u->found[i] = true;
    if (n->kind == N_FOR || n->kind == N_SET || n->kind == N_SET_BLOCK) hide_target(u, n->a);
    if (n->kind == N_WITH)
        for (uint32_t i = 0; i < n->items.n; i += 2) hide_target(u, n->items.p[i]);
    if (n->kind == N_MACRO || n->kind == N_CALL_BLOCK) hide_macro(u, n->macro);
    node_children(n, find_undeclared, u);
}

static undeclared undeclared_in(body b, const char *x, const char *y, const char *z) {
    undeclared u = {.names = {str_z(x), str_z(y), str_z(z)}};
    for (uint32_t i = 0; i < b.n; i++) find_undeclared(&u, b.p[i]);
    return u;
}

/* --- give names their slots */

static void resolve_body(pass *w, body b) {
    for (uint32_t i = 0; i < b.n; i++) resolve(w, b.p[i]);
}

static void plan_scope(pass *w, scope_plan *plan) {
    const symbols *s = &w->scope->seen;
    plan->loads = parse_alloc(w->p, s->n * sizeof *plan->loads);
    for (uint32_t i = 0; i < s->n; i++) {
        const symbol *x = &s->p[i];
        if (x->load == LOAD_PARAM) continue;
        plan->loads[plan->n++] = (scope_load){
            .kind = x->load,
            .slot = x->slot,
            .from = x->from,
            .name = val_strn(x->name.p, x->name.n),
        };
    }
}

static void resolve_name(pass *w, node *n) {
    bool known = scope_ref(w->scope, w->scope->func, val_str(n->value), &n->slot);
    if (known) return;
    name_load(w, val_str(n->value));
    scope_ref(w->scope, w->scope->func, val_str(n->value), &n->slot);
}

static void resolve_target(pass *w, node *n) {
    if (n->kind == N_TUPLE)
        for (uint32_t i = 0; i < n->items.n; i++) resolve_target(w, n->items.p[i]);
    else
        resolve_name(w, n->kind == N_NSREF ? n->a : n);
}

static func *func_open(pass *w, func_plan *plan) {
    func *f = parse_alloc(w->p, sizeof *f);
    *f = (func){.plan = plan, .up = w->scope ? w->scope->func : NULL};
    if (f->up) f->up->plan->has_inner = true;
    plan->id = w->t->n_funcs++;
    return f;
}

/* What a nested scope changes in the pass, to be put back. */
static pass pass_enter(pass *w, scope *s) {
    pass saved = *w;
    w->scope = s;
    w->soft = false;
    return saved;
}

static void pass_leave(pass *w, pass saved) {
    *w = saved;
}

static void refuse_loop_target(void *ctx, node *n) {
    pass *w = ctx;
    if (!n) return;
    undeclared u = {.names = {STR("loop"), STR(""), STR("")}};
    if (n->kind == N_FOR || n->kind == N_SET || n->kind == N_SET_BLOCK) hide_target(&u, n->a);
    if (u.hidden[0])
        parse_fail(w->p, n->line, "Can't assign to special loop variable in for-loop target");
    node_children(n, refuse_loop_target, w);
}

static void resolve_for_body(pass *w, node *n, func *f) {
    for_plan *plan = n->loop;
    pass saved = pass_enter(w, scope_new(w, f));
    if (undeclared_in(n->body, "loop", "", "").found[0]) n->op |= FOR_LOOP_VAR;
    if (n->op) name_param(w, STR("loop"));
    analyse_target(w, n->a, true);
    analyse_body(w, n->body);
    w->in_loop = true;
    resolve_target(w, n->a);
    resolve_body(w, n->body);
    if (n->op) plan->loop_slot = slot_of(w, STR("loop"));
    plan_scope(w, &plan->loop);
    pass_leave(w, saved);
}

static void resolve_for_else(pass *w, node *n, func *f) {
    pass saved = pass_enter(w, scope_new(w, f));
    if (n->op & FOR_RECURSIVE) w->in_loop = false;
    analyse_body(w, n->orelse);
    resolve_body(w, n->orelse);
    plan_scope(w, &n->loop->orelse);
    pass_leave(w, saved);
}

static void resolve_for_test(pass *w, node *n) {
    func *f = func_open(w, &n->loop->test_func);
    pass saved = pass_enter(w, scope_new(w, f));
    analyse_target(w, n->loop->test_target, true);
    analyse(w, n->c);
    resolve_target(w, n->loop->test_target);
    resolve(w, n->c);
    plan_scope(w, &n->loop->test);
    pass_leave(w, saved);
}

static void resolve_for(pass *w, node *n) {
    refuse_loop_target(w, n);
    resolve(w, n->b);
    if (n->c) resolve_for_test(w, n);
    func *f = n->op & FOR_RECURSIVE ? func_open(w, &n->loop->func) : w->scope->func;
    resolve_for_body(w, n, f);
    resolve_for_else(w, n, f);
}

static void declare_specials(pass *w, node *n) {
    macro_plan *m = n->macro;
    undeclared u = undeclared_in(m->body, "caller", "kwargs", "varargs");
    bool own[3] = {0};
    for (uint32_t i = 0; i < m->n_args; i++)
        for (int k = 0; k < 3; k++)
            if (str_eq(u.names[k], val_str(m->arg_names[i]))) {
                own[k] = true;
                if (k == 0 && u.found[0] && i < m->n_args - m->n_defaults)
                    parse_fail(w->p, n->line,
                               "When defining macros or call blocks the special "
                               "\"caller\" argument must be omitted or be given a "
                               "default.");
            }
    m->explicit_caller = own[0];
    m->takes_caller = u.found[0];
    m->takes_kwargs = u.found[1] && !own[1];
    m->takes_varargs = u.found[2] && !own[2];
    if (m->takes_caller && !own[0]) name_param(w, u.names[0]);
    if (m->takes_kwargs) name_param(w, u.names[1]);
    if (m->takes_varargs) name_param(w, u.names[2]);
}

static void resolve_macro(pass *w, node *n) {
    macro_plan *m = n->macro;
    func *f = func_open(w, &m->func);
    pass saved = pass_enter(w, scope_new(w, f));
    w->in_loop = false;
    declare_specials(w, n);
    for (uint32_t i = 0; i < m->n_args; i++) name_param(w, val_str(m->arg_names[i]));
    for (uint32_t i = 0; i < m->n_defaults; i++) analyse(w, m->defaults[i]);
    analyse_body(w, m->body);
    for (uint32_t i = 0; i < m->n_args; i++) m->arg_slots[i] = slot_of(w, val_str(m->arg_names[i]));
    if (m->takes_caller) m->caller_slot = slot_of(w, STR("caller"));
    if (m->takes_kwargs) m->kwargs_slot = slot_of(w, STR("kwargs"));
    if (m->takes_varargs) m->varargs_slot = slot_of(w, STR("varargs"));
    for (uint32_t i = 0; i < m->n_defaults; i++) resolve(w, m->defaults[i]);
    resolve_body(w, m->body);
    plan_scope(w, &m->scope);
    pass_leave(w, saved);
}

static void resolve_inner(pass *w, node *n) {
    pass saved = pass_enter(w, scope_new(w, w->scope->func));
    for (uint32_t i = 0; n->kind == N_WITH && i < n->items.n; i += 2)
        analyse_target(w, n->items.p[i], true);
    analyse_body(w, n->body);
    if (n->kind == N_FILTER_BLOCK) analyse(w, n->b);
    for (uint32_t i = 0; n->kind == N_WITH && i < n->items.n; i += 2)
        resolve_target(w, n->items.p[i]);
    if (n->kind != N_WITH) resolve(w, n->b);
    resolve_body(w, n->body);
    plan_scope(w, n->scope);
    pass_leave(w, saved);
}

static void resolve_child(void *ctx, node *child) {
    resolve(ctx, child);
}

static void resolve_callee(pass *w, node *n) {
    if (n->kind == N_FILTER) {
        n->filter = find_filter(val_str(n->value));
        if (!n->filter && !w->soft)
            parse_fail(w->p, n->line, "No filter named '" STR_FMT "'.", STR_ARG(val_str(n->value)));
    } else {
        n->test = find_is_test(val_str(n->value));
        if (!n->test && !w->soft)
            parse_fail(w->p, n->line, "No test named '" STR_FMT "'.", STR_ARG(val_str(n->value)));
    }
}

static void resolve(pass *w, node *n) {
    if (!n) return;
    bool soft = w->soft;
    switch (n->kind) {
    case N_NAME: resolve_name(w, n); break;
    case N_FOR: resolve_for(w, n); break;
    case N_SET:
        resolve(w, n->b);
        resolve_target(w, n->a);
        break;
    case N_MACRO:
        resolve_macro(w, n);
        resolve_target(w, n->a);
        break;
    case N_CALL_BLOCK:
        resolve_macro(w, n);
        resolve(w, n->b);
        break;
    case N_GENERATION: resolve_macro(w, n); break;
    case N_SET_BLOCK:
        resolve_inner(w, n);
        resolve_target(w, n->a);
        break;
    case N_WITH:
        for (uint32_t i = 1; i < n->items.n; i += 2) resolve(w, n->items.p[i]);
        resolve_inner(w, n);
        break;
    case N_FILTER_BLOCK: resolve_inner(w, n); break;
    case N_BREAK:
    case N_CONTINUE:
        if (!w->in_loop)
            parse_fail(w->p, n->line, "'%s' outside loop",
                       n->kind == N_BREAK ? "break" : "continue");
        break;
    case N_FILTER:
    case N_TEST:
        resolve_callee(w, n);
        node_children(n, resolve_child, w);
        break;
    case N_IF:
    case N_COND: w->soft = true; /* fall through */
    default: node_children(n, resolve_child, w);
    }
    w->soft = soft;
}

/* --- children */

static void visit_body(body b, node_visit visit, void *ctx) {
    for (uint32_t i = 0; i < b.n; i++)
        if (b.p[i]) visit(ctx, b.p[i]);
}

static void visit_args(const args_node *a, node_visit visit, void *ctx) {
    visit_body(a->pos, visit, ctx);
    visit_body(a->kw, visit, ctx);
    if (a->star) visit(ctx, a->star);
    if (a->star_star) visit(ctx, a->star_star);
}

static void visit_macro(const macro_plan *m, node_visit visit, void *ctx) {
    for (uint32_t i = 0; i < m->n_defaults; i++) visit(ctx, m->defaults[i]);
    visit_body(m->body, visit, ctx);
}

void node_children(node *n, node_visit visit, void *ctx) {
    bool is_set = n->kind == N_FOR || n->kind == N_SET || n->kind == N_SET_BLOCK ||
                  n->kind == N_MACRO || n->kind == N_NSREF;
    if (n->kind == N_WITH) { /* values, then the body: targets are no children */
        for (uint32_t i = 1; i < n->items.n; i += 2) visit(ctx, n->items.p[i]);
        visit_body(n->body, visit, ctx);
        return;
    }
    if (n->a && !is_set) visit(ctx, n->a);
    if (n->b) visit(ctx, n->b);
    if (n->kind == N_CALL || n->kind == N_FILTER || n->kind == N_TEST)
        visit_args(n->args, visit, ctx);
    if (n->kind == N_MACRO || n->kind == N_CALL_BLOCK || n->kind == N_GENERATION)
        visit_macro(n->macro, visit, ctx);
    if (n->kind == N_IF) {
        visit_body(n->body, visit, ctx);
        visit_body(n->items, visit, ctx);
    } else {
        visit_body(n->items, visit, ctx);
        visit_body(n->body, visit, ctx);
    }
    visit_body(n->orelse, visit, ctx);
    if (n->c) visit(ctx, n->c);
}

void template_scopes(parse_ctx *p, struct template *t) {
    pass w = {.p = p, .t = t};
    func *f = func_open(&w, &t->func);
    w.scope = scope_new(&w, f);
    analyse_body(&w, t->body);
    resolve_body(&w, t->body);
    plan_scope(&w, &t->scope);
}
