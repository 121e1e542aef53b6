/* Steps that are recorded once and then launched as a whole, on backends that can (backend.h).
 *
 * Between begin and end ops of the calling thread are recorded and not run; run launches what a key
 * was recorded for, as often as it is asked, with the arguments of the recording: every address in
 * them must still hold what the step needs, and everything that changes from step to step is data
 * behind them. Copies cannot be recorded. Only attention chooses its launches by the host's copy of
 * data (attn_seqs.host); with attn_seqs.plan they are fixed by the number of sequences, and what
 * was chosen is data as well: `plan` chooses for all calls of the step, before it.
 *
 * All functions: from the thread that calls the ops. */
#ifndef KERNELS_GRAPHS_H
#define KERNELS_GRAPHS_H

#include "kernels/ops.h"

typedef struct backend backend;

/* What the steps of one number of sequences have in common. */
typedef struct graph_room {
    int32_t n_seqs;              /* one row each */
    int32_t n_heads, n_kv_heads; /* of attention; 1 kv head where the cache is latent */
    int32_t n_shapes;            /* kinds of attention calls: layers with different windows */
    int32_t max_len;             /* most keys of a sequence */
} graph_room;

#define GRAPH_FORMS 2 /* what plan returns is below this */

typedef struct graphs {
    /* Bytes of attn_seqs.plan. */
    size_t (*plan_bytes)(backend *b, const graph_room *r);
    /* Divide the attention of a step: into host, plan_bytes of them, which the caller uploads to
     * attn_seqs.plan before the step's ops. Steps for which different numbers are returned are
     * different launches: the number belongs to the key. */
    int32_t (*plan)(backend *b, const graph_room *r, const attn_seq *seqs, void *host);
    /* Begin recording; false: not now. */
    bool (*begin)(backend *b);
    /* End it. True: run will find it under the key. False: something in it cannot be recorded, and
     * nothing was done. */
    bool (*end)(backend *b, int64_t key);
    /* Launch; false: nothing is recorded under the key, or not any more. */
    bool (*run)(backend *b, int64_t key);
    void (*drop)(backend *b); /* all */
} graphs;

#endif
