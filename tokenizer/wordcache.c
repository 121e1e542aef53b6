/* Design: direct mapped, one cache line a slot, each slot a sequence lock over relaxed atomic
 * words: a reader copies the line and takes it only if the sequence was even and did not change; a
 * writer that finds the slot being written goes away. New words replace old ones, so a flood of
 * rare words costs speed for a moment and never memory.
 *
 * Slot: [0] sequence in the low half, length and id count above; [1..3] the word; [4..7] ids. */
#include "tokenizer/wordcache.h"

#include <stdatomic.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

#define SLOTS (1u << 15)
#define WORDS 8

struct wordcache {
    _Atomic uint64_t slots[SLOTS][WORDS];
};

wordcache *wordcache_new(void) {
    wordcache *c = mem_map(sizeof *c); /* pages come with use; zero is an empty slot */
    CHECK(c);
    return c;
}

void wordcache_free(wordcache *c) {
    if (c) mem_unmap(c, sizeof *c);
}

static uint64_t fold(uint64_t a, uint64_t b) {
    __uint128_t m = (__uint128_t)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

bool wordcache_key(str word, wordkey *k) {
    if (word.n > WORDCACHE_BYTES || word.n == 0) return false;
    k->w[0] = k->w[1] = k->w[2] = 0;
    memcpy(k->w, word.p, word.n);
    k->n = (uint32_t)word.n;
    uint64_t h = fold(k->w[0] ^ 0x9E3779B97F4A7C15u, k->w[1] ^ 0xC2B2AE3D27D4EB4Fu);
    h = fold(h ^ k->w[2], 0x165667B19E3779F9u ^ word.n);
    k->slot = (uint32_t)(h >> 7) & (SLOTS - 1);
    return true;
}

/* Length and id count as they stand above the sequence; 0 is no entry (n is at least 1). */
static uint64_t head_of(uint32_t n, size_t n_ids) {
    return (uint64_t)n << 32 | (uint64_t)n_ids << 48;
}

int wordcache_get(const wordcache *c, const wordkey *k, int32_t *ids) {
    const _Atomic uint64_t *s = c->slots[k->slot];
    uint64_t head = atomic_load_explicit(&s[0], memory_order_acquire), copy[WORDS];
    if (head & 1 || (head >> 32 & 0xFFFF) != k->n) return -1;
    for (int i = 1; i < WORDS; i++) copy[i] = atomic_load_explicit(&s[i], memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&s[0], memory_order_relaxed) != head) return -1;
    if (copy[1] != k->w[0] || copy[2] != k->w[1] || copy[3] != k->w[2]) return -1;
    memcpy(ids, &copy[4], WORDCACHE_IDS * sizeof *ids);
    return (int)(head >> 48);
}

void wordcache_put(wordcache *c, const wordkey *k, const int32_t *ids, size_t n) {
    if (n > WORDCACHE_IDS) return;
    _Atomic uint64_t *s = c->slots[k->slot];
    uint64_t head = atomic_load_explicit(&s[0], memory_order_relaxed), line[WORDS] = {0};
    uint32_t sequence = (uint32_t)head;
    if (sequence & 1) return;
    if (!atomic_compare_exchange_strong_explicit(&s[0], &head,
                                                 (head & ~0xFFFFFFFFull) | (sequence + 1),
                                                 memory_order_acquire, memory_order_relaxed))
        return;
    memcpy(&line[1], k->w, sizeof k->w);
    memcpy(&line[4], ids, n * sizeof *ids);
    atomic_thread_fence(memory_order_release);
    for (int i = 1; i < WORDS; i++) atomic_store_explicit(&s[i], line[i], memory_order_relaxed);
    atomic_store_explicit(&s[0], head_of(k->n, n) | (uint32_t)(sequence + 2), memory_order_release);
}
