/* One step: the forward pass, then for the rows that are asked for logits, in blocks of what the
 * logits buffer holds, the choice of tokens: by the backend where it can (sample_device.h), else by
 * the sampler. A sequence whose logits are not finite fails alone. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"

static void add_task(engine *e, int32_t *n, row_task t) {
    CHECK(*n < e->n_tasks_max);
    e->tasks[(*n)++] = t;
}

/* Row p-1 of a prompt says how likely token p was; the last row of a sampled sequence decides what
 * comes next. */
static int32_t list_tasks(engine *e, const batch_plan *plan) {
    int32_t n = 0, vocab = e->a->vocab;
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *s = &plan->seqs[i];
        int32_t last = s->pos + s->n_tokens, row0 = e->f.in.seqs[i].row0;
        for (int32_t p = s->pos + 1; s->prompt_out && p <= last && p < s->n_prompt; p++)
            if (s->ids[p] < vocab) add_task(e, &n, (row_task){row0 + p - 1 - s->pos, i, p, -1});
        if (s->sample) add_task(e, &n, (row_task){row0 + s->n_tokens - 1, i, -1, -1});
    }
    return n;
}

/* Where the task's answer goes. */
static sample_out *out_of(const batch_plan *plan, const row_task *t, step_result *ret) {
    return t->prompt >= 0 ? &plan->seqs[t->seq].prompt_out[t->prompt] : &ret->out[t->seq];
}

static status run_on_host(engine *e, const batch_plan *plan, const row_task *t, int32_t row,
                          step_result *ret) {
    const batch_seq *s = &plan->seqs[t->seq];
    logits_row x = forward_row(&e->f, row);
    sample_out *out = out_of(plan, t, ret);
    if (t->prompt < 0) return sampler_choose(e->sampler, s, &x, out);
    return sampler_describe(e->sampler, &x, s->ids[t->prompt], s->params->n_logprobs, out);
}

/* False: the host has to. */
static bool list_on_device(engine *e, const batch_plan *plan, row_task *t, int32_t row) {
    const batch_seq *s = &plan->seqs[t->seq];
    if (t->prompt >= 0)
        t->result = sample_device_describe(e->device_sampler, s->ids[t->prompt],
                                           s->params->n_logprobs, row);
    else if (sample_device_can(s->params))
        t->result = sample_device_choose(e->device_sampler, s, row);
    return t->result >= 0;
}

/* A block of logits on the device: only rows that the host has to choose from are fetched. */
static void list_block(engine *e, const batch_plan *plan, row_task *tasks, int32_t n) {
    logits_block block = {e->f.logits, e->f.row_lse, e->f.row_argmax};
    sample_device_open(e->device_sampler, &block);
    for (int32_t i = 0; i < n; i++)
        if (!list_on_device(e, plan, &tasks[i], i)) forward_fetch_row(&e->f, i);
    sample_device_run(e->device_sampler);
}

static void run_block(engine *e, const batch_plan *plan, row_task *tasks, int32_t n,
                      step_result *ret) {
    int32_t rows[FORWARD_ROWS_MAX];
    CHECK(n > 0 && n <= FORWARD_ROWS_MAX);
    for (int32_t i = 0; i < n; i++) rows[i] = tasks[i].row;
    forward_head(&e->f, rows, n);
    if (e->device_sampler)
        list_block(e, plan, tasks, n);
    else
        forward_fetch_logits(&e->f, n);
    for (int32_t i = 0; i < n; i++) {
        status *st = &ret->seq_status[tasks[i].seq];
        if (tasks[i].result < 0 && *st == OK) *st = run_on_host(e, plan, &tasks[i], i, ret);
    }
}

static void take_results(engine *e, const batch_plan *plan, int32_t n, step_result *ret) {
    if (!e->device_sampler) return;
    sample_device_fetch(e->device_sampler);
    for (int32_t i = 0; i < n; i++) {
        const row_task *t = &e->tasks[i];
        status *st = &ret->seq_status[t->seq];
        if (t->result >= 0 && *st == OK)
            *st = sample_device_result(e->device_sampler, t->result, out_of(plan, t, ret));
    }
}

status engine_launch(void *self, const batch_plan *plan, error *err) {
    engine *e = self;
    CHECK(e->loaded && !e->step_plan);
    e->step_plan = plan;
    return OK;
}

status engine_collect(void *self, step_result *ret, error *err) {
    engine *e = self;
    const batch_plan *plan = e->step_plan;
    CHECK(plan);
    e->step_plan = NULL;
    forward_run(&e->f, plan);
    for (int32_t i = 0; i < plan->n_seqs; i++) ret->seq_status[i] = OK;
    engine_pool(e, plan, ret);
    int32_t n = list_tasks(e, plan);
    if (e->device_sampler) sample_device_begin(e->device_sampler);
    for (int32_t at = 0; at < n; at += e->f.n_rows)
        run_block(e, plan, e->tasks + at, MIN(n - at, e->f.n_rows), ret);
    take_results(e, plan, n, ret);
    return e->b->v->sync(e->b, err);
}
