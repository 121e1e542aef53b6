/* Filters on sequences. Those that Jinja writes as generators are lazy here too: map, select,
 * unique, batch, slice, items. */
#include "tokenizer/template_seq.h"

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_filter.h"
#include "tokenizer/template_strings.h"

#define FILTER(name) static val name(rt *r, const val *in, const call_args *a)

static bool given(val v) {
    return v.type != V_MISSING && v.type != V_NONE;
}

/* --- sorting */

/* Bottom-up merge sort; the right one goes first only where it is really less. */
const uint32_t *sort_order(rt *r, const val *keys, uint32_t n, bool reverse) {
    uint32_t *from = rt_array(r, n, sizeof *from), *to = rt_array(r, n, sizeof *to);
    for (uint32_t i = 0; i < n; i++) from[i] = i;
    for (uint64_t width = 1; width < n; width *= 2) {
        for (uint64_t low = 0; low < n; low += 2 * width) {
            uint64_t mid = MIN(low + width, n), high = MIN(low + 2 * width, n), i = low, k = mid;
            for (uint64_t at = low; at < high; at++) {
                bool right = i >= mid;
                if (!right && k < high)
                    right = reverse ? val_less(r, keys[from[i]], keys[from[k]])
                                    : val_less(r, keys[from[k]], keys[from[i]]);
                to[at] = right ? from[k++] : from[i++];
            }
        }
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

static val lower_key(rt *r, val v, val case_sensitive) {
    return is_str(v) && !is_true(r, case_sensitive) ? str_case(r, v, CASE_LOWER) : v;
}

/* The sort key: a list of the values of "a,b.c", each in lower case unless case_sensitive. */
static val multi_key(rt *r, val item, val attribute, val case_sensitive) {
    vals key = {0};
    if (!is_str(attribute)) {
        vals_add(r, &key,
                 lower_key(r, get_path(r, item, attribute, val_missing()), case_sensitive));
        return val_list(key.p, key.n);
    }
    str s = val_str(attribute);
    for (size_t from = 0; from <= s.n;) {
        ptrdiff_t comma = str_find(s, STR(","), from);
        str part = str_cut(s, from, comma < 0 ? s.n : (size_t)comma);
        val v = get_path(r, item, val_strn(part.p, part.n), val_missing());
        vals_add(r, &key, lower_key(r, v, case_sensitive));
        from += part.n + 1;
    }
    return val_list(key.p, key.n);
}

static val in_order(rt *r, val items, const val *keys, bool reverse) {
    const uint32_t *order = sort_order(r, keys, items.n, reverse);
    val *p = rt_array(r, items.n, sizeof *p);
    for (uint32_t i = 0; i < items.n; i++) p[i] = items.items[order[i]];
    return val_list(p, items.n);
}

FILTER(f_sort) {
    val items = to_list(r, in[0]);
    val *keys = rt_array(r, items.n, sizeof *keys);
    for (uint32_t i = 0; i < items.n; i++)
        keys[i] = multi_key(r, items.items[i], given(in[3]) ? in[3] : val_none(), in[2]);
    return in_order(r, items, keys, is_true(r, in[1]));
}

FILTER(f_dictsort) {
    if (is_undefined(in[0])) rt_raise_undefined(r, in[0]);
    if (in[0].type != V_DICT)
        rt_raise(r, "AttributeError", "'%s' object has no attribute 'items'", type_name(in[0]));
    bool by_value = is_str(in[2]) && str_eqz(val_str(in[2]), "value");
    if (in[2].type != V_MISSING && !by_value && !(is_str(in[2]) && str_eqz(val_str(in[2]), "key")))
        rt_raise(r, "FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
    const dict *d = in[0].dict;
    val *keys = rt_array(r, d->n, sizeof *keys), *pairs = rt_array(r, d->n, sizeof *pairs);
    for (uint32_t i = 0; i < d->n; i++) {
        keys[i] = lower_key(r, by_value ? d->e[i].value : d->e[i].key, in[1]);
        pairs[i] = val_pair(r, d->e[i].key, d->e[i].value);
    }
    return in_order(r, val_list(pairs, d->n), keys, is_true(r, in[3]));
}

FILTER(f_groupby) {
    val items = to_list(r, in[0]), fallback = in[2];
    val *keys = rt_array(r, items.n, sizeof *keys);
    for (uint32_t i = 0; i < items.n; i++)
        keys[i] = lower_key(r, get_path(r, items.items[i], in[1], fallback), in[3]);
    const uint32_t *order = sort_order(r, keys, items.n, false);
    vals groups = {0};
    for (uint32_t i = 0, k; i < items.n; i = k) {
        vals group = {0};
        for (k = i; k < items.n && val_equal(r, keys[order[k]], keys[order[i]]); k++)
            vals_add(r, &group, items.items[order[k]]);
        val name = is_true(r, in[3]) ? keys[order[i]] : get_path(r, group.p[0], in[1], fallback);
        val *pair = rt_array(r, 2, sizeof *pair);
        pair[0] = name;
        pair[1] = val_list(group.p, group.n);
        vals_add(r, &groups, (val){.type = V_TUPLE, .flags = VAL_GROUP, .n = 2, .items = pair});
    }
    return val_list(groups.p, groups.n);
}

static val extreme(rt *r, const val *in, bool max) {
    iter *it = iter_of(r, in[0]);
    val best, best_key, v;
    if (!iter_next(r, it, &best))
        return val_undefined_hint(r, "No aggregated item, sequence was empty.");
    best_key = lower_key(r, get_path(r, best, in[2], val_missing()), in[1]);
    while (iter_next(r, it, &v)) {
        val key = lower_key(r, get_path(r, v, in[2], val_missing()), in[1]);
        if (!val_order(r, key, best_key, max ? ">" : "<")) continue;
        best = v;
        best_key = key;
    }
    return best;
}
FILTER(f_min) {
    return extreme(r, in, false);
}
FILTER(f_max) {
    return extreme(r, in, true);
}

/* --- eager */

FILTER(f_list) {
    return to_list(r, in[0]);
}

FILTER(f_first) {
    val v;
    return iter_next(r, iter_of(r, in[0]), &v)
               ? v
               : val_undefined_hint(r, "No first item, sequence was empty.");
}

static val reversed_str(rt *r, val v) {
    val back = slice(r, v, val_none(), val_none(), val_int(-1));
    return back;
}

FILTER(f_last) {
    val v = in[0];
    if (is_str(v)) {
        v = str_at(v, -1);
    } else {
        iter *it = iter_reversed(r, v);
        if (!it) rt_raise(r, "TypeError", "'%s' object is not reversible", type_name(v));
        if (!iter_next(r, it, &v)) v = val_missing();
    }
    return v.type == V_MISSING ? val_undefined_hint(r, "No last item, sequence was empty.") : v;
}

FILTER(f_reverse) {
    if (is_str(in[0])) return reversed_str(r, in[0]);
    iter *it = iter_reversed(r, in[0]);
    if (it) return iter_val(it);
    if (!is_iterable(in[0])) rt_raise(r, "FilterArgumentError", "argument must be iterable");
    val list = to_list(r, in[0]);
    return slice(r, list, val_none(), val_none(), val_int(-1));
}

FILTER(f_join) {
    iter *it = iter_of(r, in[0]);
    val sep = in[1].type == V_MISSING ? val_strn("", 0) : to_str(r, in[1]), v;
    size_t mark = r->out.n;
    for (bool first = true; iter_next(r, it, &v); first = false) {
        if (given(in[2])) v = get_path(r, v, in[2], val_missing());
        if (!first) rt_add(r, sep.s, sep.n);
        rt_add_str(r, v);
    }
    return rt_cut(r, mark);
}

FILTER(f_sum) {
    iter *it = iter_of(r, in[0]);
    val sum = in[2].type == V_MISSING ? val_int(0) : in[2], v;
    if (is_str(sum)) rt_raise(r, "TypeError", "sum() can't sum strings [use ''.join(seq) instead]");
    while (iter_next(r, it, &v)) {
        if (given(in[1])) v = get_path(r, v, in[1], val_missing());
        sum = binary_op(r, T_ADD, sum, v);
    }
    return sum;
}

/* --- lazy */

static bool next_dict_item(rt *r, iter *it, val *ret) {
    const dict *d = it->source.dict;
    if (it->i >= d->n) return false;
    const dict_entry *e = &d->e[it->i++];
    *ret = val_pair(r, e->key, e->value);
    return true;
}
static bool next_wrong_items(rt *r, iter *it, val *ret) {
    if (is_undefined(it->source)) return false;
    rt_raise(r, "TypeError", "Can only get item pairs from a mapping.");
}
FILTER(f_items) {
    bool ok = in[0].type == V_DICT;
    return iter_val(iter_new(r, "generator", ok ? next_dict_item : next_wrong_items, in[0]));
}

/* What map, select and their kin do with each item. */
typedef struct per_item {
    call_args args; /* of the filter or test */
    const filter *filter;
    const is_test *test;
    val name; /* of the filter or test */
    val path, fallback;
    bool negate;
} per_item;

static call_args rest_args(const call_args *a, uint32_t skip) {
    call_args rest = *a;
    rest.pos = a->n_pos > skip ? a->pos + skip : NULL;
    rest.n_pos = a->n_pos > skip ? a->n_pos - skip : 0;
    return rest;
}

/* Nothing is looked at before the first item is asked for, and nothing at all if the input is
 * false: that is where Jinja reports wrong arguments too. */
static bool per_item_begin(rt *r, iter *it) {
    if (it->inner) return true;
    if (!is_true(r, it->source)) return false;
    it->inner = iter_of(r, it->source);
    return true;
}

static void map_prepare(rt *r, per_item *m) {
    const call_args *a = &m->args;
    m->path = m->fallback = val_missing();
    bool by_attribute = false;
    for (uint32_t i = 0; !a->n_pos && i < a->n_kw; i++) {
        if (!str_eqz(val_str(a->kw_names[i]), "attribute")) continue;
        m->path = a->kw[i];
        by_attribute = true;
    }
    for (uint32_t i = 0; by_attribute && i < a->n_kw; i++) {
        bool is_default = str_eqz(val_str(a->kw_names[i]), "default");
        if (is_default) m->fallback = a->kw[i];
        if (!is_default && !str_eqz(val_str(a->kw_names[i]), "attribute"))
            rt_raise(r, "FilterArgumentError", "Unexpected keyword argument %s",
                     repr_z(r, a->kw_names[i]));
    }
    if (by_attribute) return;
    if (!a->n_pos) rt_raise(r, "FilterArgumentError", "map requires a filter argument");
    m->name = a->pos[0];
    m->filter = is_str(m->name) ? find_filter(val_str(m->name)) : NULL;
    m->args = rest_args(a, 1);
}

static bool next_mapped(rt *r, iter *it, val *ret) {
    per_item *m = it->state;
    if (!it->inner) {
        if (!per_item_begin(r, it)) return false;
        map_prepare(r, m);
    }
    val v;
    if (!iter_next(r, it->inner, &v)) return false;
    if (m->name.type == V_MISSING) {
        *ret = get_path(r, v, m->path, m->fallback);
        return true;
    }
    if (!m->filter) rt_raise(r, "TemplateRuntimeError", "No filter named %s.", repr_z(r, m->name));
    *ret = filter_run(r, m->filter, v, &m->args);
    return true;
}

static iter *per_item_new(rt *r, const val *in, const call_args *a,
                          bool (*next)(rt *, iter *, val *)) {
    iter *it = iter_new(r, "generator", next, in[0]);
    per_item *m = rt_alloc(r, sizeof *m);
    m->args = *a;
    it->state = m;
    return it;
}

FILTER(f_map) {
    return iter_val(per_item_new(r, in, a, next_mapped));
}

static void select_prepare(rt *r, per_item *m, bool by_attribute) {
    uint32_t skip = by_attribute;
    m->path = val_none();
    if (by_attribute) {
        if (!m->args.n_pos)
            rt_raise(r, "FilterArgumentError", "Missing parameter for attribute name");
        m->path = m->args.pos[0];
    }
    if (m->args.n_pos > skip) {
        m->name = m->args.pos[skip++];
        m->test = is_str(m->name) ? find_is_test(val_str(m->name)) : NULL;
    }
    m->args = rest_args(&m->args, skip);
}

static bool next_selected(rt *r, iter *it, val *ret) {
    per_item *m = it->state;
    if (!it->inner) {
        if (!per_item_begin(r, it)) return false;
        select_prepare(r, m, it->n);
    }
    while (iter_next(r, it->inner, ret)) {
        val v = get_path(r, *ret, m->path, val_missing());
        if (m->name.type != V_MISSING && !m->test)
            rt_raise(r, "TemplateRuntimeError", "No test named %s.", repr_z(r, m->name));
        bool holds = m->test ? is_test_run(r, m->test, v, &m->args) : is_true(r, v);
        if (holds != m->negate) return true;
    }
    return false;
}

static val select_items(rt *r, const val *in, const call_args *a, bool by_attribute, bool negate) {
    iter *it = per_item_new(r, in, a, next_selected);
    it->n = by_attribute;
    ((per_item *)it->state)->negate = negate;
    return iter_val(it);
}
FILTER(f_select) {
    return select_items(r, in, a, false, false);
}
FILTER(f_reject) {
    return select_items(r, in, a, false, true);
}
FILTER(f_selectattr) {
    return select_items(r, in, a, true, false);
}
FILTER(f_rejectattr) {
    return select_items(r, in, a, true, true);
}

typedef struct unique {
    val case_sensitive, path;
    dict *seen;
} unique;

static bool next_unique(rt *r, iter *it, val *ret) {
    unique *u = it->state;
    if (!it->inner) it->inner = iter_of(r, it->source);
    while (iter_next(r, it->inner, ret)) {
        val key = lower_key(r, get_path(r, *ret, u->path, val_missing()), u->case_sensitive);
        if (dict_get(r, u->seen, key)) continue;
        dict_set(r, u->seen, key, val_none());
        return true;
    }
    return false;
}
FILTER(f_unique) {
    iter *it = iter_new(r, "generator", next_unique, in[0]);
    unique *u = rt_alloc(r, sizeof *u);
    *u = (unique){.case_sensitive = in[1], .path = in[2], .seen = dict_new(r, 0)};
    it->state = u;
    return iter_val(it);
}

static int64_t want_count(rt *r, val v) {
    if (!is_int(v))
        rt_raise(r, "TypeError", "'%s' object cannot be interpreted as an integer", type_name(v));
    if (int_of(v) > LIMIT_TEMPLATE_RANGE) rt_too_large(r, "items in a group", LIMIT_TEMPLATE_RANGE);
    return int_of(v);
}

static bool next_batch(rt *r, iter *it, val *ret) {
    const val *fill = it->state;
    vals batch = {0};
    val v;
    if (!it->inner) it->inner = iter_of(r, it->source);
    /* no group is ever full at 0 or below; at 0 Jinja gives an empty one first */
    if (it->n == 0 && it->i++ == 0) {
        if (!iter_next(r, it->inner, &v)) return false;
        vals_add(r, &batch, v);
        val rest = to_list(r, iter_val(it->inner));
        it->inner = iter_of(r, binary_op(r, T_ADD, val_list(batch.p, 1), rest));
        *ret = val_list(NULL, 0);
        return true;
    }
    while ((it->n <= 0 || batch.n < it->n) && iter_next(r, it->inner, &v)) vals_add(r, &batch, v);
    if (!batch.n) return false;
    while (given(*fill) && batch.n < it->n) vals_add(r, &batch, *fill);
    *ret = val_list(batch.p, batch.n);
    return true;
}
FILTER(f_batch) {
    iter *it = iter_new(r, "generator", next_batch, in[0]);
    val *fill = rt_alloc(r, sizeof *fill);
    *fill = in[2];
    it->state = fill;
    it->n = want_count(r, in[1]);
    return iter_val(it);
}

typedef struct slices {
    val items, fill;
    int64_t offset;
} slices;

static bool next_slice(rt *r, iter *it, val *ret) {
    slices *s = it->state;
    if (it->i == 0) {
        s->items = to_list(r, it->source);
        if (!it->n) rt_raise(r, "ZeroDivisionError", "integer division or modulo by zero");
    }
    if (it->i >= it->n) return false;
    int64_t each = s->items.n / it->n, extra = s->items.n % it->n;
    int64_t from = s->offset + it->i * each;
    if (it->i < extra) s->offset++;
    int64_t to = s->offset + (it->i + 1) * each;
    *ret = slice(r, s->items, val_int(from), val_int(to), val_none());
    if (given(s->fill) && it->i >= extra) {
        val one = s->fill;
        *ret = binary_op(r, T_ADD, *ret, val_list(&one, 1));
    }
    it->i++;
    return true;
}
FILTER(f_slice) {
    iter *it = iter_new(r, "generator", next_slice, in[0]);
    slices *s = rt_alloc(r, sizeof *s);
    s->fill = in[2];
    it->state = s;
    it->n = want_count(r, in[1]);
    return iter_val(it);
}

static const filter filters[] = {
    {"join", {"sync_do_join", "value,d=,attribute=", 1}, f_join},
    {"list", {"sync_do_list", "value"}, f_list},
    {"map", {"sync_do_map", "value,*", 1}, f_map},
    {"select", {"sync_do_select", "value,*", 1}, f_select},
    {"reject", {"sync_do_reject", "value,*", 1}, f_reject},
    {"selectattr", {"sync_do_selectattr", "value,*", 1}, f_selectattr},
    {"rejectattr", {"sync_do_rejectattr", "value,*", 1}, f_rejectattr},
    {"items", {"do_items", "value"}, f_items},
    {"first", {"sync_do_first", "seq", 1}, f_first},
    {"last", {"do_last", "seq", 1}, f_last},
    {"sort", {"do_sort", "value,reverse=,case_sensitive=,attribute=", 1}, f_sort},
    {"unique", {"sync_do_unique", "value,case_sensitive=,attribute=", 1}, f_unique},
    {"reverse", {"do_reverse", "value"}, f_reverse},
    {"dictsort", {"do_dictsort", "value,case_sensitive=,by=,reverse="}, f_dictsort},
    {"groupby", {"sync_do_groupby", "value,attribute,default=,case_sensitive=", 1}, f_groupby},
    {"sum", {"sync_do_sum", "iterable,attribute=,start=", 1}, f_sum},
    {"min", {"do_min", "value,case_sensitive=,attribute=", 1}, f_min},
    {"max", {"do_max", "value,case_sensitive=,attribute=", 1}, f_max},
    {"batch", {"do_batch", "value,linecount,fill_with="}, f_batch},
    {"slice", {"sync_do_slice", "value,slices,fill_with="}, f_slice},
};

const filter *find_seq_filter(str name) {
    for (size_t i = 0; i < ARRAY_LEN(filters); i++)
        if (str_eqz(name, filters[i].name)) return &filters[i];
    return NULL;
}
