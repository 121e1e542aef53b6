/* A stack machine. Marks are kept apart from the stack as heights, so that no opcode can take a
 * mark for a value. Values are shared (a memo hands out the same one again) and are never walked
 * recursively here, so cycles and doubling do no harm: memory grows by a bounded amount per opcode.
 *
 * The memo is an array: protocols write it in order, and an index past the pickle's length cannot
 * come from a real one. */
#include "engine/pickle.h"

#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/vec.h"

#define NAME_MAX_BYTES 256
#define STACK_MAX      (1u << 20)

typedef struct machine {
    pickle *k;
    const uint8_t *p, *end, *start;
    VEC(pickle_value *) stack;
    VEC(pickle_value *) memo;
    VEC(size_t) marks;
    error *err;
} machine;

static status fail(machine *m, const char *what) {
    return error_set(m->err, ERR_FORMAT, "%s: pickle: %s at byte %zu", m->k->path, what,
                     (size_t)(m->p - m->start));
}

static status too_large(machine *m) {
    return error_set(m->err, ERR_TOO_LARGE, "%s: pickle: it holds too many values", m->k->path);
}

pickle_value *pickle_new(pickle *k, pickle_kind kind) {
    pickle_value *v = arena_alloc(k->mem, sizeof *v);
    if (v) v->kind = kind;
    return v;
}

const pickle_value *pickle_member(const pickle_value *v, const char *key) {
    const pickle_value *found = NULL;
    for (uint32_t i = 0; v && v->kind == PICKLE_DICT && i + 1 < v->n; i += 2)
        if (v->items[i]->kind == PICKLE_TEXT && str_eqz(v->items[i]->text, key))
            found = v->items[i + 1];
    return found;
}

/* Reading */

static status take(machine *m, size_t n, const uint8_t **ret) {
    if ((size_t)(m->end - m->p) < n) return fail(m, "truncated");
    *ret = m->p;
    m->p += n;
    return OK;
}

static status take_int(machine *m, int bytes, uint64_t *ret) {
    const uint8_t *p = NULL;
    TRY(take(m, (size_t)bytes, &p));
    uint64_t x = 0;
    for (int i = bytes - 1; i >= 0; i--) x = x << 8 | p[i];
    *ret = x;
    return OK;
}

/* A length of `bytes` bytes, then that many. */
static status take_text(machine *m, int bytes, str *ret) {
    uint64_t n = 0;
    const uint8_t *p = NULL;
    TRY(take_int(m, bytes, &n));
    if (n > (size_t)(m->end - m->p)) return fail(m, "truncated");
    TRY(take(m, (size_t)n, &p));
    *ret = str_n((const char *)p, (size_t)n);
    return OK;
}

static status take_line(machine *m, str *ret) {
    size_t most = MIN((size_t)(m->end - m->p), (size_t)NAME_MAX_BYTES);
    const uint8_t *stop = memchr(m->p, '\n', most);
    if (!stop) return fail(m, most < NAME_MAX_BYTES ? "truncated" : "a name that is too long");
    *ret = str_n((const char *)m->p, (size_t)(stop - m->p));
    m->p = stop + 1;
    return OK;
}

/* The stack */

static status push(machine *m, pickle_value *v) {
    if (!v || m->stack.n >= STACK_MAX) return too_large(m);
    vec_push(&m->stack, v);
    return OK;
}

/* Values above the last mark. */
static size_t floor_of(const machine *m) {
    return m->marks.n ? m->marks.p[m->marks.n - 1] : 0;
}

static status pop(machine *m, pickle_value **ret) {
    if (m->stack.n <= floor_of(m)) return fail(m, "the stack is empty");
    *ret = m->stack.p[--m->stack.n];
    return OK;
}

static status top(machine *m, pickle_value **ret) {
    if (m->stack.n <= floor_of(m)) return fail(m, "the stack is empty");
    *ret = m->stack.p[m->stack.n - 1];
    return OK;
}

/* The values above the last mark, which goes; they stay on the stack's array until the next push.
 */
static status pop_mark(machine *m, pickle_value ***ret, size_t *ret_n) {
    if (!m->marks.n) return fail(m, "no mark");
    size_t at = m->marks.p[--m->marks.n];
    *ret_n = m->stack.n - at;
    *ret = m->stack.p ? m->stack.p + at : NULL;
    m->stack.n = at;
    return OK;
}

static status add_items(machine *m, pickle_value *v, pickle_value *const *items, size_t n) {
    if (n > UINT32_MAX / 4 - v->n) return too_large(m);
    if (v->n + n > v->cap) {
        uint32_t cap = (uint32_t)MAX(v->n + n, MIN((size_t)v->cap * 2, (size_t)UINT32_MAX / 4));
        pickle_value **p = arena_array(m->k->mem, cap, sizeof *p);
        if (!p) return too_large(m);
        if (v->n) memcpy(p, v->items, v->n * sizeof *p);
        v->items = p;
        v->cap = cap;
    }
    if (n) memcpy(v->items + v->n, items, n * sizeof *items);
    v->n += (uint32_t)n;
    return OK;
}

