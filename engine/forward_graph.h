/* Steps of decoding as recorded launches (kernels/graphs.h): the host then lays a step out, sends
 * it, and launches it as a whole.
 *
 * A recording fits one number of rows, so a step is padded to the next of a few numbers (its
 * bucket). Rows of padding are token 0 at position 0 of a sequence of one token; all of them write
 * to the one page that belongs to nobody, the same keys and values, and nothing reads their
 * results. A row's bits do not depend on other rows (ops.h), so padding changes none.
 *
 * The first step of a kind runs op by op: scratch grows, modules are loaded, shapes of attention
 * are learned. The second is recorded, from then on it is replayed. Recording takes about as long
 * as launching op by op once, so it is done where it is needed and not at the start, when it would
 * be done for every bucket at once. */
#ifndef ENGINE_FORWARD_GRAPH_H
#define ENGINE_FORWARD_GRAPH_H

#include "engine/arch.h"
#include "engine/batch.h"
#include "kernels/graphs.h"

typedef struct forward forward;

/* The bucket of a step of n rows, 1 <= n <= max_seqs: 1, 2, 4, 8, then every 8 up to 128, every
 * 16 up to 256, every 32 up to 512 and so on, at most max_seqs. So 7 rows or an eighth of n are
 * padding at most, and the number of buckets grows with the logarithm of max_seqs. */
int32_t forward_bucket(int32_t n, int32_t max_seqs);
/* Which of them it is, from 0. */
int32_t forward_bucket_index(int32_t bucket);
int32_t forward_n_buckets(int32_t max_seqs);
/* What a plan's step can be: its bucket, or 0 where its launches are its own: prompt tokens beside
 * or behind one another, results that only the host computes. Adapters must be plain. */
int32_t forward_bucket_of(const batch_plan *plan, int32_t max_seqs);

/* Memory of the device that recordings may take; an estimate. */
size_t forward_graph_bytes(const arch *a, int32_t max_seqs, bool adapters);
graph_room forward_graph_room(const arch *a, int32_t n_seqs, int32_t max_len);

/* How far recording got for a kind of step. */
typedef struct graph_state {
    bool warm;       /* ran op by op */
    uint8_t refused; /* recordings that failed */
} graph_state;

/* forward.graphs */
typedef struct forward_graphs {
    graph_state *kinds;             /* [buckets * forms * 4] */
    graph_room room;                /* of the step */
    int32_t form;                   /* of the step */
    uint32_t adapter_launches;      /* adapter_step_launches of what is recorded */
    int64_t n_recorded, n_replayed; /* for tests */
} forward_graphs;
forward_graphs *forward_graphs_new(int32_t max_seqs);
void forward_graphs_free(forward_graphs *g); /* takes NULL */

/* Do the step that is laid out, whose launches are made by `launch`. */
void forward_graph_step(forward *f, void (*launch)(forward *f));

#endif
