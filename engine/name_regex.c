/* A pattern becomes a tree, the tree a program whose states are run all at once (Thompson 1968,
 * Pike's form): a name is read once from left to right, and no pattern makes that slower than its
 * number of states. What repeats write out is counted in the tree, before anything is written.
 *
 * A look-ahead is a set of places in the name. It is found before the match, by running the
 * look-ahead's program, written backwards, from every place towards the front; so it costs one more
 * reading of the name. Those inside others come first. */
#include "engine/name_regex.h"

#include <ctype.h>
#include <stdint.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/base/vec.h"

#define ENDLESS UINT32_MAX
#define FOREIGN 128 /* any character that is not ASCII */

typedef struct char_set {
    uint64_t bits[2];
    bool foreign;
} char_set;

typedef enum place { /* what a place in the name can be asked */
                     AT_START,
                     AT_END,
                     AT_LAST, /* the end, or before a line feed there */
                     AT_WORD,
                     NOT_AT_WORD,
                     AT_LOOK,
                     NOT_AT_LOOK,
} place;

typedef enum op { OP_SET, OP_PLACE, OP_SPLIT, OP_JUMP, OP_ACCEPT } op;

typedef struct state {
    uint8_t op, place;
    uint16_t a, b; /* a set, a look-ahead, or where to go */
} state;

struct name_regex {
    VEC(state) code;
    VEC(char_set) sets;
    VEC(uint16_t) looks; /* where their programs begin */
    uint16_t start;
};

/* ---- sets ---- */

static void set_add(char_set *s, unsigned lo, unsigned hi) {
    for (unsigned c = lo; c <= hi; c++) s->bits[c >> 6] |= 1ull << (c & 63);
}

static void set_invert(char_set *s) {
    s->bits[0] = ~s->bits[0];
    s->bits[1] = ~s->bits[1];
    s->foreign = !s->foreign;
}

static void set_join(char_set *s, const char_set *more) {
    s->bits[0] |= more->bits[0];
    s->bits[1] |= more->bits[1];
    s->foreign |= more->foreign;
}

static bool set_has(const char_set *s, uint8_t c) {
    return c == FOREIGN ? s->foreign : s->bits[c >> 6] >> (c & 63) & 1;
}

/* \d \w \s, and the rest of all characters in capitals. */
static bool class_of(char c, char_set *s) {
    *s = (char_set){0};
    switch (tolower((unsigned char)c)) {
    case 'd': set_add(s, '0', '9'); break;
    case 'w':
        set_add(s, '0', '9');
        set_add(s, 'A', 'Z');
        set_add(s, 'a', 'z');
        set_add(s, '_', '_');
        break;
    case 's':
        set_add(s, '\t', '\r');
        set_add(s, ' ', ' ');
        break;
    default: return false;
    }
    if (isupper((unsigned char)c)) set_invert(s);
    return true;
}

/* ---- the tree ---- */

typedef enum node_kind { NODE_EMPTY, NODE_SET, NODE_PLACE, NODE_THEN, NODE_OR, NODE_REPEAT } kind;

typedef struct node {
    kind kind;
    place place;
    uint16_t a, b;     /* children, a set or a look-ahead */
    uint32_t min, max; /* of a repeat */
    uint32_t size;     /* states; at least 1, so that size bounds the work too */
} node;

typedef struct parser {
    str p;
    size_t at;
    const char *why; /* the first thing that is not read */
    VEC(node) nodes;
    VEC(uint16_t) looks; /* their trees */
    name_regex *r;
} parser;

#define TOO_LARGE ((uint64_t)1 << 20) /* sizes stop here */

static uint16_t add_node(parser *ps, node n, uint64_t size) {
    n.size = (uint32_t)MIN(size, TOO_LARGE);
    vec_push(&ps->nodes, n);
    CHECK(ps->nodes.n < UINT16_MAX); /* a few for each byte of the pattern */
    return (uint16_t)(ps->nodes.n - 1);
}

static uint64_t size_of(const parser *ps, uint16_t at) {
    return ps->nodes.p[at].size;
}

static uint16_t refuse(parser *ps, const char *why) {
    if (!ps->why) ps->why = why;
    return add_node(ps, (node){NODE_EMPTY}, 1);
}

static uint16_t set_node(parser *ps, const char_set *s) {
    vec_push(&ps->r->sets, *s);
    return add_node(ps, (node){NODE_SET, .a = (uint16_t)(ps->r->sets.n - 1)}, 1);
}

