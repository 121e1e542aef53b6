/* Methods of str. Positions are code points, as in Python; bytes are only counted inside. */
#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/template_run.h"
#include "tokenizer/template_strings.h"
#include "tokenizer/template_text.h"

static bool given(val v) {
    return v.type != V_MISSING && v.type != V_NONE;
}

static val like(val self, str s) {
    return (val){.type = V_STR, .flags = self.flags, .n = (uint32_t)s.n, .s = s.p ? s.p : ""};
}

static str want_str(rt *r, val v, const char *who) {
    if (!is_str(v)) rt_raise(r, "TypeError", "%s argument must be str, not %s", who, type_name(v));
    return val_str(v);
}

static int64_t want_int(rt *r, val v) {
    if (!is_int(v))
        rt_raise(r, "TypeError", "'%s' object cannot be interpreted as an integer", type_name(v));
    return int_of(v);
}

/* --- case */

val str_case(rt *r, val self, text_case to) {
    size_t mark = r->out.n;
    rt_tick(r, self.n >> 4);
    if (!text_case_add(&r->out, val_str(self), to))
        rt_too_large(r, "bytes of output", (int64_t)r->output_max);
    return like(self, val_str(rt_cut(r, mark)));
}

#define CASE_METHOD(name, to)                                                                      \
    static val name(rt *r, val self, const val *in, const call_args *a) {                          \
        return str_case(r, self, to);                                                              \
    }
CASE_METHOD(m_upper, CASE_UPPER)
CASE_METHOD(m_lower, CASE_LOWER)
CASE_METHOD(m_title, CASE_TITLE)
CASE_METHOD(m_capitalize, CASE_FIRST)
CASE_METHOD(m_swapcase, CASE_SWAP)
CASE_METHOD(m_casefold, CASE_FOLD)

/* --- strip */

static bool in_set(str set, uint32_t cp) {
    for (size_t i = 0, n; i < set.n; i += n) {
        uint32_t c;
        n = utf8_get(set.p + i, set.n - i, &c);
        if (!n) return false;
        if (c == cp) return true;
    }
    return false;
}

static bool strips(const str *set, uint32_t cp) {
    return set ? in_set(*set, cp) : cp_is_space(cp);
}

static str strip(str s, const str *set, bool left, bool right) {
    uint32_t cp;
    for (size_t n; left && s.n && (n = utf8_get(s.p, s.n, &cp)) && strips(set, cp);)
        s = str_cut(s, n, s.n);
    while (right && s.n) {
        size_t at = s.n - 1;
        while (at && ((unsigned char)s.p[at] & 0xc0) == 0x80) at--;
        if (!utf8_get(s.p + at, s.n - at, &cp) || !strips(set, cp)) break;
        s.n = at;
    }
    return s;
}

val str_strip(rt *r, val self, val chars, bool left, bool right) {
    if (chars.type == V_MISSING || chars.type == V_NONE)
        return like(self, strip(val_str(self), NULL, left, right));
    if (!is_str(chars)) rt_raise(r, "TypeError", "strip arg must be None or str");
    str set = val_str(chars);
    rt_tick(r, (self.n >> 6) * (int64_t)(set.n + 1));
    return like(self, strip(val_str(self), &set, left, right));
}
static val m_strip(rt *r, val self, const val *in, const call_args *a) {
    return str_strip(r, self, in[0], true, true);
}
static val m_lstrip(rt *r, val self, const val *in, const call_args *a) {
    return str_strip(r, self, in[0], true, false);
}
static val m_rstrip(rt *r, val self, const val *in, const call_args *a) {
    return str_strip(r, self, in[0], false, true);
}

/* --- split */

static size_t space_len(str s, size_t i) {
    uint32_t cp;
    size_t n = i < s.n ? utf8_get(s.p + i, s.n - i, &cp) : 0;
    return n && cp_is_space(cp) ? n : 0;
}

