/* The search of scales at level avx2. */
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/quantize_body.inc"
