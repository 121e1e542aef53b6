/* Dot products in f32 with the lanes of a warp along K: lane l takes columns 4l .. 4l+3 of every
 * 128, in ascending order and in one chain, and a butterfly adds the 32 chains. Every kernel that
 * multiplies in f32 does it this way, so their bits agree whatever the number of rows. */
#ifndef KERNELS_CUDA_CU_LANES_H
#define KERNELS_CUDA_CU_LANES_H

#include "kernels/cuda/cu_num.h"
#include "kernels/cuda/cuda_gemm.h"

#define LANES_STEP 128 /* columns that a warp takes at once */

/* Four elements of a row of a from column k, zeros behind its end. aligned: rows begin at 16 bytes.
 */
template <bool aligned>
static __device__ __forceinline__ cu_floats lanes_a(const float *row, int32_t k, int32_t k_end) {
    if (aligned && k + 4 <= k_end) return *(const cu_floats *)(row + k);
    cu_floats v;
    v.x = k < k_end ? row[k] : 0;
    v.y = k + 1 < k_end ? row[k + 1] : 0;
    v.z = k + 2 < k_end ? row[k + 2] : 0;
    v.w = k + 3 < k_end ? row[k + 3] : 0;
    return v;
}

static __device__ __forceinline__ float lanes_fma(const cu_floats &a, const cu_floats &w,
                                                  float sum) {
    return fmaf(a.w, w.w, fmaf(a.z, w.z, fmaf(a.y, w.y, fmaf(a.x, w.x, sum))));
}

/* sum[f][t] of a warp's features f0.. and rows r0.. of the place, added over the lanes, written. */
template <int TN, int TM>
static __device__ __forceinline__ void lanes_put(const gemm_call &c, const gemm_place &p,
                                                 int32_t f0, int32_t r0, float sum[TN][TM]) {
    int lane = threadIdx.x % CU_WARP;
    float mine[(TN * TM + CU_WARP - 1) / CU_WARP] = {};
#pragma unroll
    for (int t = 0; t < TM; t++)
#pragma unroll
        for (int f = 0; f < TN; f++) {
            float v = cu_warp_sum(sum[f][t]);
            int i = t * TN + f;
            if (lane == i % CU_WARP) mine[i / CU_WARP] = v;
        }
#pragma unroll
    for (int i = 0; i * CU_WARP < TN * TM; i++) {
        int at = i * CU_WARP + lane;
        if (at < TN * TM) gemm_put(c, p, r0 + at / TN, f0 + at % TN, mine[i]);
    }
}

#endif
