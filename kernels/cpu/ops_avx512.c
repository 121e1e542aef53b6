/* The small ops of the avx512 level. */
#include <string.h>

#include "kernels/cpu/simd_avx512.h"
#include "kernels/kv8.h"

#define OPS_LEVEL "avx512"
#include "kernels/cpu/ops_body.inc"
