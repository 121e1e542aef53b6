/* Filters on single values and text. Those on sequences are in template_seq.c; the table of all is
 * at the end. Parameters carry the names that Jinja gives them. */
#include <math.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/template_filter.h"
#include "tokenizer/template_strings.h"
#include "tokenizer/template_text.h"

#define FILTER(name) static val name(rt *r, const val *in, const call_args *a)

static bool given(val v) {
    return v.type != V_MISSING && v.type != V_NONE;
}
static int64_t int_or(rt *r, val v, int64_t fallback) {
    if (v.type == V_MISSING) return fallback;
    if (is_undefined(v)) rt_raise_undefined(r, v);
    if (!is_int(v))
        rt_raise(r, "TypeError", "'%s' object cannot be interpreted as an integer", type_name(v));
    return int_of(v);
}

/* --- any value */

FILTER(f_default) {
    bool replace = is_undefined(in[0]) || (is_true(r, in[2]) && !is_true(r, in[0]));
    if (!replace) return in[0];
    return in[1].type == V_MISSING ? val_strn("", 0) : in[1];
}
FILTER(f_string) {
    return soft_str(r, in[0]);
}
FILTER(f_safe) {
    val v = soft_str(r, in[0]);
    v.flags |= VAL_MARKUP;
    return v;
}
FILTER(f_tojson) {
    return to_json(r, in);
}
FILTER(f_length) {
    return val_int(val_length(r, in[0]));
}
FILTER(f_attr) {
    if (is_undefined(in[0])) rt_raise_undefined(r, in[0]);
    if (!is_str(in[1])) rt_raise(r, "TypeError", "attribute name must be string");
    return get_attribute(r, in[0], in[1]);
}
FILTER(f_pprint) {
    return to_repr(r, in[0]);
}
FILTER(f_refused) {
    rt_raise(r, "TemplateRuntimeError",
             "the filters random, urlize and wordwrap are not supported");
}

/* --- numbers */

FILTER(f_abs) {
    val v = in[0];
    if (v.type == V_FLOAT) return val_float(fabs(v.f));
    if (!is_int(v)) rt_raise(r, "TypeError", "bad operand type for abs(): '%s'", type_name(v));
    return int_of(v) < 0 ? negate(r, v, false) : val_int(int_of(v));
}

/* Text for the number parsers: white space off, underscores between digits out, NUL-terminated.
 * NULL if an underscore is misplaced. */
static const char *number_text(rt *r, val v) {
    val s = str_strip(r, v, val_missing(), true, true);
    char *z = rt_alloc(r, (size_t)s.n + 1), last = 0;
    size_t n = 0;
    for (uint32_t i = 0; i < s.n; i++) {
        char c = s.s[i];
        if (!c) return NULL;
        bool inner = c == '_' && i + 1 < s.n && (last >= '0' || last == 'x') && s.s[i + 1] != '_';
        if (c == '_' && !inner) return NULL;
        if (c != '_') z[n++] = c;
        last = c;
    }
    return z;
}

/* int(text, base): 1 = done, 0 = no integer, -1 = one that does not fit. */
static int parse_int(rt *r, val v, int64_t base, int64_t *ret) {
    const char *z = number_text(r, v);
    if (!z || !*z) return 0;
    bool negative = *z == '-';
    if (*z == '-' || *z == '+') z++;
    int radix = z[0] == '0' ? ((z[1] | 32) == 'x'   ? 16
                               : (z[1] | 32) == 'o' ? 8
                               : (z[1] | 32) == 'b' ? 2
                                                    : 0)
                            : 0;
    if (radix && (base == radix || base == 0)) {
        z += 2;
        base = radix;
    } else if (base == 0) {
        if (z[0] == '0' && strspn(z, "0") != strlen(z)) return 0;
        base = 10;
    }
    if (!*z) return 0;
    int64_t n = 0;
    bool fits = true;
    for (; *z; z++) {
        int digit = *z >= '0' && *z <= '9'                 ? *z - '0'
                    : (*z | 32) >= 'a' && (*z | 32) <= 'z' ? (*z | 32) - 'a' + 10
                                                           : 99;
        if (digit >= base) return 0;
        if (__builtin_mul_overflow(n, base, &n) || __builtin_sub_overflow(n, digit, &n))
            fits = false;
    }
    if (!fits || (!negative && n == INT64_MIN)) return -1;
    *ret = negative ? n : -n;
    return 1;
}