static val split_space(rt *r, val self, int64_t max) {
    str s = val_str(self);
    vals out = {0};
    size_t i = 0, n;
    for (;;) {
        while ((n = space_len(s, i))) i += n;
        if (i >= s.n) break;
        if (max >= 0 && out.n == (uint64_t)max) {
            vals_add(r, &out, like(self, str_cut(s, i, s.n)));
            break;
        }
        size_t from = i;
        while (i < s.n && !space_len(s, i)) i++;
        vals_add(r, &out, like(self, str_cut(s, from, i)));
    }
    return val_list(out.p, out.n);
}

static val split_text(rt *r, val self, str sep, int64_t max) {
    str s = val_str(self);
    vals out = {0};
    size_t from = 0;
    for (ptrdiff_t at; max < 0 || out.n < (uint64_t)max; from = (size_t)at + sep.n) {
        at = str_find(s, sep, from);
        if (at < 0) break;
        vals_add(r, &out, like(self, str_cut(s, from, (size_t)at)));
    }
    vals_add(r, &out, like(self, str_cut(s, from, s.n)));
    return val_list(out.p, out.n);
}

static val reverse_list(val v) {
    val *p = (val *)(uintptr_t)v.items; /* just built, nobody else has it */
    for (uint32_t i = 0; i < v.n / 2; i++) {
        val x = p[i];
        p[i] = p[v.n - 1 - i];
        p[v.n - 1 - i] = x;
    }
    return v;
}

/* Every place where the needle may begin is paid for: there may be many long near misses. */
static ptrdiff_t find_last(rt *r, str s, str needle) {
    if (needle.n > s.n) return -1;
    if (!needle.n) return (ptrdiff_t)s.n;
    for (size_t i = s.n - needle.n + 1; i-- > 0;) {
        if (s.p[i] != needle.p[0]) continue;
        rt_tick(r, 1 + (int64_t)(needle.n >> 6));
        if (!memcmp(s.p + i, needle.p, needle.n)) return (ptrdiff_t)i;
    }
    return -1;
}

static val rsplit_text(rt *r, val self, str sep, int64_t max) {
    str s = val_str(self);
    vals out = {0};
    for (ptrdiff_t at; out.n < (uint64_t)max; s.n = (size_t)at) {
        at = find_last(r, s, sep);
        if (at < 0) break;
        vals_add(r, &out, like(self, str_cut(s, (size_t)at + sep.n, s.n)));
    }
    vals_add(r, &out, like(self, s));
    return reverse_list(val_list(out.p, out.n));
}

static val rsplit_space(rt *r, val self, int64_t max) {
    str s = val_str(self);
    vals out = {0};
    for (;;) {
        s.n = str_rstrip_n(s);
        if (!s.n) break;
        if (out.n == (uint64_t)max) {
            vals_add(r, &out, like(self, s));
            break;
        }
        rt_tick(r, (int64_t)(s.n >> 5));
        size_t from = s.n;
        for (size_t i = 0, n; i < s.n; i += n ? n : 1) /* behind the last space */
            if ((n = space_len(s, i))) from = i + n;
        if (from == s.n) from = 0;
        vals_add(r, &out, like(self, str_cut(s, from, s.n)));
        s.n = from;
    }
    return reverse_list(val_list(out.p, out.n));
}

static val split(rt *r, val self, const val *in, bool from_right) {
    int64_t max = in[1].type == V_MISSING ? -1 : want_int(r, in[1]);
    rt_tick(r, self.n >> 5);
    if (!given(in[0]))
        return from_right && max >= 0 ? rsplit_space(r, self, max) : split_space(r, self, max);
    if (!is_str(in[0])) rt_raise(r, "TypeError", "must be str or None, not %s", type_name(in[0]));
    if (!in[0].n) rt_raise(r, "ValueError", "empty separator");
    str sep = val_str(in[0]);
    return from_right && max >= 0 ? rsplit_text(r, self, sep, max) : split_text(r, self, sep, max);
}
static val m_split(rt *r, val self, const val *in, const call_args *a) {
    return split(r, self, in, false);
}
static val m_rsplit(rt *r, val self, const val *in, const call_args *a) {
    return split(r, self, in, true);
}

