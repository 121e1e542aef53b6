/* One step: the forward pass, then for the rows that are asked for logits, in chunks of what the
 * logits buffer holds, the sampler. A sequence whose logits are not finite fails alone. */
#include "engine/base/check.h"
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
            if (s->ids[p] < vocab) add_task(e, &n, (row_task){row0 + p - 1 - s->pos, i, p});
        if (s->sample) add_task(e, &n, (row_task){row0 + s->n_tokens - 1, i, -1});
    }
    return n;
}

static void run_task(engine *e, const batch_plan *plan, const row_task *t, const logits_row *row,
                     step_result *ret) {
    const batch_seq *s = &plan->seqs[t->seq];
    status st;
    if (ret->seq_status[t->seq] != OK) return;
    if (t->prompt >= 0)
        st = sampler_describe(e->sampler, row, s->ids[t->prompt], s->params->n_logprobs,
                              &s->prompt_out[t->prompt]);
    else
        st = sampler_choose(e->sampler, s, row, &ret->out[t->seq]);
    ret->seq_status[t->seq] = st;
}

status engine_step(void *self, const batch_plan *plan, step_result *ret, error *err) {
    engine *e = self;
    int32_t rows[FORWARD_ROWS_MAX];
    CHECK(e->loaded);
    forward_run(&e->f, plan);
    for (int32_t i = 0; i < plan->n_seqs; i++) ret->seq_status[i] = OK;
    engine_pool(e, plan, ret);
    int32_t n = list_tasks(e, plan);
    for (int32_t at = 0; at < n;) {
        int32_t m = n - at < e->f.n_rows ? n - at : e->f.n_rows;
        for (int32_t i = 0; i < m; i++) rows[i] = e->tasks[at + i].row;
        forward_logits(&e->f, rows, m);
        for (int32_t i = 0; i < m; i++) {
            logits_row row = forward_row(&e->f, i);
            run_task(e, plan, &e->tasks[at + i], &row, ret);
        }
        at += m;
    }
    return e->b->v->sync(e->b, err);
}
