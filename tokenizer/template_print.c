/* str() and repr() of values. Depth is counted: nested data of any depth ends in an error, not in
 * the end of the stack. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/template_run.h"
#include "tokenizer/template_text.h"

/* The shortest digits that read back as f, laid out as Python does: fixed for exponents from -4 to
 * 15, else with an exponent of at least two digits. */
void float_repr(double f, char out[32]) {
    if (!isfinite(f)) {
        snprintf(out, 32, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char e[32];
    for (int digits = 0; digits < 17; digits++) {
        snprintf(e, sizeof e, "%.*e", digits, f);
        if (strtod(e, NULL) == f) break;
    }
    char *mark = strchr(e, 'e');
    int exponent = atoi(mark + 1), fraction = (int)(mark - e) - 2 - (e[0] == '-');
    if (fraction < 0) fraction = 0;
    if (exponent >= -4 && exponent < 16) {
        snprintf(out, 32, "%.*f", MAX(fraction - exponent, 1), f);
        return;
    }
    size_t n = (size_t)(mark - e);
    memcpy(out, e, n);
    snprintf(out + n, 32 - n, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent) % 1000);
}

static void add_escaped(rt *r, uint32_t cp, char quote) {
    if (cp == '\\' || cp == (uint32_t)quote)
        rt_addf(r, "\\%c", (char)cp);
    else if (cp == '\n')
        rt_addz(r, "\\n");
    else if (cp == '\r')
        rt_addz(r, "\\r");
    else if (cp == '\t')
        rt_addz(r, "\\t");
    else if (cp < 0x100)
        rt_addf(r, "\\x%02x", cp);
    else if (cp < 0x10000)
        rt_addf(r, "\\u%04x", cp);
    else
        rt_addf(r, "\\U%08x", cp);
}

static void add_str_repr(rt *r, str s) {
    bool single = s.n && memchr(s.p, '\'', s.n), twice = s.n && memchr(s.p, '"', s.n);
    char quote = single && !twice ? '"' : '\'';
    rt_addc(r, quote);
    size_t plain = 0;
    for (size_t i = 0, n; i < s.n; i += n) {
        uint32_t cp;
        n = utf8_get(s.p + i, s.n - i, &cp);
        if (!n) {
            n = 1;
            continue;
        }
        if (cp != (uint32_t)quote && cp != '\\' && cp_is_printable(cp)) continue;
        rt_add(r, s.p + plain, i - plain);
        add_escaped(r, cp, quote);
        plain = i + n;
    }
    rt_add(r, s.p + plain, s.n - plain);
    rt_addc(r, quote);
}

static void add_items(rt *r, val v) {
    for (uint32_t i = 0; i < v.n; i++) {
        if (i) rt_addz(r, ", ");
        rt_add_repr(r, v.items[i]);
    }
}

static void add_dict(rt *r, const dict *d) {
    rt_addc(r, '{');
    for (uint32_t i = 0; i < d->n; i++) {
        if (i) rt_addz(r, ", ");
        rt_add_repr(r, d->e[i].key);
        rt_addz(r, ": ");
        rt_add_repr(r, d->e[i].value);
    }
    rt_addc(r, '}');
}

static void add_view(rt *r, val v) {
    rt_addf(r, "%s([", type_name(v));
    iter *it = iter_of(r, v);
    bool first = true;
    for (val x; iter_next(r, it, &x); first = false) {
        if (!first) rt_addz(r, ", ");
        rt_add_repr(r, x);
    }
    rt_addz(r, "])");
}

static void add_range(rt *r, const range *g) {
    rt_addf(r, "range(%lld, %lld", (long long)g->start, (long long)g->stop);
    if (g->step != 1) rt_addf(r, ", %lld", (long long)g->step);
    rt_addc(r, ')');
}

static void add_object(rt *r, val v) {
    switch ((vtype)v.type) {
    case V_NAMESPACE:
        rt_addz(r, "<Namespace ");
        add_dict(r, v.ns);
        rt_addc(r, '>');
        break;
    case V_MACRO:
        rt_addz(r, "<Macro ");
        if (v.macro->plan->name.type == V_NONE)
            rt_addz(r, "anonymous");
        else
            rt_add_repr(r, v.macro->plan->name);
        rt_addc(r, '>');
        break;
    case V_LOOP:
        rt_addf(r, "<LoopContext %lld/%lld>", (long long)v.loop->index0 + 1,
                (long long)loop_length(r, v.loop));
        break;
    case V_BOUND: rt_addf(r, "<method %s>", v.bound->m->sig.name); break;
    case V_BUILTIN: rt_addf(r, "<function %s>", v.builtin->sig.name); break;
    default: rt_addf(r, "<%s object>", type_name(v));
    }
}

static void add_compound(rt *r, val v) {
    rt_enter(r);
    switch ((vtype)v.type) {
    case V_LIST:
        rt_addc(r, '[');
        add_items(r, v);
        rt_addc(r, ']');
        break;
    case V_TUPLE:
        rt_addc(r, '(');
        add_items(r, v);
        rt_addz(r, v.n == 1 ? ",)" : ")");
        break;
    case V_DICT: add_dict(r, v.dict); break;
    case V_VIEW: add_view(r, v); break;
    default: add_object(r, v);
    }
    rt_leave(r);
}

void rt_add_repr(rt *r, val v) {
    char number[32];
    switch ((vtype)v.type) {
    case V_UNDEFINED: rt_addz(r, "Undefined"); break;
    case V_NONE: rt_addz(r, "None"); break;
    case V_BOOL: rt_addz(r, v.b ? "True" : "False"); break;
    case V_INT: rt_addf(r, "%lld", (long long)v.i); break;
    case V_FLOAT:
        float_repr(v.f, number);
        rt_addz(r, number);
        break;
    case V_STR:
        if (v.flags & VAL_MARKUP) rt_addz(r, "Markup(");
        add_str_repr(r, val_str(v));
        if (v.flags & VAL_MARKUP) rt_addc(r, ')');
        break;
    case V_RANGE: add_range(r, v.range); break;
    default: add_compound(r, v);
    }
}

void rt_add_str(rt *r, val v) {
    if (is_str(v))
        rt_add(r, v.s, v.n);
    else if (!is_undefined(v))
        rt_add_repr(r, v);
}

val soft_str(rt *r, val v) {
    if (is_str(v)) return v;
    if (is_undefined(v)) return val_strn("", 0);
    size_t mark = r->out.n;
    rt_add_repr(r, v);
    return rt_cut(r, mark);
}

val to_str(rt *r, val v) {
    v = soft_str(r, v);
    v.flags = 0;
    return v;
}

val to_repr(rt *r, val v) {
    size_t mark = r->out.n;
    rt_add_repr(r, v);
    return rt_cut(r, mark);
}

const char *repr_z(rt *r, val v) {
    return str_zcopy(r, to_repr(r, v));
}

const char *str_zcopy(rt *r, val v) {
    size_t n = MIN(v.n, 400u);
    char *z = rt_alloc(r, n + 1);
    memcpy(z, v.s, n);
    return z;
}