static uint16_t place_node(parser *ps, place p) {
    return add_node(ps, (node){NODE_PLACE, p}, 1);
}

static uint16_t repeat_node(parser *ps, uint16_t a, uint32_t min, uint32_t max) {
    uint64_t n = size_of(ps, a), size;
    if (max == ENDLESS)
        size = min ? min * n + 1 : n + 2;
    else
        size = MAX(1, min * n + (max - min) * (n + 1));
    return add_node(ps, (node){NODE_REPEAT, .a = a, .min = min, .max = max}, size);
}

static int peek(const parser *ps) {
    return ps->at < ps->p.n ? (unsigned char)ps->p.p[ps->at] : -1;
}

static bool take(parser *ps, char c) {
    bool is = peek(ps) == c;
    ps->at += is;
    return is;
}

static uint16_t parse_or(parser *ps);

static uint16_t parse_look(parser *ps, place p) {
    uint16_t inner = parse_or(ps), at = place_node(ps, p);
    vec_push(&ps->looks, inner);
    ps->nodes.p[at].a = (uint16_t)(ps->looks.n - 1);
    return at;
}

static uint16_t parse_group(parser *ps) {
    bool marked = take(ps, '?');
    uint16_t at;
    if (marked && take(ps, '='))
        at = parse_look(ps, AT_LOOK);
    else if (marked && take(ps, '!'))
        at = parse_look(ps, NOT_AT_LOOK);
    else if (marked && !take(ps, ':'))
        return refuse(ps, "a group (? of another kind than (?: (?= (?!");
    else
        at = parse_or(ps);
    return take(ps, ')') ? at : refuse(ps, "a group without its end");
}

/* The character that an escape stands for; -1: none. */
static int escaped_char(int c) {
    static const char names[] = "ntrfva", chars[] = "\n\t\r\f\v\a";
    const char *known = c > 0 ? strchr(names, c) : NULL;
    if (known) return chars[known - names];
    return c < 0 || c >= FOREIGN || isalnum(c) ? -1 : c;
}

static uint16_t parse_escape(parser *ps) {
    static const char places[] = "AZbB";
    static const place kinds[] = {AT_START, AT_END, AT_WORD, NOT_AT_WORD};
    int c = peek(ps);
    char_set s = {0};
    ps->at += c >= 0;
    if (c > 0 && strchr(places, c)) return place_node(ps, kinds[strchr(places, c) - places]);
    if (class_of((char)c, &s)) return set_node(ps, &s);
    if (c >= 0 && isdigit(c)) return refuse(ps, "a back reference or an octal number");
    c = escaped_char(c);
    if (c < 0) return refuse(ps, "an escape that is not known");
    set_add(&s, (unsigned)c, (unsigned)c);
    return set_node(ps, &s);
}

/* One member of a class: its character, or -1 and its set. */
static int parse_member(parser *ps, char_set *ret) {
    int c = peek(ps);
    ps->at += c >= 0;
    if (c == '\\') {
        int e = peek(ps);
        ps->at += e >= 0;
        if (class_of((char)e, ret)) return -1;
        c = e == 'b' ? '\b' : escaped_char(e);
        if (c < 0) refuse(ps, "an escape in a class that is not known");
    }
    if (c < 0) refuse(ps, "a class without its end");
    if (c >= FOREIGN) refuse(ps, "a character that is not ASCII");
    *ret = (char_set){0};
    if (c >= 0 && c < FOREIGN) set_add(ret, (unsigned)c, (unsigned)c);
    return c;
}

static uint16_t parse_class(parser *ps) {
    char_set all = {0}, part, end;
    bool inverted = take(ps, '^');
    for (bool first = true; !ps->why && (first || peek(ps) != ']'); first = false) {
        int lo = parse_member(ps, &part);
        bool range = peek(ps) == '-' && ps->at + 1 < ps->p.n && ps->p.p[ps->at + 1] != ']';
        if (range && !ps->why) {
            ps->at++;
            int hi = parse_member(ps, &end);
            if (lo < 0 || hi < lo) return refuse(ps, "a range that has no order");
            if (!ps->why) set_add(&part, (unsigned)lo, (unsigned)hi);
        }
        set_join(&all, &part);
    }
    ps->at++;
    if (inverted) set_invert(&all);
    return set_node(ps, &all);
}

