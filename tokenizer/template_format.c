/* The two formatting languages of Python strings: "%s" % args and "{}".format(args). */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/template_run.h"
#include "tokenizer/template_strings.h"

/* One conversion, from either language. */
typedef struct spec {
    char fill[5];
    char align; /* '<', '>', '^', '=', 0 */
    char sign;  /* '-', '+', ' ' */
    char group; /* ',', '_', 0 */
    char type;  /* 0: none given */
    bool alternate, zero;
    int64_t width, precision; /* -1: not given */
} spec;

static void check_width(rt *r, int64_t n) {
    if (n > LIMIT_TEMPLATE_OUTPUT)
        rt_too_large(r, "bytes in a formatted value", LIMIT_TEMPLATE_OUTPUT);
}

/* Add text of `cp` code points, padded. */
static void add_padded(rt *r, const spec *f, str prefix, str text, char align) {
    int64_t have = (int64_t)(utf8_count(text.p, text.n) + prefix.n), pad = f->width - have;
    if (f->align) align = f->align;
    const char *fill = f->fill[0] ? f->fill : " ";
    int64_t left = pad <= 0 ? 0 : align == '>' || align == '=' ? pad : align == '^' ? pad / 2 : 0;
    if (align == '=') rt_add(r, prefix.p, prefix.n);
    for (int64_t i = 0; i < left; i++) rt_addz(r, fill);
    if (align != '=') rt_add(r, prefix.p, prefix.n);
    rt_add(r, text.p, text.n);
    for (int64_t i = left; i < pad; i++) rt_addz(r, fill);
    if (pad > 0) rt_tick(r, pad >> 4);
}

/* Digits with a separator every `every`, from the right. */
static size_t group_digits(const char *digits, size_t n, char sep, size_t every, char *out) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && (n - i) % every == 0) out[k++] = sep;
        out[k++] = digits[i];
    }
    return k;
}

