/* Products of codes with narrow weights of the avx512vnni level: 7 rows x 2 vectors, in integers
 * and in f32. */
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
#define NARROW_MR       7
#define NARROW_MICROS(M, k)                                                                        \
    M(1, 2, k) M(2, 2, k) M(3, 2, k) M(4, 2, k) M(5, 2, k) M(6, 2, k) M(7, 2, k)
#define NARROW_FEW          7
#define NARROW_DIRECT(M, k) NARROW_MICROS(M, k)
#define NARROW_ROW          avx512vnni_codes_narrow
#define NARROW_ROW_NAME     "avx512vnni_codes_narrow"
#include "kernels/cpu/narrow_body.inc"