/* A line's end at i: its bytes (\r\n is one), 0 if there is none. */
static size_t line_end(str s, size_t i) {
    uint32_t cp;
    size_t n = utf8_get(s.p + i, s.n - i, &cp);
    if (cp == '\r' && i + 1 < s.n && s.p[i + 1] == '\n') return 2;
    bool is_end = (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 ||
                  cp == 0x2028 || cp == 0x2029;
    return n && is_end ? n : 0;
}

val str_lines(rt *r, val self, bool keep_ends) {
    str s = val_str(self);
    vals out = {0};
    size_t from = 0;
    for (size_t i = 0, n; i < s.n; i += n ? n : 1) {
        n = ((unsigned char)s.p[i] & 0xc0) == 0x80 ? 0 : line_end(s, i);
        if (!n) continue;
        vals_add(r, &out, like(self, str_cut(s, from, keep_ends ? i + n : i)));
        from = i + n;
    }
    if (from < s.n) vals_add(r, &out, like(self, str_cut(s, from, s.n)));
    return val_list(out.p, out.n);
}
static val m_splitlines(rt *r, val self, const val *in, const call_args *a) {
    return str_lines(r, self, is_true(r, in[0]));
}

static val partition(rt *r, val self, val sep, bool last) {
    str s = val_str(self), x = want_str(r, sep, "partition()");
    if (!x.n) rt_raise(r, "ValueError", "empty separator");
    ptrdiff_t at = last ? find_last(r, s, x) : str_find(s, x, 0);
    val *p = rt_array(r, 3, sizeof *p);
    size_t cut = at < 0 ? (last ? 0 : s.n) : (size_t)at, n = at < 0 ? 0 : x.n;
    p[0] = like(self, str_cut(s, 0, cut));
    p[1] = like(self, str_cut(s, cut, cut + n));
    p[2] = like(self, str_cut(s, cut + n, s.n));
    return val_tuple(p, 3);
}
static val m_partition(rt *r, val self, const val *in, const call_args *a) {
    return partition(r, self, in[0], false);
}
static val m_rpartition(rt *r, val self, const val *in, const call_args *a) {
    return partition(r, self, in[0], true);
}

/* --- find, count, replace */

static size_t cp_count(str s) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) n += ((unsigned char)s.p[i] & 0xc0) != 0x80;
    return n;
}

/* The part of self between two optional code point positions; *ret_from is where it begins. False
 * when the start lies behind the end (nothing, not even "", is found there). */
static bool window(rt *r, val self, val start, val stop, val *ret, int64_t *ret_from) {
    if (!given(start) && !given(stop)) {
        *ret = self;
        *ret_from = 0;
        return true;
    }
    int64_t n = val_length(r, self), from = given(start) ? want_int(r, start) : 0;
    int64_t to = given(stop) ? want_int(r, stop) : n;
    if (from < 0) from = MAX(from + n, 0);
    if (to < 0) to = MAX(to + n, 0);
    to = MIN(to, n);
    *ret_from = from;
    if (from > to) return false;
    *ret = str_slice(r, self, from, to);
    return true;
}

static int64_t find(rt *r, val self, const val *in, bool last) {
    val part;
    int64_t from;
    if (!is_str(in[0])) rt_raise(r, "TypeError", "must be str, not %s", type_name(in[0]));
    str needle = val_str(in[0]);
    if (!window(r, self, in[1], in[2], &part, &from)) return -1;
    str s = val_str(part);
    rt_tick(r, s.n >> 5);
    ptrdiff_t at = last ? find_last(r, s, needle) : str_find(s, needle, 0);
    return at < 0 ? -1 : from + (int64_t)cp_count(str_cut(s, 0, (size_t)at));
}
static val m_find(rt *r, val self, const val *in, const call_args *a) {
    return val_int(find(r, self, in, false));
}
static val m_rfind(rt *r, val self, const val *in, const call_args *a) {
    return val_int(find(r, self, in, true));
}
static val found(rt *r, int64_t at) {
    if (at < 0) rt_raise(r, "ValueError", "substring not found");
    return val_int(at);
}
static val m_index(rt *r, val self, const val *in, const call_args *a) {
    return found(r, find(r, self, in, false));
}
static val m_rindex(rt *r, val self, const val *in, const call_args *a) {
    return found(r, find(r, self, in, true));
}

