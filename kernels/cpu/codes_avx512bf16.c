/* Products of codes of the avx512vnni level as cores of this level want them, which are AMD's (what
 * Intel makes of it has f16 too): Zen 5's own prefetcher follows one stream well, and a second
 * fetch of a line costs more than it brings; stores of 64 bytes hold nothing up. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/ints_zmm.inc"

#undef VF_STORE_SUM
#define VF_STORE_SUM(p, v) vf_store(p, v)
#define VI_DOT(acc, w, a)  _mm512_dpbusd_epi32(acc, w, a)
#include "kernels/cpu/codes_vnni.inc"

#define CODES_TUNED
#define BLOCK_BYTES    (30 * 1000)
#define BLOCK_AHEAD    0
#define BLOCK_FETCH    SIMD_PREFETCH
#define FEW_TILES      4
#define FEW_PANELS     1
#define FEW_BYTES      (120 * 1000) /* not in L1, but a panel begins and ends seldom */
#define FEW_AHEAD      1
#define NEAR_AHEAD(mr) ((mr) <= 4 ? 6 * 1024 : 10 * 1024) /* more rows, more time for a line */
#define FAR_AHEAD      0
#define ONE_PANELS     4
#define CODES_HELD     12

#define CODES_NAME(x)  avx512bf16_codes_int8_##x
#define CODES_ROW      avx512bf16_codes_int8
#define CODES_ROW_NAME "avx512bf16_codes_int8"
#define CODES_MR       12
#define CODES_MICROS(M)                                                                            \
    M(1, 2)                                                                                        \
    M(2, 2) M(3, 2) M(4, 2) M(5, 2) M(6, 2) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2) M(12, 2)
#define CODES_CHUNK_OF codes_int8_alone_chunk
#include "kernels/cpu/codes_int8_row.inc"
