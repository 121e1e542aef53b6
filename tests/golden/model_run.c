#include "tests/golden/model_run.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

const char *test_device(void) {
    const char *name = getenv("PAGODA_TEST_DEVICE");
    return name ? name : "cpu";
}

status model_open(const char *dir, const char *want, const char *isa, engine **ret, error *err) {
    return model_open_kv(dir, want, strcmp(want, "f32") == 0 ? "f32" : "auto", isa, ret, err);
}

status model_open_kv(const char *dir, const char *want, const char *kv_dtype, const char *isa,
                     engine **ret, error *err) {
    bool exact = strcmp(want, "f32") == 0 || (isa && strcmp(isa, "exact") == 0);
    engine_options o = {.model_dir = dir,
                        .dtype = want,
                        .kv_dtype = kv_dtype,
                        .quant_math = exact ? "exact" : "auto",
                        .device = test_device(),
                        .isa = isa || !exact ? isa : "exact",
                        .n_threads = 2,
                        .max_seqs = 80,
                        .max_batched_tokens = 256,
                        .kv_bytes = (size_t)24 << 20};
    return engine_open(&o, ret, err);
}

/* pos: computed, and what steps in flight compute. */
typedef struct live {
    int32_t *ids, *pages, n_known, pos;
    int32_t n_unseen;  /* tokens that steps in flight choose */
    int32_t chosen_at; /* entry of the last of them in its step */
    int32_t n_draft;   /* drafts in flight */
    bool done;
} live;

static int32_t *shuffled(int32_t n, uint64_t seed) {
    int32_t *p = mem_alloc((size_t)n * sizeof *p);
    for (int32_t i = 0; i < n; i++) p[i] = i;
    for (int32_t i = n - 1; seed && i > 0; i--) {
        int32_t k = (int32_t)(rng_uniform(seed, (uint64_t)i, 0) * (i + 1)), t = p[i];
        p[i] = p[k];
        p[k] = t;
    }
    return p;
}

static void give_pages(const stepper *s, run_seq *q, live *v, const int32_t *order, int32_t *at) {
    int32_t len = q->n_prompt + q->n_new, n = CEIL_DIV(len, s->page_tokens);
    CHECK(*at + n <= s->n_pages);
    v->ids = mem_alloc((size_t)len * sizeof *v->ids);
    v->pages = mem_alloc((size_t)n * sizeof *v->pages);
    memcpy(v->ids, q->prompt, (size_t)q->n_prompt * sizeof *v->ids);
    memcpy(v->pages, order + *at, (size_t)n * sizeof *v->pages);
    v->n_known = q->n_prompt;
    v->done = q->n_new == 0 && !q->prompt_out;
    *at += n;
}

/* Drafts for an entry that samples; how many. */
static int32_t draft(const run_seq *q, live *v, run_options o, int32_t vocab, int32_t room,
                     batch_seq *s) {
    int32_t at = v->n_known - q->n_prompt, n = MIN(MIN(o.drafts, room), q->n_new - at - 1);
    if (!q->guess || !s->sample || s->chained || n <= 0) return 0;
    for (int32_t j = 0; j < n; j++) {
        bool wrong = rng_uniform(7, (uint64_t)(at * 31 + j), (uint32_t)q->n_prompt) < 0.2;
        v->ids[v->n_known + j] = wrong ? (q->guess[at + j] + 1) % vocab : q->guess[at + j];
    }
    s->n_draft = v->n_draft = n;
    s->n_tokens += n;
    v->pos += n;
    return n;
}

/* The part of one sequence in the next step, 0 tokens when it must wait. */
static int32_t plan_seq(const run_seq *q, live *v, run_options o, bool whole, int32_t budget,
                        int32_t at, batch_seq *ret) {
    int32_t known = v->n_known + v->n_unseen, n = known - v->pos;
    if (known - q->n_prompt == q->n_new && v->pos >= q->n_prompt) return 0;
    if (v->n_draft > 0) return 0;
    if (o.chunk > 0 && (v->pos > 0 || !whole)) n = MIN(n, o.chunk);
    n = whole && v->pos == 0 && n > budget ? 0 : MIN(n, budget);
    *ret = (batch_seq){.ids = v->ids,
                       .n_known = known,
                       .n_prompt = q->n_prompt,
                       .pos = v->pos,
                       .n_tokens = n,
                       .chained = v->n_unseen > 0,
                       .chain = v->chosen_at,
                       .pages = v->pages,
                       .sample = q->n_new > 0 && v->pos + n == known,
                       .choice = q->choice,
                       .max_len = q->n_prompt + q->n_new,
                       .params = q->params,
                       .adapter = q->adapter,
                       .prompt_out = v->pos < q->n_prompt ? q->prompt_out : NULL};
    if (n == 0) return 0;
    v->pos += n;
    v->n_unseen += ret->sample;
    v->chosen_at = at;
    return n;
}

static void take(run_seq *q, live *v, const sample_out *out) {
    int32_t k = v->n_known - q->n_prompt;
    q->ret_ids[k] = out->token;
    if (q->ret_out) q->ret_out[k] = *out;
    v->ids[v->n_known++] = out->token;
}

static void apply(run_seq *q, live *v, run_options o, const batch_seq *s, int32_t i,
                  const step_result *r) {
    if (s->sample) {
        int32_t n_right = s->n_draft > 0 ? r->n_right[i] : 0;
        if (o.ret_right) *o.ret_right += n_right;
        take(q, v, &r->out[i]);
        for (int32_t j = 0; j < n_right; j++) take(q, v, &r->more[s->more0 + j]);
        v->pos -= s->n_draft - n_right;
        v->n_unseen--;
        v->n_draft = 0;
    }
    v->done = v->n_known == q->n_prompt + q->n_new &&
              (q->n_new > 0 || s->pos + s->n_tokens == q->n_prompt);
}

