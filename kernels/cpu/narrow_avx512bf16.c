/* Products of codes with narrow weights of the avx512bf16 level, which is that of AMD's cores: dot
 * products run on two of their four vector units, the other two unpack codes meanwhile, so tiles of
 * any number take codes as they are stored. Six rows x 2 vectors are two sets of 12 sums, of
 * integers and f32, in registers; 8 rows spill some, but read a panel once. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/levels.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/ints_zmm.inc"

/* In assembly: with the builtin gcc 12 copies and spills sums in every step. */
SIMD_FN vi vi_dot(vi acc, vi w, vi a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
    return acc;
}
#define VI_DOT          vi_dot
#define NARROW_MAX_CODE 255
#undef VF_STORE_SUM /* whole stores hold nothing up here */
#define VF_STORE_SUM(p, v) vf_store(p, v)
#define NARROW_TILE        12
#define NARROW_MR          8
#define NARROW_FEW         NARROW_MR
#define NARROW_DIRECT(M, k)                                                                        \
    M(1, 2, k) M(2, 2, k) M(3, 2, k) M(4, 2, k) M(5, 2, k) M(6, 2, k) M(7, 2, k) M(8, 2, k)
#define NARROW_ROW      avx512bf16_codes_narrow
#define NARROW_ROW_NAME "avx512bf16_codes_narrow"
#include "kernels/cpu/narrow_body.inc"
