/* Inside the sampling of the CUDA backend: what cuda_sample*.cu share. READ cuda_sample.cu FIRST.
 */
#ifndef KERNELS_CUDA_CUDA_SAMPLE_H
#define KERNELS_CUDA_CUDA_SAMPLE_H

#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "kernels/sample_num.h"
}

#define SAMPLE_CHUNK       4096 /* ids that one block looks at; chunks depend on V alone */
#define SAMPLE_THREADS     256  /* of kernels by chunk */
#define SAMPLE_EACH        (SAMPLE_CHUNK / SAMPLE_THREADS)
#define SAMPLE_SEGMENT     512 /* most ids that a chunk lists as candidates */
#define SAMPLE_COARSE_BITS 12
#define SAMPLE_COARSE      (1 << SAMPLE_COARSE_BITS)
#define SAMPLE_CHUNKS_MAX  1024 /* V <= 2^22 */

/* A call: the op's pointers, and scratch by row of the call (n), chunk (c) and id. */
typedef struct sample_job {
    const sample_row *rows;
    float *logits;
    int64_t stride;
    const float *lse;
    const int32_t *argmax;
    const sample_edit *edits;
    sample_result *out;
    int32_t width, n_chunks;
    float *saved;     /* [n_edits] */
    uint64_t *peaks;  /* [n,c] sample_peak_of the largest */
    uint64_t *sums;   /* [n,c] units */
    uint32_t *coarse; /* [n,SAMPLE_COARSE] ids by the high bits of their order, for top_k */
    int32_t *counts;  /* [n,c] candidates; more than a segment holds: they are not listed */
    int32_t *listed;  /* [n,c,SAMPLE_SEGMENT] ids of candidates */
    int32_t *packed;  /* [n,c*SAMPLE_SEGMENT] the same without gaps */
    int32_t *above;   /* [n,c] ids with a larger logit than the token's */
    uint64_t *best;   /* [n,c,SAMPLE_TOP_MAX] sample_peak_of the best */
} sample_job;

/* What a row needs; the host asks to choose the kernels, the kernels to pass over rows. */
SAMPLE_FN bool sample_draws(const sample_row *p) {
    return p->given < 0 && p->temperature > 0;
}
SAMPLE_FN bool sample_is_touched(const sample_row *p) {
    return p->given < 0 && (p->n_edits > 0 || p->mask);
}
SAMPLE_FN bool sample_has_top_k(const sample_row *p, int32_t width) {
    return p->top_k > 0 && p->top_k < width;
}
SAMPLE_FN bool sample_is_filtered(const sample_row *p, int32_t width) {
    return sample_draws(p) && (sample_has_top_k(p, width) || p->top_p < 1 || p->min_p > 0);
}

/* A logit and its id as one number: larger logits first, then lower ids. Never 0. */
static __device__ __forceinline__ uint64_t sample_peak_of(float x, int32_t id) {
    return (uint64_t)sample_order(x) << 32 | (uint32_t)~id;
}
static __device__ __forceinline__ int32_t sample_peak_id(uint64_t peak) {
    return (int32_t) ~(uint32_t)peak;
}
static __device__ __forceinline__ float sample_peak_logit(uint64_t peak) {
    uint32_t u = (uint32_t)(peak >> 32);
    return __uint_as_float(u & 0x80000000u ? u ^ 0x80000000u : ~u);
}

/* The row's logits; a masked id's is -inf. */
static __device__ __forceinline__ const float *sample_logits(const sample_job *j,
                                                             const sample_row *p) {
    return j->logits + p->row * j->stride;
}
static __device__ __forceinline__ float sample_logit(const float *x, const uint32_t *mask,
                                                     int32_t id) {
    return mask && !(mask[id >> 5] >> (id & 31) & 1) ? -INFINITY : x[id];
}

/* The k-th id of this thread in its chunk: a warp has 512 neighbours, lanes side by side. */
static __device__ __forceinline__ int32_t sample_id(int k) {
    int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    return (int32_t)blockIdx.x * SAMPLE_CHUNK + warp * (32 * SAMPLE_EACH) + 32 * k + lane;
}

