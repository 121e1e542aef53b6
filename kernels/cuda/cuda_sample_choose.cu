/* The choice itself, a block per row: the exact edges of top_k and top_p by radix selection over
 * the candidates that gather listed (or over the whole row), and the draw by a walk in ascending
 * order of ids (cuda_sample.cu says how the steps hang together).
 *
 * Selection takes 10 bits at a time from the top: a histogram of the values that share what is
 * known of the edge, then a scan of it from above. Values are counts for top_k, weights for top_p:
 * weights as 64 bits in two words, the carry found by what the addition returns. */
#include "kernels/cuda/cuda_sample.h"

#define THREADS 512
#define BINS    1024
#define CACHED  2048 /* logits of the first items, in shared memory */

typedef struct found_bin {
    uint64_t above, sum;
    uint32_t bin;
} found_bin;

typedef struct shared_room {
    uint64_t of_warp[THREADS / 32];
    uint64_t before;
    found_bin edge;
    sample_bar bar;
    int32_t at;
    uint32_t low[BINS], high[BINS];
    float cache[CACHED];
    int32_t first[SAMPLE_CHUNKS_MAX]; /* place of each chunk's candidates */
} shared_room;

/* What can be chosen: items in ascending order of ids, and which of them are kept. */
typedef struct items {
    shared_room *s;
    const float *x;
    const uint32_t *mask;
    const int32_t *ids; /* NULL: item i is id0 + i */
    int32_t id0, n, n_cached;
    float max, inv_t;
    uint32_t least; /* order of the lowest logit that top_k keeps */
    uint32_t edge;  /* bits of the lowest weight that is kept; of its equals those up to: */
    int32_t last_equal;
} items;

static __device__ __forceinline__ int32_t item_id(const items *t, int32_t i) {
    return t->ids ? t->ids[i] : t->id0 + i;
}

static __device__ __forceinline__ float item_logit(const items *t, int32_t i) {
    return (uint32_t)i < (uint32_t)t->n_cached ? t->s->cache[i]
                                               : sample_logit(t->x, t->mask, item_id(t, i));
}

static __device__ __forceinline__ float item_weight(const items *t, float x) {
    return sample_weight(x, t->max, t->inv_t);
}

/* Units of item i where it is kept, else 0. */
static __device__ __forceinline__ uint64_t kept_units(const items *t, int32_t i) {
    float x = item_logit(t, i), w = item_weight(t, x);
    uint32_t bits = __float_as_uint(w);
    if (sample_order(x) < t->least || bits < t->edge) return 0;
    if (bits == t->edge && item_id(t, i) > t->last_equal) return 0;
    return sample_units(w);
}

/* 1 for items at the edge. */
static __device__ __forceinline__ uint64_t at_edge(const items *t, int32_t i) {
    float x = item_logit(t, i);
    return sample_order(x) >= t->least && __float_as_uint(item_weight(t, x)) == t->edge;
}

enum walk_kind { WALK_UNITS, WALK_EDGE, WALK_CHUNKS };

/* The first of n places where the running sum of its values passes target, and the sum before it;
 * -1 where none does. Values: units of kept items, 1 for items at the edge, sums of chunks. */
template <walk_kind kind>
static __device__ __forceinline__ int32_t walk(const items *t, const uint64_t *sums, int32_t n,
                                               uint64_t target, uint64_t *ret_before) {
    uint64_t base = 0, total;
    for (int32_t from = 0; from < n; from += THREADS) {
        int32_t i = from + (int32_t)threadIdx.x;
        uint64_t v = 0;
        if (i < n)
            v = kind == WALK_UNITS ? kept_units(t, i) : kind == WALK_EDGE ? at_edge(t, i) : sums[i];
        uint64_t upto = base + sample_scan<THREADS>(v, t->s->of_warp, &total);
        base += total;
        if (base <= target) continue;
        if (upto > target && upto - v <= target) {
            t->s->at = i;
            t->s->before = upto - v;
        }
        __syncthreads();
        *ret_before = t->s->before;
        return t->s->at;
    }
    return -1;
}

static __device__ __forceinline__ uint64_t sum_kept(const items *t) {
    uint64_t sum = 0, total;
    for (int32_t i = (int32_t)threadIdx.x; i < t->n; i += THREADS) sum += kept_units(t, i);
    sample_scan<THREADS>(sum, t->s->of_warp, &total);
    return total;
}

static __device__ __forceinline__ void add_units(shared_room *s, uint32_t bin, uint64_t v) {
    uint32_t low = (uint32_t)v, before = atomicAdd(&s->low[bin], low);
    uint32_t high = (uint32_t)(v >> 32) + (before + low < before);
    if (high) atomicAdd(&s->high[bin], high);
}

