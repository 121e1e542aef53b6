/* Leftmost-longest matching of a few to a few thousand patterns with a byte trie. A table by first
 * byte says whether a pattern may start here at all, so ordinary text costs one look-up a byte.
 * The cost where patterns start is bounded by the longest pattern: no text makes it quadratic. */
#include "tokenizer/added.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/uclass.h"

typedef struct trie_node {
    int32_t token; /* index, -1: none ends here */
    int32_t child, sibling;
    uint8_t byte;
} trie_node;

struct added_set {
    VEC(added_token) tokens;
    VEC(trie_node) nodes;
    int32_t first[256]; /* node of a first byte, -1: none */
};

added_set *added_set_new(void) {
    added_set *s = mem_calloc(1, sizeof *s);
    for (int i = 0; i < 256; i++) s->first[i] = -1;
    return s;
}

void added_set_free(added_set *s) {
    if (!s) return;
    for (size_t i = 0; i < s->tokens.n; i++) mem_free((void *)s->tokens.p[i].pattern.p);
    vec_done(&s->tokens);
    vec_done(&s->nodes);
    mem_free(s);
}

bool added_set_empty(const added_set *s) {
    return s->tokens.n == 0;
}

const added_token *added_set_list(const added_set *s, size_t *ret_n) {
    *ret_n = s->tokens.n;
    return s->tokens.p;
}

static int32_t new_node(added_set *s, uint8_t byte, int32_t sibling) {
    vec_push(&s->nodes, ((trie_node){.token = -1, .child = -1, .sibling = sibling, .byte = byte}));
    return (int32_t)s->nodes.n - 1;
}

static int32_t child_of(const added_set *s, int32_t at, uint8_t byte) {
    int32_t c = s->nodes.p[at].child;
    while (c >= 0 && s->nodes.p[c].byte != byte) c = s->nodes.p[c].sibling;
    return c;
}

void added_set_add(added_set *s, const added_token *t) {
    if (!t->pattern.n) return;
    const uint8_t *p = (const uint8_t *)t->pattern.p;
    if (s->first[p[0]] < 0) s->first[p[0]] = new_node(s, p[0], -1);
    int32_t at = s->first[p[0]];
    for (size_t i = 1; i < t->pattern.n; i++) {
        int32_t c = child_of(s, at, p[i]);
        if (c < 0) {
            c = new_node(s, p[i], s->nodes.p[at].child);
            s->nodes.p[at].child = c;
        }
        at = c;
    }
    if (s->nodes.p[at].token >= 0) return;
    s->nodes.p[at].token = (int32_t)s->tokens.n;
    added_token copy = *t;
    char *own = mem_alloc(t->pattern.n);
    memcpy(own, t->pattern.p, t->pattern.n);
    copy.pattern.p = own;
    vec_push(&s->tokens, copy);
}

/* The longest token that starts at `at`, NULL if none. */
static const added_token *longest(const added_set *s, str t, size_t at) {
    int32_t node = s->first[(uint8_t)t.p[at]], found = -1;
    for (size_t i = at; node >= 0;) {
        if (s->nodes.p[node].token >= 0) found = s->nodes.p[node].token;
        if (++i == t.n) break;
        node = child_of(s, node, (uint8_t)t.p[i]);
    }
    return found < 0 ? NULL : &s->tokens.p[found];
}

static bool class_before(str t, size_t at, unsigned want, size_t *ret_start) {
    if (at == 0) return false;
    size_t i = at - 1;
    while (i && ((unsigned char)t.p[i] & 0xC0) == 0x80) i--;
    uint32_t cp;
    *ret_start = i;
    return utf8_get(t.p + i, t.n - i, &cp) && uclass(cp) & want;
}

static bool class_after(str t, size_t at, unsigned want, size_t *ret_end) {
    uint32_t cp;
    size_t k = at < t.n ? utf8_get(t.p + at, t.n - at, &cp) : 0;
    *ret_end = at + k;
    return k && uclass(cp) & want;
}

static void take(const added_token *tok, str t, size_t at, size_t *covered, added_parts *out) {
    size_t from = at, to = at + tok->pattern.n, edge;
    if (tok->single_word &&
        (class_before(t, from, UC_WORD, &edge) || class_after(t, to, UC_WORD, &edge)))
        return;
    if (tok->lstrip) {
        while (from > *covered && class_before(t, from, UC_SPACE, &edge)) from = edge;
        from = MAX(from, *covered);
        if (from >= to) return; /* white space that the last one's rstrip took */
    }
    if (tok->rstrip)
        while (class_after(t, to, UC_SPACE, &edge)) to = edge;
    if (*covered < from) vec_push(out, ((added_part){-1, *covered, from}));
    vec_push(out, ((added_part){tok->id, from, to}));
    *covered = to;
}

void added_set_split(const added_set *s, str t, added_parts *out) {
    size_t covered = 0;
    for (size_t at = 0; at < t.n && s->tokens.n;) {
        const added_token *tok = s->first[(uint8_t)t.p[at]] < 0 ? NULL : longest(s, t, at);
        if (!tok) {
            at++;
            continue;
        }
        take(tok, t, at, &covered, out);
        at += tok->pattern.n;
    }
    if (covered < t.n) vec_push(out, ((added_part){-1, covered, t.n}));
}
