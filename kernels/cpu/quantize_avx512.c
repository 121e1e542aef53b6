/* The search of scales at level avx512. */
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/quantize_body.inc"
