/* The two 16-bit floats as tensor cores take them: one multiply-add step, packing two f32, and
 * codes of four bits to values. */
#ifndef KERNELS_CUDA_CU_HALF_H
#define KERNELS_CUDA_CU_HALF_H

#include "kernels/cuda/cu_load.h"
#include "kernels/cuda/cu_mma.h"
#include "kernels/cuda/cu_num.h"

extern "C" {
#include "kernels/dtype.h"
}

#ifdef PAGODA_SIMT
/* A pair of 16-bit floats as f32, and f(pair a, pair b) rounded by pack. */
#define HALF_PAIR(from, a, b, op)                                                                  \
    pack(from((uint16_t)(a)) op from((uint16_t)(b)),                                               \
         from((uint16_t)((a) >> 16)) op from((uint16_t)((b) >> 16)))
#endif

/* pack: low in the lower half, both rounded to nearest even; pack_bits: of values as words. */
typedef struct cu_bf16 {
    static constexpr dtype type = DT_BF16;
    typedef float acc; /* of a sum */
    enum { FOLDS = 0 };
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef PAGODA_SIMT
        return cu_to_bf16(low) | (uint32_t)cu_to_bf16(high) << 16;
#else
        uint32_t u;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
        return u;
#endif
    }
    static __device__ __forceinline__ uint32_t pack_bits(uint32_t low, uint32_t high) {
        return pack(__uint_as_float(low), __uint_as_float(high));
    }
    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4],
                                               const uint32_t b[2]) {
        cu_mma_bf16(d, a, b);
    }
    /* Pairs of codes: BASE + code has the code in its low bits; minus and times are by pair, one
     * rounding each. */
    static constexpr uint32_t BASE_BITS = 0x43004300u;
    static constexpr int BASE = 128;
    static __device__ __forceinline__ uint32_t minus(uint32_t a, uint32_t b) {
#ifdef PAGODA_SIMT
        return HALF_PAIR(cu_from_bf16, a, b, -);
#else
        uint32_t d;
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(b), "r"(0xBF80BF80u), "r"(a));
        return d;
#endif
    }
    static __device__ __forceinline__ uint32_t times(uint32_t a, uint32_t b) {
#ifdef PAGODA_SIMT
        return HALF_PAIR(cu_from_bf16, a, b, *);
#else
        uint32_t d;
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(0x80008000u));
        return d;
#endif
    }
} cu_bf16;

typedef struct cu_f16 {
    static constexpr dtype type = DT_F16;
    typedef float acc; /* of a sum */
    enum { FOLDS = 0 };
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
#ifdef PAGODA_SIMT
        return cu_to_f16(low) | (uint32_t)cu_to_f16(high) << 16;
#else
        uint32_t u;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(u) : "f"(high), "f"(low));
        return u;
#endif
    }
    static __device__ __forceinline__ uint32_t pack_bits(uint32_t low, uint32_t high) {
        return pack(__uint_as_float(low), __uint_as_float(high));
    }
    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4],
                                               const uint32_t b[2]) {
        cu_mma_f16(d, a, b);
    }
    /* Pairs of codes: BASE + code has the code in its low bits; minus and times are by pair, one
     * rounding each. */
    static constexpr uint32_t BASE_BITS = 0x64006400u;
    static constexpr int BASE = 1024;
    static __device__ __forceinline__ uint32_t minus(uint32_t a, uint32_t b) {
#ifdef PAGODA_SIMT
        return HALF_PAIR(cu_from_f16, a, b, -);
#else
        uint32_t d;
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
        return d;
#endif
    }
    static __device__ __forceinline__ uint32_t times(uint32_t a, uint32_t b) {
#ifdef PAGODA_SIMT
        return HALF_PAIR(cu_from_f16, a, b, *);
#else
        uint32_t d;
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
        return d;
#endif
    }
} cu_f16;

/* One slab of 32 columns: w holds 16 bytes (8 columns) of weight rows g and g+8 of a tile of 16, a
 * the same columns of row g of a; lane 4g+q has columns 8q .. 8q+7. Which column stands where in a
 * tensor-core step is the same for both, and only that matters; so each lane reads 16 neighbouring
 * bytes, and shared memory or ldmatrix need not rearrange them. Weights are always the first
 * operand: kernels for few and for many rows then do the same steps. */
template <class H>
static __device__ __forceinline__ void half_step0(typename H::acc d[4], const cu_words w[2],
                                                  const cu_words &a) {
    uint32_t wf[4] = {w[0].x, w[1].x, w[0].y, w[1].y}, af[2] = {a.x, a.y};
    H::mma(d, wf, af);
}
template <class H>
static __device__ __forceinline__ void half_step1(typename H::acc d[4], const cu_words w[2],
                                                  const cu_words &a) {
    uint32_t wf[4] = {w[0].z, w[1].z, w[0].w, w[1].w}, af[2] = {a.z, a.w};
    H::mma(d, wf, af);
}

/* Eight codes of a word, the first in its lowest bits, as (code - zero) * scale: base_zero is the
 * pair BASE + zero, scale a pair. Columns come out as (0,4) (1,5) (2,6) (3,7): a pair is a mask of
 * the word, shifted. */
template <class H>
static __device__ __forceinline__ cu_words half_codes(uint32_t word, uint32_t base_zero,
                                                      uint32_t scale) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t codes = (word >> 4 * i & 0x000f000fu) | H::BASE_BITS;
        v[i] = H::times(H::minus(codes, base_zero), scale);
    }
    cu_words w = {v[0], v[1], v[2], v[3]};
    return w;
}

#endif
