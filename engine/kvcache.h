/* The physical KV pages: per layer one buffer of keys and one of values, [P,G,S,D] each. Which
 * page belongs to whom is the scheduler's business. */
#ifndef ENGINE_KVCACHE_H
#define ENGINE_KVCACHE_H

#include "engine/batch.h"
#include "kernels/backend.h"

#define KV_PAGE_TOKENS 16

typedef struct kvcache {
    backend *b;
    int32_t n_layers, n_kv_heads, head_dim, page_tokens, n_pages;
    dtype dt;
    size_t page_bytes; /* of one layer's keys, or values */
    size_t bytes;      /* of everything */
    void *block;
    void **buffers;     /* [2L]: keys of layer l at 2l, values at 2l+1 */
    int32_t *src, *dst; /* [copies_max] for kvcache_copy */
    int32_t copies_max;
} kvcache;

/* Bytes that one page takes over all layers. */
size_t kvcache_page_bytes(int32_t n_layers, int32_t n_kv_heads, int32_t head_dim, dtype dt);
/* Allocate; the fields up to n_pages and dt are set by the caller. */
NODISCARD status kvcache_alloc(kvcache *c, int32_t copies_max, error *err);
void kvcache_done(kvcache *c);

static inline void *kvcache_keys(const kvcache *c, int32_t layer) {
    return c->buffers[2 * layer];
}
static inline void *kvcache_values(const kvcache *c, int32_t layer) {
    return c->buffers[2 * layer + 1];
}
/* The plan's page copies, in order. */
void kvcache_copy(kvcache *c, const page_copy *copies, int32_t n);

#endif
