/* The forward pass: READ forward.c FIRST. One call computes the hidden states of every token of a
 * step through all layers, writing keys and values to the cache; another turns chosen rows into
 * logits. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "engine/forward_feed.h"
#include "engine/forward_graph.h"
#include "engine/kvcache.h"
#include "engine/sampler.h"
#include "engine/weights.h"

/* Rows of logits at a time: 64 where the host reads them, which are a cache's worth of most
 * vocabularies; on a device what FORWARD_LOGITS_BYTES hold, so that the head's weights are read
 * once for the whole batch; never more than max_picks, the rows that a step may sample, or
 * FORWARD_ROWS_MAX. Pure. */
#define FORWARD_ROWS_MAX     1024
#define FORWARD_LOGITS_BYTES ((size_t)256 << 20)
int32_t forward_rows_at_once(bool host_memory, int32_t vocab, int32_t max_picks);
#define FORWARD_STEPS_MAX 2 /* most steps laid out and not yet done */

/* Memory: what ops touch is in the backend's memory ("dev"); what the host writes or reads is in
 * its own, and is sent or fetched. Where the backend's memory is the host's (the CPU) the two are
 * one and nothing is copied. */

/* Rotary table of one rope_spec: rows by position, filled as far as positions have been used; and,
 * where rope_by_step, rows of the step's own tokens. */
typedef struct rope_table {
    float *cos, *sin;           /* dev [max_model_len, dim/2] */
    float *host_cos, *host_sin; /* the same */
    float *inv_freq;            /* host [dim/2] */
    int32_t n_filled;
    float *step_cos, *step_sin;           /* dev [T, dim/2], else NULL */
    float *host_step_cos, *host_step_sin; /* the same */
    bool own;                             /* this step uses its own rows */
} rope_table;

/* What the host lays out for a step, in one block that is sent as a whole: cut for the step's own
 * T and B, so it is as short as it can be. */
typedef struct step_rows {
    int32_t *ids;               /* [T] */
    int32_t *src;               /* [T] result of an earlier step that is the id (op_chain), or -1 */
    int32_t *pos;               /* [T] what rope rotates by */
    int32_t *pos_rows;          /* [T] rows of the table of learned positions */
    int64_t *kv_slot;           /* [T] */
    float *logn;                /* [T] factor of q */
    int32_t *adapter;           /* [T] op_lora.of_row; empty without adapters, as the next */
    const lora_slot **adapters; /* op_lora.table */
    attn_seq *seqs;             /* [B] in the plan's order; their rows are in that of adapters */
    int32_t *pick;              /* [B] with a bucket: rows to sample, in the plan's order */
    void *plan;                 /* with a bucket: attn_seqs.plan */
    int32_t *page_table;        /* sequence after sequence; the last part */
} step_rows;

/* Results that the host reads. */
typedef struct step_results {
    float *rows;     /* [R,C] */
    float *logits;   /* [R,V] */
    float *lse;      /* [R] */
    int32_t *argmax; /* [R] */
} step_results;