static val m_count(rt *r, val self, const val *in, const call_args *a) {
    val part;
    int64_t from, n = 0;
    if (!is_str(in[0])) rt_raise(r, "TypeError", "must be str, not %s", type_name(in[0]));
    str needle = val_str(in[0]);
    if (!window(r, self, in[1], in[2], &part, &from)) return val_int(0);
    str s = val_str(part);
    rt_tick(r, s.n >> 5);
    if (!needle.n) return val_int((int64_t)cp_count(s) + 1);
    for (ptrdiff_t at = 0; (at = str_find(s, needle, (size_t)at)) >= 0; at += (ptrdiff_t)needle.n)
        n++;
    return val_int(n);
}

static void replace_empty(rt *r, str s, str to, int64_t max) {
    size_t i = 0, n;
    for (; max != 0; i += n) {
        rt_add(r, to.p, to.n);
        if (max > 0) max--;
        if (i >= s.n) return;
        n = 1;
        while (i + n < s.n && ((unsigned char)s.p[i + n] & 0xc0) == 0x80) n++;
        rt_add(r, s.p + i, n);
    }
    rt_add(r, s.p + i, s.n - i);
}

val str_replace(rt *r, val self, val old, val new, int64_t max) {
    str s = val_str(self), from = val_str(old), to = val_str(new);
    size_t mark = r->out.n, at = 0;
    if (!from.n) {
        replace_empty(r, s, to, max);
        return like(self, val_str(rt_cut(r, mark)));
    }
    rt_tick(r, s.n >> 5);
    for (ptrdiff_t hit; max != 0 && (hit = str_find(s, from, at)) >= 0;) {
        rt_add(r, s.p + at, (size_t)hit - at);
        rt_add(r, to.p, to.n);
        at = (size_t)hit + from.n;
        if (max > 0) max--;
    }
    if (!at) return self;
    rt_add(r, s.p + at, s.n - at);
    return like(self, val_str(rt_cut(r, mark)));
}

static val m_replace(rt *r, val self, const val *in, const call_args *a) {
    for (int i = 0; i < 2; i++)
        if (!is_str(in[i]))
            rt_raise(r, "TypeError", "replace() argument %d must be str, not %s", i + 1,
                     type_name(in[i]));
    val new = in[1];
    if (self.flags & VAL_MARKUP && !(new.flags &VAL_MARKUP)) new = escape_html(r, new);
    return str_replace(r, self, in[0], new, in[2].type == V_MISSING ? -1 : want_int(r, in[2]));
}

static bool affix(rt *r, str s, val x, bool at_end) {
    rt_tick(r, x.n >> 8);
    return at_end ? str_ends(s, val_str(x)) : str_starts(s, val_str(x));
}

static val starts(rt *r, val self, const val *in, bool at_end) {
    const char *name = at_end ? "endswith" : "startswith";
    val part;
    int64_t from;
    bool one = is_str(in[0]);
    if (!one && in[0].type != V_TUPLE)
        rt_raise(r, "TypeError", "%s first arg must be str or a tuple of str, not %s", name,
                 type_name(in[0]));
    for (uint32_t i = 0; !one && i < in[0].n; i++)
        if (!is_str(in[0].items[i]))
            rt_raise(r, "TypeError", "tuple for %s must only contain str, not %s", name,
                     type_name(in[0].items[i]));
    if (!window(r, self, in[1], in[2], &part, &from)) return val_bool(false);
    bool is = one && affix(r, val_str(part), in[0], at_end);
    for (uint32_t i = 0; !one && !is && i < in[0].n; i++)
        is = affix(r, val_str(part), in[0].items[i], at_end);
    return val_bool(is);
}
static val m_startswith(rt *r, val self, const val *in, const call_args *a) {
    return starts(r, self, in, false);
}
static val m_endswith(rt *r, val self, const val *in, const call_args *a) {
    return starts(r, self, in, true);
}

