/* What the files of the engine (engine*.c, step.c, describe.c) share. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H

#include <pthread.h>

#include "engine/adapter_step.h"
#include "engine/engine.h"
#include "engine/forward.h"
#include "engine/memplan.h"
#include "engine/sample_device.h"

/* One row of a step to turn into logits, and what for. */
typedef struct row_task {
    int32_t row;    /* of f.x */
    int32_t seq;    /* of the plan */
    int32_t prompt; /* >= 0: describe this prompt token; -1: sample */
    int32_t draft;  /* sample: after so many drafts */
    int32_t result; /* of the device's sampler; -1: none */
    bool is_late;   /* not done by launch: step.c */
} row_task;

/* A step in flight. */
typedef struct engine_step {
    const batch_plan *plan; /* NULL: none */
    row_task *tasks;        /* [n_tasks_max] */
    int32_t n_tasks, n_late;
    int32_t *rows;      /* [n_tasks_max] of the tasks; sent from here */
    int32_t *result_of; /* [max_seqs] that holds the sequence's token */
    status *seq_status; /* [max_seqs] */
    bool is_queued;     /* all of it */
} engine_step;

#define SAMPLERS_MAX 16 /* each holds scratch for a vocabulary */

struct engine {
    model_info info;
    family_set families;
    arch *a;
    checkpoint ckpt;
    backend *b;
    bool is_guest;      /* b is another engine's */
    engine *draft;      /* NULL: none */
    dtype math;         /* what config.json says that activations are: f16, bf16, f32 */
    strbuf device_note; /* why "auto" is not a GPU */
    weights w;
    memplan plan;
    status plan_status; /* with plan_only: would it fit? */
    error plan_error;
    kvcache kv;
    forward f;
    sampler *samplers[SAMPLERS_MAX]; /* one for each thread that chooses at once */
    int32_t n_samplers;
    sample_device *device_sampler; /* NULL: the backend has no op for it */
    int32_t max_tokens, max_seqs;
    int32_t max_picks; /* most rows of a step that are sampled */
    bool graphs;       /* steps of decoding may be recorded: forward_graph.h */
    bool loaded;
    bool config_only; /* plan_only of a directory without weights */
    /* step.c */
    int32_t depth; /* most steps in flight */
    bool ahead;    /* a step is queued when it is launched; else computed when it is collected */
    engine_step steps[FORWARD_STEPS_MAX]; /* step k is in steps[k % depth] */
    uint64_t n_launched, n_collected;
    int32_t n_tasks_max; /* rows of a step whose logits are needed */
    /* engine_adapters.c */
    adapter_table adapters;
    int32_t adapters_max, lora_rank_max;
    pthread_mutex_t adapter_lock; /* of loading */
    adapter_info logits_adapter;  /* of engine_logits; id 0: none */
};

/* The steps of opening, in this order; each takes what the one before left in e.
 * resolve: the config, the family, the checkpoint's names (or config_only), the layers, info. */
NODISCARD status engine_resolve(engine *e, const engine_options *o, error *err);
/* Types, the backend, the weights' places. */
NODISCARD status engine_plan_weights(engine *e, const engine_options *o, error *err);
/* What the plan has to hold; then with what is free decided, and in plan_status whether it fits. */
void engine_plan_needs(engine *e, const engine_options *o);
NODISCARD status engine_plan_memory(engine *e, const engine_options *o, error *err);
kv_shape engine_cache_shape(const engine *e);
/* Memory as planned; then the weights into it, with what there is to tell of it. */
NODISCARD status engine_allocate(engine *e, error *err);
NODISCARD status engine_load(engine *e, const engine_options *o, error *err);

/* engine_draft.c: the draft model's share of the plan, added to e's; then the rest of its opening,
 * when e's plan is decided. */
NODISCARD status engine_draft_plan(engine *e, const engine_options *o, error *err);
NODISCARD status engine_draft_open(engine *e, const engine_options *o, error *err);

/* For people: "bf16", or "f32 (exact)". */
const char *engine_quant_math(const model_info *m);

uint64_t engine_adapter_class(const engine *e, int32_t id); /* part of the kv class */
void engine_adapters_done(engine *e);

/* The largest calls of a step, of sequences up to max_len; after the weights are planned. */
op_bounds engine_bounds(const engine *e, int32_t max_len);

/* The pooled hidden states that sequences of the plan want, waited for; after forward_run. Sets the
 * status of those that failed. */
void engine_pool(engine *e, const batch_plan *plan, status *ret_status);

/* Of allocate and free: depth, n_tasks_max, max_seqs and the sampler are there. */
status engine_steps_new(engine *e, error *err);
void engine_steps_free(engine *e);

status engine_launch(void *self, const batch_plan *plan, error *err);
status engine_collect(void *self, step_result *ret, error *err);

#endif
