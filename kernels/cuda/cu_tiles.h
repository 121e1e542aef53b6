/* Products of 16-bit weights, or of bytes that are taken for pairs, with many rows: tiles of
 * weights and of rounded activations pass through shared memory, STAGES slabs of 32 columns deep,
 * filled by asynchronous copies.
 *
 * A slab of a tile is [rows][64 bytes], unpadded: a lane's fragment is 16 neighbouring bytes
 * (cu_half.h), eight lanes read two rows, 128 bytes in a line, so neither copies nor fragment loads
 * conflict on banks. A warp holds TN x TM tiles of 16 features x 8 rows. K is summed as everywhere
 * (cuda_gemm_plan.h): `part` is the sum of the split under way, `sum` of those before it, which
 * costs twice the accumulators and buys the same bits as the kernel for few rows.
 *
 * 128x128 with 8 warps: 12 fragment loads for 32 tensor-core steps a warp and slab, so shared
 * memory and tensor cores (as mma.sync reaches them) are near balance. Expected to be bound by the
 * rate of mma.sync, which is below what wgmma reaches on sm_90; not timed on a GPU. */
#ifndef KERNELS_CUDA_CU_TILES_H
#define KERNELS_CUDA_CU_TILES_H

#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cuda_gemm.h"

#define STAGES 4
#define CHUNKS (GEMM_SLAB / 8) /* of 16 bytes in a row of a slab */

/* WF x WT warps of TN x TM tiles each. */
template <int TN_, int TM_, int WF_, int WT_> struct tile_shape {
    enum {
        TN = TN_,
        TM = TM_,
        WF = WF_,
        WT = WT_,
        FEATURES = 16 * TN * WF,
        ROWS = 8 * TM * WT,
        THREADS = WF * WT * CU_WARP,
        STAGE = (FEATURES + ROWS) * CHUNKS, /* 16-byte words of a stage */
        EACH = STAGE / THREADS,             /* copies of a thread for it */
        ROW_STEP = THREADS / CHUNKS         /* rows between its copies */
    };
};

/* The copies of one thread: rows of weights, then of activations, each to where it lies in a stage.
 */
template <class S> struct copies {
    const uint16_t *row[S::EACH];
    int32_t end[S::EACH]; /* columns to read; 0: no such row */
};

template <class S>
static __device__ __forceinline__ void find_copies(const gemm_call &c, const gemm_place &p,
                                                   copies<S> *to) {
#pragma unroll
    for (int i = 0; i < S::EACH; i++) {
        int32_t r = threadIdx.x / CHUNKS + i * S::ROW_STEP;
        to->row[i] = c.a16, to->end[i] = 0;
        if (r < S::FEATURES) {
            if (p.n0 + r >= c.n) continue;
            to->row[i] = (const uint16_t *)(p.rows + (p.n0 + r) * p.row_bytes);
            to->end[i] = p.ld;
        } else if (r - S::FEATURES < p.n_rows) {
            int64_t row = gemm_a_row(c, p.row0 + r - S::FEATURES);
            to->row[i] = c.a16 + row * c.a16_stride;
            to->end[i] = c.k;
        }
    }
}

template <class S>
static __device__ __forceinline__ void start_copies(const copies<S> &from, int32_t slab,
                                                    cu_words *stage) {
    int32_t chunk = threadIdx.x % CHUNKS, k = slab * GEMM_SLAB + chunk * 8;
#pragma unroll
    for (int i = 0; i < S::EACH; i++)
        cu_copy16_async(&stage[threadIdx.x + i * S::THREADS], from.row[i] + k, k < from.end[i]);
}

