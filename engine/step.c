/* Steps: the forward pass, then for the rows that are asked for logits, in blocks of what the
 * logits buffer holds, the choice of tokens: by the backend where it can (sample_device.h), else by
 * the sampler. A sequence whose logits are not finite fails alone.
 *
 * On a device all of it is queued by launch, which waits for nothing, and collect waits for the
 * mark behind the step's results. The tokens that chained sequences begin with go from the results
 * of one step into the ids of the next on the device (op_chain). Two kinds of rows are late, done
 * when the ids are known, which is before the next step is queued and so while the device is still
 * busy with the rest of this one: those whose choice depends on a chained id (penalties), and those
 * that the host has to choose from (typical_p), for which it must wait. Embeddings are waited for
 * as well, in launch.
 *
 * Drafts: every row of a sequence from its last known id on is sampled, each as if the drafts
 * before it were known, so rows do not wait for one another; then what follows a wrong draft is
 * dropped.
 *
 * Where the backend's memory is the host's there is nothing to be ahead of: a step is computed when
 * it is collected. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "engine/sample_edits.h"

status engine_steps_new(engine *e, error *err) {
    size_t n = (size_t)e->n_tasks_max;
    e->ahead = !e->b->host_memory && e->device_sampler;
    for (int32_t i = 0; i < e->depth; i++) {
        engine_step *k = &e->steps[i];
        k->tasks = mem_calloc(n, sizeof *k->tasks);
        k->result_of = mem_calloc((size_t)e->max_seqs, sizeof *k->result_of);
        k->seq_status = mem_calloc((size_t)e->max_seqs, sizeof *k->seq_status);
        TRY(e->b->v->host_alloc(e->b, n * sizeof *k->rows, (void **)&k->rows, err));
    }
    return OK;
}

void engine_steps_free(engine *e) {
    for (int32_t i = 0; i < e->depth; i++) {
        engine_step *k = &e->steps[i];
        mem_free(k->tasks);
        mem_free(k->result_of);
        mem_free(k->seq_status);
        if (k->rows) e->b->v->host_free(e->b, k->rows, (size_t)e->n_tasks_max * sizeof *k->rows);
    }
}

/* --- what is to be done --- */

static void add_task(engine *e, engine_step *k, row_task t) {
    CHECK(k->n_tasks < e->n_tasks_max);
    t.result = -1;
    k->tasks[k->n_tasks++] = t;
}

static bool is_late(const batch_seq *s) {
    return !sample_device_can(s->params) || (s->chained && edit_reads_ids(s->params));
}

/* The row of the last known id decides what comes next, those of drafts what comes after them. */
static void list_choices(engine *e, engine_step *k, const batch_seq *s, int32_t i) {
    int32_t row = e->f.in.seqs[i].row0 + s->n_tokens - 1 - s->n_draft;
    bool late = e->ahead && is_late(s);
    CHECK(s->n_draft == 0 || (!s->chained && s->pos + s->n_tokens == s->n_known + s->n_draft));
    for (int32_t j = 0; j <= s->n_draft; j++)
        add_task(e, k,
                 (row_task){.row = row + j, .seq = i, .prompt = -1, .draft = j, .is_late = late});
    k->n_late += late ? 1 + s->n_draft : 0;
}

/* Row p-1 of a prompt says how likely token p was. */
static void list_tasks(engine *e, engine_step *k) {
    int32_t vocab = e->a->vocab;
    k->n_tasks = k->n_late = 0;
    for (int32_t i = 0; i < k->plan->n_seqs; i++) {
        const batch_seq *s = &k->plan->seqs[i];
        int32_t last = s->pos + s->n_tokens, row0 = e->f.in.seqs[i].row0;
        for (int32_t p = s->pos + 1; s->prompt_out && p <= last && p < s->n_prompt; p++)
            if (s->ids[p] < vocab)
                add_task(e, k, (row_task){.row = row0 + p - 1 - s->pos, .seq = i, .prompt = p});
        if (s->sample) list_choices(e, k, s, i);
    }
}

/* Tasks that are late to the end, the others in order; only where they do not fit one block, since
 * the order of rows is what a recorded step has computed (forward_graph.h). */
static void sort_tasks(engine *e, engine_step *k) {
    int32_t n = 0;
    if (k->n_late == 0 || k->n_tasks <= e->f.n_rows) return;
    for (int32_t i = 0; i < k->n_tasks; i++) {
        if (k->tasks[i].is_late) continue;
        row_task t = k->tasks[i];
        memmove(&k->tasks[n + 1], &k->tasks[n], (size_t)(i - n) * sizeof t);
        k->tasks[n++] = t;
    }
}

/* --- rows --- */

