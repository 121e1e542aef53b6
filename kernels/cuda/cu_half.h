/* The two 16-bit floats as tensor cores take them: one multiply-add step, and packing two f32. */
#ifndef KERNELS_CUDA_CU_HALF_H
#define KERNELS_CUDA_CU_HALF_H

#include "kernels/cuda/cu_load.h"
#include "kernels/cuda/cu_mma.h"
#include "kernels/cuda/cu_num.h"

/* pack: low in the lower half, both rounded to nearest even. */
typedef struct cu_bf16 {
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef PAGODA_SIMT
        return cu_to_bf16(low) | (uint32_t)cu_to_bf16(high) << 16;
#else
        uint32_t u;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
        return u;
#endif
    }
    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4],
                                               const uint32_t b[2]) {
        cu_mma_bf16(d, a, b);
    }
} cu_bf16;

typedef struct cu_f16 {
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef PAGODA_SIMT
        return cu_to_f16(low) | (uint32_t)cu_to_f16(high) << 16;
#else
        uint32_t u;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
        return u;
#endif
    }
    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4],
                                               const uint32_t b[2]) {
        cu_mma_f16(d, a, b);
    }
} cu_f16;

/* One slab of 32 columns: w holds 16 bytes (8 columns) of weight rows g and g+8 of a tile of 16, a
 * the same columns of row g of a; lane 4g+q has columns 8q .. 8q+7. Which column stands where in a
 * tensor-core step is the same for both, and only that matters; so each lane reads 16 neighbouring
 * bytes, and shared memory or ldmatrix need not rearrange them. Weights are always the first
 * operand: kernels for few and for many rows then do the same steps. */
template <class H>
static __device__ __forceinline__ void half_step0(float d[4], const cu_words w[2],
                                                  const cu_words &a) {
    uint32_t wf[4] = {w[0].x, w[1].x, w[0].y, w[1].y}, af[2] = {a.x, a.y};
    H::mma(d, wf, af);
}
template <class H>
static __device__ __forceinline__ void half_step1(float d[4], const cu_words w[2],
                                                  const cu_words &a) {
    uint32_t wf[4] = {w[0].z, w[1].z, w[0].w, w[1].w}, af[2] = {a.z, a.w};
    H::mma(d, wf, af);
}

#endif