static bool parse_count(parser *ps, uint32_t *n) {
    size_t from = ps->at;
    for (*n = 0; peek(ps) >= '0' && peek(ps) <= '9'; ps->at++)
        *n = MIN(*n * 10 + (uint32_t)(peek(ps) - '0'), NAME_REGEX_STATES + 1);
    return ps->at > from;
}

/* * + ? or counts in braces; braces with anything else in them are plain characters. */
static bool parse_repeat(parser *ps, uint32_t *min, uint32_t *max) {
    size_t from = ps->at;
    *min = *max = 0;
    if (take(ps, '?')) return *max = 1, true;
    if (take(ps, '*')) return *max = ENDLESS, true;
    if (take(ps, '+')) return *min = 1, *max = ENDLESS, true;
    if (!take(ps, '{')) return false;
    bool lower = parse_count(ps, min), comma = take(ps, ',');
    if (!comma)
        *max = *min;
    else if (!parse_count(ps, max))
        *max = ENDLESS;
    if ((lower || comma) && take(ps, '}')) return true;
    ps->at = from;
    return false;
}

static uint16_t parse_atom(parser *ps) {
    char_set s = {0};
    uint32_t min, max;
    if (parse_repeat(ps, &min, &max)) return refuse(ps, "a repeat of nothing");
    int c = peek(ps);
    ps->at++;
    switch (c) {
    case '(': return parse_group(ps);
    case '[': return parse_class(ps);
    case '\\': return parse_escape(ps);
    case '^': return place_node(ps, AT_START);
    case '$': return place_node(ps, AT_LAST);
    case '.':
        set_add(&s, '\n', '\n');
        set_invert(&s);
        return set_node(ps, &s);
    default: break;
    }
    if (c >= FOREIGN) return refuse(ps, "a character that is not ASCII");
    set_add(&s, (unsigned)c, (unsigned)c);
    return set_node(ps, &s);
}

static uint16_t parse_item(parser *ps) {
    bool group = peek(ps) == '(';
    uint16_t at = parse_atom(ps);
    uint32_t min, max;
    if (!parse_repeat(ps, &min, &max)) return at;
    if (!group && ps->nodes.p[at].kind == NODE_PLACE) return refuse(ps, "a repeat of a place");
    if (max < min) return refuse(ps, "a repeat whose bounds have no order");
    if (min > NAME_REGEX_STATES || (max > NAME_REGEX_STATES && max != ENDLESS))
        return refuse(ps, "a repeat of too many times");
    if (take(ps, '+')) return refuse(ps, "a possessive repeat");
    take(ps, '?');
    at = repeat_node(ps, at, min, max);
    return parse_repeat(ps, &min, &max) ? refuse(ps, "a repeat of a repeat") : at;
}

static uint16_t parse_then(parser *ps) {
    uint16_t all = 0;
    for (bool first = true; !ps->why; first = false) {
        int c = peek(ps);
        if (c < 0 || c == '|' || c == ')') return first ? add_node(ps, (node){NODE_EMPTY}, 1) : all;
        uint16_t one = parse_item(ps);
        all = first ? one
                    : add_node(ps, (node){NODE_THEN, .a = all, .b = one},
                               size_of(ps, all) + size_of(ps, one));
    }
    return 0;
}

static uint16_t parse_or(parser *ps) {
    uint16_t all = parse_then(ps);
    while (!ps->why && take(ps, '|')) {
        uint16_t one = parse_then(ps);
        if (ps->why) break;
        all = add_node(ps, (node){NODE_OR, .a = all, .b = one},
                       size_of(ps, all) + size_of(ps, one) + 2);
    }
    return all;
}

/* ---- the program ---- */

static uint16_t put(name_regex *r, state s) {
    vec_push(&r->code, s);
    return (uint16_t)(r->code.n - 1);
}

static uint16_t here(const name_regex *r) {
    return (uint16_t)r->code.n;
}

static void write_node(const parser *ps, uint16_t at, bool backward);

static void write_or(const parser *ps, const node *n, bool backward) {
    name_regex *r = ps->r;
    uint16_t split = put(r, (state){OP_SPLIT});
    r->code.p[split].a = here(r);
    write_node(ps, n->a, backward);
    uint16_t jump = put(r, (state){OP_JUMP});
    r->code.p[split].b = here(r);
    write_node(ps, n->b, backward);
    r->code.p[jump].a = here(r);
}

