/* What engine.c, step.c and describe.c share. */
#ifndef ENGINE_ENGINE_INTERNAL_H
#define ENGINE_ENGINE_INTERNAL_H

#include <pthread.h>

#include "engine/adapter_step.h"
#include "engine/engine.h"
#include "engine/forward.h"
#include "engine/memplan.h"
#include "engine/sample_device.h"

struct engine {
    model_info info;
    family_set families;
    arch *a;
    checkpoint ckpt;
    backend *b;
    dtype math;         /* what config.json says that activations are: f16, bf16, f32 */
    strbuf device_note; /* why "auto" is not a GPU */
    weights w;
    memplan plan;
    status plan_status; /* with plan_only: would it fit? */
    error plan_error;
    kvcache kv;
    forward f;
    sampler *sampler;
    sample_device *device_sampler; /* NULL: the backend has no op for it */
    int32_t max_tokens, max_seqs;
    bool graphs; /* steps of decoding may be recorded: forward_graph.h */
    bool loaded;
    bool config_only;            /* plan_only of a directory without weights */
    const batch_plan *step_plan; /* step.c: in flight */
    /* step.c: rows of the step whose logits are needed */
    struct row_task *tasks; /* [n_tasks_max] */
    int32_t n_tasks_max;
    /* engine_adapters.c */
    adapter_table adapters;
    int32_t adapters_max, lora_rank_max;
    pthread_mutex_t adapter_lock; /* of loading */
    adapter_info logits_adapter;  /* of engine_logits; id 0: none */
};

/* One row of a step to turn into logits, and what for. */
typedef struct row_task {
    int32_t row;    /* of f.x */
    int32_t seq;    /* of the plan */
    int32_t prompt; /* >= 0: describe this prompt token; -1: sample */
    int32_t result; /* of the device's sampler; -1: the host's */
} row_task;

/* For people: "bf16", or "f32 (exact)". */
const char *engine_quant_math(const model_info *m);

uint64_t engine_adapter_class(const engine *e, int32_t id); /* part of the kv class */
void engine_adapters_done(engine *e);

/* The largest calls of a step, of sequences up to max_len; after the weights are planned. */
op_bounds engine_bounds(const engine *e, int32_t max_len);

/* The pooled hidden states that sequences of the plan want; after forward_run. */
void engine_pool(engine *e, const batch_plan *plan, step_result *ret);

status engine_launch(void *self, const batch_plan *plan, error *err);
status engine_collect(void *self, step_result *ret, error *err);

#endif
