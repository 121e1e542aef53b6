/* Element types of tensors and the scalar conversions that define them.
 * bf16: upper half of a binary32; f32 -> bf16 rounds to nearest even, NaN stays NaN. */
#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum dtype { DT_F32, DT_F16, DT_BF16, DT_I8, DT_I32, DT_I64, DT_U8, DT_COUNT } dtype;

static inline size_t dtype_bytes(dtype d) {
    static const unsigned char bytes[DT_COUNT] = {4, 2, 2, 1, 4, 8, 1};
    return bytes[d];
}
static inline const char *dtype_name(dtype d) {
    static const char *const names[DT_COUNT] = {"f32", "f16", "bf16", "i8", "i32", "i64", "u8"};
    return names[d];
}

static inline float bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint16_t f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}
float f16_to_f32(uint16_t h); /* IEEE 754 binary16, subnormals included */
uint16_t f32_to_f16(float f); /* round to nearest even; overflow gives infinity */

#endif
