/* The functions a template can call by name. */
#include <time.h>

#include "conf/limits.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "tokenizer/template_run.h"

#define BUILTIN(name) static val name(rt *r, const val *in, const call_args *a)

static int64_t range_arg(rt *r, val v) {
    if (!is_int(v))
        rt_raise(r, "TypeError", "'%s' object cannot be interpreted as an integer", type_name(v));
    return int_of(v);
}

BUILTIN(g_range) {
    if (!a->n_pos) rt_raise(r, "TypeError", "range expected at least 1 argument, got 0");
    if (a->n_pos > 3)
        rt_raise(r, "TypeError", "range expected at most 3 arguments, got %u", a->n_pos);
    if (a->n_kw) rt_raise(r, "TypeError", "range() takes no keyword arguments");
    range *g = rt_alloc(r, sizeof *g);
    g->start = a->n_pos > 1 ? range_arg(r, a->pos[0]) : 0;
    g->stop = range_arg(r, a->pos[a->n_pos > 1]);
    g->step = a->n_pos > 2 ? range_arg(r, a->pos[2]) : 1;
    if (!g->step) rt_raise(r, "ValueError", "range() arg 3 must not be zero");
    uint64_t low = (uint64_t)g->start, high = (uint64_t)g->stop, by = (uint64_t)g->step, n = 0;
    if (g->step > 0 && g->start < g->stop) n = (high - low - 1) / by + 1;
    if (g->step < 0 && g->start > g->stop) n = (low - high - 1) / (0 - by) + 1;
    if (n > LIMIT_TEMPLATE_RANGE)
        rt_raise(r, "OverflowError",
                 "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                 LIMIT_TEMPLATE_RANGE);
    g->n = (int64_t)n;
    return (val){.type = V_RANGE, .range = g};
}

static void add_pairs(rt *r, dict *d, val v) {
    if (is_undefined(v)) rt_raise_undefined(r, v);
    if (v.type == V_DICT) {
        for (uint32_t i = 0; i < v.dict->n; i++)
            dict_set(r, d, v.dict->e[i].key, v.dict->e[i].value);
        return;
    }
    iter *it = iter_of(r, v);
    val x;
    for (int64_t i = 0; iter_next(r, it, &x); i++) {
        if (!is_iterable(x))
            rt_raise(r, "TypeError",
                     "cannot convert dictionary update sequence element #%lld to a sequence",
                     (long long)i);
        val pair = to_list(r, x);
        if (pair.n != 2)
            rt_raise(r, "ValueError",
                     "dictionary update sequence element #%lld has length %u; 2 is required",
                     (long long)i, pair.n);
        dict_set(r, d, pair.items[0], pair.items[1]);
    }
}

static dict *make_dict(rt *r, const call_args *a) {
    if (a->n_pos > 1)
        rt_raise(r, "TypeError", "dict expected at most 1 argument, got %u", a->n_pos);
    dict *d = dict_new(r, a->n_kw);
    if (a->n_pos) add_pairs(r, d, a->pos[0]);
    for (uint32_t i = 0; i < a->n_kw; i++) dict_set(r, d, a->kw_names[i], a->kw[i]);
    return d;
}
BUILTIN(g_dict) {
    return val_dict(make_dict(r, a));
}
BUILTIN(g_namespace) {
    return (val){.type = V_NAMESPACE, .ns = make_dict(r, a)};
}

BUILTIN(g_cycler) {
    if (!a->n_pos) rt_raise(r, "RuntimeError", "at least one item has to be provided");
    if (a->n_kw) rt_raise(r, "TypeError", "Cycler() takes no keyword arguments");
    cycler *c = rt_alloc(r, sizeof *c);
    *c = (cycler){.items = a->pos, .n = a->n_pos};
    return (val){.type = V_CYCLER, .cycler = c};
}
BUILTIN(g_joiner) {
    cycler *c = rt_alloc(r, sizeof *c);
    val *sep = rt_alloc(r, sizeof *sep);
    *sep = in[0].type == V_MISSING ? val_strz(", ") : in[0];
    *c = (cycler){.items = sep, .n = 1};
    return (val){.type = V_JOINER, .cycler = c};
}

BUILTIN(g_raise_exception) {
    val text = to_str(r, in[0]);
    rt_raise(r, "TemplateError", STR_FMT, STR_ARG(val_str(text)));
}

/* Local time as given by the limits, else the machine's. %f, %z and %Z as Python has them for a
 * time without zone. */
BUILTIN(g_strftime_now) {
    if (!is_str(in[0]))
        rt_raise(r, "TypeError", "strftime() argument 1 must be str, not %s", type_name(in[0]));
    struct tm tm;
    int64_t us = r->unix_time ? 0 : clock_unix_us();
    time_t t = (time_t)(r->unix_time ? r->unix_time : us / 1000000);
    if (r->unix_time)
        gmtime_r(&t, &tm);
    else
        localtime_r(&t, &tm);
    size_t mark = r->out.n;
    for (uint32_t i = 0; i < in[0].n; i++) {
        char c = in[0].s[i], form[4] = {'%', 0}, text[256];
        if (c != '%' || i + 1 == in[0].n) {
            rt_addc(r, c);
            continue;
        }
        c = form[1] = in[0].s[++i];
        if (c == '-' && i + 1 < in[0].n) form[2] = in[0].s[++i];
        if (c == 'f')
            rt_addf(r, "%06d", (int)(us % 1000000));
        else if (c != 'z' && c != 'Z')
            rt_add(r, text, strftime(text, sizeof text, form, &tm));
    }
    return rt_cut(r, mark);
}

BUILTIN(g_lipsum) {
    rt_raise(r, "TemplateRuntimeError", "the function lipsum is not supported");
}

static const builtin builtins[] = {
    {{"range", "*"}, g_range},
    {{"dict", "*"}, g_dict},
    {{"namespace", "*"}, g_namespace},
    {{"cycler", "*"}, g_cycler},
    {{"joiner", "sep="}, g_joiner},
    {{"raise_exception", "message"}, g_raise_exception},
    {{"strftime_now", "format"}, g_strftime_now},
    {{"lipsum", "*"}, g_lipsum},
};

val find_global(str name) {
    for (size_t i = 0; i < ARRAY_LEN(builtins); i++)
        if (str_eqz(name, builtins[i].sig.name))
            return (val){.type = V_BUILTIN, .builtin = &builtins[i]};
    return val_missing();
}
