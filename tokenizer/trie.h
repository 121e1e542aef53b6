/* A byte trie: the pieces of a vocabulary that start at a place of the text, shortest first. */
#ifndef TOKENIZER_TRIE_H
#define TOKENIZER_TRIE_H

#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef struct trie_edge {
    uint32_t node, byte1; /* byte + 1; 0: empty slot */
    uint32_t child;
} trie_edge;

/* {0} is a valid empty trie. */
typedef struct trie {
    trie_edge *edges;
    uint32_t n_edges, slots; /* slots: a power of two or 0 */
    VEC(int32_t) values;     /* by node, -1: nothing ends here; node 0 is the root */
} trie;

void trie_done(trie *t);
/* key is not empty; a later value for the same key replaces the earlier one. */
void trie_add(trie *t, str key, int32_t value);
/* The node behind `node` (0: root) by byte b; 0 if there is none. */
uint32_t trie_next(const trie *t, uint32_t node, uint8_t b);
static inline int32_t trie_value(const trie *t, uint32_t node) {
    return t->values.p[node];
}

#endif
