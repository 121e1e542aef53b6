/* Three parts: edits (penalties, biases and bans change a few logits in place and are undone
 * afterwards; sample_edits.c lists them), candidates (the ids that top_k, top_p, min_p and
 * typical_p leave, with their weights), and the draw (inverse CDF over the candidates in the order
 * of their ids).
 *
 * The vocabulary is never sorted. top_k finds its bar from block maxima (sampler_scan.c). top_p
 * looks only at ids with weight >= (1-p)/V of the mass: all others together weigh less than 1-p,
 * so the nucleus is complete without them; bins and a weighted quickselect find its edge. Ties at
 * the edge go to the lower id, so the result is a function of the row alone. */
#include "engine/sampler.h"

#include <math.h>
#include <string.h>

#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/sample_edits.h"
#include "engine/sampler_scan.h"
#include "kernels/sample_num.h"

typedef struct weighted {
    float key, weight;
} weighted;

#define BINS 8192 /* 64 to an octave */

struct sampler {
    double bins[BINS];
    int32_t vocab;
    edit_maker *maker;
    sample_edit *edits; /* [V] of the call */
    float *saved;       /* [V] what the edits' logits were */
    int32_t n_edits;
    uint8_t *listed; /* [V] zero between calls */
    int32_t *ids;    /* [V] candidates, ascending */
    float *x, *w;    /* [V] their logits and weights */
    weighted *sort;  /* [V] */
    int32_t n;
};

static const size_t bytes_per_id =
    sizeof(sample_edit) + sizeof(uint8_t) + sizeof(int32_t) + 3 * sizeof(float) + sizeof(weighted);

size_t sampler_bytes(int32_t vocab) {
    return sizeof(sampler) + edit_maker_bytes(vocab) + (size_t)vocab * bytes_per_id;
}

sampler *sampler_new(int32_t vocab) {
    size_t v = (size_t)vocab;
    sampler *s = mem_calloc(1, sizeof *s);
    s->vocab = vocab;
    s->maker = edit_maker_new(vocab);
    s->edits = mem_calloc(v, sizeof *s->edits);
    s->saved = mem_calloc(v, sizeof *s->saved);
    s->listed = mem_calloc(v, sizeof *s->listed);
    s->ids = mem_calloc(v, sizeof *s->ids);
    s->x = mem_calloc(v, sizeof *s->x);
    s->w = mem_calloc(v, sizeof *s->w);
    s->sort = mem_calloc(v, sizeof *s->sort);
    return s;
}

void sampler_free(sampler *s) {
    if (!s) return;
    edit_maker_free(s->maker);
    mem_free(s->edits);
    mem_free(s->saved);
    mem_free(s->listed);
    mem_free(s->ids);
    mem_free(s->x);
    mem_free(s->w);
    mem_free(s->sort);
    mem_free(s);
}

/* Edits */

static bool in_vocab(const sampler *s, int32_t id) {
    return id >= 0 && id < s->vocab;
}

static void edit_all(sampler *s, const batch_seq *q, float *x) {
    sample_row p = edit_row(q);
    s->n_edits = edit_make(s->maker, q, s->edits);
    for (int32_t i = 0; i < s->n_edits; i++) {
        const sample_edit *e = &s->edits[i];
        s->saved[i] = x[e->id];
        x[e->id] = sample_edited(x[e->id], e, &p);
    }
}

static void undo_edits(sampler *s, float *x) {
    for (int32_t i = 0; i < s->n_edits; i++) x[s->edits[i].id] = s->saved[i];
}

/* Greedy */

static status choose_greedy(sampler *s, const sample_params *p, const logits_row *row,
                            int32_t *ret) {
    if (p->allowed_ids) {
        int32_t best = -1;
        for (int32_t i = 0; i < p->n_allowed; i++) {
            int32_t id = p->allowed_ids[i];
            if (!in_vocab(s, id) || row->x[id] == -INFINITY) continue;
            if (best < 0 || row->x[id] > row->x[best] || (row->x[id] == row->x[best] && id < best))
                best = id;
        }
        *ret = best;
        return best < 0 ? ERR_INVALID : OK;
    }
    if (s->n_edits == 0) {
        *ret = row->argmax;
        return OK;
    }
    float max = scan_max(row->x, s->vocab);
    if (!isfinite(max)) return ERR_INVALID;
    *ret = scan_first_equal(row->x, s->vocab, max);
    return OK;
}