/* Once or not at all, or (endless) any number of times. */
static void write_optional(const parser *ps, const node *n, bool backward, bool endless) {
    name_regex *r = ps->r;
    uint16_t split = put(r, (state){OP_SPLIT});
    r->code.p[split].a = here(r);
    write_node(ps, n->a, backward);
    if (endless) put(r, (state){OP_JUMP, .a = split});
    r->code.p[split].b = here(r);
}

static void write_repeat(const parser *ps, const node *n, bool backward) {
    name_regex *r = ps->r;
    uint16_t last = here(r);
    if (n->max == 0) put(r, (state){OP_JUMP, .a = (uint16_t)(last + 1)});
    for (uint32_t i = 0; i < n->min; i++) {
        last = here(r);
        write_node(ps, n->a, backward);
    }
    if (n->max == ENDLESS && n->min)
        put(r, (state){OP_SPLIT, .a = last, .b = (uint16_t)(here(r) + 1)});
    else if (n->max == ENDLESS)
        write_optional(ps, n, backward, true);
    else
        for (uint32_t i = n->min; i < n->max; i++) write_optional(ps, n, backward, false);
}

static void write_node(const parser *ps, uint16_t at, bool backward) {
    const node *n = &ps->nodes.p[at];
    switch (n->kind) {
    case NODE_EMPTY: put(ps->r, (state){OP_JUMP, .a = (uint16_t)(here(ps->r) + 1)}); break;
    case NODE_SET: put(ps->r, (state){OP_SET, .a = n->a}); break;
    case NODE_PLACE: put(ps->r, (state){OP_PLACE, (uint8_t)n->place, .a = n->a}); break;
    case NODE_THEN:
        write_node(ps, backward ? n->b : n->a, backward);
        write_node(ps, backward ? n->a : n->b, backward);
        break;
    case NODE_OR: write_or(ps, n, backward); break;
    case NODE_REPEAT: write_repeat(ps, n, backward); break;
    }
}

static uint16_t write_program(const parser *ps, uint16_t at, bool backward) {
    uint16_t start = here(ps->r);
    write_node(ps, at, backward);
    put(ps->r, (state){OP_ACCEPT});
    return start;
}

static void compile(parser *ps) {
    name_regex *r = ps->r;
    uint16_t all = parse_or(ps);
    if (ps->at < ps->p.n) refuse(ps, "the end of a group that did not begin");
    if (ps->why) return;
    uint64_t size = size_of(ps, all) + 1;
    for (size_t i = 0; i < ps->looks.n; i++) size += size_of(ps, ps->looks.p[i]) + 1;
    if (size > NAME_REGEX_STATES) {
        refuse(ps, "repeats that make it too large");
        return;
    }
    vec_reserve(&r->code, size);
    r->start = write_program(ps, all, false);
    for (size_t i = 0; i < ps->looks.n; i++)
        vec_push(&r->looks, write_program(ps, ps->looks.p[i], true));
    CHECK(r->code.n == size);
}

status name_regex_new(str pattern, name_regex **ret, error *err) {
    parser ps = {.p = pattern, .r = mem_calloc(1, sizeof *ps.r)};
    if (pattern.n > NAME_REGEX_BYTES)
        refuse(&ps, "too many bytes");
    else
        compile(&ps);
    vec_done(&ps.nodes);
    vec_done(&ps.looks);
    if (!ps.why) {
        *ret = ps.r;
        return OK;
    }
    name_regex_free(ps.r);
    return error_set(err, ERR_UNSUPPORTED, "the pattern \"" STR_FMT "\" cannot be read here: %s",
                     STR_ARG(str_cut(pattern, 0, MIN(pattern.n, (size_t)200))), ps.why);
}

void name_regex_free(name_regex *r) {
    if (!r) return;
    vec_done(&r->code);
    vec_done(&r->sets);
    vec_done(&r->looks);
    mem_free(r);
}

size_t name_regex_states(const name_regex *r) {
    return r->code.n;
}

/* ---- matching ---- */

typedef struct machine {
    const name_regex *r;
    uint8_t *chars; /* [n] of the name; FOREIGN for all that are not ASCII */
    size_t n;
    bool *places; /* [looks, n+1] where each look-ahead holds; then [n+1] for the match itself */
    uint16_t *now, *next, *stack; /* [states]; of now and next only what reads a character */
    size_t n_now, n_next;
    uint32_t *seen; /* [states] the step in which the state was entered */
    uint32_t step;
} machine;

