/* 16-bit floats in kernels, and sums over a warp or a block in one fixed order. */
#ifndef KERNELS_CUDA_CU_NUM_H
#define KERNELS_CUDA_CU_NUM_H

#include "kernels/cuda/cu.h"

static __device__ __forceinline__ float cu_bits_f32(uint32_t u) {
    return __uint_as_float(u);
}
static __device__ __forceinline__ float cu_from_bf16(uint16_t h) {
    return __uint_as_float((uint32_t)h << 16);
}
/* Round to nearest even; a NaN stays one. As f32_to_bf16 of dtype.h. */
static __device__ __forceinline__ uint16_t cu_to_bf16(float x) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
/* f16 by its definition; on the device the compiler makes one instruction of the asm forms. */
static __device__ __forceinline__ float cu_from_f16(uint16_t h) {
#ifdef PAGODA_SIMT
    return simt_from_f16(h);
#else
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
#endif
}
static __device__ __forceinline__ uint16_t cu_to_f16(float x) {
#ifdef PAGODA_SIMT
    return simt_to_f16(x);
#else
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
#endif
}

/* Sum and maximum over the 32 lanes, the same in all; butterflies, so the order is fixed. */
static __device__ __forceinline__ float cu_warp_sum(float x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(CU_FULL, x, d);
    return x;
}
static __device__ __forceinline__ float cu_warp_max(float x) {
    for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(CU_FULL, x, d));
    return x;
}

#endif
