/* Products of codes of the avxvnni level: 6 rows x 2 vectors of sums in 16 registers. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/ints_ymm.inc"

#define VI_DOT(acc, w, a) _mm256_dpbusd_avx_epi32(acc, w, a)
#include "kernels/cpu/codes_vnni.inc"

#define CODES_NAME(x)   avxvnni_codes_int8_##x
#define CODES_ROW       avxvnni_codes_int8
#define CODES_ROW_NAME  "avxvnni_codes_int8"
#define CODES_MR        6
#define CODES_MICROS(M) M(1, 4) M(2, 4) M(3, 4) M(4, 2) M(5, 2) M(6, 2)
#define CODES_CHUNK_OF  codes_int8_alone_chunk
#include "kernels/cpu/codes_int8_row.inc"