static bool is_word(const machine *m, size_t i) {
    return i < m->n && m->chars[i] < FOREIGN && (isalnum(m->chars[i]) || m->chars[i] == '_');
}

static bool holds(const machine *m, const state *s, size_t at) {
    switch ((place)s->place) {
    case AT_START: return at == 0;
    case AT_END: return at == m->n;
    case AT_LAST: return at == m->n || (at + 1 == m->n && m->chars[at] == '\n');
    case AT_WORD: return is_word(m, at) != (at > 0 && is_word(m, at - 1));
    case NOT_AT_WORD: return is_word(m, at) == (at > 0 && is_word(m, at - 1));
    case AT_LOOK: return m->places[s->a * (m->n + 1) + at];
    case NOT_AT_LOOK: return !m->places[s->a * (m->n + 1) + at];
    }
    return false;
}

static void visit(machine *m, size_t *depth, uint16_t pc) {
    if (m->seen[pc] == m->step) return;
    m->seen[pc] = m->step;
    m->stack[(*depth)++] = pc;
}

/* Enter a state at a place, and all that follow without a character; true: one of them accepts. */
static bool enter(machine *m, uint16_t pc, size_t at) {
    size_t depth = 0;
    bool accepts = false;
    visit(m, &depth, pc);
    while (depth) {
        pc = m->stack[--depth];
        const state *s = &m->r->code.p[pc];
        switch ((op)s->op) {
        case OP_SET: m->next[m->n_next++] = pc; break;
        case OP_PLACE:
            if (holds(m, s, at)) visit(m, &depth, pc + 1);
            break;
        case OP_SPLIT:
            visit(m, &depth, s->a);
            visit(m, &depth, s->b);
            break;
        case OP_JUMP: visit(m, &depth, s->a); break;
        case OP_ACCEPT: accepts = true; break;
        }
    }
    return accepts;
}

/* The places where a program that begins at `start` ends: read from the front, begun there only, or
 * from the back, begun everywhere. */
static void run(machine *m, uint16_t start, bool backward, bool *ret_ends) {
    m->n_now = 0;
    for (size_t k = 0; k <= m->n; k++) {
        size_t at = backward ? m->n - k : k;
        bool accepts = false;
        m->step++;
        m->n_next = 0;
        for (size_t i = 0; i < m->n_now; i++) {
            uint8_t c = m->chars[backward ? at : at - 1];
            const state *s = &m->r->code.p[m->now[i]];
            if (set_has(&m->r->sets.p[s->a], c)) accepts |= enter(m, m->now[i] + 1, at);
        }
        if (k == 0 || backward) accepts |= enter(m, start, at);
        ret_ends[at] = accepts;
        uint16_t *swap = m->now;
        m->now = m->next;
        m->next = swap;
        m->n_now = m->n_next;
        if (!m->n_now && !backward) break;
    }
}

static void machine_init(machine *m, const name_regex *r, str name) {
    size_t states = r->code.n;
    *m = (machine){.r = r, .chars = mem_alloc(name.n + 1)};
    for (size_t at = 0, k; at < name.n; at += k) {
        uint32_t cp;
        k = MAX(utf8_get(name.p + at, name.n - at, &cp), (size_t)1);
        m->chars[m->n++] = (uint8_t)MIN((uint8_t)name.p[at], FOREIGN);
    }
    m->places = mem_calloc((r->looks.n + 1) * (m->n + 1), sizeof *m->places);
    m->now = mem_alloc(states * sizeof *m->now);
    m->next = mem_alloc(states * sizeof *m->next);
    m->stack = mem_alloc(states * sizeof *m->stack);
    m->seen = mem_calloc(states, sizeof *m->seen);
}

static void machine_done(machine *m) {
    mem_free(m->chars);
    mem_free(m->places);
    mem_free(m->now);
    mem_free(m->next);
    mem_free(m->stack);
    mem_free(m->seen);
}

bool name_regex_match(const name_regex *r, str name) {
    machine m;
    bool found = false;
    machine_init(&m, r, name);
    for (size_t i = 0; i < r->looks.n; i++) run(&m, r->looks.p[i], true, m.places + i * (m.n + 1));
    bool *ends = m.places + r->looks.n * (m.n + 1);
    run(&m, r->start, false, ends);
    for (size_t i = 0; i <= m.n; i++) found |= ends[i];
    machine_done(&m);
    return found;
}
