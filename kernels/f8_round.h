/* Rounding to E4M3, compiled for the program and as device code: F8_FN is the includer's qualifier
 * (default static inline, of both in CUDA). Plain arithmetic, so that all sides give the same bits.
 */
#ifndef KERNELS_F8_ROUND_H
#define KERNELS_F8_ROUND_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef F8_FN
#ifdef __CUDACC__
#define F8_FN static inline __host__ __device__
#else
#define F8_FN static inline
#endif
#endif

/* |x|, at most 448, as the code of the nearest value; ties go to the even code. The exponent field
 * of the float says how wide a step is; below 2^-6 steps are 2^-9, and adding 2^14 rounds to them.
 * Without branches, so that compilers make vectors of a loop. */
F8_FN uint32_t f8_e4m3_magnitude(float x) {
    float a = fabsf(x), small = a + 16384.0f;
    uint32_t u, v;
    memcpy(&u, &a, sizeof u);
    memcpy(&v, &small, sizeof v);
    v -= 0x46800000u;
    /* to 3 bits of mantissa, carrying into the exponent, whose bias falls by 127 - 7 */
    uint32_t w = ((u + 0x7ffff + (u >> 20 & 1)) >> 20) - (uint32_t)(120 << 3);
    uint32_t code = a < 0.015625f ? v : w;
    return code > 0x7e ? 0x7e : code;
}

/* The code of x, 0x7f with x's sign for a NaN. */
F8_FN uint8_t f8_e4m3_code(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (isnan(x)) return (uint8_t)(u >> 24 | 0x7f);
    return (uint8_t)(f8_e4m3_magnitude(x) | (u >> 24 & 0x80));
}

/* The nearest value itself; a NaN stays. */
F8_FN float f8_e4m3_round(float x) {
    if (isnan(x)) return x;
    uint32_t code = f8_e4m3_magnitude(x), u = (code + (120 << 3)) << 20;
    float a;
    memcpy(&a, &u, sizeof a);
    if (code < 8) a = (float)code / 512.0f;
    return copysignf(a, x);
}

#endif