/* Where the task's answer goes. */
static sample_out *out_of(const batch_plan *plan, const row_task *t, step_result *ret) {
    const batch_seq *s = &plan->seqs[t->seq];
    if (t->prompt >= 0) return &s->prompt_out[t->prompt];
    return t->draft ? &ret->more[s->more0 + t->draft - 1] : &ret->out[t->seq];
}

/* The sequence as the task's row sees it. */
static batch_seq seen_by(const batch_plan *plan, const row_task *t) {
    batch_seq s = plan->seqs[t->seq];
    s.n_known += t->draft;
    return s;
}

/* False: a draft before the task's row is wrong. Tasks of a sequence are asked in their order. */
static bool does_count(const row_task *t, const step_result *ret) {
    return t->draft == 0 || ret->n_right[t->seq] == t->draft;
}

static void note_choice(const batch_plan *plan, const row_task *t, const sample_out *out,
                        step_result *ret) {
    const batch_seq *s = &plan->seqs[t->seq];
    if (t->prompt >= 0 || s->n_draft == 0) return;
    bool right = t->draft < s->n_draft && out->token == s->ids[s->n_known + t->draft];
    ret->n_right[t->seq] = t->draft + right;
}

static status run_on_host(engine *e, sampler *by, const batch_plan *plan, const row_task *t,
                          int32_t row, sample_out *out) {
    batch_seq s = seen_by(plan, t);
    logits_row x = forward_row(&e->f, row);
    if (t->prompt < 0) return sampler_choose(by, &s, &x, out);
    return sampler_describe(by, &x, s.ids[t->prompt], s.params->n_logprobs, out);
}

static void list_on_device(engine *e, const batch_plan *plan, row_task *t, int32_t row) {
    batch_seq s = seen_by(plan, t);
    if (t->prompt >= 0)
        t->result =
            sample_device_describe(e->device_sampler, s.ids[t->prompt], s.params->n_logprobs, row);
    else if (sample_device_can(s.params))
        t->result = sample_device_choose(e->device_sampler, &s, row);
}

/* Choices of a block of logits on the device, those that are late or those that are not. Only rows
 * that the host has to choose from are fetched, and what it chose is put beside the rest. */
static void choose_block(engine *e, engine_step *k, row_task *tasks, int32_t n, bool late) {
    logits_block block = {e->f.logits, e->f.row_lse, e->f.row_argmax};
    sample_device_open(e->device_sampler, &block);
    for (int32_t i = 0; i < n; i++)
        if (tasks[i].is_late == late) list_on_device(e, k->plan, &tasks[i], i);
    sample_device_run(e->device_sampler);
    for (int32_t i = 0; i < n; i++) {
        sample_out out;
        if (tasks[i].is_late != late || tasks[i].result >= 0) continue;
        forward_fetch_row(&e->f, i);
        status st = run_on_host(e, e->samplers[0], k->plan, &tasks[i], i, &out);
        tasks[i].result = sample_device_put(e->device_sampler, st, &out);
    }
}

static void head(engine *e, engine_step *k, int32_t at, int32_t n) {
    for (int32_t i = at; i < at + n; i++) k->rows[i] = k->tasks[i].row;
    forward_head(&e->f, k->rows + at, n);
}

/* Everything but the choices: hidden states, what is pooled of them, and the list of the rest. */
static void begin(engine *e, engine_step *k) {
    forward_run(&e->f, k->plan);
    for (int32_t i = 0; i < k->plan->n_seqs; i++) k->seq_status[i] = OK;
    engine_pool(e, k->plan, k->seq_status);
    list_tasks(e, k);
    if (e->device_sampler) sample_device_begin(e->device_sampler);
}

/* --- ahead: on a device --- */

static void note_results(engine_step *k) {
    for (int32_t i = 0; i < k->n_tasks; i++)
        if (k->tasks[i].prompt < 0) k->result_of[k->tasks[i].seq] = k->tasks[i].result;
}

/* The late rows, and the way of all results to the host. */
static void queue_rest(engine *e, engine_step *k) {
    int32_t first = k->n_tasks - k->n_late;
    if (k->is_queued) return;
    if (k->n_late > 0 && k->n_tasks <= e->f.n_rows)
        choose_block(e, k, k->tasks, k->n_tasks, true); /* its logits are still there */
    else
        for (int32_t at = first, n; at < k->n_tasks; at += n) {
            n = MIN(k->n_tasks - at, e->f.n_rows);
            head(e, k, at, n);
            choose_block(e, k, k->tasks + at, n, true);
        }
    note_results(k);
    sample_device_fetch(e->device_sampler);
    e->b->v->mark(e->b, (int)(k - e->steps));
    k->is_queued = true;
}

