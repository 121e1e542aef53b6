/* The states of a cut tile to one result: a block per row. The factors of a state depend on the
 * maxima alone, and the maximum so far is exact in any order of comparing, so a batch of states
 * gets its factors side by side (a scan over maxima); what is left in order is one multiplication
 * and one fused multiply-add per state, the operations of attn_row_end.
 *
 * Bytes: every state once. Not yet timed on a GPU. */
#include "kernels/cuda/cuda_attention.h"

#define MERGE_THREADS 128

/* top[i] = max(top[0..i]), all threads. */
static __device__ void scan_max(float *top) {
    int i = (int)threadIdx.x;
    for (int d = 1; d < MERGE_THREADS; d *= 2) {
        float other = i >= d ? top[i - d] : ATTN_NONE;
        __syncthreads();
        top[i] = fmaxf(top[i], other);
        __syncthreads();
    }
}

/* Factors of the states [i0, i0+n) of a row, n <= MERGE_THREADS, and the maximum and sum with them:
 * the chain of attn_merge_max. */
static __device__ void batch_factors(const attn_args &a, const attn_merge &m, int kv_head, int row,
                                     int i0, int n, attn_running *all, float *top,
                                     float *old_factor, float *new_factor, float *sums) {
    int i = (int)threadIdx.x;
    float max = ATTN_NONE, sum = 0;
    if (i < n) {
        const float *s = attn_state_at(a, m.state + (int64_t)(i0 + i) * m.n_f + row, kv_head);
        max = s[a.value_width];
        sum = s[a.value_width + 1];
    }
    top[i] = i == 0 ? fmaxf(all->max, max) : max;
    sums[i] = sum;
    __syncthreads();
    scan_max(top);
    float before = i == 0 ? all->max : top[i - 1];
    old_factor[i] = attn_exp2((before - top[i]) * a.unit);
    new_factor[i] = attn_exp2((max - top[i]) * a.unit);
    __syncthreads();
    for (int j = 0; j < n; j++) all->sum = fmaf(sums[j], new_factor[j], all->sum * old_factor[j]);
    all->max = top[n - 1];
}

template <int columns>
static __global__ void __launch_bounds__(MERGE_THREADS) attn_merge_kernel(attn_args a) {
    cu_next_begin();
    __shared__ float top[MERGE_THREADS], old_factor[MERGE_THREADS], new_factor[MERGE_THREADS];
    __shared__ float sums[MERGE_THREADS];
    if (attn_idle(a)) return;
    attn_merge m = a.merges[blockIdx.x / a.n_kv_heads];
    int kv_head = (int)(blockIdx.x % a.n_kv_heads), row = (int)blockIdx.y;
    if (row >= m.n_f) return;
    attn_running all = {ATTN_NONE, 0};
    float acc[columns];
#pragma unroll
    for (int c = 0; c < columns; c++) acc[c] = 0;
    for (int i0 = 0; i0 < m.n_chunks; i0 += MERGE_THREADS) {
        int n = min(MERGE_THREADS, m.n_chunks - i0);
        __syncthreads();
        batch_factors(a, m, kv_head, row, i0, n, &all, top, old_factor, new_factor, sums);
#pragma unroll 4
        for (int j = 0; j < n; j++) {
            const float *s = attn_state_at(a, m.state + (int64_t)(i0 + j) * m.n_f + row, kv_head);
#pragma unroll
            for (int c = 0; c < columns; c++) {
                int col = c * MERGE_THREADS + (int)threadIdx.x;
                if (col < a.value_width)
                    acc[c] = attn_merge_acc(acc[c], old_factor[j], s[col], new_factor[j]);
            }
        }
    }
    int f = m.f0 + row;
    attn_seq s = a.seqs[m.seq];
    float sink_factor = attn_sink(a, kv_head * a.group + f % a.group, &all);
    float inverse = 1.0f / all.sum;
    int64_t out = attn_row_at(a, s.row0, f, kv_head, a.out_stride, a.value_width);
#pragma unroll
    for (int c = 0; c < columns; c++) {
        int col = c * MERGE_THREADS + (int)threadIdx.x;
        if (col < a.value_width)
            attn_put(a, out + col, attn_finish(acc[c], sink_factor, inverse), 0, false);
    }
}

void attn_run_merges(cuda_backend *c, const attn_args *a, unsigned blocks, unsigned rows) {
    dim3 grid(blocks, rows);
    if (a->value_width <= MERGE_THREADS)
        CU_LAUNCH_NEXT(c, (attn_merge_kernel<1>), grid, MERGE_THREADS, 0, *a);
    else if (a->value_width <= 4 * MERGE_THREADS)
        CU_LAUNCH_NEXT(c, (attn_merge_kernel<4>), grid, MERGE_THREADS, 0, *a);
    else
        CU_LAUNCH_NEXT(c, (attn_merge_kernel<8>), grid, MERGE_THREADS, 0, *a);
}
