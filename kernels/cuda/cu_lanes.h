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

/* Add n sums over the lanes, n a power of two: at each step of the butterfly a lane hands on the
 * half of its sums that lanes on the other side will finish, while it has more than one. Which sums
 * a lane ends with: lane * n / 32 and on; where n < 32, neighbours end with the same one. */
template <int n> static __device__ __forceinline__ void lanes_fold(float v[n]) {
    int lane = threadIdx.x % CU_WARP, left = n;
#pragma unroll
    for (int d = CU_WARP / 2; d; d /= 2) {
        if (left == 1) {
            v[0] += __shfl_xor_sync(CU_FULL, v[0], d);
            continue;
        }
        left /= 2;
#pragma unroll
        for (int i = 0; i < n / 2; i++) {
            if (i >= left) continue;
            float kept = lane & d ? v[i + left] : v[i], sent = lane & d ? v[i] : v[i + left];
            v[i] = kept + __shfl_xor_sync(CU_FULL, sent, d);
        }
    }
}

/* sum[t][f] of a warp's rows r0.. and features f0.. of the place: added over the lanes, written. */
template <int TN, int TM>
static __device__ __forceinline__ void lanes_put(const gemm_call &c, const gemm_place &p,
                                                 int32_t f0, int32_t r0, float sum[TM * TN]) {
    enum {
        N = TM * TN,
        EACH = N > CU_WARP ? N / CU_WARP : 1,
        SAME = N < CU_WARP ? CU_WARP / N : 1
    };
    int lane = threadIdx.x % CU_WARP;
    lanes_fold<N>(sum);
    if (lane % SAME) return;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int at = lane / SAME * EACH + i;
        gemm_put(c, p, r0 + at / TN, f0 + at % TN, sum[i]);
    }
}

#endif
