/* Iteration: one pull interface for everything Python can iterate, lazy where Jinja is lazy (a
 * generator is walked once, and errors appear when it is walked). */
#include "engine/base/mem.h"
#include "tokenizer/template_run.h"

iter *iter_new(rt *r, const char *type_name, bool (*next)(rt *, iter *, val *), val source) {
    iter *it = rt_alloc(r, sizeof *it);
    *it = (iter){.type_name = type_name, .next = next, .source = source};
    return it;
}

val iter_val(iter *it) {
    return (val){.type = V_ITER, .iter = it};
}

bool iter_next(rt *r, iter *it, val *ret) {
    if (it->is_done) return false;
    rt_tick(r, 1);
    rt_enter(r);
    bool more = it->next(r, it, ret);
    rt_leave(r);
    if (!more) it->is_done = true;
    return more;
}

static bool next_item(rt *r, iter *it, val *ret) {
    if (it->i >= it->source.n) return false;
    *ret = it->source.items[it->i++];
    return true;
}

static bool next_item_back(rt *r, iter *it, val *ret) {
    if (it->i >= it->source.n) return false;
    *ret = it->source.items[it->source.n - 1 - it->i++];
    return true;
}

static bool next_char(rt *r, iter *it, val *ret) {
    val rest = val_strn(it->source.s + it->i, it->source.n - (size_t)it->i);
    *ret = str_at(rest, 0);
    it->i += ret->n;
    return ret->type != V_MISSING;
}

static val view_entry(rt *r, const dict_entry *e, int kind) {
    return kind == VIEW_KEYS     ? e->key
           : kind == VIEW_VALUES ? e->value
                                 : val_pair(r, e->key, e->value);
}

/* Dicts and views, forwards (n = 0) or backwards (n = 1). */
static bool next_entry(rt *r, iter *it, val *ret) {
    bool is_view = it->source.type == V_VIEW;
    const dict *d = is_view ? it->source.view->dict : it->source.dict;
    if (it->i >= d->n) return false;
    int64_t i = it->n ? d->n - 1 - it->i : it->i;
    it->i++;
    *ret = view_entry(r, &d->e[i], is_view ? it->source.view->kind : VIEW_KEYS);
    return true;
}

val range_at(const range *g, int64_t i) {
    return val_int(g->start + i * g->step);
}

static bool next_range(rt *r, iter *it, val *ret) {
    const range *g = it->source.range;
    if (it->i >= g->n) return false;
    *ret = range_at(g, it->n ? g->n - 1 - it->i : it->i);
    it->i++;
    return true;
}

static bool next_none(rt *r, iter *it, val *ret) {
    return false;
}

bool is_iterable(val v) {
    switch ((vtype)v.type) {
    case V_UNDEFINED:
    case V_STR:
    case V_LIST:
    case V_TUPLE:
    case V_DICT:
    case V_RANGE:
    case V_VIEW:
    case V_ITER: return true;
    default: return false;
    }
}

iter *iter_of(rt *r, val v) {
    switch ((vtype)v.type) {
    case V_ITER: return v.iter;
    case V_UNDEFINED: return iter_new(r, "generator", next_none, v);
    case V_STR: return iter_new(r, "str_iterator", next_char, v);
    case V_LIST: return iter_new(r, "list_iterator", next_item, v);
    case V_TUPLE: return iter_new(r, "tuple_iterator", next_item, v);
    case V_DICT: return iter_new(r, "dict_keyiterator", next_entry, v);
    case V_VIEW: return iter_new(r, "dict_itemiterator", next_entry, v);
    case V_RANGE: return iter_new(r, "range_iterator", next_range, v);
    default: rt_raise(r, "TypeError", "'%s' object is not iterable", type_name(v));
    }
}

iter *iter_reversed(rt *r, val v) {
    iter *it;
    switch ((vtype)v.type) {
    case V_UNDEFINED: return iter_new(r, "reversed", next_none, v);
    case V_LIST: return iter_new(r, "list_reverseiterator", next_item_back, v);
    case V_TUPLE: return iter_new(r, "reversed", next_item_back, v);
    case V_DICT: it = iter_new(r, "dict_reversekeyiterator", next_entry, v); break;
    case V_VIEW: it = iter_new(r, "dict_reverseitemiterator", next_entry, v); break;
    case V_RANGE: it = iter_new(r, "range_iterator", next_range, v); break;
    default: return NULL;
    }
    it->n = 1;
    return it;
}

val to_list(rt *r, val v) {
    if (v.type == V_LIST || v.type == V_TUPLE) return val_list(v.items, v.n);
    vals out = {0};
    iter *it = iter_of(r, v);
    for (val x; iter_next(r, it, &x);) vals_add(r, &out, x);
    return val_list(out.p, out.n);
}

/* --- the loop variable */

int64_t loop_length(rt *r, loop *l) {
    if (l->length >= 0) return l->length;
    if (has_length(l->source)) return l->length = val_length(r, l->source);
    vals rest = {0};
    for (val x; iter_next(r, l->it, &x);) vals_add(r, &rest, x);
    l->it = iter_of(r, val_list(rest.p, rest.n));
    return l->length = rest.n + l->index0 + 1 + (l->after.type != V_MISSING);
}

static val peek_next(rt *r, loop *l) {
    if (l->after.type == V_MISSING && !iter_next(r, l->it, &l->after)) l->after = val_missing();
    return l->after;
}

static val loop_cycle(rt *r, val self, const val *in, const call_args *a) {
    if (!a->n_pos) rt_raise(r, "TypeError", "no items for cycling given");
    return a->pos[self.loop->index0 % a->n_pos];
}

static val loop_changed(rt *r, val self, const val *in, const call_args *a) {
    loop *l = self.loop;
    val now = val_tuple(a->pos, a->n_pos);
    if (l->changed.type != V_MISSING && val_equal(r, l->changed, now)) return val_bool(false);
    l->changed = now;
    return val_bool(true);
}

static const method loop_methods[] = {{{"cycle", "*", 0}, loop_cycle},
                                      {{"changed", "*", 0}, loop_changed}};

val loop_attr(rt *r, loop *l, str name) {
    val self = {.type = V_LOOP, .loop = l};
    if (str_eqz(name, "index0")) return val_int(l->index0);
    if (str_eqz(name, "index")) return val_int(l->index0 + 1);
    if (str_eqz(name, "first")) return val_bool(l->index0 == 0);
    if (str_eqz(name, "last")) return val_bool(peek_next(r, l).type == V_MISSING);
    if (str_eqz(name, "length")) return val_int(loop_length(r, l));
    if (str_eqz(name, "revindex")) return val_int(loop_length(r, l) - l->index0);
    if (str_eqz(name, "revindex0")) return val_int(loop_length(r, l) - l->index0 - 1);
    if (str_eqz(name, "depth")) return val_int(l->depth0 + 1);
    if (str_eqz(name, "depth0")) return val_int(l->depth0);
    if (str_eqz(name, "cycle")) return bind_method(r, self, &loop_methods[0]);
    if (str_eqz(name, "changed")) return bind_method(r, self, &loop_methods[1]);
    if (str_eqz(name, "previtem"))
        return l->index0 == 0 ? val_undefined_hint(r, "there is no previous item") : l->before;
    if (str_eqz(name, "nextitem")) {
        val next = peek_next(r, l);
        return next.type == V_MISSING ? val_undefined_hint(r, "there is no next item") : next;
    }
    return val_missing();
}
