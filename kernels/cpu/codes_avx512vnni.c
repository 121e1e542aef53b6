/* Products of codes of the avx512vnni level: 12 rows x 2 vectors of sums. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/ints_zmm.inc"

#define VI_DOT(acc, w, a) _mm512_dpbusd_epi32(acc, w, a)
#include "kernels/cpu/codes_vnni.inc"

#define CODES_NAME(x)  avx512vnni_codes_int8_##x
#define CODES_ROW      avx512vnni_codes_int8
#define CODES_ROW_NAME "avx512vnni_codes_int8"
#define CODES_MR       12
#define CODES_MICROS(M)                                                                            \
    M(1, 2)                                                                                        \
    M(2, 2) M(3, 2) M(4, 2) M(5, 2) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2) M(12, 2)
#define CODES_CHUNK_OF codes_int8_alone_chunk
#include "kernels/cpu/codes_int8_row.inc"
