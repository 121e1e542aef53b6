/* What op_sample means: a row is copied, edited and sorted as often as it takes. The CPU's
 * reference level offers it, so that the engine's path through the op runs on any machine; the
 * faster levels have none, for there the host samples (engine/sampler.c) where the logits are. */
#include <math.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/ref/ref.h"
#include "kernels/sample_num.h"

typedef struct candidate {
    int32_t id;
    float x, w;
    bool kept;
} candidate;

static int by_weight(const void *a, const void *b) {
    const candidate *p = a, *q = b;
    if (p->w != q->w) return p->w > q->w ? -1 : 1;
    return (p->id > q->id) - (p->id < q->id);
}

static int by_logit(const void *a, const void *b) {
    const candidate *p = a, *q = b;
    if (p->x != q->x) return p->x > q->x ? -1 : 1;
    return (p->id > q->id) - (p->id < q->id);
}

static int by_id(const void *a, const void *b) {
    const candidate *p = a, *q = b;
    return (p->id > q->id) - (p->id < q->id);
}

static void sort(candidate *c, int32_t n, int (*order)(const void *, const void *)) {
    qsort(c, (size_t)n, sizeof *c, order);
}

static uint64_t kept_units(const candidate *c, int32_t n) {
    uint64_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        if (c[i].kept) sum += sample_units(c[i].w);
    return sum;
}

/* c is in descending order of logits. */
static void filter(const sample_row *p, candidate *c, int32_t n) {
    bool has_top_k = p->top_k > 0 && p->top_k < n;
    for (int32_t i = 0; has_top_k && i < n; i++) c[i].kept = c[i].x >= c[p->top_k - 1].x;
    uint64_t need = sample_mass(p->top_p, kept_units(c, n)), sum = 0;
    sort(c, n, by_weight);
    for (int32_t i = 0; p->top_p < 1 && i < n; i++) {
        if (!c[i].kept) continue;
        c[i].kept = sum < need;
        sum += sample_units(c[i].w);
    }
    for (int32_t i = 0; p->min_p > 0 && i < n; i++) c[i].kept &= c[i].w >= p->min_p;
}

static int32_t draw(const sample_row *p, candidate *c, int32_t n) {
    uint64_t at = sample_at(p->key, kept_units(c, n)), sum = 0;
    sort(c, n, by_id);
    for (int32_t i = 0; i < n; i++) {
        if (c[i].kept) sum += sample_units(c[i].w);
        if (sum > at) return c[i].id;
    }
    CHECK(!"the sum of the kept is above every place of a draw");
    return -1;
}

/* The token, or -1. */
static int32_t choose(const sample_row *p, const float *x, int32_t n) {
    candidate *c = mem_alloc((size_t)n * sizeof *c);
    for (int32_t i = 0; i < n; i++) {
        bool allowed = !p->mask || (p->mask[i / 32] >> i % 32 & 1);
        c[i] = (candidate){i, allowed ? x[i] : -INFINITY, 0, true};
    }
    sort(c, n, by_logit);
    float max = c[0].x;
    int32_t token = c[0].id;
    if (!isfinite(max)) {
        token = -1;
    } else if (p->temperature > 0) {
        for (int32_t i = 0; i < n; i++) c[i].w = sample_weight(c[i].x, max, 1 / p->temperature);
        filter(p, c, n);
        token = draw(p, c, n);
    }
    mem_free(c);
    return token;
}

static int32_t choose_edited(const op_sample *a, const sample_row *p, float *x) {
    const sample_edit *e = a->edits + p->edit0;
    float *before = mem_alloc((size_t)p->n_edits * sizeof *before + 1);
    for (int32_t i = 0; i < p->n_edits; i++) {
        before[i] = x[e[i].id];
        x[e[i].id] = sample_edited(x[e[i].id], &e[i], p);
    }
    int32_t token = choose(p, x, a->width);
    for (int32_t i = 0; i < p->n_edits; i++) x[e[i].id] = before[i];
    mem_free(before);
    return token;
}

static void describe(const sample_row *p, const float *x, int32_t n, float lse,
                     sample_result *ret) {
    candidate *c = mem_alloc((size_t)n * sizeof *c);
    ret->logprob = x[ret->token] - lse;
    ret->rank = 1;
    ret->n_top = MIN(p->n_logprobs, n);
    for (int32_t i = 0; i < n; i++) {
        c[i] = (candidate){.id = i, .x = x[i]};
        ret->rank += x[i] > x[ret->token];
    }
    sort(c, n, by_logit);
    for (int32_t i = 0; i < ret->n_top; i++) {
        ret->top[i].id = c[i].id;
        ret->top[i].logprob = c[i].x - lse;
    }
    mem_free(c);
}

void ref_sample(const op_sample *a) {
    for (int32_t r = 0; r < a->n_rows; r++) {
        const sample_row *p = &a->rows[r];
        float *x = a->logits + p->row * a->logits_stride, lse = a->lse[p->row];
        sample_result *ret = &a->out[r];
        CHECK(p->n_logprobs <= SAMPLE_TOP_MAX && p->given < a->width);
        *ret = (sample_result){.status = SAMPLE_NOT_FINITE, .token = -1};
        if (!isfinite(lse)) continue;
        ret->token = p->given >= 0 ? p->given : choose_edited(a, p, x);
        ret->status = ret->token < 0 ? SAMPLE_NOTHING : SAMPLE_OK;
        if (ret->token >= 0 && p->n_logprobs >= 0) describe(p, x, a->width, lse, ret);
    }
}

void ref_chain(const op_chain *a) {
    for (int32_t t = 0; t < a->n_tokens; t++) {
        if (a->src[t] < 0) continue;
        int32_t token = a->from[a->src[t]].token;
        a->ids[t] = token >= 0 && token < a->vocab ? token : 0;
    }
}
