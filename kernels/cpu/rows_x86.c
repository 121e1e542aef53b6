/* The tables of the vector levels. A level lists what it does better than the ones before it. */
#include "kernels/cpu/levels.h"

const cpu_rows rows_avx2 = {
    .gemm_f32 = &avx2_gemm_f32,
    .gemm_f16 = &avx2_gemm_f16,
    .gemm_bf16 = &avx2_gemm_bf16,
};

const cpu_rows rows_avx512 = {
    .gemm_f32 = &avx512_gemm_f32,
    .gemm_f16 = &avx512_gemm_f16,
    .gemm_bf16 = &avx512_gemm_bf16,
};

const cpu_rows rows_avx512bf16 = {
    .gemm_bf16 = &avx512bf16_gemm_bf16,
};
