/* The search of scales at level neon. */
#include "kernels/cpu/simd_neon.h"

#include "kernels/cpu/quantize_body.inc"