static status push_items(machine *m, pickle_kind kind, pickle_value *const *items, size_t n) {
    pickle_value *v = pickle_new(m->k, kind);
    if (!v) return too_large(m);
    if (kind == PICKLE_DICT && n % 2) return fail(m, "a dict with a key and no value");
    TRY(add_items(m, v, items, n));
    return push(m, v);
}

static status push_marked(machine *m, pickle_kind kind) {
    pickle_value **items = NULL;
    size_t n = 0;
    TRY(pop_mark(m, &items, &n));
    return push_items(m, kind, items, n);
}

static status push_tuple(machine *m, size_t n) {
    if (m->stack.n - floor_of(m) < n) return fail(m, "the stack is empty");
    m->stack.n -= n;
    return push_items(m, PICKLE_TUPLE, m->stack.p + m->stack.n, n);
}

/* n values (pairs for a dict) into the list or dict below them. */
static status append(machine *m, pickle_kind kind, pickle_value *const *items, size_t n) {
    pickle_value *to = NULL;
    TRY(top(m, &to));
    if (to->kind != kind || (kind == PICKLE_DICT && n % 2))
        return fail(m, kind == PICKLE_DICT ? "items for what is no dict" : "items for no list");
    return add_items(m, to, items, n);
}

static status append_top(machine *m, pickle_kind kind, size_t n) {
    if (m->stack.n - floor_of(m) < n) return fail(m, "the stack is empty");
    m->stack.n -= n;
    return append(m, kind, m->stack.p + m->stack.n, n);
}

static status append_marked(machine *m, pickle_kind kind) {
    pickle_value **items = NULL;
    size_t n = 0;
    TRY(pop_mark(m, &items, &n));
    return append(m, kind, items, n);
}

/* Scalars */

static status push_int(machine *m, pickle_kind kind, int64_t x) {
    pickle_value *v = pickle_new(m->k, kind);
    if (v) v->i = x;
    return push(m, v);
}

static status push_unsigned(machine *m, int bytes) {
    uint64_t x = 0;
    TRY(take_int(m, bytes, &x));
    return push_int(m, PICKLE_INT, (int64_t)x);
}

static status push_int32(machine *m) {
    uint64_t x = 0;
    TRY(take_int(m, 4, &x));
    return push_int(m, PICKLE_INT, (int32_t)(uint32_t)x);
}

/* Two's complement of any length; past 64 bits it is no size of anything. */
static status push_long(machine *m) {
    str s = {0};
    TRY(take_text(m, 1, &s));
    if (s.n > 8) return fail(m, "an integer of more than 64 bits");
    uint64_t x = s.n && (s.p[s.n - 1] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = s.n; i > 0; i--) x = x << 8 | (uint8_t)s.p[i - 1];
    return push_int(m, PICKLE_INT, (int64_t)x);
}

static status push_float(machine *m) {
    const uint8_t *p = NULL;
    TRY(take(m, 8, &p));
    uint64_t x = 0;
    for (int i = 0; i < 8; i++) x = x << 8 | p[i]; /* big endian */
    pickle_value *v = pickle_new(m->k, PICKLE_FLOAT);
    if (v) memcpy(&v->f, &x, 8);
    return push(m, v);
}

static status push_text(machine *m, int bytes) {
    str s = {0};
    TRY(take_text(m, bytes, &s));
    pickle_value *v = pickle_new(m->k, PICKLE_TEXT);
    if (v) v->text = s;
    return push(m, v);
}

/* The memo */

static status memo_put(machine *m, uint64_t at) {
    pickle_value *v = NULL;
    TRY(top(m, &v));
    if (at > (uint64_t)(m->end - m->start)) return fail(m, "a memo index past the pickle's length");
    while (m->memo.n <= at) vec_push(&m->memo, NULL);
    m->memo.p[at] = v;
    return OK;
}

static status memo_put_at(machine *m, int bytes) {
    uint64_t at = 0;
    TRY(take_int(m, bytes, &at));
    return memo_put(m, at);
}

static status memo_get(machine *m, int bytes) {
    uint64_t at = 0;
    TRY(take_int(m, bytes, &at));
    if (at >= m->memo.n || !m->memo.p[at]) return fail(m, "a memo index that was never set");
    return push(m, m->memo.p[at]);
}

/* Globals and calls */

static status push_global(machine *m, str module, str name) {
    int g = m->k->rules->global(module, name);
    if (g >= 0) return push_int(m, PICKLE_GLOBAL, g);
    return error_set(m->err, ERR_UNSUPPORTED, "%s: pickle: global %.*s.%.*s is not allowed",
                     m->k->path, (int)MIN(module.n, (size_t)100), module.p,
                     (int)MIN(name.n, (size_t)100), name.p);
}

static status push_global_lines(machine *m) {
    str module = {0}, name = {0};
    TRY(take_line(m, &module));
    TRY(take_line(m, &name));
    return push_global(m, module, name);
}