template <class H, class S>
static __device__ __forceinline__ void multiply(const cu_words *stage, int warp_f, int warp_t,
                                                typename H::acc part[S::TN][S::TM][4]) {
    int g = threadIdx.x % CU_WARP / 4, q = threadIdx.x % 4;
    cu_words w[S::TN][2], a[S::TM];
#pragma unroll
    for (int i = 0; i < 2 * S::TN; i++)
        w[i / 2][i % 2] = stage[((warp_f * 2 * S::TN + i) * 8 + g) * CHUNKS + q];
#pragma unroll
    for (int j = 0; j < S::TM; j++)
        a[j] = stage[(S::FEATURES + (warp_t * S::TM + j) * 8 + g) * CHUNKS + q];
#pragma unroll
    for (int i = 0; i < S::TN; i++)
#pragma unroll
        for (int j = 0; j < S::TM; j++) half_step0<H>(part[i][j], w[i], a[j]);
#pragma unroll
    for (int i = 0; i < S::TN; i++)
#pragma unroll
        for (int j = 0; j < S::TM; j++) half_step1<H>(part[i][j], w[i], a[j]);
}

template <class A, class S>
static __device__ __forceinline__ void add_split(A part[S::TN][S::TM][4], A sum[S::TN][S::TM][4]) {
#pragma unroll
    for (int i = 0; i < S::TN; i++)
#pragma unroll
        for (int j = 0; j < S::TM; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sum[i][j][e] += part[i][j][e], part[i][j][e] = 0;
}

template <class H, class S>
static __device__ __forceinline__ void put_sums(const gemm_call &c, const gemm_place &p, int warp_f,
                                                int warp_t, typename H::acc sum[S::TN][S::TM][4]) {
    int g = threadIdx.x % CU_WARP / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < S::TM; j++)
#pragma unroll
        for (int i = 0; i < S::TN; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = (warp_t * S::TM + j) * 8 + q * 2 + e % 2;
                int f = (warp_f * S::TN + i) * 16 + g + e / 2 * 8;
                if (row < p.n_rows && p.n0 + f < c.n)
                    gemm_put(c, p, row, f, gemm_worth<H>::of(c, p, row, f, sum[i][j][e]));
            }
}

template <class H, class S>
static __global__ void __launch_bounds__(S::THREADS) tiles_kernel(const gemm_call c) {
    CU_DYN_SHARED(cu_words, stages);
    gemm_place p;
    if (!gemm_place_of(c, S::FEATURES, S::ROWS, &p)) return;
    copies<S> from;
    find_copies<S>(c, p, &from);
    int warp = threadIdx.x / CU_WARP, warp_f = warp % S::WF, warp_t = warp / S::WF;
    int32_t slabs = gemm_slabs(c.k), n_splits = gemm_splits(c.k), split = 0;
    int32_t end = gemm_split_slab(slabs, n_splits, 1);
    typedef typename H::acc acc;
    acc part[S::TN][S::TM][4] = {}, sum[S::TN][S::TM][4] = {};
    acc folded[H::FOLDS ? S::TN : 1][H::FOLDS ? S::TM : 1][4] = {};
    for (int32_t s = 0; s < STAGES - 1; s++) {
        if (s < slabs) start_copies<S>(from, s, stages + s * S::STAGE);
        cu_copy_commit();
    }
    for (int32_t slab = 0; slab < slabs; slab++) {
        cu_copy_wait<STAGES - 2>(); /* this slab is there, and */
        __syncthreads(); /* all warps are done with the one before, whose place is next */
        int32_t next = slab + STAGES - 1;
        if (next < slabs) start_copies<S>(from, next, stages + next % STAGES * S::STAGE);
        cu_copy_commit();
        multiply<H, S>(stages + slab % STAGES * S::STAGE, warp_f, warp_t, part);
        if constexpr (H::FOLDS)
            if (slab % 2 || slab + 1 == end)
                gemm_folds<H, S::TN, S::TM>::fold(c, p, warp_f * S::TN * 16, warp_t * S::TM * 8,
                                                  slab, part, folded);
        if (slab + 1 == end) {
            if constexpr (H::FOLDS)
                add_split<acc, S>(folded, sum);
            else
                add_split<acc, S>(part, sum);
            split++;
            end = gemm_split_slab(slabs, n_splits, split + 1);
        }
    }
    put_sums<H, S>(c, p, warp_f, warp_t, sum);
}

template <class H, class S>
static void tiles_launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block(S::THREADS);
    if (!cuda_allow_shared(c, (const void *)tiles_kernel<H, S>, p->smem, 0)) return;
    CU_LAUNCH((tiles_kernel<H, S>), grid, block, p->smem, c->stream, *g);
}

#endif
