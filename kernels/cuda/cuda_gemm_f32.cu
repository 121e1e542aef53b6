/* Matrix products with f32 weights, in f32 multiply-adds throughout (cu_lanes.h): what golden
 * results are compared with, and what dequantised weights go through.
 *
 * A warp holds TN features x TM rows and reads weights and activations straight from global memory,
 * 512 bytes of a row at once. One row is bound by reading the weights; with more rows, warps of a
 * block share what they read through the L1 cache, and the ratio of loads to multiply-adds (16
 * loads of 16 bytes for 256) keeps the largest tile at half of the f32 peak at best. Not timed on a
 * GPU.
 *
 * Rows and features past the end repeat the last one and are not written. */
#include "kernels/cuda/cu_lanes.h"

#define WARPS 8

/* WT warps along the rows, WARPS / WT along the features. */
template <int TN, int TM, int WT, bool aligned>
static __global__ void __launch_bounds__(WARPS *CU_WARP) lanes_kernel(const gemm_call c) {
    enum { WF = WARPS / WT };
    gemm_place p;
    if (!gemm_place_of(c, TN * WF, TM * WT, &p)) return;
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    int32_t f0 = warp % WF * TN, r0 = warp / WF * TM;
    if (r0 >= p.n_rows || p.n0 + f0 >= c.n) return;
    const float *w[TN], *a[TM];
#pragma unroll
    for (int f = 0; f < TN; f++)
        w[f] = (const float *)(p.rows + min(p.n0 + f0 + f, c.n - 1) * p.row_bytes);
#pragma unroll
    for (int t = 0; t < TM; t++)
        a[t] = c.a + gemm_a_row(c, p.row0 + min(r0 + t, p.n_rows - 1)) * c.a_stride;
    float sum[TM * TN] = {};
#pragma unroll(TM == 1 ? 4 : 1)
    for (int32_t k = lane * 4; k < c.k; k += LANES_STEP) {
        cu_floats wk[TN];
#pragma unroll
        for (int f = 0; f < TN; f++) wk[f] = *(const cu_floats *)(w[f] + k);
#pragma unroll
        for (int t = 0; t < TM; t++) {
            cu_floats ak = lanes_a<aligned>(a[t], k, c.k);
#pragma unroll
            for (int f = 0; f < TN; f++) sum[t * TN + f] = lanes_fma(ak, wk[f], sum[t * TN + f]);
        }
    }
    lanes_put<TN, TM>(c, p, f0, r0, sum);
}

template <bool aligned>
static void launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block(WARPS * CU_WARP);
    if (p->tokens == 1)
        CU_LAUNCH((lanes_kernel<4, 1, 1, aligned>), grid, block, 0, c->stream, *g);
    else if (p->tokens == 4)
        CU_LAUNCH((lanes_kernel<4, 4, 1, aligned>), grid, block, 0, c->stream, *g);
    else
        CU_LAUNCH((lanes_kernel<8, 8, 2, aligned>), grid, block, 0, c->stream, *g);
}

void gemm_lanes(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    bool aligned = (uintptr_t)g->a % 16 == 0 && g->a_stride % 4 == 0;
    if (aligned)
        launch<true>(c, g, p);
    else
        launch<false>(c, g, p);
    cuda_launched(c, "gemm");
}