static __device__ __forceinline__ uint64_t sample_warp_max(uint64_t x) {
    for (int d = 16; d; d >>= 1) x = max(x, __shfl_xor_sync(CU_FULL, x, d));
    return x;
}
static __device__ __forceinline__ uint64_t sample_warp_sum(uint64_t x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(CU_FULL, x, d);
    return x;
}

/* Largest of the block, the same in all threads; shared [threads/32] is free again afterwards. */
template <int threads>
static __device__ __forceinline__ uint64_t sample_block_max(uint64_t x, uint64_t *shared) {
    x = sample_warp_max(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    for (int w = 0; w < threads / 32; w++) x = max(x, shared[w]);
    __syncthreads();
    return x;
}

/* Sum of x over threads 0 .. this one, and over all. */
template <int threads>
static __device__ __forceinline__ uint64_t sample_scan(uint64_t x, uint64_t *shared,
                                                       uint64_t *ret_total) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int d = 1; d < 32; d <<= 1) {
        uint64_t y = __shfl_up_sync(CU_FULL, x, d);
        if (lane >= d) x += y;
    }
    if (lane == 31) shared[warp] = x;
    __syncthreads();
    uint64_t total = 0;
    for (int w = 0; w < threads / 32; w++) {
        if (w == warp) x += total;
        total += shared[w];
    }
    __syncthreads();
    *ret_total = total;
    return x;
}

/* The row's largest logit and its id after the edits; all lanes of a warp call. */
static __device__ __forceinline__ uint64_t sample_row_peak(const sample_job *j, int32_t r,
                                                           const sample_row *p) {
    if (!sample_is_touched(p)) {
        int32_t id = j->argmax[p->row];
        return sample_peak_of(sample_logits(j, p)[id], id);
    }
    uint64_t peak = 0;
    for (int32_t c = (int32_t)threadIdx.x % 32; c < j->n_chunks; c += 32)
        peak = max(peak, j->peaks[(int64_t)r * j->n_chunks + c]);
    return sample_warp_max(peak);
}

/* The row's sum of units, of rows without top_k; all lanes of a warp call. */
static __device__ __forceinline__ uint64_t sample_row_units(const sample_job *j, int32_t r) {
    uint64_t sum = 0;
    for (int32_t c = (int32_t)threadIdx.x % 32; c < j->n_chunks; c += 32)
        sum += j->sums[(int64_t)r * j->n_chunks + c];
    return sample_warp_sum(sum);
}

typedef struct sample_bar {
    uint32_t bin;   /* that holds the k-th largest */
    uint32_t above; /* ids in higher bins */
} sample_bar;

/* Where the k-th largest logit is, of n bins in ascending order. All threads call. */
template <int threads>
static __device__ __forceinline__ sample_bar sample_find_bar(const uint32_t *bins, uint32_t k,
                                                             uint64_t *shared, sample_bar *found) {
    const int each = SAMPLE_COARSE / threads;
    int top = SAMPLE_COARSE - 1 - (int)threadIdx.x * each;
    uint64_t mine = 0, total;
    for (int i = 0; i < each; i++) mine += bins[top - i];
    uint64_t upto = sample_scan<threads>(mine, shared, &total), before = upto - mine;
    if (threadIdx.x == 0) found->bin = found->above = 0;
    __syncthreads();
    if (upto >= k && before < k)
        for (int i = 0; i < each; i++) {
            uint32_t n = bins[top - i];
            if (before + n >= k) {
                found->bin = (uint32_t)(top - i);
                found->above = (uint32_t)before;
                break;
            }
            before += n;
        }
    __syncthreads();
    return *found;
}

/* One block per row of the call: writes token and status. */
void cuda_sample_choose(cuda_backend *c, const sample_job *j, int32_t n_rows);
/* Logprob, rank and the n best of the tokens that were chosen or given. */
void cuda_sample_describe(cuda_backend *c, const sample_job *j, int32_t n_rows);

#endif