/* Candidates */

/* The set of largest keys whose weights reach `mass`: all with key > *ret_key, and the first
 * *ret_equal of those with key == *ret_key. Reorders a. Everything when the mass is not reached. */
static void weighted_edge(weighted *a, int32_t n, double mass, float *ret_key, int32_t *ret_equal) {
    int32_t lo = 0, hi = n;
    double above = 0;
    *ret_key = -INFINITY;
    *ret_equal = n;
    while (lo < hi) {
        float x = a[lo].key, y = a[lo + (hi - lo) / 2].key, z = a[hi - 1].key;
        float pivot = MAX(MIN(x, y), MIN(MAX(x, y), z));
        double greater = 0, equal = 0;
        int32_t g = lo, i = lo, l = hi;
        while (i < l) { /* greater | equal | less */
            weighted e = a[i];
            if (e.key > pivot) {
                greater += e.weight;
                a[i++] = a[g];
                a[g++] = e;
            } else if (e.key < pivot) {
                a[i] = a[--l];
                a[l] = e;
            } else {
                equal += e.weight;
                i++;
            }
        }
        if (above + greater >= mass && g > lo) {
            hi = g;
        } else if (above + greater + equal >= mass) {
            double each = equal / (l - g), need = ceil((mass - above - greater) / each);
            *ret_key = pivot;
            *ret_equal = (int32_t)MIN(MAX(need, 1.0), (double)(l - g));
            return;
        } else {
            above += greater + equal;
            lo = l;
        }
    }
}

/* Keep candidate i where keep says so; order stays. */
#define RETAIN(s, keep)                                                                            \
    do {                                                                                           \
        int32_t kept_ = 0;                                                                         \
        for (int32_t i = 0; i < (s)->n; i++)                                                       \
            if (keep) {                                                                            \
                (s)->ids[kept_] = (s)->ids[i];                                                     \
                (s)->x[kept_] = (s)->x[i];                                                         \
                (s)->w[kept_++] = (s)->w[i];                                                       \
            }                                                                                      \
        (s)->n = kept_;                                                                            \
    } while (0)

static double total_weight(const sampler *s) {
    double sum = 0;
    for (int32_t i = 0; i < s->n; i++) sum += s->w[i];
    return sum;
}

/* Bins of weights in [0, 1] by their leading bits. */
static int32_t bin_of(float w) {
    uint32_t bits;
    memcpy(&bits, &w, 4);
    return (int32_t)(bits >> 17 & (BINS - 1));
}

/* The edge of the nucleus: weights are first summed by bin, then only the bin with the edge is
 * put in order. */
static void nucleus_edge(sampler *s, double mass, float *ret_edge, int32_t *ret_equal) {
    double *bins = s->bins;
    int32_t b = BINS, m = 0;
    memset(bins, 0, BINS * sizeof *bins);
    for (int32_t i = 0; i < s->n; i++) bins[bin_of(s->w[i])] += s->w[i];
    while (b > 1 && mass > bins[b - 1]) mass -= bins[--b];
    for (int32_t i = 0; i < s->n; i++)
        if (bin_of(s->w[i]) == b - 1) s->sort[m++] = (weighted){s->w[i], s->w[i]};
    weighted_edge(s->sort, m, mass, ret_edge, ret_equal);
}

static void keep_top_p(sampler *s, float top_p, double total) {
    float edge;
    int32_t n_equal;
    nucleus_edge(s, top_p * total, &edge, &n_equal);
    RETAIN(s, s->w[i] > edge || (s->w[i] == edge && n_equal-- > 0));
}