static val m_removeprefix(rt *r, val self, const val *in, const call_args *a) {
    str s = val_str(self), x = want_str(r, in[0], "removeprefix()");
    return str_starts(s, x) ? like(self, str_cut(s, x.n, s.n)) : self;
}
static val m_removesuffix(rt *r, val self, const val *in, const call_args *a) {
    str s = val_str(self), x = want_str(r, in[0], "removesuffix()");
    return str_ends(s, x) ? like(self, str_cut(s, 0, s.n - x.n)) : self;
}

/* --- join, padding */

val str_join(rt *r, val sep, val items) {
    size_t mark = r->out.n;
    iter *it = iter_of(r, items);
    val x;
    for (int64_t i = 0; iter_next(r, it, &x); i++) {
        if (!is_str(x))
            rt_raise(r, "TypeError", "sequence item %lld: expected str instance, %s found",
                     (long long)i, type_name(x));
        if (sep.flags & VAL_MARKUP && !(x.flags & VAL_MARKUP)) x = escape_html(r, x);
        if (i) rt_add(r, sep.s, sep.n);
        rt_add(r, x.s, x.n);
    }
    return like(sep, val_str(rt_cut(r, mark)));
}
static val m_join(rt *r, val self, const val *in, const call_args *a) {
    if (!is_iterable(in[0])) rt_raise(r, "TypeError", "can only join an iterable");
    return str_join(r, self, in[0]);
}

static str want_fill(rt *r, val v) {
    if (v.type == V_MISSING) return STR(" ");
    if (!is_str(v) || cp_count(val_str(v)) != 1)
        rt_raise(r, "TypeError", "The fill character must be exactly one character long");
    return val_str(v);
}

val str_pad(rt *r, val self, int64_t left, int64_t right, str fill) {
    if (left + right <= 0) return self;
    if (left + right > LIMIT_TEMPLATE_OUTPUT)
        rt_too_large(r, "bytes in a padded string", LIMIT_TEMPLATE_OUTPUT);
    size_t mark = r->out.n;
    for (int64_t i = 0; i < left; i++) rt_add(r, fill.p, fill.n);
    rt_add(r, self.s, self.n);
    for (int64_t i = 0; i < right; i++) rt_add(r, fill.p, fill.n);
    rt_tick(r, (left + right) >> 4);
    return like(self, val_str(rt_cut(r, mark)));
}

val str_center(rt *r, val self, int64_t width, str fill) {
    int64_t pad = MAX(width - val_length(r, self), 0);
    int64_t left = pad / 2 + (pad & width & 1);
    return str_pad(r, self, left, pad - left, fill);
}
static val m_center(rt *r, val self, const val *in, const call_args *a) {
    return str_center(r, self, want_int(r, in[0]), want_fill(r, in[1]));
}
static val m_ljust(rt *r, val self, const val *in, const call_args *a) {
    int64_t pad = MAX(want_int(r, in[0]) - val_length(r, self), 0);
    return str_pad(r, self, 0, pad, want_fill(r, in[1]));
}
static val m_rjust(rt *r, val self, const val *in, const call_args *a) {
    int64_t pad = MAX(want_int(r, in[0]) - val_length(r, self), 0);
    return str_pad(r, self, pad, 0, want_fill(r, in[1]));
}
static val m_zfill(rt *r, val self, const val *in, const call_args *a) {
    int64_t pad = MAX(want_int(r, in[0]) - val_length(r, self), 0);
    bool sign = self.n && (self.s[0] == '+' || self.s[0] == '-');
    if (!pad || !sign) return str_pad(r, self, pad, 0, STR("0"));
    val rest = str_pad(r, like(self, str_cut(val_str(self), 1, self.n)), pad, 0, STR("0"));
    return like(self, val_str(str_concat(r, val_strn(self.s, 1), rest)));
}
static val m_expandtabs(rt *r, val self, const val *in, const call_args *a) {
    int64_t size = in[0].type == V_MISSING ? 8 : want_int(r, in[0]), column = 0;
    if (size > 1024) rt_too_large(r, "columns for a tab", 1024);
    size_t mark = r->out.n;
    for (uint32_t i = 0; i < self.n; i++) {
        char c = self.s[i];
        if (c == '\t') {
            for (int64_t k = size > 0 ? size - column % size : 0; k > 0; k--, column++)
                rt_addc(r, ' ');
            continue;
        }
        rt_addc(r, c);
        if (((unsigned char)c & 0xc0) != 0x80) column++;
        if (c == '\n' || c == '\r') column = 0;
    }
    rt_tick(r, self.n >> 3);
    return like(self, val_str(rt_cut(r, mark)));
}