static void add_int(rt *r, const spec *f, int64_t v) {
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    char digits[72], text[160], prefix[4];
    size_t n = 0, k = 0;
    unsigned base = f->type == 'x' || f->type == 'X' ? 16
                    : f->type == 'o'                 ? 8
                    : f->type == 'b'                 ? 2
                                                     : 10;
    do {
        digits[sizeof digits - 1 - n++] =
            (f->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
        u /= base;
    } while (u);
    const char *at = digits + sizeof digits - n;
    if (f->group)
        n = group_digits(at, n, f->group, base == 10 ? 3 : 4, text);
    else
        memcpy(text, at, n);
    if (v < 0)
        prefix[k++] = '-';
    else if (f->sign == '+' || f->sign == ' ')
        prefix[k++] = f->sign;
    if (f->alternate && base != 10) {
        prefix[k++] = '0';
        prefix[k++] = f->type;
    }
    add_padded(r, f, str_n(prefix, k), str_n(text, n), '>');
}

/* A float's digits without sign into text; Python's layout. */
static size_t float_text(rt *r, const spec *f, double v, char *text, size_t room) {
    char form[16], type = f->type;
    v = fabs(v);
    if (!isfinite(v)) {
        bool upper = type == 'E' || type == 'F' || type == 'G';
        return (size_t)snprintf(text, room, "%s",
                                isnan(v) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf"));
    }
    if (!type && f->precision < 0) {
        char plain[32];
        float_repr(v, plain);
        return (size_t)snprintf(text, room, "%s", plain);
    }
    int64_t precision = f->precision < 0 ? 6 : f->precision;
    if (precision > 500) rt_too_large(r, "digits in a formatted number", 500);
    if (type == '%') v *= 100;
    snprintf(form, sizeof form, "%%%s.*%c", f->alternate ? "#" : "",
             type == '%' ? 'f'
             : type      ? type
                         : 'g');
    int n = snprintf(text, room, form, (int)precision, v); /* a fixed set of formats */
    if (!type && strspn(text, "0123456789") == (size_t)n)
        n += snprintf(text + n, room - (size_t)n, ".0");
    if (type == '%') n += snprintf(text + n, room - (size_t)n, "%%");
    return (size_t)n;
}

static void add_float(rt *r, const spec *f, double v) {
    char text[1024], grouped[1600];
    size_t n = float_text(r, f, v, text, sizeof text - 8), k = 0;
    char prefix[2];
    if (signbit(v) && !isnan(v))
        prefix[k++] = '-';
    else if (f->sign == '+' || f->sign == ' ')
        prefix[k++] = f->sign;
    str s = str_n(text, n);
    if (f->group) {
        size_t whole = strspn(text, "0123456789");
        size_t g = group_digits(text, whole, f->group, 3, grouped);
        memcpy(grouped + g, text + whole, n - whole);
        s = str_n(grouped, g + n - whole);
    }
    add_padded(r, f, str_n(prefix, k), s, '>');
}

static void add_text(rt *r, const spec *f, val s, char align) {
    if (f->precision >= 0) s = str_slice(r, s, 0, f->precision);
    add_padded(r, f, STR(""), val_str(s), align);
}

/* --- "%" */

typedef struct percent {
    rt *r;
    str s;
    size_t at;
    val args; /* a tuple */
    uint32_t next;
    val mapping; /* V_MISSING if there is none */
    bool markup;
} percent;

static val percent_arg(percent *p) {
    if (p->next >= p->args.n) rt_raise(p->r, "TypeError", "not enough arguments for format string");
    return p->args.items[p->next++];
}

static val percent_key(percent *p) {
    if (p->args.n && is_undefined(p->args.items[0])) rt_raise_undefined(p->r, p->args.items[0]);
    if (p->mapping.type == V_MISSING) rt_raise(p->r, "TypeError", "format requires a mapping");
    size_t from = p->at, depth = 1;
    for (; p->at < p->s.n; p->at++) {
        depth += p->s.p[p->at] == '(';
        depth -= p->s.p[p->at] == ')';
        if (!depth) break;
    }
    if (depth) rt_raise(p->r, "ValueError", "incomplete format key");
    val key = val_strn(p->s.p + from, p->at++ - from);
    const val *v = dict_get(p->r, p->mapping.dict, key);
    if (!v) rt_raise(p->r, "KeyError", "%s", repr_z(p->r, key));
    return *v;
}

static int64_t percent_number(percent *p) {
    if (p->at < p->s.n && p->s.p[p->at] == '*') {
        p->at++;
        val v = percent_arg(p);
        if (!is_int(v)) rt_raise(p->r, "TypeError", "* wants int");
        return int_of(v);
    }
    int64_t n = 0;
    for (; p->at < p->s.n && isdigit((unsigned char)p->s.p[p->at]); p->at++) {
        n = n * 10 + (p->s.p[p->at] - '0');
        check_width(p->r, n);
    }
    return n;
}

static void percent_flags(percent *p, spec *f) {
    for (; p->at < p->s.n; p->at++) {
        switch (p->s.p[p->at]) {
        case '-': f->align = '<'; break;
        case '+': f->sign = '+'; break;
        case ' ':
            if (!f->sign) f->sign = ' ';
            break;
        case '#': f->alternate = true; break;
        case '0': f->zero = true; break;
        default: return;
        }
    }
}

static void percent_int(percent *p, spec *f, val v) {
    if (f->type == 'i' || f->type == 'u') f->type = 'd';
    bool real = f->type == 'd';
    if (v.type == V_FLOAT && real) {
        if (!isfinite(v.f) || fabs(v.f) >= 9e18)
            rt_raise(p->r, "OverflowError", "cannot convert float to integer");
        v = val_int((int64_t)v.f);
    }
    if (!is_int(v))
        rt_raise(p->r, "TypeError", "%%%c format: %s is required, not %s", f->type,
                 real ? "a real number" : "an integer", type_name(v));
    if (f->zero && !f->align) f->align = '=', f->fill[0] = '0';
    f->precision = -1;
    add_int(p->r, f, int_of(v));
}

static void percent_float(percent *p, spec *f, val v) {
    if (!is_number(v)) rt_raise(p->r, "TypeError", "must be real number, not %s", type_name(v));
    if (f->zero && !f->align) f->align = '=', f->fill[0] = '0';
    add_float(p->r, f, float_of(v));
}

static void percent_char(percent *p, const spec *f, val v) {
    rt *r = p->r;
    if (is_int(v)) {
        int64_t cp = int_of(v);
        if (cp < 0 || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000))
            rt_raise(r, "OverflowError", "%%c arg not in range(0x110000)");
        char bytes[4];
        v = str_copy(r, bytes, utf8_put((uint32_t)cp, bytes));
    }
    if (!is_str(v) || utf8_count(v.s, v.n) != 1)
        rt_raise(r, "TypeError", "%%c requires int or char");
    add_text(r, f, v, '>');
}

static void percent_one(percent *p) {
    rt *r = p->r;
    spec f = {.width = -1, .precision = -1};
    val v = val_missing();
    if (p->at < p->s.n && p->s.p[p->at] == '(') {
        p->at++;
        v = percent_key(p);
    }
    percent_flags(p, &f);
    f.width = percent_number(p);
    if (f.width < 0) f.align = '<', f.width = -f.width;
    check_width(r, f.width);
    if (p->at < p->s.n && p->s.p[p->at] == '.') {
        p->at++;
        f.precision = percent_number(p);
        if (f.precision < 0) f.precision = 0;
    }
    while (p->at < p->s.n && strchr("hlL", p->s.p[p->at])) p->at++;
    if (p->at >= p->s.n) rt_raise(r, "ValueError", "incomplete format");
    f.type = p->s.p[p->at++];
    if (f.type == '%') {
        rt_addc(r, '%');
        return;
    }
    if (!strchr("srdiouxXeEfFgGca", f.type) || !f.type)
        rt_raise(r, "ValueError", "unsupported format character '%c' (0x%x) at index %zu", f.type,
                 (unsigned)f.type, p->at - 1);
    if (v.type == V_MISSING) v = percent_arg(p);
    if (strchr("diouxX", f.type))
        percent_int(p, &f, v);
    else if (strchr("eEfFgG", f.type))
        percent_float(p, &f, v);
    else if (f.type == 'c')
        percent_char(p, &f, v);
    else if (p->markup)
        add_text(r, &f, escape_html(r, f.type == 's' ? v : to_repr(r, v)), '>');
    else
        add_text(r, &f, f.type == 's' ? to_str(r, v) : to_repr(r, v), '>');
}

val format_percent(rt *r, val format, val args) {
    percent p = {.r = r, .s = val_str(format), .markup = format.flags & VAL_MARKUP};
    p.mapping = args.type == V_DICT ? args : val_missing();
    val *one = rt_alloc(r, sizeof *one);
    *one = args;
    p.args = args.type == V_TUPLE ? args : val_tuple(one, 1);
    size_t mark = r->out.n;
    while (p.at < p.s.n) {
        size_t from = p.at;
        while (p.at < p.s.n && p.s.p[p.at] != '%') p.at++;
        rt_add(r, p.s.p + from, p.at - from);
        if (p.at >= p.s.n) break;
        p.at++;
        percent_one(&p);
    }
    /* whatever could be subscripted may leave its items unused */
    bool is_mapping =
        args.type == V_DICT || args.type == V_LIST || args.type == V_RANGE || is_undefined(args);
    if (p.next < p.args.n && !is_mapping)
        rt_raise(r, "TypeError", "not all arguments converted during string formatting");
    val v = rt_cut(r, mark);
    v.flags = format.flags;
    return v;
}

/* --- "{}" */

typedef struct braces {
    rt *r;
    const call_args *a;
    int64_t auto_index; /* -1: numbers are written out */
    bool markup;
} braces;

static void format_text(braces *b, str s, int depth);

static val field_first(braces *b, str name) {
    rt *r = b->r;
    int64_t i;
    bool number = str_to_i64(name, &i) && name.p[0] != '-' && name.p[0] != '+';
    if (name.n && !number) {
        for (uint32_t k = 0; k < b->a->n_kw; k++)
            if (str_eq(val_str(b->a->kw_names[k]), name)) return b->a->kw[k];
        rt_raise(r, "KeyError", "%s", repr_z(r, val_strn(name.p, name.n)));
    }
    if (!name.n) {
        if (b->auto_index < 0)
            rt_raise(r, "ValueError",
                     "cannot switch from manual field specification to automatic "
                     "field numbering");
        i = b->auto_index++;
    } else {
        if (b->auto_index > 0)
            rt_raise(r, "ValueError",
                     "cannot switch from automatic field numbering to manual "
                     "field specification");
        b->auto_index = -1;
    }
    if (i >= b->a->n_pos)
        rt_raise(r, "IndexError", "Replacement index %lld out of range for positional args tuple",
                 (long long)i);
    return b->a->pos[i];
}

/* "0.name[key]" */
static val field_value(braces *b, str name) {
    size_t i = 0;
    while (i < name.n && name.p[i] != '.' && name.p[i] != '[') i++;
    val v = field_first(b, str_cut(name, 0, i));
    while (i < name.n) {
        size_t from = i + 1;
        bool is_item = name.p[i] == '[';
        for (i = from;
             i < name.n && (is_item ? name.p[i] != ']' : name.p[i] != '.' && name.p[i] != '[');)
            i++;
        str part = str_cut(name, from, i);
        if (!part.n || (is_item && i >= name.n))
            rt_raise(b->r, "ValueError", "Empty attribute in format string");
        val key = val_strn(part.p, part.n);
        int64_t n;
        if (is_item) {
            i++;
            if (str_to_i64(part, &n) && part.p[0] != '-') key = val_int(n);
        }
        v = is_item ? get_item(b->r, v, key) : get_attr(b->r, v, key);
    }
    return v;
}

static size_t read_number(rt *r, str s, size_t i, int64_t *ret) {
    size_t from = i;
    int64_t n = 0;
    for (; i < s.n && isdigit((unsigned char)s.p[i]); i++) {
        n = n * 10 + (s.p[i] - '0');
        check_width(r, n);
    }
    if (i > from) *ret = n;
    return i;
}

static bool is_align(char c) {
    return c == '<' || c == '>' || c == '^' || c == '=';
}

static spec read_spec(rt *r, str s, const char *type) {
    spec f = {.width = -1, .precision = -1};
    uint32_t cp;
    size_t i = 0, n = s.n ? utf8_get(s.p, s.n, &cp) : 0;
    if (n && n < s.n && is_align(s.p[n])) {
        memcpy(f.fill, s.p, n);
        f.align = s.p[n];
        i = n + 1;
    } else if (s.n && is_align(s.p[0])) {
        f.align = s.p[i++];
    }
    if (i < s.n && strchr("+- ", s.p[i])) f.sign = s.p[i++];
    if (i < s.n && s.p[i] == '#') f.alternate = true, i++;
    if (i < s.n && s.p[i] == '0') {
        f.zero = true;
        if (!f.fill[0]) f.fill[0] = '0';
        i++;
    }
    i = read_number(r, s, i, &f.width);
    if (i < s.n && (s.p[i] == ',' || s.p[i] == '_')) f.group = s.p[i++];
    if (i < s.n && s.p[i] == '.') {
        size_t from = ++i;
        i = read_number(r, s, i, &f.precision);
        if (i == from) rt_raise(r, "ValueError", "Format specifier missing precision");
    }
    if (i < s.n) f.type = s.p[i++];
    if (i < s.n)
        rt_raise(r, "ValueError", "Invalid format specifier '" STR_FMT "' for object of type '%s'",
                 STR_ARG(s), type);
    return f;
}

static void format_value(braces *b, val v, str spec_text) {
    rt *r = b->r;
    if (!spec_text.n) {
        val s = b->markup ? escape_html(r, v) : to_str(r, v);
        rt_add(r, s.s, s.n);
        return;
    }
    spec f = read_spec(r, spec_text, type_name(v));
    bool is_float = v.type == V_FLOAT || (is_int(v) && f.type && strchr("eEfFgG%", f.type));
    bool known = is_str(v)   ? !f.type || f.type == 's'
                 : is_float  ? !f.type || strchr("eEfFgGn%", f.type)
                 : is_int(v) ? !f.type || strchr("bcdoxXn", f.type)
                             : false;
    if (!is_str(v) && !is_number(v))
        rt_raise(r, "TypeError", "unsupported format string passed to %s.__format__", type_name(v));
    if (!known)
        rt_raise(r, "ValueError", "Unknown format code '%c' for object of type '%s'", f.type,
                 type_name(v));
    if (f.zero && !f.align && !is_str(v)) f.align = '=';
    if (f.type == 'n') f.type = is_float ? 'g' : 'd';
    if (is_str(v) && (f.sign || f.align == '=' || f.alternate))
        rt_raise(r, "ValueError", "%s not allowed in string format specifier",
                 f.sign        ? "Sign"
                 : f.alternate ? "Alternate form (#)"
                               : "'=' alignment");
    if (is_str(v)) {
        add_text(r, &f, v, '<');
    } else if (is_float) {
        add_float(r, &f, float_of(v));
    } else if (f.type == 'c') {
        percent p = {.r = r};
        percent_char(&p, &f, v);
    } else {
        if (f.precision >= 0)
            rt_raise(r, "ValueError", "Precision not allowed in integer format specifier");
        add_int(r, &f, int_of(v));
    }
}

/* The end of a field that begins at `from`: its closing brace. */
static size_t field_end(rt *r, str s, size_t from) {
    int depth = 1;
    for (size_t i = from; i < s.n; i++) {
        depth += s.p[i] == '{';
        depth -= s.p[i] == '}';
        if (!depth) return i;
    }
    rt_raise(r, "ValueError", "expected '}' before end of string");
}

static void format_field(braces *b, str field, int depth) {
    rt *r = b->r;
    size_t i = 0;
    bool in_item = false;
    for (; i < field.n && (in_item || (field.p[i] != '!' && field.p[i] != ':')); i++)
        in_item = field.p[i] == '[' ? true : field.p[i] == ']' ? false : in_item;
    val v = field_value(b, str_cut(field, 0, i));
    if (i < field.n && field.p[i] == '!') {
        char c = i + 1 < field.n ? field.p[i + 1] : 0;
        if (c != 's' && c != 'r')
            rt_raise(r, "ValueError", "Unknown conversion specifier %c", c ? c : '}');
        v = c == 's' ? to_str(r, v) : to_repr(r, v);
        i += 2;
        if (i < field.n && field.p[i] != ':')
            rt_raise(r, "ValueError", "expected ':' after conversion specifier");
    }
    size_t mark = r->out.n;
    if (i < field.n) format_text(b, str_cut(field, i + 1, field.n), depth + 1);
    val spec_text = rt_cut(r, mark);
    format_value(b, v, val_str(spec_text));
}

static void format_text(braces *b, str s, int depth) {
    rt *r = b->r;
    if (depth > 2) rt_raise(r, "ValueError", "Max string recursion exceeded");
    for (size_t i = 0; i < s.n;) {
        char c = s.p[i];
        if ((c == '{' || c == '}') && i + 1 < s.n && s.p[i + 1] == c) {
            rt_addc(r, c);
            i += 2;
        } else if (c == '}') {
            rt_raise(r, "ValueError", "Single '}' encountered in format string");
        } else if (c == '{') {
            if (i + 1 == s.n) rt_raise(r, "ValueError", "Single '{' encountered in format string");
            size_t end = field_end(r, s, i + 1);
            format_field(b, str_cut(s, i + 1, end), depth);
            i = end + 1;
        } else {
            size_t from = i;
            while (i < s.n && s.p[i] != '{' && s.p[i] != '}') i++;
            rt_add(r, s.p + from, i - from);
        }
    }
}

val format_braces(rt *r, val format, const call_args *a) {
    braces b = {.r = r, .a = a, .markup = format.flags & VAL_MARKUP};
    size_t mark = r->out.n;
    rt_tick(r, format.n >> 4);
    format_text(&b, val_str(format), 1);
    val v = rt_cut(r, mark);
    v.flags = format.flags;
    return v;
}
