/* Operators with Python's meaning and error texts. Integers have 64 bits: what does not fit is an
 * OverflowError, never a wrong number. */
#include <math.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_run.h"

static const char *op_text(uint8_t op) {
    switch (op) {
    case T_ADD: return "+";
    case T_SUB: return "-";
    case T_MUL: return "*";
    case T_DIV: return "/";
    case T_FLOORDIV: return "//";
    case T_MOD: return "%";
    default: return "** or pow()";
    }
}

_Noreturn static void fail_types(rt *r, uint8_t op, val a, val b) {
    rt_raise(r, "TypeError", "unsupported operand type(s) for %s: '%s' and '%s'", op_text(op),
             type_name(a), type_name(b));
}

_Noreturn static void fail_overflow(rt *r) {
    rt_raise(r, "OverflowError", "integer result does not fit 64 bits");
}

/* --- numbers */

static val int_floordiv(rt *r, int64_t a, int64_t b) {
    if (!b) rt_raise(r, "ZeroDivisionError", "integer division or modulo by zero");
    if (a == INT64_MIN && b == -1) fail_overflow(r);
    int64_t q = a / b;
    return val_int(a % b && (a < 0) != (b < 0) ? q - 1 : q);
}

static val int_mod(rt *r, int64_t a, int64_t b) {
    if (!b) rt_raise(r, "ZeroDivisionError", "integer modulo by zero");
    if (b == -1) return val_int(0);
    int64_t m = a % b;
    return val_int(m && (m < 0) != (b < 0) ? m + b : m);
}

