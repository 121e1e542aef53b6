/* Rows that feed products, written in the type that the product would round them to (ops.h): four
 * columns of a thread at once, rounded by the same instructions as in the product. */
#ifndef KERNELS_CUDA_CU_FEED_H
#define KERNELS_CUDA_CU_FEED_H

#include "kernels/cuda/cu_cells.h"
#include "kernels/cuda/cu_half.h"

#define F8_FN static __device__ __forceinline__
#include "kernels/f8_round.h"

/* Rows may be written four columns at once. */
static inline bool feed_aligned(const void *out, int64_t stride, dtype dt) {
    return (uintptr_t)out % (4 * dtype_bytes(dt)) == 0 && stride % 4 == 0;
}

static __device__ __forceinline__ uint32_t feed_pack(dtype dt, float low, float high) {
    return dt == DT_BF16 ? cu_bf16::pack(low, high) : cu_f16::pack(low, high);
}

typedef struct __align__(8) feed_words {
    uint32_t x, y;
}
feed_words;

/* Store n values as elements at, at+1, .. of out, whose type is f32, bf16 or f16. */
template <bool quads>
static __device__ __forceinline__ void feed_store(void *out, dtype dt, int64_t at, int32_t n,
                                                  const cu_quad &q) {
    if (dt == DT_F32) {
        cu_store<quads>((float *)out + at, n, q);
        return;
    }
    feed_words w = {feed_pack(dt, q.v[0], q.v[1]), feed_pack(dt, q.v[2], q.v[3])};
    uint16_t *to = (uint16_t *)out + at;
    if constexpr (quads)
        *(feed_words *)to = w;
    else
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < n) to[i] = (uint16_t)((i < 2 ? w.x : w.y) >> i % 2 * 16);
}

/* ---- Codes with a scale for each row ---- */

/* The largest |x| so far; what makes it NaN stays NaN. */
static __device__ __forceinline__ float feed_most(float most, float x) {
    float a = fabsf(x);
    return a > most || isnan(a) ? a : most;
}
static __device__ __forceinline__ float feed_warp_most(float x) {
    for (int d = 16; d; d >>= 1) x = feed_most(x, __shfl_xor_sync(CU_FULL, x, d));
    return x;
}

/* The scale of a row; codes are of x / scale where it is finite and not 0, else 0. */
static __device__ __forceinline__ float feed_scale(dtype dt, float most) {
    float s = most / (dt == DT_I8 ? 127.0f : 448.0f);
    return isinf(s) ? cu_bits_f32(0x7fc00000) : s;
}

static __device__ __forceinline__ uint32_t feed_code(dtype dt, float x, float scale) {
    if (!(scale > 0)) return 0;
    float v = x / scale;
    if (dt == DT_F8_E4M3) return f8_e4m3_code(v);
    return (uint8_t)(int8_t)fminf(fmaxf(nearbyintf(v), -128.0f), 127.0f);
}

/* Four codes as a word; those behind the row's end are 0. */
static __device__ __forceinline__ void feed_store_codes(void *out, dtype dt, int64_t at, int32_t n,
                                                        const cu_quad &q, float scale) {
    uint32_t w = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < n) w |= feed_code(dt, q.v[i], scale) << 8 * i;
    *(uint32_t *)((uint8_t *)out + at) = w;
}

#endif