/* --- classes: "is..." */

typedef bool (*cp_class)(uint32_t cp);

static bool is_alnum(uint32_t cp) {
    return cp_is_alpha(cp) || cp_is_decimal(cp) || cp_is_digit(cp) || cp_is_numeric(cp);
}
static bool is_ascii(uint32_t cp) {
    return cp < 0x80;
}

static val all_of(val self, cp_class is, bool empty) {
    for (size_t i = 0, n; i < self.n; i += n) {
        uint32_t cp;
        n = utf8_get(self.s + i, self.n - i, &cp);
        if (!n || !is(cp)) return val_bool(false);
    }
    return val_bool(self.n || empty);
}

#define CLASS_METHOD(name, is, empty)                                                              \
    static val name(rt *r, val self, const val *in, const call_args *a) {                          \
        rt_tick(r, self.n >> 4);                                                                   \
        return all_of(self, is, empty);                                                            \
    }
CLASS_METHOD(m_isalpha, cp_is_alpha, false)
CLASS_METHOD(m_isalnum, is_alnum, false)
CLASS_METHOD(m_isdecimal, cp_is_decimal, false)
CLASS_METHOD(m_isdigit, cp_is_digit, false)
CLASS_METHOD(m_isnumeric, cp_is_numeric, false)
CLASS_METHOD(m_isspace, cp_is_space, false)
CLASS_METHOD(m_isprintable, cp_is_printable, true)
CLASS_METHOD(m_isascii, is_ascii, true)

bool str_is_cased(val s, bool upper) {
    bool any = false;
    for (size_t i = 0, n; i < s.n; i += n) {
        uint32_t cp;
        n = utf8_get(s.s + i, s.n - i, &cp);
        if (!n || cp_is_title(cp) || (upper ? cp_is_lower(cp) : cp_is_upper(cp))) return false;
        any |= upper ? cp_is_upper(cp) : cp_is_lower(cp);
    }
    return any;
}
static val m_islower(rt *r, val self, const val *in, const call_args *a) {
    return val_bool(str_is_cased(self, false));
}
static val m_isupper(rt *r, val self, const val *in, const call_args *a) {
    return val_bool(str_is_cased(self, true));
}

static val m_istitle(rt *r, val self, const val *in, const call_args *a) {
    bool in_word = false, any = false;
    for (size_t i = 0, n; i < self.n; i += n) {
        uint32_t cp;
        n = utf8_get(self.s + i, self.n - i, &cp);
        if (!n) return val_bool(false);
        bool first = cp_is_upper(cp) || cp_is_title(cp), rest = cp_is_lower(cp);
        if ((first && in_word) || (rest && !in_word)) return val_bool(false);
        in_word = first || rest;
        any |= in_word;
    }
    return val_bool(any);
}

static val m_isidentifier(rt *r, val self, const val *in, const call_args *a) {
    for (size_t i = 0, n; i < self.n; i += n) {
        uint32_t cp;
        n = utf8_get(self.s + i, self.n - i, &cp);
        if (!n || !(i ? cp_is_id_continue(cp) : cp_is_id_start(cp))) return val_bool(false);
    }
    return val_bool(self.n > 0);
}