static __device__ __forceinline__ uint64_t bin_sum(const shared_room *s, int bin) {
    return (uint64_t)s->high[bin] << 32 | s->low[bin];
}

/* The highest bin where the sum from the top, `above` included, reaches need. */
static __device__ __forceinline__ void find_bin(shared_room *s, uint64_t above, uint64_t need) {
    int top = BINS - 1 - 2 * (int)threadIdx.x;
    uint64_t upper = bin_sum(s, top), lower = bin_sum(s, top - 1), total;
    uint64_t upto = above + sample_scan<THREADS>(upper + lower, s->of_warp, &total);
    uint64_t before = upto - upper - lower;
    if (before < need && upto >= need) {
        bool is_upper = before + upper >= need;
        s->edge.bin = (uint32_t)(is_upper ? top : top - 1);
        s->edge.above = is_upper ? before : before + upper;
        s->edge.sum = is_upper ? upper : lower;
    }
    __syncthreads();
}

typedef struct edge {
    uint32_t bits;
    uint64_t above, sum; /* values over the edge, and at it */
} edge;

/* The highest bits where the values of all items with at least these bits reach need. by_weight:
 * bits and values are of weights, among what top_k keeps; else bits are the order of logits, and
 * each item counts 1. prefix: what is known of the bits, `above` the values over it. */
template <bool by_weight>
static __device__ __forceinline__ edge select_edge(const items *t, uint32_t prefix, int n_digits,
                                                   uint64_t above, uint64_t need) {
    shared_room *s = t->s;
    uint64_t sum = 0;
    for (int d = n_digits - 1; d >= 0; d--) {
        for (int b = (int)threadIdx.x; b < BINS; b += THREADS) s->low[b] = s->high[b] = 0;
        if (threadIdx.x == 0) s->edge = {above, 0, 0};
        __syncthreads();
        for (int32_t i = (int32_t)threadIdx.x; i < t->n; i += THREADS) {
            float x = item_logit(t, i);
            uint32_t order = sample_order(x);
            if (by_weight && order < t->least) continue;
            float w = by_weight ? item_weight(t, x) : 0;
            uint32_t bits = by_weight ? __float_as_uint(w) : order;
            if ((uint64_t)bits >> (10 * (d + 1)) != prefix) continue;
            add_units(s, bits >> (10 * d) & (BINS - 1), by_weight ? sample_units(w) : 1);
        }
        __syncthreads();
        find_bin(s, above, need);
        prefix = prefix << 10 | s->edge.bin;
        above = s->edge.above;
        sum = s->edge.sum;
        __syncthreads();
    }
    return {prefix, above, sum};
}

/* The candidates that gather listed, without gaps; or the whole row. Fills the cache. */
static __device__ __forceinline__ void open_items(const sample_job *j, int32_t r, items *t) {
    shared_room *s = t->s;
    const int32_t *counts = j->counts + (int64_t)r * j->n_chunks;
    const int32_t *listed = j->listed + (int64_t)r * j->n_chunks * SAMPLE_SEGMENT;
    int32_t *packed = j->packed + (int64_t)r * j->n_chunks * SAMPLE_SEGMENT;
    uint64_t n = 0, total;
    int is_over = 0;
    for (int32_t from = 0; from < j->n_chunks; from += THREADS) {
        int32_t c = from + (int32_t)threadIdx.x, mine = c < j->n_chunks ? counts[c] : 0;
        uint64_t upto = n + sample_scan<THREADS>((uint64_t)mine, s->of_warp, &total);
        if (c < j->n_chunks) s->first[c] = (int32_t)(upto - (uint64_t)mine);
        is_over |= mine > SAMPLE_SEGMENT;
        n += total;
    }
    if (__syncthreads_or(is_over)) {
        t->n = j->width;
    } else {
        t->n = (int32_t)n;
        t->ids = packed;
        for (int32_t c = (int32_t)threadIdx.x / 32; c < j->n_chunks; c += THREADS / 32)
            for (int32_t i = (int32_t)threadIdx.x % 32; i < counts[c]; i += 32)
                packed[s->first[c] + i] = listed[(int64_t)c * SAMPLE_SEGMENT + i];
        __syncthreads();
    }
    int32_t n_cached = t->n < CACHED ? t->n : CACHED;
    for (int32_t i = (int32_t)threadIdx.x; i < n_cached; i += THREADS)
        s->cache[i] = item_logit(t, i);
    t->n_cached = n_cached;
    __syncthreads();
}

