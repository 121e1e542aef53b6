/* The numbers of a planned model by their place instead of by their tensor: rows of a slot as f32,
 * whatever tensors, views and storage types they come from. For conversion; nothing is packed. */
#ifndef ENGINE_SLOT_READ_H
#define ENGINE_SLOT_READ_H

#include "engine/adapter_base.h"

typedef struct slot_reader {
    const weights *w; /* planned, not necessarily allocated */
    checkpoint *c;
    int32_t *head;       /* [w->n_list] first arch tensor of each item, -1: none */
    int32_t *next;       /* [a->n_tensors] the next of the same item, -1: last */
    adapter_pair *merge; /* NULL, or an adapter that the numbers are to have in them; borrowed */
} slot_reader;

NODISCARD status slot_reader_open(const weights *w, checkpoint *c, slot_reader *ret, error *err);
void slot_reader_done(slot_reader *r);

/* Does the model have anything there? */
bool slot_reader_has(const slot_reader *r, int32_t layer, weight_slot slot, int32_t item);
/* Rows [row0, row0+n) of an item to out [n, max(cols,1)]; rows of a bias that nothing stores are
 * zero. ERR_NOT_FOUND when there is no such item. */
NODISCARD status slot_read(const slot_reader *r, int32_t layer, weight_slot slot, int32_t item,
                           int32_t row0, int32_t n, float *out, error *err);

#endif