/* float(text): decimal, "inf", "infinity", "nan". */
static bool parse_float(rt *r, val v, double *ret) {
    const char *z = number_text(r, v);
    if (!z || !*z) return false;
    const char *digits = z + (*z == '-' || *z == '+');
    bool word = (*digits | 32) == 'i' || (*digits | 32) == 'n';
    if (!word && strspn(digits, "0123456789.eE+-") != strlen(digits)) return false;
    if (word && strcasecmp(digits, "inf") && strcasecmp(digits, "infinity") &&
        strcasecmp(digits, "nan"))
        return false;
    char *end;
    *ret = strtod(z, &end);
    return end != z && !*end;
}

static val float_to_int(rt *r, double f, val fallback) {
    if (!isfinite(f)) return fallback;
    if (f >= 9223372036854775808.0 || f < -9223372036854775808.0)
        rt_raise(r, "OverflowError", "integer result does not fit 64 bits");
    return val_int((int64_t)f);
}

FILTER(f_int) {
    val v = in[0], fallback = in[1].type == V_MISSING ? val_int(0) : in[1];
    int64_t base = int_or(r, in[2], 10), i;
    double f;
    if (is_undefined(v)) rt_raise_undefined(r, v);
    if (is_int(v)) return val_int(int_of(v));
    if (v.type == V_FLOAT) {
        if (isinf(v.f)) rt_raise(r, "OverflowError", "cannot convert float infinity to integer");
        return float_to_int(r, v.f, fallback);
    }
    if (!is_str(v)) return fallback;
    int parsed = base == 0 || (base >= 2 && base <= 36) ? parse_int(r, v, base, &i) : 0;
    if (parsed < 0) rt_raise(r, "OverflowError", "integer result does not fit 64 bits");
    if (parsed) return val_int(i);
    return parse_float(r, v, &f) ? float_to_int(r, f, fallback) : fallback;
}

FILTER(f_float) {
    val v = in[0], fallback = in[1].type == V_MISSING ? val_float(0) : in[1];
    double f;
    if (is_undefined(v)) rt_raise_undefined(r, v);
    if (is_number(v)) return val_float(float_of(v));
    return is_str(v) && parse_float(r, v, &f) ? val_float(f) : fallback;
}

/* round(f, n) as Python: correctly rounded decimal digits, ties to even. */
static double round_to(double f, int64_t n) {
    char text[400];
    if (!isfinite(f) || n > 300) return f;
    if (n < 0) {
        if (n < -308) return copysign(0.0, f);
        double p = pow(10, (double)-n), y = f / p, q = rint(y);
        return q * p;
    }
    snprintf(text, sizeof text, "%.*f", (int)n, f);
    return strtod(text, NULL);
}

static val round_int(rt *r, int64_t i, int64_t n) {
    if (n >= 0) return val_int(i);
    int64_t p = 1;
    for (; n < 0; n++)
        if (__builtin_mul_overflow(p, 10, &p)) return val_int(0);
    int64_t m = i % p;
    if (m < 0) m += p;
    int64_t down;
    if (__builtin_sub_overflow(i, m, &down)) return val_int(i);
    bool up = m > p - m || (m == p - m && (down / p) % 2 != 0);
    int64_t v = down;
    if (up && __builtin_add_overflow(down, p, &v))
        rt_raise(r, "OverflowError", "integer result does not fit 64 bits");
    return val_int(v);
}

