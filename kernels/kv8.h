/* Keys and values in eight bits: what a stored number is, the same on every backend.
 *
 * A run of numbers that shares a scale (a token's key of one kv head, its value, the latent part or
 * the rope part of a latent row) is stored as a code a number and one scale of bf16:
 *
 *   scale   max|x| / 127 (int8) or / 448 (f8_e4m3), rounded up to a bf16, so that no code is over
 *           the largest; 0 where max|x| is below 2^-100; NaN where any x is not finite, and then
 *           all of the run is NaN
 *   code    x / scale to the nearest: integers -127 .. 127, or E4M3; ties to even
 *   value   code * scale, exact in f32: both have at most 8 bits
 *
 * The scale is of the token's own numbers, so its bytes depend on nothing else in the call, and no
 * calibration is needed. bf16: the range of f32, at two bytes; rounding it up by at most 1/128
 * costs as much of the codes' range.
 *
 * A page ends with its scales: the backend's business, as the order of its elements, but for their
 * number of bytes, which is kv_page_bytes. */
#ifndef KERNELS_KV8_H
#define KERNELS_KV8_H

#include "kernels/dtype.h"
#include "kernels/f8_round.h"

#ifdef __CUDACC__
#define KV8_FN static inline __host__ __device__
#else
#define KV8_FN static inline
#endif

#define KV8_SCALE_BYTES   2
#define KV8_LATENT_SCALES 2 /* of a latent row: its latent part, its rope part */

/* One of the two eight-bit types. */
KV8_FN bool kv_is_8bit(dtype dt) {
    return dt == DT_INT8 || dt == DT_F8_E4M3;
}
/* What pages may hold. */
static inline bool kv_dtype_ok(dtype dt) {
    return dt == DT_F32 || dt == DT_BF16 || kv_is_8bit(dt);
}

/* Bytes of a page of keys, of values or of latent rows: `tokens` rows of `width` elements, with
 * n_scales each where the type is of eight bits (a scale per kv head; KV8_LATENT_SCALES). */
static inline size_t kv_page_bytes(dtype dt, int32_t tokens, int32_t width, int32_t n_scales) {
    size_t row = (size_t)width * dtype_bytes(dt);
    if (kv_is_8bit(dt)) row += (size_t)n_scales * KV8_SCALE_BYTES;
    return (size_t)tokens * row;
}

KV8_FN uint32_t kv8_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
KV8_FN float kv8_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* What is collected over a run: the larger of the magnitudes, as bits, so that a NaN stays. */
KV8_FN uint32_t kv8_largest(uint32_t largest, float x) {
    uint32_t u = kv8_bits(x) & 0x7FFFFFFFu;
    return u > largest ? u : largest;
}

/* The scale of a run, a bf16, and what its numbers are multiplied by to be codes. */
KV8_FN uint16_t kv8_scale(dtype dt, uint32_t largest, float *ret_inverse) {
    *ret_inverse = 0;
    if (largest >= 0x7F800000u) return 0x7FC0;
    if (largest < 0x0D800000u) return 0; /* 2^-100 */
    uint32_t u = kv8_bits(kv8_float(largest) / (dt == DT_INT8 ? 127.0f : 448.0f));
    u = (u + 0xFFFFu) & 0xFFFF0000u;
    *ret_inverse = 1.0f / kv8_float(u);
    return (uint16_t)(u >> 16);
}

/* Codes of x times the inverse; where that is 0, x may be anything (code 0). */
KV8_FN uint8_t kv8_int8(float x, float inverse) {
    float y = x * inverse + 12582912.0f; /* 1.5 * 2^23: its lowest bits are the integer */
    return inverse != 0 ? (uint8_t)kv8_bits(y) : 0;
}
KV8_FN uint8_t kv8_e4m3(float x, float inverse) {
    float y = x * inverse;
    uint32_t code = f8_e4m3_magnitude(y) | (kv8_bits(y) >> 24 & 0x80);
    return inverse != 0 ? (uint8_t)code : 0;
}
KV8_FN uint8_t kv8_code(dtype dt, float x, float inverse) {
    return dt == DT_INT8 ? kv8_int8(x, inverse) : kv8_e4m3(x, inverse);
}

#endif
