/* Which logits sample_params changes: biases, penalties and bans as one entry per id, for the host
 * (sampler.c) and for a device (sample_device.c) alike. */
#ifndef ENGINE_SAMPLE_EDITS_H
#define ENGINE_SAMPLE_EDITS_H

#include <stddef.h>

#include "engine/batch.h"
#include "kernels/ops.h"

typedef struct edit_maker edit_maker;

/* Scratch for a vocabulary: edit_maker_bytes() of it, allocated here and never again. */
edit_maker *edit_maker_new(int32_t vocab);
void edit_maker_free(edit_maker *m); /* takes NULL */
size_t edit_maker_bytes(int32_t vocab);

/* The entries for the token after q->ids[0 .. n_known), by first mention; how many, at most
 * edit_most(). Biases of one id are summed. Ids outside the vocabulary have no entry. Cost: a pass
 * over the known ids where a penalty or no_repeat_ngram asks for it. */
int32_t edit_make(edit_maker *m, const batch_seq *q, sample_edit *ret);
/* False: edit_make reads no id. */
bool edit_reads_ids(const sample_params *p);
/* A bound that costs nothing. */
int32_t edit_most(const edit_maker *m, const batch_seq *q);

/* What else of a draw sample_params decides: the parameters that op_sample takes, less those that
 * name a row, its edits and its mask. */
sample_row edit_row(const batch_seq *q);

#endif
