/* Products of 16-bit weights with few rows: bound by reading every weight once.
 *
 * A block owns 16 or 32 output features and up to 32 rows (cu_splits.h). With 16 warps on a
 * multiprocessor and 4 kB each under way, 64 kB are in flight there; 4.3 TB/s over the 132 of an
 * H200 at an assumed latency of 0.8 us ask for 26 kB.
 *
 * Activations of the weights' type are read where they are. Up to 8 rows of f32 ones are rounded in
 * registers, so that decoding needs no launch before this one; more rows by a pass before. Expected
 * limits, not timed on a GPU: memory bandwidth, less the ramp of a block's first loads and its last
 * sum; from 16 rows on, activations that come from the L2 cache once per block. */
#include "kernels/cuda/cu_splits.h"

/* Threads of a block: with 32 features a lane holds too much for more than 8 warps. */
#define MAX_THREADS(tn) ((tn) == 1 ? 512 : 256)

template <class H, int TN, int TM, bool rounded>
static __global__ void __launch_bounds__(MAX_THREADS(TN)) splits_kernel(const gemm_call c) {
    CU_DYN_SHARED(float, sums);
    splits_product<H, row_weights<TN>, TN, TM, rounded, TM == 4 ? 3 : 4>(c, sums);
}

template <class H, int TN, int TM, bool rounded>
static void launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block((unsigned)p->warps * CU_WARP);
    if (!cuda_allow_shared(c, (const void *)splits_kernel<H, TN, TM, rounded>, p->smem, 0)) return;
    if (g->made_w)
        CU_LAUNCH((splits_kernel<H, TN, TM, rounded>), grid, block, p->smem, c->stream, *g);
    else
        CU_LAUNCH_NEXT(c, (splits_kernel<H, TN, TM, rounded>), grid, block, p->smem, *g);
}

template <class H, int TN>
static void launch_rows(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->tokens == 8 && g->a16)
        launch<H, TN, 1, true>(c, g, p);
    else if (p->tokens == 8)
        launch<H, TN, 1, false>(c, g, p);
    else if (p->tokens == 16)
        launch<H, TN, 2, true>(c, g, p);
    else
        launch<H, 2, 4, true>(c, g, p); /* always 32 features */
}

template <class H>
static void launch_features(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->features == 32)
        launch_rows<H, 2>(c, g, p);
    else
        launch_rows<H, 1>(c, g, p);
}

void gemm_splits_run(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->kind == GEMM_BF16)
        launch_features<cu_bf16>(c, g, p);
    else
        launch_features<cu_f16>(c, g, p);
    cuda_launched(c, "gemm");
}