/* Locally typical sampling (Meister et al. 2022): those whose surprise is nearest the entropy. */
static void keep_typical(sampler *s, const float *x, float max, float inv_t, float mass) {
    double total = total_weight(s), mean = 0;
    float edge;
    int32_t n_equal;
    for (int32_t i = 0; i < s->n; i++) { /* log of a weight: no logarithm needed */
        s->x[i] = (x[s->ids[i]] - max) * inv_t;
        mean += s->w[i] * (double)s->x[i];
    }
    mean /= total; /* entropy = log(total) - mean */
    for (int32_t i = 0; i < s->n; i++) {
        s->x[i] = (float)-fabs(mean - s->x[i]);
        s->sort[i] = (weighted){s->x[i], s->w[i]};
    }
    weighted_edge(s->sort, s->n, mass * total, &edge, &n_equal);
    RETAIN(s, s->x[i] >= edge);
}

static void gather(sampler *s, const float *from, float *to) {
    for (int32_t i = 0; i < s->n; i++) to[i] = from[s->ids[i]];
}

/* The allowed ids that can be chosen, ascending whatever the order of the list. */
static void collect_allowed(sampler *s, const sample_params *p, const float *x) {
    int32_t first = s->vocab, last = -1;
    for (int32_t i = 0; i < p->n_allowed; i++) {
        int32_t id = p->allowed_ids[i];
        if (!in_vocab(s, id)) continue;
        s->listed[id] = 1;
        first = MIN(first, id);
        last = MAX(last, id);
    }
    s->n = 0;
    for (int32_t id = first; id <= last; id++) {
        if (s->listed[id] && x[id] != -INFINITY) s->ids[s->n++] = id;
        s->listed[id] = 0;
    }
}

/* ids and x of what top_k leaves. */
static void collect_top_k(sampler *s, const sample_params *p, const float *x) {
    if (!p->allowed_ids) {
        s->n = scan_top(x, s->vocab, p->top_k, s->w, s->ids);
        gather(s, x, s->x);
        return;
    }
    collect_allowed(s, p, x);
    gather(s, x, s->x);
    if (p->top_k > 0 && p->top_k < s->n) {
        float bar = scan_kth(s->x, s->n, p->top_k, s->w);
        RETAIN(s, s->x[i] >= bar);
    }
}

/* All ids with their weights, less those that no later filter can keep; the mass of all. */
static double collect_all(sampler *s, const sample_params *p, const float *x, float max) {
    double total = scan_exp(x, s->vocab, max, 1 / p->temperature, s->w);
    double least = p->min_p > 0 ? p->min_p * 0.999 : 0;
    if (p->top_p < 1) least = MAX(least, (1 - p->top_p) * total / s->vocab * 0.999);
    if (p->typical_p < 1 && p->top_p >= 1) least = 0;
    s->n = scan_take(s->w, s->vocab, (float)MAX(least, 1e-37), s->ids);
    return total;
}

static int32_t draw(const sampler *s, double u) {
    double at = u * total_weight(s), sum = 0;
    for (int32_t i = 0; i < s->n; i++) {
        sum += s->w[i];
        if (sum > at) return s->ids[i];
    }
    for (int32_t i = s->n; i-- > 0;)
        if (s->w[i] > 0) return s->ids[i];
    return -1;
}

/* No filter at all: the weights of the whole row, walked by blocks. */
static int32_t draw_unfiltered(sampler *s, const float *x, float max, float temperature, double u) {
    double at = u * scan_exp(x, s->vocab, max, 1 / temperature, s->w), sum = 0;
    for (int32_t b = 0; b < s->vocab; b += SCAN_BLOCK) {
        int32_t end = MIN(s->vocab, b + SCAN_BLOCK);
        double block = scan_sum(s->w + b, end - b), inside = sum;
        sum += block;
        for (int32_t i = b; sum > at && i < end; i++) {
            inside += s->w[i];
            if (inside > at) return i;
        }
    }
    for (int32_t i = s->vocab; i-- > 0;) /* rounding at the very end */
        if (s->w[i] > 0) return i;
    return -1;
}

static bool has_top_k(const sampler *s, const sample_params *p) {
    return p->allowed_ids || (p->top_k > 0 && p->top_k < s->vocab);
}

