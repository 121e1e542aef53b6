/* Choosing tokens from rows of logits (op_sample) without sorting them.
 *
 *   apply     the few logits that penalties, biases and bans change, in place      [rows]
 *   peak      the largest logit of each chunk, of rows that were changed           [chunks, rows]
 *   measure   sums of weights by chunk; with top_k a histogram of the high 12 bits
 *             of the logits' order                                                 [chunks, rows]
 *   gather    lists ids that may pass the filters: of the bin that holds the k-th
 *             largest and above; or of weight >= min_p and >= the part of 1-top_p
 *             that is every id's share, for all others together weigh less than
 *             1-top_p                                                              [chunks, rows]
 *   choose    exact edges among the listed by radix selection, and the draw        [rows]
 *   restore   the changed logits                                                   [rows]
 *   describe  logprob, rank, n best                                                [chunks, rows]
 *
 * Only kernels that some row needs are launched: choose alone where all rows are greedy; measure
 * and choose for plain temperature. All sums are of whole numbers (sample_num.h), so atomics and
 * the cut into chunks leave no trace in the result. Where a chunk has more candidates than it may
 * list (flat distributions) choose walks the whole row: slower, the same token.
 *
 * Bytes: V*4 per row for each of measure, gather and describe, from L2 when the rows fit in it;
 * arithmetic is a few instructions an id. Not yet timed on a GPU. */
#include "kernels/cuda/cuda_sample.h"

