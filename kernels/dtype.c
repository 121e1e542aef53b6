/* The table of storage types; binary16 and 8-bit floats by integer arithmetic: portable, exact, and
 * the reference for the vector conversions. */
#include "kernels/dtype.h"

#include "kernels/f8_values.h"

static const struct {
    const char *name;
    int32_t values;
    uint16_t bytes;
    dtype_kind kind;
} types[DT_COUNT] = {
#define DTYPE(id, name, values, bytes, kind) {name, values, bytes, DTYPE_##kind},
#include "kernels/dtype.def"
#undef DTYPE
};

const char *dtype_name(dtype d) {
    return types[d].name;
}

dtype_kind dtype_kind_of(dtype d) {
    return types[d].kind;
}

int32_t dtype_block(dtype d) {
    return types[d].values;
}

size_t dtype_block_bytes(dtype d) {
    return types[d].bytes;
}

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

/* f16 by one product: what is left of the sign, moved to where f32 has it, is 2^112 too small, its
 * subnormals too; infinity and NaN keep their exponent of ones. */
void floats_f32(dtype d, const void *src, size_t n, float *ret) {
    const unsigned char *p = src;
    if (d == DT_F32) {
        memcpy(ret, src, n * sizeof *ret);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        uint32_t u = (uint32_t)h << 16;
        if (d == DT_F16) {
            uint32_t rest = (uint32_t)(h & 0x7FFF) << 13, special = rest >= 0x0F800000u;
            float f;
            memcpy(&f, &rest, 4);
            f *= 0x1p112f;
            memcpy(&rest, &f, 4);
            u = (uint32_t)(h & 0x8000) << 16 | rest | special * 0x7F800000u;
        }
        memcpy(&ret[i], &u, 4);
    }
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

const float f8_e4m3_values[256] = {F8_E4M3_VALUES};
const float f8_e5m2_values[256] = {F8_E5M2_VALUES};

float f8_e8m0_to_f32(uint8_t x) {
    uint32_t u = x == 255 ? 0x7FC00000u : x ? (uint32_t)x << 23 : 0x00400000u;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

float dtype_to_f32(dtype d, const void *src) {
    uint32_t u = 0;
    float f;
    memcpy(&u, src, dtype_bytes(d) < 4 ? dtype_bytes(d) : 4);
    switch (d) {
    case DT_F32: memcpy(&f, &u, 4); return f;
    case DT_F16: return f16_to_f32((uint16_t)u);
    case DT_BF16: return bf16_to_f32((uint16_t)u);
    case DT_I8: return (float)(int8_t)u;
    case DT_I32: return (float)(int32_t)u;
    case DT_F8_E8M0: return f8_e8m0_to_f32((uint8_t)u);
    case DT_F8_E4M3: return f8_e4m3_values[u & 255];
    case DT_F8_E5M2: return f8_e5m2_values[u & 255];
    default: return (float)u;
    }
}
