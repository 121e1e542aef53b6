/* Attributes and items: what "a.b" and "a['b']" find. Data first, then a fixed list of methods; the
 * sandbox's refusals (methods that change their object, names with underscores) keep their error
 * texts. Nothing else of an object can be reached. */
#include <math.h>

#include "engine/base/mem.h"
#include "tokenizer/template_filter.h"

val bind_method(rt *r, val self, const method *m) {
    bound *b = rt_alloc(r, sizeof *b);
    *b = (bound){.self = self, .m = m};
    return (val){.type = V_BOUND, .bound = b};
}

static val unsafe(rt *r, val obj, val name) {
    undefined *u = rt_alloc(r, sizeof *u);
    size_t mark = r->out.n;
    rt_addz(r, "access to attribute ");
    rt_add_repr(r, name);
    rt_addf(r, " of '%s' object is unsafe.", type_name(obj));
    *u = (undefined){.hint = rt_cut(r, mark), .obj = obj, .name = name, .is_unsafe = true};
    return (val){.type = V_UNDEFINED, .undefined = u};
}

static bool one_of(str name, const char *const *names) {
    for (; *names; names++)
        if (str_eqz(name, *names)) return true;
    return false;
}

/* Attributes that exist in Python but that the sandbox refuses. */
static bool is_refused(val obj, str name) {
    static const char *const of_list[] = {"append", "clear",  "pop",    "reverse", "insert",
                                          "sort",   "extend", "remove", NULL};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "update", "setdefault", NULL};
    static const char *const of_object[] = {"__class__",
                                            "__doc__",
                                            "__init__",
                                            "__eq__",
                                            "__ne__",
                                            "__lt__",
                                            "__le__",
                                            "__gt__",
                                            "__ge__",
                                            "__hash__",
                                            "__repr__",
                                            "__str__",
                                            "__dir__",
                                            "__new__",
                                            "__reduce__",
                                            "__format__",
                                            "__sizeof__",
                                            "__delattr__",
                                            "__setattr__",
                                            "__getattribute__",
                                            "__reduce_ex__",
                                            "__subclasshook__",
                                            "__init_subclass__",
                                            NULL};
    static const char *const of_container[] = {"__len__", "__iter__", "__contains__", "__getitem__",
                                               NULL};
    if (obj.type == V_LIST && one_of(name, of_list)) return true;
    if (obj.type == V_DICT && one_of(name, of_dict)) return true;
    if (name.n < 5 || name.p[0] != '_') return false;
    if (one_of(name, of_object)) return true;
    return (is_str(obj) || obj.type == V_LIST || obj.type == V_TUPLE || obj.type == V_DICT) &&
           one_of(name, of_container);
}

static val number_attr(val v, str name) {
    if (str_eqz(name, "real")) return v.type == V_BOOL ? val_int(v.b) : v;
    if (str_eqz(name, "imag")) return v.type == V_FLOAT ? val_float(0) : val_int(0);
    if (v.type == V_FLOAT) return val_missing();
    if (str_eqz(name, "numerator")) return val_int(int_of(v));
    return str_eqz(name, "denominator") ? val_int(1) : val_missing();
}

static val macro_attr(rt *r, const macro *m, str name) {
    const macro_plan *p = m->plan;
    if (str_eqz(name, "name")) return p->name;
    if (str_eqz(name, "arguments")) return val_list(p->arg_names, p->n_args);
    if (str_eqz(name, "catch_kwargs")) return val_bool(p->takes_kwargs);
    if (str_eqz(name, "catch_varargs")) return val_bool(p->takes_varargs);
    if (str_eqz(name, "caller")) return val_bool(p->takes_caller);
    return val_missing();
}

static val cycler_next(rt *r, val self, const val *in, const call_args *a) {
    cycler *c = self.cycler;
    val v = c->items[c->pos];
    c->pos = (c->pos + 1) % c->n;
    return v;
}
static val cycler_reset(rt *r, val self, const val *in, const call_args *a) {
    self.cycler->pos = 0;
    return val_none();
}
static const method cycler_methods[] = {{{"Cycler.next", "", 1}, cycler_next},
                                        {{"Cycler.reset", "", 1}, cycler_reset}};

static val cycler_attr(rt *r, val v, str name) {
    if (str_eqz(name, "next")) return bind_method(r, v, &cycler_methods[0]);
    if (str_eqz(name, "reset")) return bind_method(r, v, &cycler_methods[1]);
    if (str_eqz(name, "current")) return v.cycler->items[v.cycler->pos];
    if (str_eqz(name, "items")) return val_tuple(v.cycler->items, v.cycler->n);
    return str_eqz(name, "pos") ? val_int(v.cycler->pos) : val_missing();
}

static val range_attr(val v, str name) {
    if (str_eqz(name, "start")) return val_int(v.range->start);
    if (str_eqz(name, "stop")) return val_int(v.range->stop);
    return str_eqz(name, "step") ? val_int(v.range->step) : val_missing();
}

