/* What is told of a token: logprob, rank and the n best of the raw logits. Each block finds the
 * best of its chunk, a second kernel those of the row: n rounds of the block's largest, after which
 * only the thread that had it looks again. n is at most 20 and mostly 0, when a pass counts the
 * rank. */
#include "kernels/cuda/cuda_sample.h"

/* The token to describe, or -1. */
static __device__ __forceinline__ int32_t described(const sample_job *j, int32_t r) {
    return j->rows[r].n_logprobs < 0 || j->out[r].status != SAMPLE_OK ? -1 : j->out[r].token;
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_rank(sample_job j) {
    __shared__ uint64_t of_warp[SAMPLE_THREADS / 32];
    int32_t r = (int32_t)blockIdx.y, token = described(&j, r);
    if (token < 0) return;
    const sample_row *p = &j.rows[r];
    const float *x = sample_logits(&j, p);
    int64_t chunk = (int64_t)r * j.n_chunks + blockIdx.x;
    float bar = x[token];
    uint32_t order[SAMPLE_EACH]; /* 0: no id; a logit's is larger */
    uint64_t n_above = 0, total;
#pragma unroll
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int32_t id = sample_id(k);
        float y = id < j.width ? x[id] : 0;
        order[k] = id < j.width ? sample_order(y) : 0;
        n_above += id < j.width && y > bar;
    }
    sample_scan<SAMPLE_THREADS>(n_above, of_warp, &total);
    if (threadIdx.x == 0) j.above[chunk] = (int32_t)total;
    uint64_t last = ~(uint64_t)0, mine = last;
    for (int i = 0; i < p->n_logprobs; i++) {
        if (mine == last) { /* taken, or the first round: the best that is left */
            mine = 0;
#pragma unroll
            for (int k = 0; k < SAMPLE_EACH; k++) {
                uint64_t one = (uint64_t)order[k] << 32 | (uint32_t)~sample_id(k);
                if (order[k] && one < last) mine = max(mine, one);
            }
        }
        last = sample_block_max<SAMPLE_THREADS>(mine, of_warp);
        if (threadIdx.x == 0) j.best[chunk * SAMPLE_TOP_MAX + i] = last;
    }
}

/* The largest of the chunks' best below `last` that is this thread's; 0: none is left. */
static __device__ __forceinline__ uint64_t next_best(const sample_job *j, const uint64_t *best,
                                                     int32_t n_each, uint64_t last) {
    uint64_t mine = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < j->n_chunks * n_each; i += SAMPLE_THREADS) {
        uint64_t one = best[(int64_t)(i / n_each) * SAMPLE_TOP_MAX + i % n_each];
        if (one < last) mine = max(mine, one);
    }
    return mine;
}

static __global__ void __launch_bounds__(SAMPLE_THREADS) sample_describe(sample_job j) {
    __shared__ uint64_t of_warp[SAMPLE_THREADS / 32];
    int32_t r = (int32_t)blockIdx.x, token = described(&j, r);
    if (token < 0) return;
    const sample_row *p = &j.rows[r];
    const float *x = sample_logits(&j, p);
    sample_result *out = &j.out[r];
    float lse = j.lse[p->row];
    uint64_t n_above = 0, total;
    for (int32_t c = (int32_t)threadIdx.x; c < j.n_chunks; c += SAMPLE_THREADS)
        n_above += (uint64_t)j.above[(int64_t)r * j.n_chunks + c];
    sample_scan<SAMPLE_THREADS>(n_above, of_warp, &total);
    int32_t n_top = min(p->n_logprobs, j.width);
    if (threadIdx.x == 0) {
        out->logprob = x[token] - lse;
        out->rank = 1 + (int32_t)total;
        out->n_top = n_top;
    }
    const uint64_t *best = j.best + (int64_t)r * j.n_chunks * SAMPLE_TOP_MAX;
    uint64_t last = ~(uint64_t)0, mine = last;
    for (int i = 0; i < n_top; i++) {
        if (mine == last) mine = next_best(&j, best, p->n_logprobs, last);
        last = sample_block_max<SAMPLE_THREADS>(mine, of_warp);
        if (threadIdx.x != 0) continue;
        int32_t id = sample_peak_id(last);
        out->top[i].id = id;
        out->top[i].logprob = x[id] - lse;
    }
}

void cuda_sample_describe(cuda_backend *c, const sample_job *j, int32_t n_rows) {
    dim3 grid((unsigned)j->n_chunks, (unsigned)n_rows);
    CU_LAUNCH(sample_rank, grid, SAMPLE_THREADS, 0, c->stream, *j);
    CU_LAUNCH(sample_describe, dim3((unsigned)n_rows), SAMPLE_THREADS, 0, c->stream, *j);
}
