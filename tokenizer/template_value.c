/* Values: arena, output, dicts, equality, order, truth.
 *
 * A val is 16 bytes and passed by value. Strings and lists carry their length beside the pointer,
 * so cutting and slicing copy nothing. One buffer holds all text of a rendering: captures are
 * strictly nested, so a macro's result is simply what stands behind its mark. */
#include "tokenizer/template_run.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/mem.h"

enum { TICKS_PER_CLOCK = 4096 };

/* --- errors and bounds */

_Noreturn static void leave(rt *r, status st) {
    r->st = st;
    longjmp(r->fail, 1);
}

void rt_raise(rt *r, const char *kind, const char *fmt, ...) {
    char text[sizeof r->err->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    leave(r, error_set(r->err, ERR_INVALID, "%s: %s", kind, text));
}

void rt_too_large(rt *r, const char *what, int64_t limit) {
    leave(r, error_set(r->err, ERR_TOO_LARGE, "chat template: more than %lld %s", (long long)limit,
                       what));
}

void rt_clock(rt *r) {
    int64_t used = TICKS_PER_CLOCK - r->tick;
    r->steps -= used;
    r->tick = TICKS_PER_CLOCK;
    if (r->steps < 0) leave(r, error_set(r->err, ERR_TOO_LARGE, "chat template: too many steps"));
    if (clock_us() > r->deadline_us)
        leave(r, error_set(r->err, ERR_TOO_LARGE, "chat template: rendering takes too long"));
}

void *rt_alloc(rt *r, size_t bytes) {
    void *p = arena_alloc(r->mem, bytes);
    if (!p) rt_too_large(r, "bytes of memory", (int64_t)LIMIT_ARENA_BYTES);
    return p;
}

void *rt_array(rt *r, size_t n, size_t size) {
    size_t bytes;
    if (!mul_ok(n, size, &bytes)) rt_too_large(r, "bytes of memory", (int64_t)LIMIT_ARENA_BYTES);
    return rt_alloc(r, bytes);
}

static val undefined_message(rt *r, const undefined *u) {
    if (u->hint.type == V_STR) return u->hint;
    size_t mark = r->out.n;
    if (u->obj.type == V_MISSING) {
        rt_add_repr(r, u->name);
        rt_addz(r, " is undefined");
        return rt_cut(r, mark);
    }
    const char *of = u->obj.type == V_NONE ? "None" : type_name(u->obj);
    const char *module = u->obj.type == V_NAMESPACE                           ? "jinja2.utils."
                         : u->obj.type == V_MACRO || u->obj.type == V_LOOP    ? "jinja2.runtime."
                         : u->obj.type == V_CYCLER || u->obj.type == V_JOINER ? "jinja2.utils."
                                                                              : "";
    const char *object = u->obj.type == V_NONE ? "" : " object";
    bool attr = is_str(u->name);
    rt_addf(r, "%s%s%s%s%s has no %s ", attr ? "'" : "", module, of, object, attr ? "'" : "",
            attr ? "attribute" : "element");
    rt_add_repr(r, u->name);
    return rt_cut(r, mark);
}

void rt_raise_undefined(rt *r, val v) {
    val message = undefined_message(r, v.undefined);
    rt_raise(r, v.undefined->is_unsafe ? "SecurityError" : "UndefinedError", STR_FMT,
             STR_ARG(val_str(message)));
}

/* --- output */

void rt_add(rt *r, const char *p, size_t n) {
    rt_tick(r, (int64_t)(n >> 6));
    if (!strbuf_add(&r->out, str_n(p, n)))
        rt_too_large(r, "bytes of output", (int64_t)r->output_max);
}
void rt_addz(rt *r, const char *z) {
    rt_add(r, z, strlen(z));
}
void rt_addc(rt *r, char c) {
    rt_add(r, &c, 1);
}
void rt_addf(rt *r, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    rt_add(r, text, MIN((size_t)n, sizeof text - 1));
}
val rt_cut(rt *r, size_t mark) {
    size_t n = r->out.n - mark;
    val v = n ? str_copy(r, r->out.p + mark, n) : val_strn("", 0);
    r->out.n = mark;
    if (r->out.p) r->out.p[mark] = 0;
    return v;
}

/* --- making values */

val str_copy(rt *r, const char *p, size_t n) {
    rt_tick(r, (int64_t)(n >> 6));
    char *s = rt_alloc(r, n);
    memcpy(s, p, n);
    return val_strn(s, n);
}

/* Repeated "x = x + piece" would copy x each time. The newest concatenation is given room behind
 * it, and a further piece that is added to exactly that string goes there: the shorter string
 * keeps its own length and stays valid. */
val str_concat(rt *r, val a, val b) {
    if (!a.n) return b;
    if (!b.n) return a;
    rt_tick(r, (int64_t)(b.n >> 6));
    if (a.s + a.n == r->grow_end && b.n <= r->grow_room) {
        memcpy(r->grow_end, b.s, b.n);
        r->grow_end += b.n;
        r->grow_room -= b.n;
        return val_strn(a.s, (size_t)a.n + b.n);
    }
    size_t n = (size_t)a.n + b.n, room = n < 256 ? 0 : n;
    rt_tick(r, (int64_t)(n >> 6));
    char *s = rt_alloc(r, n + room);
    memcpy(s, a.s, a.n);
    memcpy(s + a.n, b.s, b.n);
    if (room) {
        r->grow_end = s + n;
        r->grow_room = room;
    }
    return val_strn(s, n);
}

val val_pair(rt *r, val a, val b) {
    val *p = rt_array(r, 2, sizeof *p);
    p[0] = a;
    p[1] = b;
    return val_tuple(p, 2);
}

val val_undefined(rt *r, val obj, val name) {
    undefined *u = rt_alloc(r, sizeof *u);
    *u = (undefined){.hint = val_missing(), .obj = obj, .name = name};
    return (val){.type = V_UNDEFINED, .undefined = u};
}

val val_undefined_hint(rt *r, const char *hint) {
    undefined *u = rt_alloc(r, sizeof *u);
    *u = (undefined){.hint = str_copy(r, hint, strlen(hint)), .obj = val_missing()};
    return (val){.type = V_UNDEFINED, .undefined = u};
}

void vals_add(rt *r, vals *v, val x) {
    if (v->n == v->cap) {
        uint32_t cap = v->cap ? v->cap * 2 : 8;
        if (cap < v->cap) rt_too_large(r, "items in a list", v->n);
        val *p = rt_array(r, cap, sizeof *p);
        if (v->n) memcpy(p, v->p, v->n * sizeof *p);
        v->p = p;
        v->cap = cap;
    }
    rt_tick(r, 1);
    v->p[v->n++] = x;
}

static val list_from_json(rt *r, const json_t *j) {
    size_t n = json_array_size(j);
    val *p = rt_array(r, n, sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = val_from_json(r, json_array_get(j, i));
    return val_list(p, n);
}

static val dict_from_json(rt *r, const json_t *j) {
    dict *d = dict_new(r, json_object_size(j));
    /* jansson's iteration takes a non-const object but changes nothing */
    json_t *obj = (json_t *)(uintptr_t)j;
    for (void *it = json_object_iter(obj); it; it = json_object_iter_next(obj, it))
        dict_set(r, d, val_strn(json_object_iter_key(it), json_object_iter_key_len(it)),
                 val_from_json(r, json_object_iter_value(it)));
    return val_dict(d);
}

/* Strings are borrowed: the caller keeps the JSON while it renders. */
val val_from_json(rt *r, const json_t *j) {
    rt_tick(r, 1);
    switch (json_typeof(j)) {
    case JSON_OBJECT: {
        rt_enter(r);
        val v = dict_from_json(r, j);
        rt_leave(r);
        return v;
    }
    case JSON_ARRAY: {
        rt_enter(r);
        val v = list_from_json(r, j);
        rt_leave(r);
        return v;
    }
    case JSON_STRING: return val_strn(json_string_value(j), json_string_length(j));
    case JSON_INTEGER: return val_int(json_integer_value(j));
    case JSON_REAL: return val_float(json_real_value(j));
    case JSON_TRUE: return val_bool(true);
    case JSON_FALSE: return val_bool(false);
    default: return val_none();
    }
}

/* --- dicts */

dict *dict_new(rt *r, size_t cap) {
    dict *d = rt_alloc(r, sizeof *d);
    if (cap) {
        d->e = rt_array(r, cap, sizeof *d->e);
        d->cap = (uint32_t)cap;
    }
    return d;
}

static void index_put(rt *r, dict *d, uint32_t entry) {
    uint32_t i = (uint32_t)val_hash(r, d->e[entry].key) & d->mask;
    while (d->index[i]) i = (i + 1) & d->mask;
    d->index[i] = entry + 1;
}

static void index_build(rt *r, dict *d) {
    uint32_t slots = 32;
    while (slots < d->cap * 2) slots *= 2;
    d->index = rt_array(r, slots, sizeof *d->index);
    d->mask = slots - 1;
    for (uint32_t i = 0; i < d->n; i++) index_put(r, d, i);
}

static dict_entry *dict_find(rt *r, const dict *d, val key) {
    uint64_t h = val_hash(r, key); /* also where unhashable keys are refused */
    if (!d->index) {
        for (uint32_t i = 0; i < d->n; i++)
            if (val_equal(r, d->e[i].key, key)) return &d->e[i];
        return NULL;
    }
    for (uint32_t i = (uint32_t)h & d->mask; d->index[i]; i = (i + 1) & d->mask) {
        dict_entry *e = &d->e[d->index[i] - 1];
        if (val_equal(r, e->key, key)) return e;
    }
    return NULL;
}

const val *dict_get(rt *r, const dict *d, val key) {
    dict_entry *e = dict_find(r, d, key);
    return e ? &e->value : NULL;
}

void dict_set(rt *r, dict *d, val key, val value) {
    dict_entry *e = dict_find(r, d, key);
    if (e) {
        e->value = value;
        return;
    }
    if (d->n == d->cap) {
        uint32_t cap = d->cap ? d->cap * 2 : 4;
        if (cap < d->cap) rt_too_large(r, "entries in a dict", d->n);
        dict_entry *p = rt_array(r, cap, sizeof *p);
        if (d->n) memcpy(p, d->e, d->n * sizeof *p);
        d->e = p;
        d->cap = cap;
        d->index = NULL;
    }
    d->e[d->n++] = (dict_entry){key, value};
    if (d->index)
        index_put(r, d, d->n - 1);
    else if (d->n >= DICT_INDEX_MIN)
        index_build(r, d);
}

/* --- what Python's built-ins say */

const char *type_name(val v) {
    switch ((vtype)v.type) {
    case V_UNDEFINED: return "Undefined";
    case V_NONE: return "NoneType";
    case V_BOOL: return "bool";
    case V_INT: return "int";
    case V_FLOAT: return "float";
    case V_STR: return v.flags & VAL_MARKUP ? "Markup" : "str";
    case V_LIST: return "list";
    case V_TUPLE: return "tuple";
    case V_DICT: return "dict";
    case V_RANGE: return "range";
    case V_VIEW:
        return v.view->kind == VIEW_KEYS     ? "dict_keys"
               : v.view->kind == VIEW_VALUES ? "dict_values"
                                             : "dict_items";
    case V_NAMESPACE: return "Namespace";
    case V_MACRO: return "Macro";
    case V_LOOP: return "LoopContext";
    case V_BOUND: return "builtin_function_or_method";
    case V_BUILTIN: return "function";
    case V_CYCLER: return "Cycler";
    case V_JOINER: return "Joiner";
    case V_MISSING: return "missing";
    case V_ITER: return v.iter->type_name;
    }
    return "object";
}

bool has_length(val v) {
    switch ((vtype)v.type) {
    case V_UNDEFINED:
    case V_STR:
    case V_LIST:
    case V_TUPLE:
    case V_DICT:
    case V_RANGE:
    case V_VIEW:
    case V_LOOP: return true;
    default: return false;
    }
}

static size_t count_cp(val v) {
    size_t n = 0;
    for (uint32_t i = 0; i < v.n; i++) n += ((unsigned char)v.s[i] & 0xc0) != 0x80;
    return n;
}

int64_t val_length(rt *r, val v) {
    switch ((vtype)v.type) {
    case V_UNDEFINED: return 0;
    case V_STR: rt_tick(r, v.n >> 6); return (int64_t)count_cp(v);
    case V_LIST:
    case V_TUPLE: return v.n;
    case V_DICT: return v.dict->n;
    case V_RANGE: return v.range->n;
    case V_VIEW: return v.view->dict->n;
    case V_LOOP: return loop_length(r, v.loop);
    default: rt_raise(r, "TypeError", "object of type '%s' has no len()", type_name(v));
    }
}

bool is_true(rt *r, val v) {
    switch ((vtype)v.type) {
    case V_MISSING:
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v.b;
    case V_INT: return v.i != 0;
    case V_FLOAT: return v.f != 0;
    case V_STR:
    case V_LIST:
    case V_TUPLE: return v.n != 0;
    case V_DICT:
    case V_RANGE:
    case V_VIEW:
    case V_LOOP: return val_length(r, v) != 0;
    default: return true;
    }
}

/* Exact for all 64-bit integers: a double that is no integer lies strictly between two. */
static int int_float_cmp(int64_t i, double f) {
    if (isnan(f)) return 2;
    if (f >= 9223372036854775808.0) return -1;
    if (f < -9223372036854775808.0) return 1;
    int64_t t = (int64_t)f;
    if (i != t) return i < t ? -1 : 1;
    double rest = f - (double)t;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

/* -1, 0, 1, or 2 for unordered (NaN). */
static int number_cmp(val a, val b) {
    if (a.type == V_FLOAT && b.type == V_FLOAT)
        return isnan(a.f) || isnan(b.f) ? 2 : a.f < b.f ? -1 : a.f > b.f;
    if (a.type == V_FLOAT) {
        int c = int_float_cmp(int_of(b), a.f);
        return c == 2 ? 2 : -c;
    }
    if (b.type == V_FLOAT) return int_float_cmp(int_of(a), b.f);
    int64_t x = int_of(a), y = int_of(b);
    return x < y ? -1 : x > y;
}

static bool dict_equal(rt *r, const dict *a, const dict *b) {
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++) {
        const val *v = dict_get(r, b, a->e[i].key);
        if (!v || !val_equal(r, a->e[i].value, *v)) return false;
    }
    return true;
}

static bool range_equal(const range *a, const range *b) {
    if (a->n != b->n) return false;
    if (a->n == 0) return true;
    return a->start == b->start && (a->n == 1 || a->step == b->step);
}

static bool view_equal(rt *r, val a, val b) {
    if (a.view == b.view) return true;
    if (a.view->kind == VIEW_VALUES || b.view->kind != a.view->kind) return false;
    const dict *x = a.view->dict, *y = b.view->dict;
    if (a.view->kind == VIEW_ITEMS) return dict_equal(r, x, y);
    if (x->n != y->n) return false;
    for (uint32_t i = 0; i < x->n; i++)
        if (!dict_get(r, y, x->e[i].key)) return false;
    return true;
}

static bool items_equal(rt *r, val a, val b) {
    if (a.n != b.n) return false;
    for (uint32_t i = 0; i < a.n; i++)
        if (!val_equal(r, a.items[i], b.items[i])) return false;
    return true;
}

static bool compound_equal(rt *r, val a, val b) {
    rt_enter(r);
    bool equal;
    switch ((vtype)a.type) {
    case V_LIST:
    case V_TUPLE: equal = items_equal(r, a, b); break;
    case V_DICT: equal = a.dict == b.dict || dict_equal(r, a.dict, b.dict); break;
    case V_RANGE: equal = range_equal(a.range, b.range); break;
    default: equal = view_equal(r, a, b);
    }
    rt_leave(r);
    return equal;
}

bool val_equal(rt *r, val a, val b) {
    rt_tick(r, 1);
    if (is_number(a) && is_number(b)) return number_cmp(a, b) == 0;
    if (a.type != b.type) return false;
    switch ((vtype)a.type) {
    case V_UNDEFINED:
    case V_NONE: return true;
    case V_STR:
        if (a.n == b.n) rt_tick(r, a.n >> 8);
        return str_eq(val_str(a), val_str(b));
    case V_LIST:
    case V_TUPLE:
    case V_DICT:
    case V_RANGE:
    case V_VIEW: return compound_equal(r, a, b);
    case V_BOUND: return a.bound == b.bound;
    default: return a.items == b.items; /* identity */
    }
}

static int str_cmp(val a, val b) {
    int c = memcmp(a.s ? a.s : "", b.s ? b.s : "", MIN(a.n, b.n));
    return c ? (c < 0 ? -1 : 1) : a.n < b.n ? -1 : a.n > b.n;
}

static bool order_holds(int cmp, const char *op) {
    if (cmp == 2) return false;
    if (op[0] == '<') return op[1] ? cmp <= 0 : cmp < 0;
    return op[1] ? cmp >= 0 : cmp > 0;
}

static bool sequence_order(rt *r, val a, val b, const char *op) {
    rt_enter(r);
    uint32_t i = 0, n = MIN(a.n, b.n);
    while (i < n && val_equal(r, a.items[i], b.items[i])) i++;
    bool holds = i < n ? val_order(r, a.items[i], b.items[i], op)
                       : order_holds(a.n < b.n ? -1 : a.n > b.n, op);
    rt_leave(r);
    return holds;
}

bool val_order(rt *r, val a, val b, const char *op) {
    rt_tick(r, 1);
    if (is_undefined(a)) rt_raise_undefined(r, a);
    if (is_undefined(b)) rt_raise_undefined(r, b);
    if (is_number(a) && is_number(b)) return order_holds(number_cmp(a, b), op);
    if (is_str(a) && is_str(b)) {
        rt_tick(r, MIN(a.n, b.n) >> 8);
        return order_holds(str_cmp(a, b), op);
    }
    if (a.type == b.type && (a.type == V_LIST || a.type == V_TUPLE))
        return sequence_order(r, a, b, op);
    rt_raise(r, "TypeError", "'%s' not supported between instances of '%s' and '%s'", op,
             type_name(a), type_name(b));
}

bool val_less(rt *r, val a, val b) {
    return val_order(r, a, b, "<");
}

uint64_t val_hash(rt *r, val v) {
    switch ((vtype)v.type) {
    case V_STR: rt_tick(r, v.n >> 6); return hash64(v.s, v.n, 1);
    case V_BOOL:
    case V_INT: {
        int64_t i = int_of(v);
        return hash64(&i, sizeof i, 2);
    }
    case V_FLOAT:
        if (v.f >= -9e18 && v.f <= 9e18 && v.f == floor(v.f)) {
            int64_t i = (int64_t)v.f;
            return hash64(&i, sizeof i, 2);
        }
        return hash64(&v.f, sizeof v.f, 3);
    case V_TUPLE: {
        rt_enter(r);
        uint64_t h = v.n;
        for (uint32_t i = 0; i < v.n; i++) h = h * 0x9e3779b97f4a7c15u + val_hash(r, v.items[i]);
        rt_leave(r);
        return h;
    }
    case V_LIST:
    case V_DICT: rt_raise(r, "TypeError", "unhashable type: '%s'", type_name(v));
    case V_VIEW:
        if (v.view->kind != VIEW_VALUES)
            rt_raise(r, "TypeError", "unhashable type: '%s'", type_name(v));
        return 7;
    case V_RANGE: return (uint64_t)v.range->n;
    case V_UNDEFINED:
    case V_NONE: return v.type;
    default: return hash64(&v.items, sizeof v.items, 4);
    }
}

bool val_same(val a, val b) {
    if (a.type != b.type) return false;
    switch ((vtype)a.type) {
    case V_NONE: return true;
    case V_BOOL: return a.b == b.b;
    case V_INT: return a.i == b.i;
    case V_STR: return a.n == b.n && (a.s == b.s || a.n == 0);
    case V_LIST: return a.items == b.items && a.n == b.n && a.n;
    case V_TUPLE: return a.n == b.n && (a.items == b.items || a.n == 0);
    case V_FLOAT: return false;
    default: return a.items == b.items;
    }
}
