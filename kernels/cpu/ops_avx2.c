/* The small ops of the avx2 level. */
#include <string.h>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/kv8.h"

#define OPS_LEVEL "avx2"
#include "kernels/cpu/ops_body.inc"
