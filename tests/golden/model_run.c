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
    engine_options o = {.model_dir = dir,
                        .dtype = want,
                        .kv_dtype = kv_dtype,
                        .quant_math = strcmp(want, "f32") == 0 ? "exact" : "auto",
                        .device = test_device(),
                        .isa = isa,
                        .n_threads = 2,
                        .max_seqs = 80,
                        .max_batched_tokens = 256,
                        .kv_bytes = (size_t)24 << 20};
    return engine_open(&o, ret, err);
}

typedef struct live {
    int32_t *ids, *pages, n_known, pos;
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

/* The part of one sequence in the next step, 0 tokens when it must wait. */
static int32_t plan_seq(const run_seq *q, const live *v, run_options o, bool whole, int32_t budget,
                        batch_seq *ret) {
    int32_t n = v->n_known - v->pos;
    if (o.chunk > 0 && (v->pos > 0 || !whole)) n = MIN(n, o.chunk);
    n = whole && v->pos == 0 && n > budget ? 0 : MIN(n, budget);
    *ret = (batch_seq){.ids = v->ids,
                       .n_known = v->n_known,
                       .n_prompt = q->n_prompt,
                       .pos = v->pos,
                       .n_tokens = n,
                       .pages = v->pages,
                       .sample = q->n_new > 0 && v->pos + n == v->n_known,
                       .choice = q->choice,
                       .max_len = q->n_prompt + q->n_new,
                       .params = q->params,
                       .adapter = q->adapter,
                       .prompt_out = v->pos < q->n_prompt ? q->prompt_out : NULL};
    return n;
}

static void apply(run_seq *q, live *v, const batch_seq *s, const sample_out *out) {
    v->pos += s->n_tokens;
    if (s->sample) {
        int32_t k = v->n_known - q->n_prompt;
        q->ret_ids[k] = out->token;
        if (q->ret_out) q->ret_out[k] = *out;
        v->ids[v->n_known++] = out->token;
    }
    v->done = v->n_known == q->n_prompt + q->n_new && (q->n_new > 0 || v->pos == q->n_prompt);
}

status run_batch(engine *e, run_seq *seqs, int32_t n, run_options o, error *err) {
    stepper s = engine_stepper(e);
    live *v = mem_calloc((size_t)n, sizeof *v);
    batch_seq *list = mem_calloc((size_t)n, sizeof *list);
    int32_t *who = mem_calloc((size_t)n, sizeof *who), at = 0;
    sample_out *out = mem_calloc((size_t)n, sizeof *out);
    status *seq_status = mem_calloc((size_t)n, sizeof *seq_status), st = OK;
    int32_t *order = shuffled(s.n_pages, o.page_seed);
    for (int32_t i = 0; i < n; i++) give_pages(&s, &seqs[i], &v[i], order, &at);
    for (int32_t step = 0; st == OK; step++) {
        batch_plan plan = {.step = (uint64_t)step, .seqs = list};
        bool waiting = false;
        for (int32_t i = 0; i < n && plan.n_seqs < s.max_seqs; i++) {
            waiting |= !v[i].done;
            if (v[i].done || seqs[i].start_step > step) continue;
            int32_t m = plan_seq(&seqs[i], &v[i], o, s.whole_prompt, s.max_tokens - plan.n_tokens,
                                 &list[plan.n_seqs]);
            if (m == 0) continue;
            who[plan.n_seqs++] = i;
            plan.n_tokens += m;
        }
        if (!waiting) break;
        step_result r = {out, seq_status};
        st = stepper_run(&s, &plan, &r, err);
        for (int32_t k = 0; st == OK && k < plan.n_seqs; k++) {
            st = seq_status[k];
            if (st == OK) apply(&seqs[who[k]], &v[who[k]], &list[k], &out[k]);
        }
    }
    for (int32_t i = 0; i < n; i++) {
        mem_free(v[i].ids);
        mem_free(v[i].pages);
    }
    mem_free(v);
    mem_free(list);
    mem_free(who);
    mem_free(out);
    mem_free(seq_status);
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