static void queue(engine *e, engine_step *k, engine_step *before) {
    if (before && before->plan) queue_rest(e, before);
    e->f.chain_of = before ? before->result_of : NULL;
    e->f.chain_results = sample_device_results(e->device_sampler);
    k->is_queued = false;
    begin(e, k);
    sort_tasks(e, k);
    int32_t n_early = k->n_tasks <= e->f.n_rows ? k->n_tasks : k->n_tasks - k->n_late;
    for (int32_t at = 0, n; at < n_early; at += n) {
        n = MIN(n_early - at, e->f.n_rows);
        head(e, k, at, n);
        choose_block(e, k, k->tasks + at, n, false);
    }
    if (k->n_late == 0) queue_rest(e, k);
}

static void take_statuses(const engine_step *k, step_result *ret) {
    for (int32_t i = 0; i < k->plan->n_seqs; i++) ret->seq_status[i] = k->seq_status[i];
}

static status take_results(engine *e, engine_step *k, step_result *ret, error *err) {
    TRY(e->b->v->wait(e->b, (int)(k - e->steps), err));
    take_statuses(k, ret);
    for (int32_t i = 0; i < k->n_tasks; i++) {
        const row_task *t = &k->tasks[i];
        status *st = &ret->seq_status[t->seq];
        sample_out *out = out_of(k->plan, t, ret);
        if (*st != OK || !does_count(t, ret)) continue;
        *st = sample_device_result(e->device_sampler, t->result, out);
        if (*st == OK) note_choice(k->plan, t, out, ret);
    }
    return OK;
}

/* --- at once: in the host's memory --- */

/* A block of logits: tasks [at, at + n) are of its rows in order. */
typedef struct host_block {
    engine *e;
    engine_step *k;
    int32_t at, n;
    step_result *ret;
} host_block;

/* Task i of the block and those after it that are of the same sequence, in their order: what a
 * draft's row gives counts only where the rows before it agreed. */
static void choose_of_seq(void *ctx, int32_t i, int member) {
    const host_block *b = ctx;
    engine_step *k = b->k;
    const row_task *t = &k->tasks[b->at + i];
    int32_t seq = t->seq;
    if (i > 0 && t[-1].seq == seq) return; /* done with the first of them */
    status *st = &k->seq_status[seq];
    for (; i < b->n && t->seq == seq; i++, t++) {
        sample_out *out = out_of(k->plan, t, b->ret);
        if (*st != OK || !does_count(t, b->ret)) continue;
        *st = run_on_host(b->e, b->e->samplers[member], k->plan, t, i, out);
        if (*st == OK) note_choice(k->plan, t, out, b->ret);
    }
}

static void choose_on_host(engine *e, engine_step *k, int32_t at, int32_t n, step_result *ret) {
    host_block b = {e, k, at, n, ret};
    forward_fetch_logits(&e->f, n);
    if (e->n_samplers > 1)
        e->b->v->spread(e->b, n, e->n_samplers, choose_of_seq, &b);
    else
        for (int32_t i = 0; i < n; i++) choose_of_seq(&b, i, 0);
}

static status compute(engine *e, engine_step *k, step_result *ret, error *err) {
    e->f.chain_of = NULL;
    begin(e, k);
    for (int32_t at = 0, n; at < k->n_tasks; at += n) {
        n = MIN(k->n_tasks - at, e->f.n_rows);
        head(e, k, at, n);
        if (e->device_sampler)
            choose_block(e, k, k->tasks + at, n, false);
        else
            choose_on_host(e, k, at, n, ret);
    }
    if (!e->device_sampler) {
        take_statuses(k, ret);
        return e->b->v->sync(e->b, err);
    }
    sample_device_fetch(e->device_sampler);
    e->b->v->mark(e->b, (int)(k - e->steps));
    return take_results(e, k, ret, err);
}

/* --- the stepper's --- */

status engine_launch(void *self, const batch_plan *plan, error *err) {
    engine *e = self;
    uint64_t depth = (uint64_t)e->depth;
    CHECK(e->loaded && e->n_launched - e->n_collected < depth);
    engine_step *before = depth > 1 ? &e->steps[(e->n_launched + depth - 1) % depth] : NULL;
    engine_step *k = &e->steps[e->n_launched++ % depth];
    k->plan = plan;
    if (e->ahead) queue(e, k, before);
    return OK;
}

status engine_collect(void *self, step_result *ret, error *err) {
    engine *e = self;
    CHECK(e->n_collected < e->n_launched);
    engine_step *k = &e->steps[e->n_collected++ % (uint64_t)e->depth];
    if (e->ahead) queue_rest(e, k);
    status st = e->ahead ? take_results(e, k, ret, err) : compute(e, k, ret, err);
    k->plan = NULL;
    return st;
}
