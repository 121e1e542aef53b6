/* Products of codes with narrow weights of the avxvnni level: 6 rows x 2 vectors of integer sums;
 * what they are scaled to stays in L1. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/ints_ymm.inc"

#define VI_DOT(acc, w, a)   _mm256_dpbusd_avx_epi32(acc, w, a)
#define NARROW_MAX_CODE     255
#define NARROW_MR           6
#define NARROW_MICROS(M, k) M(1, 4, k) M(2, 4, k) M(3, 2, k) M(4, 2, k) M(5, 2, k) M(6, 2, k)
#define NARROW_FEW          4
#define NARROW_DIRECT(M, k) M(1, 4, k) M(2, 2, k) M(3, 2, k) M(4, 2, k)
#define NARROW_ROW          avxvnni_codes_narrow
#define NARROW_ROW_NAME     "avxvnni_codes_narrow"
#include "kernels/cpu/narrow_body.inc"