/* s->ids and s->w: what all filters leave. */
static status filter(sampler *s, const sample_params *p, const float *x, float max) {
    double total;
    if (has_top_k(s, p)) {
        collect_top_k(s, p, x);
        if (s->n == 0) return ERR_INVALID;
        max = scan_max(s->x, s->n);
        total = scan_exp(s->x, s->n, max, 1 / p->temperature, s->w);
    } else
        total = collect_all(s, p, x, max);
    if (p->top_p < 1) keep_top_p(s, p->top_p, total);
    if (p->min_p > 0) RETAIN(s, s->w[i] >= p->min_p); /* the best weighs 1 */
    if (p->typical_p < 1) keep_typical(s, x, max, 1 / p->temperature, p->typical_p);
    return OK;
}

/* The largest logit after the edits; they may have banned everything. */
static status edited_max(const sampler *s, const logits_row *row, float *ret) {
    *ret = s->n_edits == 0 ? row->x[row->argmax] : scan_max(row->x, s->vocab);
    return isfinite(*ret) ? OK : ERR_INVALID;
}

static status choose_random(sampler *s, const batch_seq *q, const logits_row *row, int32_t *ret) {
    const sample_params *p = q->params;
    double u = (double)(edit_row(q).key >> 11) * 0x1p-53;
    bool filtered = has_top_k(s, p) || p->top_p < 1 || p->min_p > 0 || p->typical_p < 1;
    float max;
    TRY(edited_max(s, row, &max));
    if (filtered) {
        TRY(filter(s, p, row->x, max));
        *ret = draw(s, u);
    } else
        *ret = draw_unfiltered(s, row->x, max, p->temperature, u);
    return *ret < 0 ? ERR_INVALID : OK;
}

status sampler_distribution(sampler *s, const batch_seq *q, const logits_row *row, int32_t *ret_ids,
                            double *ret_probs, int32_t *ret_n) {
    float max;
    edit_all(s, q, row->x);
    status st = edited_max(s, row, &max);
    if (st == OK) st = filter(s, q->params, row->x, max);
    undo_edits(s, row->x);
    double total = st == OK ? total_weight(s) : 0;
    for (int32_t i = 0; st == OK && i < s->n; i++) {
        ret_ids[i] = s->ids[i];
        ret_probs[i] = s->w[i] / total;
    }
    if (st == OK) *ret_n = s->n;
    return st;
}

/* Logprobs */

static void best_of(sampler *s, const float *x, int32_t n, float lse, sample_out *ret) {
    int32_t k = MIN(n, MIN(s->vocab, LIMIT_TOP_LOGPROBS));
    int32_t found = scan_top(x, s->vocab, k, s->w, s->ids), m = 0;
    for (int32_t i = 0; i < found; i++) {
        int32_t id = s->ids[i], at = m < k ? m++ : k;
        if (at == k && !(x[id] > x[ret->top[k - 1].id])) continue;
        if (at == k) at = k - 1;
        for (; at > 0 && x[ret->top[at - 1].id] < x[id]; at--) ret->top[at] = ret->top[at - 1];
        ret->top[at].id = id;
    }
    for (int32_t i = 0; i < k; i++) ret->top[i].logprob = x[ret->top[i].id] - lse;
    ret->n_top = k;
}

status sampler_describe(sampler *s, const logits_row *row, int32_t token, int32_t n_logprobs,
                        sample_out *ret) {
    ret->token = token;
    ret->logprob = 0;
    ret->rank = 0;
    ret->n_top = 0;
    if (!isfinite(row->lse)) return ERR_INTERNAL;
    if (n_logprobs < 0 || !in_vocab(s, token)) return OK;
    ret->logprob = row->x[token] - row->lse;
    ret->rank = 1 + scan_count_above(row->x, s->vocab, row->x[token]);
    if (n_logprobs > 0) best_of(s, row->x, n_logprobs, row->lse, ret);
    return OK;
}

status sampler_choose(sampler *s, const batch_seq *q, const logits_row *row, sample_out *ret) {
    const sample_params *p = q->params;
    int32_t token = -1;
    CHECK(p);
    if (!isfinite(row->lse)) return ERR_INTERNAL;
    edit_all(s, q, row->x);
    status st =
        p->temperature > 0 ? choose_random(s, q, row, &token) : choose_greedy(s, p, row, &token);
    undo_edits(s, row->x);
    return st == OK ? sampler_describe(s, row, token, p->n_logprobs, ret) : st;
}
