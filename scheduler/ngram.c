/* A hash of two tokens leads to the latest place behind them, and each place to the one before it
 * with that hash, as in LZ77 compressors. Two tokens are the shortest match, longer ones are found
 * by comparing backwards from each place of the chain. Chains are followed for a few places only:
 * frequent pairs have long ones, and the latest places are the likeliest to go on alike.
 *
 * The table has about a place for each token, so that few pairs share a chain, up to a bound: a
 * hundred thousand tokens in 128 KiB still find what they look for among the latest. */
#include "scheduler/ngram.h"

#include "engine/base/mem.h"

enum { BITS_MIN = 6, BITS_MAX = 15, CHAIN = 16 };

static int32_t bits_for(int32_t len_max) {
    int32_t bits = BITS_MIN;
    while (bits < BITS_MAX && 1 << bits < len_max) bits++;
    return bits;
}

size_t ngram_bytes(int32_t len_max) {
    return (((size_t)1 << bits_for(len_max)) + (size_t)len_max) * sizeof(int32_t);
}

void ngram_init(ngram *x, void *mem, int32_t len_max) {
    *x = (ngram){.head = mem, .bits = bits_for(len_max), .n = NGRAM_LEAST};
    x->prev = x->head + ((size_t)1 << x->bits);
}

static int32_t *head_of(const ngram *x, const int32_t *end) {
    uint32_t h = (uint32_t)end[-1] * 0x9E3779B1u ^ (uint32_t)end[-2] * 0x85EBCA77u;
    h ^= h >> 15;
    return &x->head[h * 0xC2B2AE3Du >> (32 - x->bits)];
}

void ngram_enter(ngram *x, const int32_t *ids, int32_t n) {
    for (; x->n < n; x->n++) {
        int32_t *head = head_of(x, ids + x->n);
        x->prev[x->n] = *head;
        *head = x->n;
    }
}

static int32_t match(const int32_t *ids, int32_t p, int32_t n) {
    int32_t m = 0, most = MIN(p, NGRAM_MOST);
    while (m < most && ids[p - 1 - m] == ids[n - 1 - m]) m++;
    return m;
}

int32_t ngram_find(const ngram *x, const int32_t *ids, int32_t n, int32_t *ret_match) {
    int32_t best = NGRAM_LEAST - 1, at = 0;
    if (n <= NGRAM_LEAST) return 0;
    int32_t p = *head_of(x, ids + n);
    for (int32_t k = 0; k < CHAIN && p > 0 && best < NGRAM_MOST; k++, p = x->prev[p]) {
        int32_t m = match(ids, p, n);
        if (m <= best) continue;
        best = m;
        at = p;
    }
    *ret_match = at ? best : 0;
    return at;
}