extern "C" {
#include "engine/base/check.h"
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_apply(sample_job j) {
    const sample_row *p = &j.rows[blockIdx.x];
    float *x = j.logits + p->row * j.stride;
    if (p->given >= 0) return;
    for (int32_t i = (int32_t)threadIdx.x; i < p->n_edits; i += SAMPLE_THREADS) {
        const sample_edit e = j.edits[p->edit0 + i];
        float before = x[e.id];
        j.saved[p->edit0 + i] = before;
        x[e.id] = sample_edited(before, &e, p);
    }
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_restore(sample_job j) {
    const sample_row *p = &j.rows[blockIdx.x];
    float *x = j.logits + p->row * j.stride;
    if (p->given >= 0) return;
    for (int32_t i = (int32_t)threadIdx.x; i < p->n_edits; i += SAMPLE_THREADS)
        x[j.edits[p->edit0 + i].id] = j.saved[p->edit0 + i];
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_peak(sample_job j) {
    __shared__ uint64_t of_warp[SAMPLE_THREADS / 32];
    const sample_row *p = &j.rows[blockIdx.y];
    const float *x = sample_logits(&j, p);
    if (!sample_is_touched(p)) return;
    uint64_t peak = 0;
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int32_t id = sample_id(k);
        if (id < j.width) peak = max(peak, sample_peak_of(sample_logit(x, p->mask, id), id));
    }
    peak = sample_block_max<SAMPLE_THREADS>(peak, of_warp);
    if (threadIdx.x == 0) j.peaks[(int64_t)blockIdx.y * j.n_chunks + blockIdx.x] = peak;
}

static __device__ __forceinline__ void count_orders(const sample_job *j, const sample_row *p,
                                                    const float *x, uint32_t *bins) {
    uint32_t *out = j->coarse + (int64_t)blockIdx.y * SAMPLE_COARSE;
    for (int b = (int)threadIdx.x; b < SAMPLE_COARSE; b += SAMPLE_THREADS) bins[b] = 0;
    __syncthreads();
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int32_t id = sample_id(k);
        if (id >= j->width) continue;
        uint32_t order = sample_order(sample_logit(x, p->mask, id));
        atomicAdd(&bins[order >> (32 - SAMPLE_COARSE_BITS)], 1u);
    }
    __syncthreads();
    for (int b = (int)threadIdx.x; b < SAMPLE_COARSE; b += SAMPLE_THREADS)
        if (bins[b]) atomicAdd(&out[b], bins[b]);
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_measure(sample_job j) {
    __shared__ uint32_t bins[SAMPLE_COARSE];
    __shared__ uint64_t of_warp[SAMPLE_THREADS / 32];
    const sample_row *p = &j.rows[blockIdx.y];
    const float *x = sample_logits(&j, p);
    if (!sample_draws(p) || !isfinite(j.lse[p->row])) return;
    if (sample_has_top_k(p, j.width)) {
        count_orders(&j, p, x, bins);
        return;
    }
    float max = sample_peak_logit(sample_row_peak(&j, (int32_t)blockIdx.y, p));
    float inv_t = 1 / p->temperature;
    uint64_t sum = 0, total;
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int32_t id = sample_id(k);
        if (id < j.width)
            sum += sample_units(sample_weight(sample_logit(x, p->mask, id), max, inv_t));
    }
    sample_scan<SAMPLE_THREADS>(sum, of_warp, &total);
    if (threadIdx.x == 0) j.sums[(int64_t)blockIdx.y * j.n_chunks + blockIdx.x] = total;
}

/* Units that an id of the nucleus has at least: ids below share less than what top_p leaves. */
static __device__ __forceinline__ uint64_t least_units(const sample_row *p, uint64_t total,
                                                       int32_t width) {
    double rest = (1 - (double)p->top_p) * (double)total;
    return p->top_p < 1 ? (uint64_t)(rest / width * 0.99) : 0;
}

/* Which of this thread's ids are candidates, as bits. */
static __device__ __forceinline__ uint32_t candidates(const sample_job *j, const sample_row *p,
                                                      const float *x, uint64_t *of_warp,
                                                      sample_bar *found) {
    int32_t r = (int32_t)blockIdx.y;
    uint32_t flags = 0;
    if (sample_has_top_k(p, j->width)) {
        const uint32_t *bins = j->coarse + (int64_t)r * SAMPLE_COARSE;
        sample_bar bar = sample_find_bar<SAMPLE_THREADS>(bins, (uint32_t)p->top_k, of_warp, found);
        for (int k = 0; k < SAMPLE_EACH; k++) {
            int32_t id = sample_id(k);
            if (id >= j->width) continue;
            uint32_t order = sample_order(sample_logit(x, p->mask, id));
            flags |= (uint32_t)(order >> (32 - SAMPLE_COARSE_BITS) >= bar.bin) << k;
        }
        return flags;
    }
    float max = sample_peak_logit(sample_row_peak(j, r, p)), inv_t = 1 / p->temperature;
    uint64_t least = least_units(p, sample_row_units(j, r), j->width);
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int32_t id = sample_id(k);
        if (id >= j->width) continue;
        float w = sample_weight(sample_logit(x, p->mask, id), max, inv_t);
        flags |= (uint32_t)(w > 0 && w >= p->min_p && sample_units(w) >= least) << k;
    }
    return flags;
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_gather(sample_job j) {
    __shared__ uint64_t of_warp[SAMPLE_THREADS / 32];
    __shared__ int32_t n_of_warp[SAMPLE_THREADS / 32];
    __shared__ sample_bar found;
    const sample_row *p = &j.rows[blockIdx.y];
    if (!sample_is_filtered(p, j.width) || !isfinite(j.lse[p->row])) return;
    uint32_t flags = candidates(&j, p, sample_logits(&j, p), of_warp, &found);
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int32_t n = 0, at = 0, all = 0;
    for (int k = 0; k < SAMPLE_EACH; k++) n += __popc(__ballot_sync(CU_FULL, flags >> k & 1));
    if (lane == 0) n_of_warp[warp] = n;
    __syncthreads();
    for (int w = 0; w < SAMPLE_THREADS / 32; w++) {
        if (w == warp) at = all;
        all += n_of_warp[w];
    }
    int64_t chunk = (int64_t)blockIdx.y * j.n_chunks + blockIdx.x;
    if (threadIdx.x == 0) j.counts[chunk] = all;
    if (all > SAMPLE_SEGMENT) return;
    for (int k = 0; k < SAMPLE_EACH; k++) {
        uint32_t lanes = __ballot_sync(CU_FULL, flags >> k & 1);
        if (flags >> k & 1)
            j.listed[chunk * SAMPLE_SEGMENT + at + __popc(lanes & ((1u << lane) - 1))] =
                sample_id(k);
        at += __popc(lanes);
    }
}

/* What some row of the call needs. */
typedef struct needs {
    bool edits, peaks, sums, coarse, lists, described;
} needs;

static needs needs_of(const op_sample *a) {
    needs n = {};
    for (int32_t r = 0; r < a->n_rows; r++) {
        const sample_row *p = &a->host[r];
        n.edits |= p->given < 0 && p->n_edits > 0;
        n.peaks |= sample_is_touched(p);
        n.sums |= sample_draws(p);
        n.coarse |= sample_draws(p) && sample_has_top_k(p, a->width);
        n.lists |= sample_is_filtered(p, a->width);
        n.described |= p->n_logprobs >= 0;
    }
    return n;
}

/* base NULL: only counted. */
static void *cut(char *base, size_t *at, size_t n, size_t size) {
    void *p = base ? base + *at : NULL;
    *at += (n * size + 255) / 256 * 256;
    return p;
}

/* Scratch from base on; its bytes. */
static size_t cut_scratch(sample_job *j, const op_sample *a, const needs *n, char *base) {
    size_t rows = (size_t)a->n_rows, cells = rows * (size_t)j->n_chunks, at = 0;
    size_t n_edits = n->edits ? (size_t)a->n_edits : 0, listed = n->lists ? cells : 0;
    size_t peaks = n->peaks ? cells : 0, sums = n->sums ? cells : 0;
    size_t coarse = n->coarse ? rows : 0, described = n->described ? cells : 0;
    j->saved = (float *)cut(base, &at, n_edits, sizeof(float));
    j->peaks = (uint64_t *)cut(base, &at, peaks, sizeof(uint64_t));
    j->sums = (uint64_t *)cut(base, &at, sums, sizeof(uint64_t));
    j->coarse = (uint32_t *)cut(base, &at, coarse, SAMPLE_COARSE * sizeof(uint32_t));
    j->counts = (int32_t *)cut(base, &at, listed, sizeof(int32_t));
    j->listed = (int32_t *)cut(base, &at, listed, SAMPLE_SEGMENT * sizeof(int32_t));
    j->packed = (int32_t *)cut(base, &at, listed, SAMPLE_SEGMENT * sizeof(int32_t));
    j->above = (int32_t *)cut(base, &at, described, sizeof(int32_t));
    j->best = (uint64_t *)cut(base, &at, described, SAMPLE_TOP_MAX * sizeof(uint64_t));
    return at;
}

static void launch(cuda_backend *c, const sample_job *j, const op_sample *a, const needs *n) {
    dim3 grid((unsigned)j->n_chunks, (unsigned)a->n_rows), rows((unsigned)a->n_rows);
    cudaStream_t s = c->stream;
    if (n->edits) CU_LAUNCH(sample_apply, rows, SAMPLE_THREADS, 0, s, *j);
    if (n->peaks) CU_LAUNCH(sample_peak, grid, SAMPLE_THREADS, 0, s, *j);
    size_t coarse = (size_t)a->n_rows * SAMPLE_COARSE * sizeof(uint32_t);
    if (n->coarse) cuda_note(c, cudaMemsetAsync(j->coarse, 0, coarse, s), "sample");
    if (n->sums) CU_LAUNCH(sample_measure, grid, SAMPLE_THREADS, 0, s, *j);
    if (n->lists) CU_LAUNCH(sample_gather, grid, SAMPLE_THREADS, 0, s, *j);
    cuda_sample_choose(c, j, a->n_rows);
    if (n->edits) CU_LAUNCH(sample_restore, rows, SAMPLE_THREADS, 0, s, *j);
    if (n->described) cuda_sample_describe(c, j, a->n_rows);
}

static sample_job job_of(const op_sample *a) {
    sample_job j = {};
    j.rows = a->rows;
    j.logits = a->logits;
    j.stride = a->logits_stride;
    j.lse = a->lse;
    j.argmax = a->argmax;
    j.edits = a->edits;
    j.out = a->out;
    j.width = a->width;
    j.n_chunks = (a->width + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK;
    return j;
}

size_t cuda_sample_need(int32_t n_rows, int32_t vocab, int64_t n_edits) {
    op_sample a = {};
    a.n_rows = n_rows, a.width = vocab, a.n_edits = n_edits;
    needs all = {true, true, true, true, true, true};
    sample_job j = job_of(&a);
    return cut_scratch(&j, &a, &all, NULL);
}

void cuda_sample(backend *b, const op_sample *a) {
    cuda_backend *c = cuda_of(b);
    if (a->n_rows == 0 || !cuda_ready(c)) return;
    CHECK(a->width > 0 && a->width <= SAMPLE_CHUNK * SAMPLE_CHUNKS_MAX);
    needs n = needs_of(a);
    sample_job j = job_of(a);
    size_t bytes = cut_scratch(&j, a, &n, NULL);
    char *ws = (char *)cuda_scratch(c, bytes);
    if (!ws) return;
    cut_scratch(&j, a, &n, ws);
    launch(c, &j, a, &n);
    cuda_launched(c, "sample");
}