FILTER(f_round) {
    val v = in[0];
    int64_t n = in[1].type == V_NONE ? 0 : int_or(r, in[1], 0);
    str how = in[2].type == V_MISSING ? STR("common") : is_str(in[2]) ? val_str(in[2]) : STR("");
    bool ceil_it = str_eqz(how, "ceil"), floor_it = str_eqz(how, "floor");
    if (!ceil_it && !floor_it && !str_eqz(how, "common"))
        rt_raise(r, "FilterArgumentError", "method must be common, ceil or floor");
    if (!is_number(v)) {
        if (is_undefined(v) && (ceil_it || floor_it)) rt_raise_undefined(r, v);
        if (ceil_it || floor_it)
            rt_raise(r, "TypeError", "must be real number, not %s", type_name(v));
        rt_raise(r, "TypeError", "type %s doesn't define __round__ method", type_name(v));
    }
    if (!ceil_it && !floor_it) {
        if (is_int(v)) return round_int(r, int_of(v), n);
        if (in[1].type == V_NONE) return float_to_int(r, rint(v.f), v);
        return val_float(round_to(v.f, n));
    }
    double scale = pow(10, (double)n), x = float_of(v) * scale;
    if (!isfinite(x) || !scale) return val_float(float_of(v));
    return val_float((ceil_it ? ceil(x) : floor(x)) / scale);
}

