/* What the rows between two ops are stored as, where the second is a product: the type that the
 * backend's product would round them to anyway (backend.h: feed_dt), so that storing them changes
 * no bit, or f32.
 *
 * The residual stream, q, k and v, and what a product writes stay f32: sums of many layers keep
 * their digits, and only the rows that products read lose what products do not look at. */
#ifndef ENGINE_FORWARD_FEED_H
#define ENGINE_FORWARD_FEED_H

#include "engine/weights.h"

typedef struct layer_feeds {
    dtype attn_in; /* rows that enter the attention branch; with one norm for two branches, both */
    dtype mlp_in;  /* the feed-forward branch */
    dtype att;     /* attention to W_O, or, latent, to W_V_UP */
    dtype act;     /* activation to W_DOWN or W_SHARED_DOWN */
} layer_feeds;

/* Of layer l: pure, from its kind and the storage of its matrices. A buffer with several consumers
 * that want different types is f32. */
layer_feeds layer_feeds_of(const arch *a, const weights *w, int32_t layer);
/* Bytes that a row of n elements takes. */
static inline size_t feed_row_bytes(dtype dt, size_t n) {
    return dtype_bytes(dt) == 1 ? (n + 15) / 16 * 16 : n * dtype_bytes(dt);
}

#endif