#define DEPTH_MAX 4

typedef struct flight {
    batch_plan plan;
    int32_t *who; /* beside plan.seqs */
} flight;

typedef struct run {
    stepper s;
    run_seq *seqs;
    live *v;
    int32_t n;
    run_options o;
    flight ring[DEPTH_MAX]; /* step k in ring[k % depth] */
    int32_t depth, n_flight;
    uint64_t n_launched;
    step_result r;
} run;

/* False when everything is done. */
static bool plan_step(run *x, int32_t step, flight *f) {
    bool waiting = false;
    f->plan.step = x->n_launched;
    f->plan.n_seqs = f->plan.n_tokens = f->plan.n_drafts = 0;
    for (int32_t i = 0; i < x->n && f->plan.n_seqs < x->s.max_seqs; i++) {
        waiting |= !x->v[i].done;
        if (x->v[i].done || x->seqs[i].start_step > step) continue;
        int32_t at = f->plan.n_seqs;
        int32_t m = plan_seq(&x->seqs[i], &x->v[i], x->o, x->s.whole_prompt,
                             x->s.max_tokens - f->plan.n_tokens, at, &f->plan.seqs[at]);
        if (m == 0) continue;
        batch_seq *s = &f->plan.seqs[f->plan.n_seqs];
        s->more0 = f->plan.n_drafts;
        int32_t room = x->s.max_tokens - f->plan.n_tokens - m;
        int32_t d = draft(&x->seqs[i], &x->v[i], x->o, x->s.vocab, room, s);
        f->who[f->plan.n_seqs++] = i;
        f->plan.n_tokens += m + d;
        f->plan.n_drafts += d;
    }
    return waiting;
}

static status collect_step(run *x, error *err) {
    flight *f = &x->ring[(x->n_launched - (uint64_t)x->n_flight) % (uint64_t)x->depth];
    x->n_flight--;
    TRY(x->s.collect(x->s.self, &x->r, err));
    for (int32_t k = 0; k < f->plan.n_seqs; k++) {
        int32_t i = f->who[k];
        TRY(x->r.seq_status[k]);
        apply(&x->seqs[i], &x->v[i], x->o, &f->plan.seqs[k], k, &x->r);
    }
    return OK;
}

/* As the scheduler does: launch a step, then collect the oldest when so many are in flight. */
static status run_steps(run *x, error *err) {
    for (int32_t step = 0;; step++) {
        flight *f = &x->ring[x->n_launched % (uint64_t)x->depth];
        if (!plan_step(x, step, f)) return OK;
        if (f->plan.n_seqs > 0) {
            TRY(x->s.launch(x->s.self, &f->plan, err));
            x->n_launched++;
            x->n_flight++;
        }
        if (x->n_flight > 0 && (f->plan.n_seqs == 0 || x->n_flight == x->depth))
            TRY(collect_step(x, err));
    }
}

status run_batch(engine *e, run_seq *seqs, int32_t n, run_options o, error *err) {
    run x = {.s = engine_stepper(e), .seqs = seqs, .n = n, .o = o};
    x.depth = o.depth > 0 ? MIN(o.depth, x.s.depth) : x.s.depth;
    CHECK(x.depth <= DEPTH_MAX);
    x.v = mem_calloc((size_t)n, sizeof *x.v);
    x.r.out = mem_calloc((size_t)n, sizeof *x.r.out);
    x.r.seq_status = mem_calloc((size_t)n, sizeof *x.r.seq_status);
    x.r.n_right = mem_calloc((size_t)n, sizeof *x.r.n_right);
    x.r.more = mem_calloc((size_t)x.s.max_tokens, sizeof *x.r.more);
    for (int32_t i = 0; i < x.depth; i++) {
        x.ring[i].plan.seqs = mem_calloc((size_t)n, sizeof(batch_seq));
        x.ring[i].who = mem_calloc((size_t)n, sizeof(int32_t));
    }
    int32_t *order = shuffled(x.s.n_pages, o.page_seed), at = 0;
    for (int32_t i = 0; i < n; i++) give_pages(&x.s, &seqs[i], &x.v[i], order, &at);
    status st = run_steps(&x, err);
    while (x.n_flight > 0) { /* after a failure */
        x.n_flight--;
        (void)x.s.collect(x.s.self, &x.r, NULL);
    }
    for (int32_t i = 0; i < n; i++) {
        mem_free(x.v[i].ids);
        mem_free(x.v[i].pages);
    }
    for (int32_t i = 0; i < x.depth; i++) {
        mem_free(x.ring[i].plan.seqs);
        mem_free(x.ring[i].who);
    }
    mem_free(x.v);
    mem_free(x.r.out);
    mem_free(x.r.seq_status);
    mem_free(x.r.n_right);
    mem_free(x.r.more);
    mem_free(order);
    return st;
}

double relative_error(const float *a, const float *b, size_t n) {
    double d = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(d / norm);
}

int32_t *read_ids(const json_t *list, int32_t *ret_n) {
    *ret_n = (int32_t)json_array_size(list);
    int32_t *p = mem_alloc(((size_t)*ret_n + 1) * sizeof *p);
    for (int32_t i = 0; i < *ret_n; i++)
        p[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return p;
}

float *read_floats(const json_t *list, int32_t *ret_n) {
    *ret_n = (int32_t)json_array_size(list);
    float *p = mem_alloc(((size_t)*ret_n + 1) * sizeof *p);
    for (int32_t i = 0; i < *ret_n; i++)
        p[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    return p;
}
