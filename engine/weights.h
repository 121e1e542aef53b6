/* The weights of a model in memory: one block, a place in it for every slot of every layer, and
 * which bytes of the checkpoint fill each place. */
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H

#include "engine/arch.h"
#include "engine/checkpoint.h"
#include "kernels/backend.h"

/* A weight of a layer: a packed matrix or an f32 vector; data NULL when the layer has none. */
typedef struct weight {
    wmat m;     /* matrices: m.data */
    float *vec; /* vectors */
    size_t off, bytes;
    bool shares_groups; /* a part begins inside a packed row group: pack under a lock */
} weight;

typedef struct weights {
    const arch *a;
    backend *b;
    weight *slots; /* [(L+1), W_SLOT_COUNT]: layer l at row l, what is of no layer at row L */
    void *block;
    size_t bytes;
    void *embed; /* [V,C] row-major */
    dtype embed_dt;
    dtype dt;         /* of the layers' matrices */
    int64_t n_params; /* elements in the checkpoint's bound tensors */
} weights;

static inline weight *weights_at(const weights *w, int32_t layer, weight_slot slot) {
    int32_t row = layer < 0 ? w->a->n_layers : layer;
    return &w->slots[(size_t)row * W_SLOT_COUNT + slot];
}

/* Decide places and storage types. `want` DT_COUNT keeps the checkpoint's types. Every tensor of
 * the arch must be there with its shape, every tensor of the checkpoint must be used or ignored:
 * the error names tensor, file, expected and found. Allocates nothing large. */
NODISCARD status weights_plan(const arch *a, const checkpoint *c, backend *b, dtype want,
                              weights *ret, error *err);
/* Allocate the block (w->bytes) and describe the matrices in it. */
NODISCARD status weights_alloc(weights *w, error *err);
void weights_done(weights *w);

#endif
