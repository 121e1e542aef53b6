/* Adapters in the forward pass: which rows of a step belong to which adapter, and what is computed
 * for them beside the base. forward.c and forward_linear.c call the functions below where adapters
 * can be loaded at all.
 *
 * Plain low-rank parts are one op for all rows (op_lora): the step's block says which adapter a row
 * has, and where that one's descriptions are. Launches do not depend on who is in the step, but on
 * the largest rank that was ever seen in a slot.
 *
 * Everything else (scaled rows, weights of its own, embeddings, virtual tokens) is computed run by
 * run. For that the rows of one adapter are neighbours (forward_rows.c lays sequences out by
 * adapter), which also lets the op read its matrices once. */
#ifndef ENGINE_ADAPTER_STEP_H
#define ENGINE_ADAPTER_STEP_H

#include <stdatomic.h>

#include "conf/limits.h"
#include "engine/adapter.h"

typedef struct forward forward;

/* The adapters that are loaded, by id. Loaders put them in, the engine thread reads. */
typedef struct adapter_table {
    _Atomic(const adapter *) at[LIMIT_ADAPTERS + 1];
} adapter_table;

typedef struct adapter_run {
    int32_t row0, n;
    const adapter *ad; /* NULL: the base alone */
} adapter_run;

typedef struct adapter_step {
    const adapter_table *table;
    int32_t n_ids;   /* ids are below */
    int32_t row_max; /* R of the widest slot that fits */
    /* of the step */
    bool has_low;        /* some row has an adapter with plain slots */
    int32_t n_runs;      /* 0: no row needs more than the op */
    const int32_t *pick; /* op_lora.pick; set by the head */
    /* host */
    adapter_run *runs;
    const adapter **of_row; /* [T] */
    int32_t *virtual_of;    /* [T] index of a virtual token, -1: a token */
    int32_t *order;         /* [B] sequences of the plan, by adapter */
    int32_t *ranks;         /* [n_slots] the largest R of a plain slot that a step had */
    uint64_t *seen;         /* [n_ids] generations whose ranks are in it */
    uint32_t n_changes;     /* of ranks */
    /* memory of the backend */
    float *low; /* [T,row_max] */
    float *in;  /* [T,widest K] */
    float *out; /* [T,C] */
    void *block;
    size_t bytes;
} adapter_step;

/* Bytes of scratch in the backend's memory for steps of these maxima. */
size_t adapter_step_bytes(const weights *w, int32_t max_tokens, int32_t rank_max);
NODISCARD status adapter_step_new(const weights *w, const adapter_table *table, int32_t max_tokens,
                                  int32_t max_seqs, int32_t rank_max, int32_t n_adapters,
                                  adapter_step **ret, error *err);
void adapter_step_free(adapter_step *s, backend *b); /* takes NULL */

/* The largest R of op_lora in such steps. */
int32_t adapter_step_rank(const weights *w, int32_t rank_max);

/* Laying out: the order in which the plan's sequences take rows; then each row in that order, NULL
 * for one without adapter; then the runs. */
const int32_t *adapter_step_begin(forward *f, const batch_plan *plan);
const adapter *adapter_of_seq(const adapter_step *s, const batch_seq *q);
void adapter_step_row(forward *f, int32_t row, const adapter *ad, int32_t virtual_of);
void adapter_step_runs(adapter_step *s, int32_t n_rows);
/* Do the adapters of these sequences only add low-rank parts? */
bool adapter_step_is_plain(const adapter_step *s, const batch_plan *plan);
/* From here on rows are these of the step's: for the head, which sets s->pick too. */
void adapter_step_pick(adapter_step *s, const int32_t *rows, int32_t n);
/* What this step's launches depend on beside its sizes: 0 without low-rank parts; the number
 * changes seldom, when an adapter with more of them comes. Not for steps with runs. */
static inline uint32_t adapter_step_launches(const adapter_step *s) {
    return s->has_low ? s->n_changes : 0;
}

/* out += the plain low-rank parts of its rows. */
void adapter_low(forward *f, int32_t layer, weight_slot slot, const void *a, dtype a_dt,
                 int32_t n_rows, float *out);
/* What forward_linear does, with runs; without what adapter_low adds. */
void adapter_linear(forward *f, int32_t layer, weight_slot slot, const float *a, int32_t n_rows,
                    float *out, bool accumulate);
/* The run's own weights of a vector slot, or the base's. */
const float *adapter_vec(const forward *f, const adapter *ad, int32_t layer, weight_slot slot);
/* Corrects looked-up embeddings x[T,E]; scale as the base's were scaled. */
void adapter_embed(forward *f, float scale, float *x);
/* Keys and values of prefixes take the place of those of their rows, before the rotation. */
void adapter_prefix(forward *f, int32_t layer, int32_t width);

#endif
