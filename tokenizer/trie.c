/* Edges in one open-addressing table keyed by (node, byte): one probe a step, no per-node arrays.
 */
#include "tokenizer/trie.h"

void trie_done(trie *t) {
    mem_free(t->edges);
    vec_done(&t->values);
    *t = (trie){0};
}

static trie_edge *find(const trie *t, uint32_t node, uint8_t b) {
    uint64_t h = ((uint64_t)node << 8 | b) * 0x9E3779B97F4A7C15u;
    uint32_t mask = t->slots - 1;
    for (uint32_t at = (uint32_t)(h >> 32) & mask;; at = (at + 1) & mask) {
        trie_edge *e = &t->edges[at];
        if (!e->byte1 || (e->node == node && e->byte1 == b + 1u)) return e;
    }
}

static void grow(trie *t) {
    trie_edge *old = t->edges;
    uint32_t n = t->slots;
    t->slots = n ? n * 2 : 1024;
    t->edges = mem_calloc(t->slots, sizeof *t->edges);
    for (uint32_t i = 0; i < n; i++)
        if (old[i].byte1) *find(t, old[i].node, (uint8_t)(old[i].byte1 - 1)) = old[i];
    mem_free(old);
}

void trie_add(trie *t, str key, int32_t value) {
    uint32_t node = 0;
    if (!t->values.n) vec_push(&t->values, -1);
    for (size_t i = 0; i < key.n; i++) {
        if ((t->n_edges + 1) * 2 > t->slots) grow(t);
        trie_edge *e = find(t, node, (uint8_t)key.p[i]);
        if (!e->byte1) {
            *e = (trie_edge){node, (uint8_t)key.p[i] + 1u, (uint32_t)t->values.n};
            vec_push(&t->values, -1);
            t->n_edges++;
        }
        node = e->child;
    }
    t->values.p[node] = value;
}

uint32_t trie_next(const trie *t, uint32_t node, uint8_t b) {
    if (!t->slots) return 0;
    const trie_edge *e = find(t, node, b);
    return e->byte1 ? e->child : 0;
}
