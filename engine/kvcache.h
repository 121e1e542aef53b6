/* The physical KV pages: per layer one buffer of keys and one of values, [P,G,S,D] each; with
 * latent attention one buffer of latent rows, [P,S,R+rope]. Which page belongs to whom is the
 * scheduler's business. */
#ifndef ENGINE_KVCACHE_H
#define ENGINE_KVCACHE_H

#include "engine/batch.h"
#include "kernels/backend.h"

#define KV_PAGE_TOKENS 16

/* What a layer keeps of one token: n_buffers rows of `width` elements, and n_scales with each row
 * where dt is of eight bits (kernels/kv8.h). */
typedef struct kv_shape {
    int32_t n_layers, n_buffers, width, n_scales;
    dtype dt;
} kv_shape;

typedef struct kvcache {
    backend *b;
    kv_shape shape;
    int32_t page_tokens, n_pages;
    dtype dt;
    size_t page_bytes; /* of one buffer, its scales included */
    size_t bytes;      /* of everything */
    void *block;
    void **buffers;     /* [L,n_buffers]: keys, then values, of each layer */
    int32_t *src, *dst; /* [copies_max] for kvcache_copy */
    int32_t copies_max;
    size_t stride;   /* bytes from one buffer to the next */
    int32_t n_slots; /* of the second tier; 0: none */
    void *slots;     /* [n_slots] pages of all layers, pinned memory of the host (kvswap.h) */
    float move_us;   /* of one page, measured */
} kvcache;

/* Bytes that one page takes over all layers. */
size_t kvcache_page_bytes(const kv_shape *s);
/* Allocate; b, shape and n_pages are set by the caller. */
NODISCARD status kvcache_alloc(kvcache *c, int32_t copies_max, error *err);
void kvcache_done(kvcache *c);

static inline void *kvcache_keys(const kvcache *c, int32_t layer) {
    return c->buffers[c->shape.n_buffers * layer];
}
static inline void *kvcache_values(const kvcache *c, int32_t layer) {
    return c->buffers[c->shape.n_buffers * layer + 1];
}
/* The plan's page copies, in order. */
void kvcache_copy(kvcache *c, const page_copy *copies, int32_t n);

#endif
