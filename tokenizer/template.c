/* template_parse and template_render: the two ends of the engine.
 *
 *   source -> tokens (template_lex) -> tree (template_parse, template_expr) -> slots
 *   (template_scope); then, for each rendering, a walk over the tree (template_exec, template_eval)
 *
 * The only places where errors land: both set a jump target, everything below leaves by it. Nothing
 * below holds anything but arena memory and the rendering's output buffer, which are released
 * here. */
#include "tokenizer/template.h"

#include "conf/limits.h"
#include "engine/base/arena.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "tokenizer/template_run.h"

/* The tree takes a multiple of its source; this bounds it for the longest allowed one. */
enum { TREE_BYTES_MAX = 256 << 20 };

static void parse_all(parse_ctx *p, template *t, str source) {
    template_lex(p, source);
    t->body = template_statements(p);
    template_scopes(p, t);
}

status template_parse(str source, template **ret, error *err) {
    if (source.n > LIMIT_TEMPLATE_BYTES)
        return error_set(err, ERR_TOO_LARGE, "chat template: more than %d bytes",
                         LIMIT_TEMPLATE_BYTES);
    arena *mem = arena_new(TREE_BYTES_MAX);
    template *t = arena_alloc(mem, sizeof *t);
    error local;
    parse_ctx p = {.mem = mem, .err = err ? err : &local};
    t->mem = mem;
    if (setjmp(p.fail)) {
        arena_free(mem);
        return p.st;
    }
    parse_all(&p, t, source);
    *ret = t;
    return OK;
}

void template_free(template *t) {
    if (t) arena_free(t->mem);
}

static void render_all(rt *r) {
    const template *t = r->t;
    r->env_free = rt_array(r, t->n_funcs, sizeof *r->env_free);
    r->context = dict_new(r, 0);
    env *e = env_new(r, NULL, &t->func);
    scope_enter(r, e, &t->scope);
    exec(r, e, t->body);
}

status template_render(const template *t, const json_t *vars, const template_limits *limits,
                       strbuf *out, error *err) {
    static const template_limits none;
    if (!limits) limits = &none;
    error local;
    rt *r = mem_calloc(1, sizeof *r);
    r->mem = arena_new(LIMIT_ARENA_BYTES);
    r->t = t;
    r->vars = vars;
    r->err = err ? err : &local;
    r->steps = limits->steps_max ? limits->steps_max : LIMIT_TEMPLATE_STEPS;
    r->output_max = limits->output_max ? limits->output_max : LIMIT_TEMPLATE_OUTPUT;
    r->out.max = r->output_max;
    r->deadline_us = clock_us() + (limits->time_us_max ? limits->time_us_max : LIMIT_TEMPLATE_US);
    r->unix_time = limits->unix_time;
    if (!setjmp(r->fail)) {
        rt_clock(r);
        render_all(r);
        if (!strbuf_add(out, strbuf_str(&r->out)))
            r->st = error_set(r->err, ERR_TOO_LARGE, "chat template: the output is too long");
    }
    status st = r->st;
    strbuf_done(&r->out);
    arena_free(r->mem);
    mem_free(r);
    return st;
}
