/* Rounding to E4M3, compiled for the program and as device code: F8_FN is the includer's qualifier
 * (default static inline). Plain arithmetic, so that all sides give the same bits. */
#ifndef KERNELS_F8_ROUND_H
#define KERNELS_F8_ROUND_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef F8_FN
#define F8_FN static inline
#endif

/* |x|, at most 448, as the code of the nearest value; ties go to the even code. The exponent field
 * of the float says how wide a step is; below 2^-6 steps are 2^-9. */
F8_FN uint32_t f8_e4m3_magnitude(float x) {
    float a = fabsf(x);
    uint32_t u;
    if (a >= 448.0f) return 0x7e;
    if (a < 0.015625f) return (uint32_t)nearbyintf(a * 512.0f);
    memcpy(&u, &a, sizeof u);
    u += 0x7ffff + (u >> 20 & 1);            /* to 3 bits of mantissa, carrying into the exponent */
    return (u >> 20) - (uint32_t)(120 << 3); /* of bias 127 - 7 */
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
