/* An adapter bound to a base: for every slot of the base that it changes, what the forward pass
 * needs to compute that change beside the base's own product. Immutable once made. */
#ifndef ENGINE_ADAPTER_H
#define ENGINE_ADAPTER_H

#include "engine/adapter_delta.h"
#include "engine/batch.h"
#include "engine/weights.h"

/* y = c * (W (d * x) + sum of parts) + bias, where W is `own` or the base's. What is NULL (or has
 * no data) is not changed. */
typedef struct adapter_slot {
    bool used;
    wmat own;         /* [N,K] */
    wmat a;           /* [R,K]: the A of all parts, one below the other; n 0: no parts */
    float *s;         /* [R] */
    lora_part *parts; /* host */
    int32_t n_parts;
    float *c;     /* [N] */
    float *d;     /* [K] */
    float *bias;  /* [N]: in place of the base's */
    float *vec;   /* vectors: in place of the base's */
    float *table; /* embedding: in place of the base's, [V,E] */
    float *low;   /* embedding: [V,R]; a row of it, s-scaled, goes through parts[0].b [E,R] */
} adapter_slot;

typedef struct adapter {
    adapter_info info;
    adapter_kind kind;
    uint64_t generation; /* differs from every other adapter of the process */
    int32_t n_slots;
    adapter_slot
        *slots;      /* [(L+1) * W_SLOT_COUNT], layer l at row l, what is of no layer at row L */
    int32_t row_max; /* the largest R of a slot */
    /* What plain slots (adapter_slot_is_plain) add, for the op `lora`: [n_slots] in memory of b,
     * those of other slots empty. NULL: no slot is plain. */
    const lora_slot *low;
    bool is_plain; /* every slot that it changes is plain, and there are no virtual tokens */
    /* Virtual tokens: embeddings [n_virtual,E], or keys and values [n_virtual,L,2,G*D]. */
    float *soft;
    size_t bytes;
    backend *b;
    struct adapter_chunk *chunks; /* where all floats and matrices live: memory of b */
} adapter;

typedef struct adapter_limits {
    int32_t rank_max;
} adapter_limits;

/* Bind the adapter of `dir` to a loaded base. Every tensor must have its place: errors name file,
 * tensor and what was expected. One thread at a time for one base (it reads base rows). */
NODISCARD status adapter_open(const char *dir, const weights *w, checkpoint *base,
                              const adapter_limits *limits, adapter **ret, error *err);
void adapter_free(adapter *a); /* takes NULL */

static inline const adapter_slot *adapter_slot_at(const adapter *a, int32_t layer,
                                                  weight_slot slot) {
    int32_t rows = a->n_slots / W_SLOT_COUNT;
    const adapter_slot *s = &a->slots[(layer < 0 ? rows - 1 : layer) * W_SLOT_COUNT + (int)slot];
    return s->used ? s : NULL;
}
/* Does the adapter add low-rank parts to this product, and nothing else? */
static inline bool adapter_slot_is_plain(const adapter_slot *s) {
    return s->n_parts && !s->own.data && !s->c && !s->d && !s->bias && !s->table && !s->low;
}
/* The most modules that share one slot of an arch: how often rank_max counts in row_max. */
int32_t adapter_modules_max(const arch *a);

/* Put the adapter of `dir` into the weights themselves, after they are loaded: what the base then
 * computes is what base and adapter compute together, but for rounding to the weights' type. Soft
 * prompts have no place there: ERR_UNSUPPORTED. */
NODISCARD status adapter_merge(const char *dir, weights *w, checkpoint *base, error *err);

/* Before the base is planned, for an adapter that will be merged: where it brings an embedding and
 * head with more rows than the base's, they replace the base's in its table, and config's
 * vocab_size becomes theirs. Otherwise nothing changes. */
NODISCARD status adapter_graft(const char *dir, checkpoint *base, json_t *config, error *err);
/* The number that such a config says, where it says one. */
void adapter_set_vocab(json_t *config, int64_t n);

#endif
