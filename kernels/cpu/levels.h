/* The rows that the vector levels bring; one line per file that defines them. */
#ifndef KERNELS_CPU_LEVELS_H
#define KERNELS_CPU_LEVELS_H

#include "kernels/ref/rows.h"

extern const gemm_row avx2_gemm_f32, avx2_gemm_f16, avx2_gemm_bf16;       /* gemm_avx2.c */
extern const gemm_row avx512_gemm_f32, avx512_gemm_f16, avx512_gemm_bf16; /* gemm_avx512.c */
extern const gemm_row avx512bf16_gemm_bf16;                               /* gemm_avx512bf16.c */

#endif
