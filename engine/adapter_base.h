/* Which tensors of the base a module of an adapter stands for, and the base's rows as numbers:
 * shared by binding and merging. */
#ifndef ENGINE_ADAPTER_BASE_H
#define ENGINE_ADAPTER_BASE_H

#include "engine/adapter_delta.h"
#include "engine/tensor_rows.h"

/* Everything about one adapter and one base while they are brought together. */
typedef struct adapter_pair {
    const weights *w;
    checkpoint *base;
    adapter_source source;
    adapter_delta *deltas; /* [source.n_modules] */
    int32_t *of_tensor;    /* [a->n_tensors]: module whose weight or vector it is, -1: none */
    int32_t *bias_of;      /* [a->n_tensors]: of a matrix: module that also changes its bias, -1 */
    int32_t *first, *next; /* tensors of one slot: first[(L+1) * W_SLOT_COUNT], next[tensor]; -1 */
} adapter_pair;

/* Reads the adapter and finds the place of every module. */
NODISCARD status adapter_pair_open(const char *dir, const weights *w, checkpoint *base,
                                   adapter_pair *ret, error *err);
void adapter_pair_done(adapter_pair *p);

/* Rows [row0, row0+n) of arch tensor i as the model uses them, [n, max(cols,1)] f32. */
NODISCARD status adapter_base_rows(const adapter_pair *p, int32_t tensor, int32_t row0, int32_t n,
                                   float *ret, error *err);
/* The same with the adapter in them. */
NODISCARD status adapter_merged_rows(adapter_pair *p, int32_t tensor, int32_t row0, int32_t n,
                                     float *ret, error *err);
/* Row r of it with the adapter's whole new weights, but not its low-rank parts; `base` is what
 * adapter_base_rows gave. */
void adapter_replaced_row(const adapter_pair *p, int32_t tensor, int32_t r, const float *base,
                          float *ret);
/* Make the slot's bias, io[rows of the slot], that with the adapter; false when nothing changes it.
 * Without a bias in the base (`has` false) io comes as zeros. */
bool adapter_merge_bias(const adapter_pair *p, int32_t layer, weight_slot slot, bool has,
                        float *io);
/* Fill c of DoRA for the rows of this tensor. */
NODISCARD status adapter_norm_rows(adapter_pair *p, int32_t tensor, error *err);

/* The first tensor of a slot, -1: none; the others by p->next. */
static inline int32_t adapter_first(const adapter_pair *p, int32_t layer, weight_slot slot) {
    int32_t row = layer < 0 ? p->w->a->n_layers : layer;
    return p->first[(size_t)row * W_SLOT_COUNT + slot];
} /* Is the slot a matrix that forward_linear multiplies by, with its bias in the slot after it? Not
   * those that are kept item by item: experts, and the lifts of latent attention. */
bool adapter_slot_is_product(weight_slot slot);

#endif
