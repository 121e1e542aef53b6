/* The small ops of the neon level. */
#include <string.h>

#include "kernels/cpu/simd_neon.h"
#include "kernels/kv8.h"

#define OPS_LEVEL "neon"
#include "kernels/cpu/ops_body.inc"
