/* How numbers are stored, and the scalar conversions that define the floating types.
 * bf16: upper half of a binary32; f32 -> bf16 rounds to nearest even, NaN stays NaN. */
#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum dtype {
#define DTYPE(id, name, values, bytes, kind) DT_##id,
#include "kernels/dtype.def"
#undef DTYPE
    DT_COUNT
} dtype;

typedef enum dtype_kind { DTYPE_ELEM, DTYPE_GGUF, DTYPE_CODES } dtype_kind;

const char *dtype_name(dtype d); /* "bf16", "q4_K", "int4" */
dtype_kind dtype_kind_of(dtype d);
int32_t dtype_block(dtype d);      /* values of one block, 1 for plain elements */
size_t dtype_block_bytes(dtype d); /* bytes of one block */

/* Bytes of one element; the types of kind ELEM and the 8-bit codes. */
static inline size_t dtype_bytes(dtype d) {
    return dtype_block(d) == 1 ? dtype_block_bytes(d) : 0;
}
/* Bytes of k values in a row, whole blocks. */
static inline size_t dtype_row_bytes(dtype d, int64_t k) {
    int64_t block = dtype_block(d);
    return (size_t)((k + block - 1) / block) * dtype_block_bytes(d);
}
/* f32, f16 or bf16: what a plain tensor of weights is stored as. */
static inline bool dtype_is_float(dtype d) {
    return d == DT_F32 || d == DT_F16 || d == DT_BF16;
}
/* Weights that quant.h dequantises. */
static inline bool dtype_is_quant(dtype d) {
    return dtype_kind_of(d) != DTYPE_ELEM;
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
__attribute__((const)) float f16_to_f32(uint16_t h); /* IEEE 754 binary16, subnormals included */
uint16_t f32_to_f16(float f); /* round to nearest even; overflow gives infinity */
/* n numbers of f32, f16 or bf16 as f32; src need not be aligned. */
void floats_f32(dtype d, const void *src, size_t n, float *ret);

/* 8-bit floats: E4M3 has no infinity and one NaN (0x7F, 0xFF), largest 448; E5M2 as IEEE, largest
 * 57344; E8M0 is 2^(x-127), 255 NaN. */
extern const float f8_e4m3_values[256], f8_e5m2_values[256];
__attribute__((const)) float f8_e8m0_to_f32(uint8_t x);

/* One element of kind ELEM (or an 8-bit float) as f32; src need not be aligned. */
float dtype_to_f32(dtype d, const void *src);

#endif