static __device__ __forceinline__ void keep_top_k(const sample_job *j, int32_t r,
                                                  const sample_row *p, items *t) {
    const uint32_t *bins = j->coarse + (int64_t)r * SAMPLE_COARSE;
    uint32_t k = (uint32_t)p->top_k;
    sample_bar bar = sample_find_bar<THREADS>(bins, k, t->s->of_warp, &t->s->bar);
    t->least = select_edge<false>(t, bar.bin, 2, bar.above, k).bits;
}

/* The kept items' sum of units. Where min_p had gather list less than the nucleus, the edge is 0
 * here and min_p decides. */
static __device__ __forceinline__ uint64_t keep_top_p(const sample_row *p, items *t,
                                                      uint64_t total) {
    uint64_t need = sample_mass(p->top_p, total), before;
    edge e = select_edge<true>(t, 0, 3, 0, need);
    uint64_t each = sample_units(__uint_as_float(e.bits)), n_equal = 1;
    if (e.sum > each) n_equal = (need - e.above + each - 1) / each;
    t->edge = e.bits;
    if (n_equal * each < e.sum) {
        int32_t i = walk<WALK_EDGE>(t, NULL, t->n, n_equal - 1, &before);
        t->last_equal = item_id(t, i);
    }
    return e.above + n_equal * each;
}

/* A token by the row's filters. */
static __device__ __forceinline__ int32_t draw_filtered(const sample_job *j, int32_t r,
                                                        const sample_row *p, items *t) {
    bool has_top_k = sample_has_top_k(p, j->width), is_summed = false;
    uint64_t total = 0, before;
    open_items(j, r, t);
    if (has_top_k) keep_top_k(j, r, p, t);
    if (p->top_p < 1) {
        total = keep_top_p(p, t, has_top_k ? sum_kept(t) : sample_row_units(j, r));
        is_summed = true;
    }
    if (p->min_p > 0 && __float_as_uint(p->min_p) > t->edge) {
        t->edge = __float_as_uint(p->min_p);
        t->last_equal = j->width;
        is_summed = false;
    }
    if (!is_summed) total = sum_kept(t);
    int32_t i = walk<WALK_UNITS>(t, NULL, t->n, sample_at(p->key, total), &before);
    return i < 0 ? -1 : item_id(t, i);
}

/* From all weights: the chunk, then the id in it. */
static __device__ __forceinline__ int32_t draw_any(const sample_job *j, int32_t r,
                                                   const sample_row *p, items *t) {
    const uint64_t *sums = j->sums + (int64_t)r * j->n_chunks;
    uint64_t at = sample_at(p->key, sample_row_units(j, r)), before, unused;
    int32_t c = walk<WALK_CHUNKS>(t, sums, j->n_chunks, at, &before);
    if (c < 0) return -1;
    t->id0 = c * SAMPLE_CHUNK;
    t->n = min(j->width - t->id0, SAMPLE_CHUNK);
    int32_t i = walk<WALK_UNITS>(t, NULL, t->n, at - before, &unused);
    return i < 0 ? -1 : item_id(t, i);
}

static __device__ __forceinline__ int32_t choose(const sample_job *j, int32_t r,
                                                 const sample_row *p, shared_room *s) {
    uint64_t peak = sample_row_peak(j, r, p);
    float max = sample_peak_logit(peak);
    if (!isfinite(max)) return -1;
    if (!sample_draws(p)) return sample_peak_id(peak);
    items t = {s,   sample_logits(j, p), p->mask, NULL, 0,       0, 0,
               max, 1 / p->temperature,  0,       0,    j->width};
    return sample_is_filtered(p, j->width) ? draw_filtered(j, r, p, &t) : draw_any(j, r, p, &t);
}

static __global__ void __launch_bounds__(THREADS, 1) sample_choose(sample_job j) {
    __shared__ shared_room s;
    int32_t r = (int32_t)blockIdx.x, token = -1;
    const sample_row *p = &j.rows[r];
    bool is_finite = isfinite(j.lse[p->row]);
    if (is_finite) token = p->given >= 0 ? p->given : choose(&j, r, p, &s);
    if (threadIdx.x != 0) return;
    sample_result *out = &j.out[r];
    out->status = !is_finite ? SAMPLE_NOT_FINITE : token < 0 ? SAMPLE_NOTHING : SAMPLE_OK;
    out->token = token;
    out->logprob = 0;
    out->rank = 0;
    out->n_top = 0;
}

void cuda_sample_choose(cuda_backend *c, const sample_job *j, int32_t n_rows) {
    CU_LAUNCH(sample_choose, dim3((unsigned)n_rows), THREADS, 0, c->stream, *j);
}
