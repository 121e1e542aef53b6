/* tojson as transformers defines it: json.dumps with ensure_ascii off, no HTML escapes. */
#include <math.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/template_run.h"
#include "tokenizer/template_seq.h"

typedef struct dump {
    rt *r;
    str item, key, indent; /* separators; indentation per level, p == NULL for one line */
    bool ascii, sort;
    int level;
} dump;

static void add_string(dump *d, str s) {
    rt *r = d->r;
    rt_addc(r, '"');
    size_t plain = 0;
    for (size_t i = 0, n; i < s.n; i += n) {
        unsigned char c = (unsigned char)s.p[i];
        n = 1;
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !d->ascii)) continue;
        uint32_t cp = c;
        if (c >= 0x80 && !(n = utf8_get(s.p + i, s.n - i, &cp))) n = 1, cp = 0xfffd;
        rt_add(r, s.p + plain, i - plain);
        plain = i + n;
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *simple = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
        if (simple)
            rt_addf(r, "\\%c", to[simple - from]);
        else if (cp < 0x10000)
            rt_addf(r, "\\u%04x", cp);
        else
            rt_addf(r, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + (cp & 0x3ff));
    }
    rt_add(r, s.p + plain, s.n - plain);
    rt_addc(r, '"');
}

static void add_value(dump *d, val v);

static void add_float(dump *d, double f) {
    char text[32];
    float_repr(f, text);
    rt_addz(d->r, isnan(f) ? "NaN" : isinf(f) ? (f < 0 ? "-Infinity" : "Infinity") : text);
}

static void add_newline(dump *d) {
    if (!d->indent.p) return;
    rt_addc(d->r, '\n');
    for (int i = 0; i < d->level; i++) rt_add(d->r, d->indent.p, d->indent.n);
}

static void add_separator(dump *d, bool first) {
    if (!first) rt_add(d->r, d->item.p, d->item.n);
    add_newline(d);
}

static void add_array(dump *d, val v) {
    if (!v.n) {
        rt_addz(d->r, "[]");
        return;
    }
    rt_addc(d->r, '[');
    d->level++;
    for (uint32_t i = 0; i < v.n; i++) {
        add_separator(d, i == 0);
        add_value(d, v.items[i]);
    }
    d->level--;
    add_newline(d);
    rt_addc(d->r, ']');
}

static void add_key(dump *d, val key) {
    switch ((vtype)key.type) {
    case V_STR: add_string(d, val_str(key)); return;
    case V_NONE:
    case V_BOOL:
    case V_INT:
    case V_FLOAT:
        rt_addc(d->r, '"');
        add_value(d, key);
        rt_addc(d->r, '"');
        return;
    default:
        rt_raise(d->r, "TypeError", "keys must be str, int, float, bool or None, not %s",
                 type_name(key));
    }
}

static void add_object(dump *d, const dict *o) {
    if (!o->n) {
        rt_addz(d->r, "{}");
        return;
    }
    const uint32_t *order = NULL;
    if (d->sort) {
        val *keys = rt_array(d->r, o->n, sizeof *keys);
        for (uint32_t i = 0; i < o->n; i++) keys[i] = o->e[i].key;
        order = sort_order(d->r, keys, o->n, false);
    }
    rt_addc(d->r, '{');
    d->level++;
    for (uint32_t i = 0; i < o->n; i++) {
        const dict_entry *e = &o->e[order ? order[i] : i];
        add_separator(d, i == 0);
        add_key(d, e->key);
        rt_add(d->r, d->key.p, d->key.n);
        add_value(d, e->value);
    }
    d->level--;
    add_newline(d);
    rt_addc(d->r, '}');
}

static void add_value(dump *d, val v) {
    rt_tick(d->r, 1);
    rt_enter(d->r);
    switch ((vtype)v.type) {
    case V_NONE: rt_addz(d->r, "null"); break;
    case V_BOOL: rt_addz(d->r, v.b ? "true" : "false"); break;
    case V_INT: rt_addf(d->r, "%lld", (long long)v.i); break;
    case V_FLOAT: add_float(d, v.f); break;
    case V_STR: add_string(d, val_str(v)); break;
    case V_LIST:
    case V_TUPLE: add_array(d, v); break;
    case V_DICT: add_object(d, v.dict); break;
    default:
        rt_raise(d->r, "TypeError", "Object of type %s is not JSON serializable", type_name(v));
    }
    rt_leave(d->r);
}

/* separators=(item, key) */
static void set_separators(dump *d, val v) {
    if (v.type == V_MISSING || v.type == V_NONE) {
        d->item = d->indent.p ? STR(",") : STR(", ");
        d->key = STR(": ");
        return;
    }
    if ((v.type != V_TUPLE && v.type != V_LIST) || v.n != 2 || !is_str(v.items[0]) ||
        !is_str(v.items[1]))
        rt_raise(d->r, "TypeError", "tojson: separators must be two strings");
    d->item = val_str(v.items[0]);
    d->key = val_str(v.items[1]);
}

/* in: value, ensure_ascii, indent, separators, sort_keys */
val to_json(rt *r, const val *in) {
    dump d = {.r = r, .ascii = is_true(r, in[1]), .sort = is_true(r, in[4])};
    val indent = in[2];
    if (is_int(indent))
        d.indent = val_str(str_repeat(r, val_strn(" ", 1), int_of(indent)));
    else if (is_str(indent))
        d.indent = str_n(indent.n ? indent.s : "", indent.n);
    else if (indent.type != V_MISSING && indent.type != V_NONE)
        rt_raise(r, "TypeError", "can't multiply sequence by non-int of type '%s'",
                 type_name(indent));
    set_separators(&d, in[3]);
    size_t mark = r->out.n;
    add_value(&d, in[0]);
    return rt_cut(r, mark);
}
