/* Elements of rows that feed products, of whatever type they are stored in (ops.h). */
#ifndef KERNELS_CUDA_CU_ROWS_H
#define KERNELS_CUDA_CU_ROWS_H

#include "kernels/cuda/cu_quant.h"
#include "kernels/cuda/cuda_gemm.h"

/* Element i of row r. */
static __device__ __forceinline__ float row_value(const gemm_rows &in, int64_t r, int32_t i) {
    int64_t at = r * in.stride + i;
    switch (in.dt) {
    case DT_F32: return ((const float *)in.p)[at];
    case DT_F16: return cu_from_f16(((const uint16_t *)in.p)[at]);
    case DT_BF16: return cu_from_bf16(((const uint16_t *)in.p)[at]);
    case DT_I8: return (float)((const int8_t *)in.p)[at] * in.scale[r];
    default: return cu_e4m3_values[((const uint8_t *)in.p)[at]] * in.scale[r];
    }
}

#endif