static val m_format(rt *r, val self, const val *in, const call_args *a) {
    return format_braces(r, self, a);
}
static val m_format_map(rt *r, val self, const val *in, const call_args *a) {
    if (in[0].type != V_DICT)
        rt_raise(r, "TypeError", "format_map() takes a mapping, not %s", type_name(in[0]));
    vals names = {0}, kw = {0};
    for (uint32_t i = 0; i < in[0].dict->n; i++) {
        if (!is_str(in[0].dict->e[i].key)) continue;
        vals_add(r, &names, in[0].dict->e[i].key);
        vals_add(r, &kw, in[0].dict->e[i].value);
    }
    call_args args = {.n_kw = kw.n, .kw_names = names.p, .kw = kw.p};
    return format_braces(r, self, &args);
}

static val m_refused(rt *r, val self, const val *in, const call_args *a) {
    rt_raise(r, "TypeError", "str.encode, maketrans and translate are not supported");
}

static const method str_methods[] = {
    {{"str.strip", "/chars=", 0}, m_strip},
    {{"str.split", "sep=,maxsplit=", 0}, m_split},
    {{"str.replace", "/old,new,count=", 0}, m_replace},
    {{"str.startswith", "/prefix,start=,end=", 0}, m_startswith},
    {{"str.endswith", "/suffix,start=,end=", 0}, m_endswith},
    {{"str.lstrip", "/chars=", 0}, m_lstrip},
    {{"str.rstrip", "/chars=", 0}, m_rstrip},
    {{"str.join", "/iterable", 0}, m_join},
    {{"str.upper", "/", 0}, m_upper},
    {{"str.lower", "/", 0}, m_lower},
    {{"str.title", "/", 0}, m_title},
    {{"str.capitalize", "/", 0}, m_capitalize},
    {{"str.swapcase", "/", 0}, m_swapcase},
    {{"str.casefold", "/", 0}, m_casefold},
    {{"str.rsplit", "sep=,maxsplit=", 0}, m_rsplit},
    {{"str.splitlines", "keepends=", 0}, m_splitlines},
    {{"str.partition", "/sep", 0}, m_partition},
    {{"str.rpartition", "/sep", 0}, m_rpartition},
    {{"str.find", "/sub,start=,end=", 0}, m_find},
    {{"str.rfind", "/sub,start=,end=", 0}, m_rfind},
    {{"str.index", "/sub,start=,end=", 0}, m_index},
    {{"str.rindex", "/sub,start=,end=", 0}, m_rindex},
    {{"str.count", "/sub,start=,end=", 0}, m_count},
    {{"str.removeprefix", "/prefix", 0}, m_removeprefix},
    {{"str.removesuffix", "/suffix", 0}, m_removesuffix},
    {{"str.center", "/width,fillchar=", 0}, m_center},
    {{"str.ljust", "/width,fillchar=", 0}, m_ljust},
    {{"str.rjust", "/width,fillchar=", 0}, m_rjust},
    {{"str.zfill", "/width", 0}, m_zfill},
    {{"str.expandtabs", "tabsize=", 0}, m_expandtabs},
    {{"str.isalpha", "/", 0}, m_isalpha},
    {{"str.isalnum", "/", 0}, m_isalnum},
    {{"str.isdecimal", "/", 0}, m_isdecimal},
    {{"str.isdigit", "/", 0}, m_isdigit},
    {{"str.isnumeric", "/", 0}, m_isnumeric},
    {{"str.isspace", "/", 0}, m_isspace},
    {{"str.isprintable", "/", 0}, m_isprintable},
    {{"str.isascii", "/", 0}, m_isascii},
    {{"str.islower", "/", 0}, m_islower},
    {{"str.isupper", "/", 0}, m_isupper},
    {{"str.istitle", "/", 0}, m_istitle},
    {{"str.isidentifier", "/", 0}, m_isidentifier},
    {{"str.format", "*", 0}, m_format},
    {{"str.format_map", "/mapping", 0}, m_format_map},
    {{"str.encode", "*", 0}, m_refused},
    {{"str.maketrans", "*", 0}, m_refused},
    {{"str.translate", "*", 0}, m_refused},
};

const method *str_method(str name) {
    for (size_t i = 0; i < ARRAY_LEN(str_methods); i++)
        if (str_eqz(name, str_methods[i].sig.name + 4)) return &str_methods[i];
    return NULL;
}