FILTER(f_filesizeformat) {
    static const char *const units[2][8] = {
        {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
        {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    bool binary = is_true(r, in[1]);
    val none = val_missing(), size = f_float(r, (const val[]){in[0], none}, a);
    double bytes = size.f, base = binary ? 1024 : 1000, unit = base;
    char text[64];
    if (is_undefined(in[0])) rt_raise_undefined(r, in[0]);
    if (!is_str(in[0]) && !is_number(in[0]))
        rt_raise(r, "TypeError", "float() argument must be a string or a real number, not '%s'",
                 type_name(in[0]));
    if (is_str(in[0]) && !parse_float(r, in[0], &bytes))
        rt_raise(r, "ValueError", "could not convert string to float: %s", repr_z(r, in[0]));
    if (bytes == 1) return val_strz("1 Byte");
    if (bytes < base) {
        snprintf(text, sizeof text, "%lld Bytes", (long long)bytes);
        return str_copy(r, text, strlen(text));
    }
    int i = -1;
    do {
        unit *= base;
        i++;
    } while (i < 7 && bytes >= unit);
    snprintf(text, sizeof text, "%.1f %s", base * bytes / unit, units[binary][i]);
    return str_copy(r, text, strlen(text));
}

/* --- text */

FILTER(f_upper) {
    return str_case(r, soft_str(r, in[0]), CASE_UPPER);
}
FILTER(f_lower) {
    return str_case(r, soft_str(r, in[0]), CASE_LOWER);
}
FILTER(f_capitalize) {
    return str_case(r, soft_str(r, in[0]), CASE_FIRST);
}

static bool is_word_break(uint32_t cp) {
    return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || cp_is_space(cp);
}

/* Words begin after white space and opening brackets only ("it's" stays one). */
FILTER(f_title) {
    val v = soft_str(r, in[0]);
    str s = val_str(v);
    size_t mark = r->out.n;
    bool ok = true;
    for (size_t i = 0, n, from = 0; i <= s.n && ok; i += n) {
        uint32_t cp = 0;
        n = i < s.n ? utf8_get(s.p + i, s.n - i, &cp) : 1;
        if (!n) n = 1;
        if (i < s.n && !is_word_break(cp)) continue;
        if (i > from) { /* the first character upper, the rest lower, each by itself */
            str word = str_cut(s, from, i);
            size_t first = 1;
            while (first < word.n && ((unsigned char)word.p[first] & 0xc0) == 0x80) first++;
            ok = text_case_add(&r->out, str_cut(word, 0, first), CASE_UPPER) &&
                 text_case_add(&r->out, str_cut(word, first, word.n), CASE_LOWER);
        }
        if (i < s.n) rt_add(r, s.p + i, n);
        from = i + n;
    }
    if (!ok) rt_too_large(r, "bytes of output", (int64_t)r->output_max);
    return rt_cut(r, mark);
}

FILTER(f_trim) {
    return str_strip(r, soft_str(r, in[0]), in[1], true, true);
}
FILTER(f_replace) {
    int64_t max = given(in[3]) ? int_or(r, in[3], -1) : -1;
    return str_replace(r, to_str(r, in[0]), to_str(r, in[1]), to_str(r, in[2]), max);
}
FILTER(f_center) {
    return str_center(r, soft_str(r, in[0]), int_or(r, in[1], 80), STR(" "));
}
FILTER(f_format) {
    if (a->n_pos && a->n_kw)
        rt_raise(r, "FilterArgumentError",
                 "can't handle positional and keyword arguments at the same time");
    if (!a->n_kw) return format_percent(r, soft_str(r, in[0]), val_tuple(a->pos, a->n_pos));
    dict *d = dict_new(r, a->n_kw);
    for (uint32_t i = 0; i < a->n_kw; i++) dict_set(r, d, a->kw_names[i], a->kw[i]);
    return format_percent(r, soft_str(r, in[0]), val_dict(d));
}

FILTER(f_indent) {
    val s = in[0], width = in[1];
    if (is_undefined(s)) rt_raise_undefined(r, s);
    if (s.type == V_LIST)
        rt_raise(r, "AttributeError", "'list' object has no attribute 'splitlines'");
    if (!is_str(s))
        rt_raise(r, "TypeError", "unsupported operand type(s) for +=: '%s' and 'str'",
                 type_name(s));
    val pad = is_str(width) ? width : str_repeat(r, val_strn(" ", 1), int_or(r, width, 4));
    bool first = is_true(r, in[2]), blank = is_true(r, in[3]);
    val lines = str_lines(r, str_concat(r, s, val_strn("\n", 1)), false);
    size_t mark = r->out.n;
    for (uint32_t i = 0; i < lines.n; i++) {
        val line = lines.items[i];
        if (i) rt_addc(r, '\n');
        if (i == 0 ? first : blank || line.n) rt_add(r, pad.s, pad.n);
        rt_add(r, line.s, line.n);
    }
    val v = rt_cut(r, mark);
    v.flags = s.flags;
    return v;
}

FILTER(f_truncate) {
    val s = in[0], end = in[3].type == V_MISSING ? val_strz("...") : in[3];
    int64_t length = int_or(r, in[1], 255), leeway = given(in[4]) ? int_or(r, in[4], 0) : 5;
    if (!is_str(end)) rt_raise(r, "TypeError", "truncate: end must be a string");
    int64_t end_len = val_length(r, end);
    if (length < end_len)
        rt_raise(r, "AssertionError", "expected length >= %lld, got %lld", (long long)end_len,
                 (long long)length);
    if (leeway < 0)
        rt_raise(r, "AssertionError", "expected leeway >= 0, got %lld", (long long)leeway);
    if (val_length(r, s) <= length + leeway) return s;
    val cut = slice(r, s, val_none(), val_int(length - end_len), val_none());
    if (!is_str(cut) && !is_true(r, in[2]))
        rt_raise(r, "AttributeError", "'%s' object has no attribute 'rsplit'", type_name(cut));
    if (!is_true(r, in[2])) {
        uint32_t n = cut.n;
        while (n && cut.s[n - 1] != ' ') n--;
        if (n) cut.n = n - 1;
    }
    return binary_op(r, T_ADD, cut, end);
}

FILTER(f_wordcount) {
    val v = soft_str(r, in[0]);
    int64_t words = 0;
    bool in_word = false;
    for (size_t i = 0, n; i < v.n; i += n) {
        uint32_t cp = 0;
        n = utf8_get(v.s + i, v.n - i, &cp);
        bool word = n && cp_is_word(cp);
        if (!n) n = 1;
        words += word && !in_word;
        in_word = word;
    }
    return val_int(words);
}

/* --- escaping */

val escape_html(rt *r, val v) {
    v = soft_str(r, v);
    if (v.flags & VAL_MARKUP) return v;
    size_t mark = r->out.n, plain = 0;
    for (uint32_t i = 0; i < v.n; i++) {
        const char *to = v.s[i] == '&'    ? "&amp;"
                         : v.s[i] == '<'  ? "&lt;"
                         : v.s[i] == '>'  ? "&gt;"
                         : v.s[i] == '\'' ? "&#39;"
                         : v.s[i] == '"'  ? "&#34;"
                                          : NULL;
        if (!to) continue;
        rt_add(r, v.s + plain, i - plain);
        rt_addz(r, to);
        plain = i + 1;
    }
    if (plain) {
        rt_add(r, v.s + plain, v.n - plain);
        v = rt_cut(r, mark);
    }
    v.flags = VAL_MARKUP;
    return v;
}
FILTER(f_escape) {
    return escape_html(r, in[0]);
}
FILTER(f_forceescape) {
    return escape_html(r, to_str(r, in[0]));
}

static void add_quoted(rt *r, val v, bool query) {
    val s = to_str(r, v);
    for (uint32_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.s[i];
        bool keep = (c < 0x80 && (cp_is_alpha(c) || cp_is_decimal(c))) || strchr("_.-~", c);
        if (c && (keep || (c == '/' && !query)))
            rt_addc(r, (char)c);
        else if (c == ' ' && query)
            rt_addc(r, '+');
        else
            rt_addf(r, "%%%02X", c);
    }
}

FILTER(f_urlencode) {
    size_t mark = r->out.n;
    if (is_str(in[0]) || !is_iterable(in[0])) {
        add_quoted(r, in[0], false);
        return rt_cut(r, mark);
    }
    dict *d = in[0].type == V_DICT ? in[0].dict : NULL;
    val pairs = to_list(r, d ? in[0] : in[0]);
    for (uint32_t i = 0; i < pairs.n; i++) {
        val pair = d ? val_pair(r, d->e[i].key, d->e[i].value) : to_list(r, pairs.items[i]);
        if (pair.n != 2) rt_raise(r, "ValueError", "urlencode needs pairs of name and value");
        if (i) rt_addc(r, '&');
        add_quoted(r, pair.items[0], true);
        rt_addc(r, '=');
        add_quoted(r, pair.items[1], true);
    }
    return rt_cut(r, mark);
}

FILTER(f_xmlattr) {
    if (in[0].type != V_DICT)
        rt_raise(r, "AttributeError", "'%s' object has no attribute 'items'", type_name(in[0]));
    size_t mark = r->out.n;
    bool space = in[1].type == V_MISSING || is_true(r, in[1]), first = true;
    for (uint32_t i = 0; i < in[0].dict->n; i++) {
        val key = in[0].dict->e[i].key, v = in[0].dict->e[i].value;
        if (v.type == V_NONE || is_undefined(v)) continue;
        for (uint32_t k = 0; is_str(key) && k < key.n; k++)
            if (strchr(" \t\n\r\f\v/>=", key.s[k]))
                rt_raise(r, "ValueError", "Invalid character in attribute name: %s",
                         repr_z(r, key));
        val name = escape_html(r, key), text = escape_html(r, v);
        if (!first || space) rt_addc(r, ' ');
        first = false;
        rt_add(r, name.s, name.n);
        rt_addz(r, "=\"");
        rt_add(r, text.s, text.n);
        rt_addc(r, '"');
    }
    return rt_cut(r, mark);
}

/* Named references that escape() writes; others stay. */
static size_t unescape_one(rt *r, str s) {
    static const struct {
        const char *from, *to;
    } names[] = {{"&amp;", "&"},  {"&lt;", "<"},    {"&gt;", ">"},         {"&#39;", "'"},
                 {"&#34;", "\""}, {"&quot;", "\""}, {"&nbsp;", "\xc2\xa0"}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_starts(s, str_z(names[i].from))) {
            rt_addz(r, names[i].to);
            return strlen(names[i].from);
        }
    rt_addc(r, s.p[0]);
    return 1;
}

/* Tags and comments out, white space collapsed. */
FILTER(f_striptags) {
    val v = soft_str(r, in[0]);
    str s = val_str(v);
    size_t mark = r->out.n;
    for (size_t i = 0; i < s.n;) {
        str rest = str_cut(s, i, s.n);
        bool comment = str_starts(rest, STR("<!--"));
        ptrdiff_t end = s.p[i] != '<' ? -1 : str_find(s, comment ? STR("-->") : STR(">"), i);
        rt_tick(r, 1);
        if (end >= 0)
            i = (size_t)end + (comment ? 3 : 1);
        else
            rt_addc(r, s.p[i++]);
    }
    val text = rt_cut(r, mark);
    val words = str_method(STR("split"))->run(r, text, (const val[2]){{0}, {0}}, a);
    text = str_join(r, val_strn(" ", 1), words);
    for (size_t i = 0; i < text.n;) i += unescape_one(r, str_n(text.s + i, text.n - i));
    return rt_cut(r, mark);
}

/* --- the table */

static const filter filters[] = {
    {"default", {"do_default", "value,default_value=,boolean="}, f_default},
    {"d", {"do_default", "value,default_value=,boolean="}, f_default},
    {"trim", {"do_trim", "value,chars="}, f_trim},
    {"tojson", {"tojson", "x,ensure_ascii=,indent=,separators=,sort_keys="}, f_tojson},
    {"length", {"len", "/obj"}, f_length},
    {"count", {"len", "/obj"}, f_length},
    {"string", {"soft_str", "s"}, f_string},
    {"upper", {"do_upper", "s"}, f_upper},
    {"lower", {"do_lower", "s"}, f_lower},
    {"capitalize", {"do_capitalize", "s"}, f_capitalize},
    {"title", {"do_title", "s"}, f_title},
    {"replace", {"do_replace", "s,old,new,count=", 1}, f_replace},
    {"indent", {"do_indent", "s,width=,first=,blank="}, f_indent},
    {"int", {"do_int", "value,default=,base="}, f_int},
    {"float", {"do_float", "value,default="}, f_float},
    {"abs", {"abs", "/x"}, f_abs},
    {"round", {"do_round", "value,precision=,method="}, f_round},
    {"safe", {"do_mark_safe", "value"}, f_safe},
    {"escape", {"escape", "/s"}, f_escape},
    {"e", {"escape", "/s"}, f_escape},
    {"forceescape", {"do_forceescape", "value"}, f_forceescape},
    {"format", {"do_format", "value,*"}, f_format},
    {"center", {"do_center", "value,width="}, f_center},
    {"truncate", {"do_truncate", "s,length=,killwords=,end=,leeway=", 1}, f_truncate},
    {"wordcount", {"do_wordcount", "s"}, f_wordcount},
    {"striptags", {"do_striptags", "value"}, f_striptags},
    {"urlencode", {"do_urlencode", "value"}, f_urlencode},
    {"xmlattr", {"do_xmlattr", "d,autospace=", 1}, f_xmlattr},
    {"filesizeformat", {"do_filesizeformat", "value,binary="}, f_filesizeformat},
    {"attr", {"do_attr", "obj,name", 1}, f_attr},
    {"pprint", {"do_pprint", "value"}, f_pprint},
    {"random", {"do_random", "*"}, f_refused},
    {"urlize", {"do_urlize", "*"}, f_refused},
    {"wordwrap", {"do_wordwrap", "*"}, f_refused},
};

const filter *find_filter(str name) {
    for (size_t i = 0; i < ARRAY_LEN(filters); i++)
        if (str_eqz(name, filters[i].name)) return &filters[i];
    return find_seq_filter(name);
}