typedef struct forward {
    const arch *a;
    const weights *w;
    backend *b;
    kvcache *kv;
    int32_t max_tokens, max_seqs, max_model_len;
    int32_t max_picks;      /* most rows of a step that are sampled */
    int32_t n_adapters;     /* most at once */
    int32_t n_rows;         /* R: rows of logits at a time */
    int32_t depth;          /* steps laid out and not yet done, at most FORWARD_STEPS_MAX */
    forward_graphs *graphs; /* NULL: every op is launched when it is called */
    int32_t pad_page;       /* with graphs: the page of padding rows */

    /* of the step */
    int32_t n_tokens, n_seqs;   /* with a bucket, that: rows of padding are counted */
    int32_t bucket;             /* 0: none; else forward_graph.h */
    int32_t n_picked;           /* with a bucket */
    bool has_logits;            /* of the picked rows already */
    int32_t n_pages;            /* entries of the page table */
    step_rows in, dev;          /* host, backend */
    void *step_host, *step_dev; /* where in and dev are cut */
    /* Host blocks in turn: what is laid out for a step may still be on its way when the next one
     * is. The backend needs but one, its copies and ops being in order. */
    void *step_hosts[FORWARD_STEPS_MAX];
    int32_t step_turn;
    int32_t n_chained;                  /* rows whose id an earlier step chose */
    const sample_result *chain_results; /* dev: of src */
    /* host: the result of each sequence of the step before; NULL: ids are all known by now */
    const int32_t *chain_of;
    int32_t *pos2;           /* host [T]: the second position of ChatGLM-6B */
    step_results got;        /* host */
    struct adapter_step *ad; /* NULL: no adapters; not owned */

    /* dev: constants */
    int32_t *iota; /* [T] 0, 1, 2, ...: positions in a step's own rope table */
    float *alibi;  /* [H] or NULL */

    layer_feeds *feeds; /* [L]: what h, h2, att, att_lat and act are in each layer */

    /* dev: activations, f32 where nothing else is said */
    float *x;                 /* [T,C] residual stream */
    void *h;                  /* [T,C] normed */
    void *h2;                 /* [T,C] normed for the second of two parallel branches */
    float *y;                 /* [T,C] a branch that is not simply added */
    bool y_waits;             /* x is to become x + y */
    float *narrow;            /* [T,E] embeddings before proj_in */
    float *qkv;               /* [T,(H+2G)*D]; MLA: [T,H*(nope+rope)] */
    void *att;                /* [T,H*D]; MLA: [T,H*v width] */
    float *q_low;             /* MLA: [T,q rank] */
    float *kv_row;            /* MLA: [T,R+rope] */
    float *q_lat;             /* MLA: [T,H,R+rope] */
    void *att_lat;            /* MLA: [T,H,R] */
    float *up;                /* [T,2F] */
    void *act;                /* [T,F] */
    float *feed_scale;        /* [3,T] of codes in h, h2, act */
    float *scores;            /* [T,X] of the router */
    int32_t *experts;         /* [T,k] */
    float *expert_w;          /* [T,k] */
    float *gate;              /* [T] of the shared expert */
    int32_t *pick;            /* [R] rows of x */
    float *rows, *rows2;      /* [R,C], [R,E] */
    float *logits;            /* [R,V] */
    float *row_max, *row_lse; /* [R] */
    int32_t *row_argmax;      /* [R] */
    rope_table *ropes;        /* [n_ropes] */
    void *block, *host_block; /* host_block NULL: in block */
    size_t bytes, host_bytes;
} forward;

/* Bytes of a forward pass in the backend's memory: fixed + per_len * max_model_len. */
typedef struct forward_need {
    size_t fixed, per_len;
} forward_need;
/* record: with graphs, which the backend then has. */
forward_need forward_bytes(const weights *w, bool record, int32_t max_tokens, int32_t max_seqs,
                           int32_t max_picks, int32_t n_adapters);
/* Allocate; a, w, b, kv, depth, n_adapters and the maxima are set by the caller, and pad_page, -1
 * without graphs. */
NODISCARD status forward_alloc(forward *f, error *err);
void forward_done(forward *f);

/* Compute the plan's tokens: f->x holds the last layer's output, sequence i's rows from
 * f->in.seqs[i].row0. */
void forward_run(forward *f, const batch_plan *plan);
/* Final norm of n <= n_rows rows of x: f->rows [n,C]; and fetched into f->got.rows. */
void forward_final(forward *f, const int32_t *rows, int32_t n);
void forward_fetch_rows(forward *f, int32_t n);
/* Final norm and head for n <= n_rows rows of x: f->logits [n,V] and their statistics, in the
 * backend's memory; all of them, or row i, are then fetched into f->got. */
void forward_head(forward *f, const int32_t *rows, int32_t n);
void forward_fetch_logits(forward *f, int32_t n);
void forward_fetch_row(forward *f, int32_t i);
/* Row i of those fetched. */
static inline logits_row forward_row(const forward *f, int32_t i) {
    return (logits_row){f->got.logits + (size_t)i * (size_t)f->a->vocab, f->got.lse[i],
                        f->got.argmax[i]};
}

#endif