/* getattr(obj, name): V_MISSING if there is no such attribute. */
static val attribute(rt *r, val obj, val name) {
    const method *m = NULL;
    str n = val_str(name);
    switch ((vtype)obj.type) {
    case V_STR: m = str_method(n); break;
    case V_LIST: m = list_method(n); break;
    case V_TUPLE:
        if (obj.flags & VAL_GROUP && str_eqz(n, "grouper")) return obj.items[0];
        if (obj.flags & VAL_GROUP && str_eqz(n, "list")) return obj.items[1];
        m = tuple_method(n);
        break;
    case V_DICT: m = dict_method(n); break;
    case V_NAMESPACE: {
        const val *v = dict_get(r, obj.ns, name);
        if (v) return n.n && n.p[0] == '_' ? unsafe(r, obj, name) : *v;
        break;
    }
    case V_BOOL:
    case V_INT:
    case V_FLOAT: {
        val v = number_attr(obj, n);
        if (v.type != V_MISSING) return v;
        m = number_method(obj, n);
        break;
    }
    case V_LOOP: {
        val v = loop_attr(r, obj.loop, n);
        if (v.type != V_MISSING) return v;
        break;
    }
    case V_MACRO: {
        val v = macro_attr(r, obj.macro, n);
        if (v.type != V_MISSING) return v;
        break;
    }
    case V_CYCLER: {
        val v = cycler_attr(r, obj, n);
        if (v.type != V_MISSING) return v;
        break;
    }
    case V_RANGE: {
        val v = range_attr(obj, n);
        if (v.type != V_MISSING) return v;
        break;
    }
    default: break;
    }
    if (m) return bind_method(r, obj, m);
    return is_refused(obj, n) ? unsafe(r, obj, name) : val_missing();
}

static bool is_hashable(rt *r, val v) {
    bool ok =
        v.type != V_LIST && v.type != V_DICT && (v.type != V_VIEW || v.view->kind == VIEW_VALUES);
    rt_enter(r);
    for (uint32_t i = 0; ok && v.type == V_TUPLE && i < v.n; i++) ok = is_hashable(r, v.items[i]);
    rt_leave(r);
    return ok;
}

/* obj[key] alone: V_MISSING where Python raises LookupError or TypeError. */
static val item(rt *r, val obj, val key) {
    int64_t n, i;
    switch ((vtype)obj.type) {
    case V_DICT: {
        if (!is_hashable(r, key)) return val_missing();
        const val *v = dict_get(r, obj.dict, key);
        return v ? *v : val_missing();
    }
    case V_STR:
        rt_tick(r, obj.n >> 8);
        return is_int(key) ? str_at(obj, int_of(key)) : val_missing();
    case V_LIST:
    case V_TUPLE:
    case V_RANGE:
        if (!is_int(key)) return val_missing();
        n = obj.type == V_RANGE ? obj.range->n : obj.n;
        i = int_of(key);
        if (i < 0) i += n;
        if (i < 0 || i >= n) return val_missing();
        return obj.type == V_RANGE ? range_at(obj.range, i) : obj.items[i];
    default: return val_missing();
    }
}

val get_attr(rt *r, val obj, val name) {
    if (is_undefined(obj) && is_refused(obj, val_str(name))) return unsafe(r, obj, name);
    if (is_undefined(obj)) rt_raise_undefined(r, obj);
    val v = attribute(r, obj, name);
    if (v.type == V_MISSING) v = item(r, obj, name);
    return v.type == V_MISSING ? val_undefined(r, obj, name) : v;
}

val get_item(rt *r, val obj, val key) {
    if (is_undefined(obj)) rt_raise_undefined(r, obj);
    val v = item(r, obj, key);
    if (v.type == V_MISSING && is_str(key)) v = attribute(r, obj, key);
    return v.type == V_MISSING ? val_undefined(r, obj, key) : v;
}

static bool all_digits(str s) {
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < '0' || s.p[i] > '9') return false;
    return s.n > 0;
}

val get_path(rt *r, val obj, val path, val fallback) {
    if (path.type == V_NONE || path.type == V_MISSING) return obj;
    if (!is_str(path)) {
        obj = get_item(r, obj, path);
        return is_undefined(obj) && fallback.type > V_NONE ? fallback : obj;
    }
    str s = val_str(path);
    for (size_t from = 0; from <= s.n;) {
        ptrdiff_t dot = str_find(s, STR("."), from);
        str part = str_cut(s, from, dot < 0 ? s.n : (size_t)dot);
        int64_t i;
        obj = get_item(r, obj,
                       all_digits(part) && str_to_i64(part, &i) ? val_int(i)
                                                                : val_strn(part.p, part.n));
        if (is_undefined(obj) && fallback.type > V_NONE) obj = fallback;
        from += part.n + 1;
    }
    return obj;
}