static val int_pow(rt *r, int64_t a, int64_t b) {
    if (b < 0) {
        if (!a) rt_raise(r, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
        return val_float(pow((double)a, (double)b));
    }
    int64_t v = 1;
    for (;;) {
        if (b & 1 && __builtin_mul_overflow(v, a, &v)) fail_overflow(r);
        b >>= 1;
        if (!b) return val_int(v);
        if (__builtin_mul_overflow(a, a, &a)) fail_overflow(r);
    }
}

static val int_op(rt *r, uint8_t op, int64_t a, int64_t b) {
    int64_t v;
    bool overflow = false;
    switch (op) {
    case T_ADD: overflow = __builtin_add_overflow(a, b, &v); break;
    case T_SUB: overflow = __builtin_sub_overflow(a, b, &v); break;
    case T_MUL: overflow = __builtin_mul_overflow(a, b, &v); break;
    case T_DIV:
        if (!b) rt_raise(r, "ZeroDivisionError", "division by zero");
        return val_float((double)((long double)a / (long double)b));
    case T_FLOORDIV: return int_floordiv(r, a, b);
    case T_MOD: return int_mod(r, a, b);
    default: return int_pow(r, a, b);
    }
    if (overflow) fail_overflow(r);
    return val_int(v);
}

static double float_mod(double a, double b) {
    double m = fmod(a, b);
    if (m) return (m < 0) != (b < 0) ? m + b : m;
    return copysign(0.0, b);
}

static double float_floordiv(double a, double b) {
    double m = fmod(a, b), div = (a - m) / b;
    if (m && (b < 0) != (m < 0)) div -= 1;
    if (!div) return copysign(0.0, a / b);
    double f = floor(div);
    return div - f > 0.5 ? f + 1 : f;
}

static val float_pow(rt *r, double a, double b) {
    if (a == 0 && b < 0)
        rt_raise(r, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        rt_raise(r, "TypeError", "complex numbers are not supported");
    double v = pow(a, b);
    if (isinf(v) && isfinite(a) && isfinite(b))
        rt_raise(r, "OverflowError", "(34, 'Numerical result out of range')");
    return val_float(v);
}

static val float_op(rt *r, uint8_t op, double a, double b) {
    switch (op) {
    case T_ADD: return val_float(a + b);
    case T_SUB: return val_float(a - b);
    case T_MUL: return val_float(a * b);
    case T_DIV:
        if (b == 0) rt_raise(r, "ZeroDivisionError", "float division by zero");
        return val_float(a / b);
    case T_FLOORDIV:
        if (b == 0) rt_raise(r, "ZeroDivisionError", "float floor division by zero");
        return val_float(float_floordiv(a, b));
    case T_MOD:
        if (b == 0) rt_raise(r, "ZeroDivisionError", "float modulo");
        return val_float(float_mod(a, b));
    default: return float_pow(r, a, b);
    }
}

val negate(rt *r, val v, bool plus) {
    if (is_undefined(v)) rt_raise_undefined(r, v);
    if (v.type == V_FLOAT) return val_float(plus ? v.f : -v.f);
    if (!is_int(v))
        rt_raise(r, "TypeError", "bad operand type for unary %c: '%s'", plus ? '+' : '-',
                 type_name(v));
    if (!plus && int_of(v) == INT64_MIN) fail_overflow(r);
    return val_int(plus ? int_of(v) : -int_of(v));
}

/* --- strings and lists */

/* Markup + text escapes the text. */
static val str_add(rt *r, val a, val b) {
    bool markup = (a.flags | b.flags) & VAL_MARKUP;
    if (markup && !(a.flags & VAL_MARKUP)) a = escape_html(r, a);
    if (markup && !(b.flags & VAL_MARKUP)) b = escape_html(r, b);
    val v = str_concat(r, a, b);
    v.flags = markup ? VAL_MARKUP : 0;
    return v;
}

static val list_add(rt *r, val a, val b) {
    size_t n = (size_t)a.n + b.n;
    val *p = rt_array(r, n, sizeof *p);
    if (a.n) memcpy(p, a.items, a.n * sizeof *p);
    if (b.n) memcpy(p + a.n, b.items, b.n * sizeof *p);
    rt_tick(r, (int64_t)n);
    return a.type == V_LIST ? val_list(p, n) : val_tuple(p, n);
}

static val add(rt *r, val a, val b) {
    if (is_str(a) && is_str(b)) return str_add(r, a, b);
    if (a.type == b.type && (a.type == V_LIST || a.type == V_TUPLE)) return list_add(r, a, b);
    if (is_str(a) && !(a.flags & VAL_MARKUP))
        rt_raise(r, "TypeError", "can only concatenate str (not \"%s\") to str", type_name(b));
    if (a.type == V_LIST || a.type == V_TUPLE)
        rt_raise(r, "TypeError", "can only concatenate %s (not \"%s\") to %s", type_name(a),
                 type_name(b), type_name(a));
    fail_types(r, T_ADD, a, b);
}

val str_repeat(rt *r, val s, int64_t n) {
    size_t bytes;
    if (n <= 0 || !s.n) return val_strn("", 0);
    if (!mul_ok(s.n, (size_t)n, &bytes) || bytes > LIMIT_TEMPLATE_OUTPUT)
        rt_too_large(r, "bytes in a repeated string", LIMIT_TEMPLATE_OUTPUT);
    rt_tick(r, (int64_t)(bytes >> 6));
    char *p = rt_alloc(r, bytes);
    for (size_t i = 0; i < bytes; i += s.n) memcpy(p + i, s.s, s.n);
    return (val){.type = V_STR, .flags = s.flags, .n = (uint32_t)bytes, .s = p};
}

static val list_repeat(rt *r, val v, int64_t n) {
    size_t count;
    if (n < 0) n = 0;
    if (!mul_ok(v.n, (size_t)n, &count) || count > LIMIT_TEMPLATE_RANGE)
        rt_too_large(r, "items in a repeated list", LIMIT_TEMPLATE_RANGE);
    rt_tick(r, (int64_t)count);
    val *p = rt_array(r, count, sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = v.items[i % v.n];
    return v.type == V_LIST ? val_list(p, count) : val_tuple(p, count);
}

static val repeat(rt *r, val a, val b) {
    if (is_int(a)) {
        val swap = a;
        a = b;
        b = swap;
    }
    bool sequence = is_str(a) || a.type == V_LIST || a.type == V_TUPLE;
    if (sequence && !is_int(b))
        rt_raise(r, "TypeError", "can't multiply sequence by non-int of type '%s'", type_name(b));
    if (is_str(a)) return str_repeat(r, a, int_of(b));
    return list_repeat(r, a, int_of(b));
}

static bool is_sequence(val v) {
    return is_str(v) || v.type == V_LIST || v.type == V_TUPLE;
}

/* dict_keys - iterable and friends are sets in Python: not supported, named. */
val binary_op(rt *r, uint8_t op, val a, val b) {
    if (is_undefined(a)) rt_raise_undefined(r, a);
    if (op == T_MOD && is_str(a)) return format_percent(r, a, b);
    if (is_undefined(b)) rt_raise_undefined(r, b);
    if (is_int(a) && is_int(b)) return int_op(r, op, int_of(a), int_of(b));
    if (is_number(a) && is_number(b)) return float_op(r, op, float_of(a), float_of(b));
    if (op == T_ADD) return add(r, a, b);
    if (op == T_MUL && (is_sequence(a) || is_sequence(b))) {
        if (!is_sequence(a) && !is_int(a))
            rt_raise(r, "TypeError", "can't multiply sequence by non-int of type '%s'",
                     type_name(a));
        return repeat(r, a, b);
    }
    fail_types(r, op, a, b);
}

bool contains(rt *r, val container, val x) {
    if (is_str(container)) {
        if (!is_str(x))
            rt_raise(r, "TypeError", "'in <string>' requires string as left operand, not %s",
                     type_name(x));
        rt_tick(r, container.n >> 6);
        return str_find(val_str(container), val_str(x), 0) >= 0;
    }
    if (container.type == V_DICT) return dict_get(r, container.dict, x) != NULL;
    if (container.type == V_VIEW && container.view->kind == VIEW_KEYS)
        return dict_get(r, container.view->dict, x) != NULL;
    if (!is_iterable(container))
        rt_raise(r, "TypeError", "argument of type '%s' is not iterable", type_name(container));
    iter *it = iter_of(r, container);
    for (val v; iter_next(r, it, &v);)
        if (val_equal(r, v, x)) return true;
    return false;
}

/* --- slices */

int64_t index_int(rt *r, val v, const char *what) {
    if (is_undefined(v))
        rt_raise(r, "TypeError", "'Undefined' object cannot be interpreted as an integer");
    if (!is_int(v)) rt_raise(r, "TypeError", "%s must be an integer, not '%s'", what, type_name(v));
    return int_of(v);
}

static int64_t slice_part(rt *r, val v) {
    if (!is_int(v))
        rt_raise(r, "TypeError",
                 "slice indices must be integers or None or have an __index__ method");
    return int_of(v);
}

static int64_t slice_clamp(int64_t i, int64_t n, int64_t low, int64_t high) {
    if (i < 0) i += n;
    return MAX(low, MIN(i, high));
}

/* Python's slice.indices(): *from, *to within the sequence; returns the number of items. */
static int64_t slice_span(rt *r, int64_t n, val start, val stop, int64_t step, int64_t *from,
                          int64_t *to) {
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    int64_t first = step < 0 ? high : low, last = step < 0 ? low : high;
    int64_t a = start.type == V_NONE ? first : slice_clamp(slice_part(r, start), n, low, high);
    int64_t b = stop.type == V_NONE ? last : slice_clamp(slice_part(r, stop), n, low, high);
    *from = a;
    *to = b;
    if (step > 0) return a < b ? (b - a - 1) / step + 1 : 0;
    return a > b ? (a - b - 1) / -step + 1 : 0;
}

/* Byte offset of code point i (may be the end). */
static size_t cp_offset(val s, int64_t i) {
    size_t at = 0;
    while (i > 0 && at < s.n) {
        at++;
        while (at < s.n && ((unsigned char)s.s[at] & 0xc0) == 0x80) at++;
        i--;
    }
    return at;
}

val str_slice(rt *r, val s, int64_t from, int64_t to) {
    rt_tick(r, s.n >> 8);
    size_t a = cp_offset(s, from), n = 0;
    if (to > from) n = cp_offset(val_strn(s.s + a, s.n - a), to - from);
    return (val){.type = V_STR, .flags = s.flags, .n = (uint32_t)n, .s = s.s + a};
}

static val str_slice_step(rt *r, val s, int64_t from, int64_t count, int64_t step) {
    uint32_t *offsets = rt_array(r, (size_t)s.n + 1, sizeof *offsets), n = 0;
    rt_tick(r, s.n);
    for (uint32_t i = 0; i < s.n; i++)
        if (((unsigned char)s.s[i] & 0xc0) != 0x80) offsets[n++] = i;
    offsets[n] = s.n;
    char *p = rt_alloc(r, s.n);
    size_t len = 0;
    for (int64_t k = 0, i = from; k < count; k++, i += step) {
        size_t bytes = offsets[i + 1] - offsets[i];
        memcpy(p + len, s.s + offsets[i], bytes);
        len += bytes;
    }
    return (val){.type = V_STR, .flags = s.flags, .n = (uint32_t)len, .s = p};
}

static val list_slice(rt *r, val v, int64_t from, int64_t count, int64_t step) {
    if (step == 1) {
        val cut = v;
        cut.n = (uint32_t)count;
        cut.items = count ? v.items + from : v.items;
        return cut;
    }
    val *p = rt_array(r, (size_t)count, sizeof *p);
    rt_tick(r, count);
    for (int64_t k = 0; k < count; k++) p[k] = v.items[from + k * step];
    return v.type == V_LIST ? val_list(p, (size_t)count) : val_tuple(p, (size_t)count);
}

static val range_slice(rt *r, const range *g, int64_t from, int64_t to, int64_t count,
                       int64_t step) {
    /* in unsigned arithmetic: an unused end may lie past 64 bits */
    uint64_t start = (uint64_t)g->start, by = (uint64_t)g->step;
    range *cut = rt_alloc(r, sizeof *cut);
    *cut = (range){.start = (int64_t)(start + (uint64_t)from * by),
                   .stop = (int64_t)(start + (uint64_t)to * by),
                   .step = (int64_t)(by * (uint64_t)step),
                   .n = count};
    return (val){.type = V_RANGE, .range = cut};
}

val slice(rt *r, val v, val start, val stop, val step_val) {
    if (is_undefined(v)) rt_raise_undefined(r, v);
    if (v.type == V_DICT) rt_raise(r, "TypeError", "unhashable type: 'slice'");
    if (!is_sequence(v) && v.type != V_RANGE)
        rt_raise(r, "TypeError", "'%s' object is not subscriptable", type_name(v));
    int64_t step = step_val.type == V_NONE ? 1 : slice_part(r, step_val), from, to;
    if (!step) rt_raise(r, "ValueError", "slice step cannot be zero");
    if (step < -INT32_MAX) step = -INT32_MAX;
    if (step > INT32_MAX) step = INT32_MAX;
    int64_t count = slice_span(r, val_length(r, v), start, stop, step, &from, &to);
    if (v.type == V_RANGE) return range_slice(r, v.range, from, to, count, step);
    if (!is_str(v)) return list_slice(r, v, from, count, step);
    return step == 1 ? str_slice(r, v, from, to) : str_slice_step(r, v, from, count, step);
}

val str_at(val s, int64_t i) {
    size_t at;
    if (i >= 0) {
        at = cp_offset(s, i);
        if (at >= s.n) return val_missing();
    } else {
        at = s.n;
        for (; i < 0; i++) {
            if (!at) return val_missing();
            do at--;
            while (at && ((unsigned char)s.s[at] & 0xc0) == 0x80);
        }
    }
    size_t n = cp_offset(val_strn(s.s + at, s.n - at), 1);
    return (val){.type = V_STR, .flags = s.flags, .n = (uint32_t)n, .s = s.s + at};
}