static status push_global_stack(machine *m) {
    pickle_value *name = NULL, *module = NULL;
    TRY(pop(m, &name));
    TRY(pop(m, &module));
    if (name->kind != PICKLE_TEXT || module->kind != PICKLE_TEXT)
        return fail(m, "a global whose name is no text");
    return push_global(m, module->text, name->text);
}

static status reduce(machine *m) {
    pickle_value *args = NULL, *callee = NULL, *v = NULL;
    TRY(pop(m, &args));
    TRY(pop(m, &callee));
    if (callee->kind != PICKLE_GLOBAL || args->kind != PICKLE_TUPLE)
        return fail(m, "a call of what is no function");
    TRY(m->k->rules->call(m->k, (int)callee->i, args, &v, m->err));
    return push(m, v);
}

static status persistent(machine *m) {
    pickle_value *id = NULL, *v = NULL;
    TRY(pop(m, &id));
    TRY(m->k->rules->persistent(m->k, id, &v, m->err));
    return push(m, v);
}

/* Attributes for an object. A dict may have some (the versions of a state_dict's modules): they say
 * nothing of its items and are dropped. */
static status build(machine *m) {
    pickle_value *state = NULL, *object = NULL;
    TRY(pop(m, &state));
    TRY(top(m, &object));
    return object->kind == PICKLE_DICT ? OK : fail(m, "attributes for what is no dict");
}

static status opcode(machine *m, uint8_t op) {
    pickle_value *v = NULL, **items = NULL;
    uint64_t x = 0;
    size_t n = 0;
    switch (op) {
    case 0x80: return take_int(m, 1, &x) == OK && x <= 5 ? OK : fail(m, "unknown protocol");
    case 0x95: return take_int(m, 8, &x); /* FRAME: a hint */
    case '(': vec_push(&m->marks, m->stack.n); return OK;
    case '0': return pop(m, &v);
    case '1': return pop_mark(m, &items, &n);
    case '2': TRY(top(m, &v)); return push(m, v);
    case 'N': return push(m, pickle_new(m->k, PICKLE_NONE));
    case 0x88: return push_int(m, PICKLE_BOOL, 1);
    case 0x89: return push_int(m, PICKLE_BOOL, 0);
    case 'J': return push_int32(m);
    case 'K': return push_unsigned(m, 1);
    case 'M': return push_unsigned(m, 2);
    case 0x8a: return push_long(m);
    case 'G': return push_float(m);
    case 'X':
    case 'T':
    case 'B': return push_text(m, 4);
    case 'U':
    case 'C':
    case 0x8c: return push_text(m, 1);
    case 0x8d:
    case 0x8e: return push_text(m, 8);
    case ')': return push_items(m, PICKLE_TUPLE, NULL, 0);
    case ']': return push_items(m, PICKLE_LIST, NULL, 0);
    case '}': return push_items(m, PICKLE_DICT, NULL, 0);
    case 't': return push_marked(m, PICKLE_TUPLE);
    case 'l': return push_marked(m, PICKLE_LIST);
    case 'd': return push_marked(m, PICKLE_DICT);
    case 0x85:
    case 0x86:
    case 0x87: return push_tuple(m, (size_t)(op - 0x84));
    case 'a': return append_top(m, PICKLE_LIST, 1);
    case 'e': return append_marked(m, PICKLE_LIST);
    case 's': return append_top(m, PICKLE_DICT, 2);
    case 'u': return append_marked(m, PICKLE_DICT);
    case 'h': return memo_get(m, 1);
    case 'j': return memo_get(m, 4);
    case 'q': return memo_put_at(m, 1);
    case 'r': return memo_put_at(m, 4);
    case 0x94: return memo_put(m, m->memo.n);
    case 'c': return push_global_lines(m);
    case 0x93: return push_global_stack(m);
    case 'R': return reduce(m);
    case 'Q': return persistent(m);
    case 'b': return build(m);
    }
    return error_set(m->err, ERR_UNSUPPORTED,
                     "%s: pickle: opcode 0x%02x at byte %zu is not allowed", m->k->path, op,
                     (size_t)(m->p - m->start) - 1);
}

static status run(machine *m, pickle_value **ret) {
    for (;;) {
        uint64_t op = 0;
        TRY(take_int(m, 1, &op));
        if (op == '.') break;
        TRY(opcode(m, (uint8_t)op));
        if (m->marks.n >= STACK_MAX) return too_large(m);
    }
    if (m->marks.n) return fail(m, "a mark is left over");
    return pop(m, ret);
}

status pickle_read(pickle *k, str text, pickle_value **ret, size_t *ret_bytes, error *err) {
    machine m = {.k = k, .err = err};
    m.p = m.start = (const uint8_t *)text.p;
    m.end = m.p + text.n;
    status st = run(&m, ret);
    if (st == OK) *ret_bytes = (size_t)(m.p - m.start);
    vec_done(&m.stack);
    vec_done(&m.memo);
    vec_done(&m.marks);
    return st;
}
