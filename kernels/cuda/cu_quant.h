/* Quantised storage on the device: the functions of quant_values.inc and quant_codes.inc compiled
 * as device code, so that a value has the bits it has on the CPU. A thread reads 16 values at a
 * time:
 *
 *   GGUF   cu_block_run(dt, block, run, v)   values [16*run, 16*run+16) of one block
 *   codes  cu_codes(dt, q, k, side, row) makes the view of a stored row, then
 *          codes_f32(&view, k0, n, v)        n <= 16 columns from k0, a multiple of 8
 */
#ifndef KERNELS_CUDA_CU_QUANT_H
#define KERNELS_CUDA_CU_QUANT_H

#include "kernels/cuda/cu_num.h"
#include "kernels/f8_values.h"
#include "kernels/quant.h"

static __device__ const float cu_e4m3_values[256] = {F8_E4M3_VALUES};
static __device__ const float cu_e5m2_values[256] = {F8_E5M2_VALUES};

static __device__ __forceinline__ float cu_from_e8m0(uint8_t x) {
    return cu_bits_f32(x == 255 ? 0x7FC00000u : x ? (uint32_t)x << 23 : 0x00400000u);
}

/* Storage of a type, as dtype.def has it. */
typedef struct cu_dtype {
    int16_t values, bytes; /* of a block */
} cu_dtype;
static __device__ const cu_dtype cu_dtypes[DT_COUNT] = {
#define DTYPE(id, name, values, bytes, kind) {values, bytes},
#include "kernels/dtype.def"
#undef DTYPE
};

/* One scale, of f32, f16, bf16, f8_e8m0 or f8_e4m3. */
static __device__ inline float cu_scale(dtype dt, const uint8_t *p) {
    uint32_t u = p[0];
    if (dt == DT_F8_E8M0) return cu_from_e8m0(p[0]);
    if (dt == DT_F8_E4M3) return cu_e4m3_values[u];
    u |= (uint32_t)p[1] << 8;
    if (dt == DT_F16) return cu_from_f16((uint16_t)u);
    if (dt == DT_BF16) return cu_from_bf16((uint16_t)u);
    return cu_bits_f32(u | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

static __device__ inline void cu_nibbles(const uint8_t *p, int32_t n, uint8_t *ret) {
    for (int32_t i = 0; i < n; i++) ret[i] = p[i / 2] >> i % 2 * 4 & 15;
}

#define QUANT_FN              static __device__ inline
#define QUANT_TABLE           static __device__ const
#define QUANT_RESTRICT        __restrict__
#define QUANT_F16             cu_from_f16
#define QUANT_E8M0            cu_from_e8m0
#define QUANT_E4M3            cu_e4m3_values
#define QUANT_SCALE           cu_scale
#define QUANT_SCALE_BYTES(dt) ((size_t)cu_dtypes[dt].bytes)
#define QUANT_NIBBLES         cu_nibbles
#define QUANT_STEP            16
#include "kernels/quant_codes.inc"
#include "kernels/quant_values.inc"

#define CU_RUN QUANT_RUN

static __device__ inline void cu_block_run(dtype dt, const uint8_t *block, int run, float *v) {
    switch (dt) {
#define CU_RUN_CASE(dt, runs, run_of)                                                              \
    case dt: run_of(block, run, v); break;
        QUANT_BLOCK_TYPES(CU_RUN_CASE)
#undef CU_RUN_CASE
    default: break;
    }
}

static __device__ inline codes_row cu_codes(dtype dt, const quant_spec *q, int32_t k,
                                            const void *side, const uint8_t *row) {
    codes_row r;
    int per = cu_dtypes[dt].values;
    r.q = q;
    r.bits = 8 * cu_dtypes[dt].bytes / per;
    r.codes = row;
    r.scales = row + (size_t)((k + per - 1) / per) * (size_t)cu_dtypes[dt].bytes;
    r.zeros = r.scales + QUANT_SCALE_BYTES(q->scale_dt) * (size_t)((k + q->group - 1) / q->group);
    if (!q->has_zeros) r.zeros = NULL;
    r.order = q->has_order ? (const int32_t *)side : NULL;
    r.table =
        dt == DT_E2M1      ? e2m1_values
        : dt == DT_F8_E4M3 ? cu_e4m3_values
        : dt == DT_F8_E5M2 ? cu_e5m2_values
        : dt == DT_TABLE4
            ? (const float *)((const char *)side + (q->has_order ? (size_t)k * sizeof(int32_t) : 0))
            : NULL;
    return r;
}

#endif
