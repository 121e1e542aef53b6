/* binary16 by integer arithmetic: portable, exact, and the reference for the vector conversions. */
#include "kernels/dtype.h"

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 1023, u;
    if (exp == 31)
        u = sign | 0x7F800000u | man << 13;
    else if (exp)
        u = sign | (exp + 112) << 23 | man << 13;
    else {
        float f = (float)man * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t f32_to_f16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u) return sign | 0x7E00;
    if (u >= 0x477FF000u) return sign | 0x7C00; /* rounds to 65536 or more */
    if (u < 0x38800000u) {                      /* subnormal or zero in binary16 */
        float a;
        memcpy(&a, &u, 4);
        float scaled = a * 0x1p24f; /* exact; adding 2^23 rounds to nearest even */
        scaled += 0x1p23f;
        uint32_t r;
        memcpy(&r, &scaled, 4);
        return sign | (uint16_t)(r - 0x4B000000u);
    }
    u += 0xFFFu + (u >> 13 & 1);
    return sign | (uint16_t)((u - 0x38000000u) >> 13);
}