/* --- methods of lists, tuples, dicts, numbers */

static val items_count(rt *r, val self, const val *in, const call_args *a) {
    int64_t n = 0;
    for (uint32_t i = 0; i < self.n; i++) n += val_equal(r, self.items[i], in[0]);
    return val_int(n);
}

static val items_index(rt *r, val self, const val *in, const call_args *a) {
    int64_t n = self.n, from = in[1].type == V_MISSING ? 0 : index_int(r, in[1], "slice index");
    int64_t to = in[2].type == V_MISSING ? n : index_int(r, in[2], "slice index");
    if (from < 0) from = MAX(from + n, 0);
    if (to < 0) to += n;
    for (int64_t i = from; i < MIN(to, n); i++)
        if (val_equal(r, self.items[i], in[0])) return val_int(i);
    if (self.type == V_TUPLE) rt_raise(r, "ValueError", "tuple.index(x): x not in tuple");
    rt_raise(r, "ValueError", "%s is not in list", repr_z(r, in[0]));
}

static val items_copy(rt *r, val self, const val *in, const call_args *a) {
    return self;
}

static const method list_methods[] = {{{"list.count", "/value", 0}, items_count},
                                      {{"list.index", "/value,start=,stop=", 0}, items_index},
                                      {{"list.copy", "/", 0}, items_copy}};

static val dict_get_method(rt *r, val self, const val *in, const call_args *a) {
    const val *v = dict_get(r, self.dict, in[0]);
    return v ? *v : in[1].type == V_MISSING ? val_none() : in[1];
}

static val view_of(rt *r, val self, int kind) {
    view *v = rt_alloc(r, sizeof *v);
    *v = (view){.dict = self.dict, .kind = (uint8_t)kind};
    return (val){.type = V_VIEW, .view = v};
}
static val dict_keys(rt *r, val self, const val *in, const call_args *a) {
    return view_of(r, self, VIEW_KEYS);
}
static val dict_values(rt *r, val self, const val *in, const call_args *a) {
    return view_of(r, self, VIEW_VALUES);
}
static val dict_items(rt *r, val self, const val *in, const call_args *a) {
    return view_of(r, self, VIEW_ITEMS);
}
static val dict_fromkeys(rt *r, val self, const val *in, const call_args *a) {
    dict *d = dict_new(r, 0);
    iter *it = iter_of(r, in[0]);
    for (val k; iter_next(r, it, &k);)
        dict_set(r, d, k, in[1].type == V_MISSING ? val_none() : in[1]);
    return val_dict(d);
}

static const method dict_methods[] = {
    {{"dict.get", "/key,default=", 0}, dict_get_method},
    {{"dict.keys", "/", 0}, dict_keys},
    {{"dict.values", "/", 0}, dict_values},
    {{"dict.items", "/", 0}, dict_items},
    {{"dict.copy", "/", 0}, items_copy},
    {{"dict.fromkeys", "/iterable,value=", 0}, dict_fromkeys},
};

static val number_bit_length(rt *r, val self, const val *in, const call_args *a) {
    int64_t i = int_of(self);
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    return val_int(u ? 64 - __builtin_clzll(u) : 0);
}
static val number_is_integer(rt *r, val self, const val *in, const call_args *a) {
    return val_bool(isfinite(self.f) && self.f == floor(self.f));
}
static val number_conjugate(rt *r, val self, const val *in, const call_args *a) {
    return self.type == V_BOOL ? val_int(self.b) : self;
}

static const method number_methods[] = {{{"int.bit_length", "/", 0}, number_bit_length},
                                        {{"float.is_integer", "/", 0}, number_is_integer},
                                        {{"conjugate", "/", 0}, number_conjugate}};

/* The method whose signature's name ends in ".name". */
static const method *find_method(const method *m, size_t n, str name) {
    for (size_t i = 0; i < n; i++) {
        const char *dot = strchr(m[i].sig.name, '.');
        if (str_eqz(name, dot ? dot + 1 : m[i].sig.name)) return &m[i];
    }
    return NULL;
}

const method *list_method(str name) {
    return find_method(list_methods, ARRAY_LEN(list_methods), name);
}
const method *tuple_method(str name) {
    return str_eqz(name, "copy") ? NULL : list_method(name);
}
const method *dict_method(str name) {
    return find_method(dict_methods, ARRAY_LEN(dict_methods), name);
}
const method *number_method(val v, str name) {
    const method *m = find_method(number_methods, ARRAY_LEN(number_methods), name);
    bool is_float = v.type == V_FLOAT;
    if (m == &number_methods[0] && is_float) return NULL;
    if (m == &number_methods[1] && !is_float) return NULL; /* int.is_integer: Python 3.12 */
    return m;
}

val get_attribute(rt *r, val obj, val name) {
    val v = attribute(r, obj, name);
    return v.type == V_MISSING ? val_undefined(r, obj, name) : v;
}
