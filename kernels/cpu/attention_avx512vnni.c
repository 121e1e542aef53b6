/* Attention over int8 pages of the avx512vnni level: codes multiplied as they are. */
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/maker.h"
#include "kernels/kv8.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/simd_math.inc"
#include "kernels/cpu/ints_zmm.inc"
#include "kernels/cpu/attention_state.inc"

/* Codes as they count in dot products: 128 more. */
SIMD_FN vi vi_unsigned(vi v) {
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
}
/* Two features of VW keys each, where the rest of a four is 0 in the other operand. */
SIMD_FN vi vi_pair_unsigned(const char *a, const char *b) {
    __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)a));
    __m512i y = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)b));
    return vi_unsigned(_mm512_or_si512(x, _mm512_slli_epi32(y, 8)));
}
/* The first n lanes; the others are 0 and not read. */
SIMD_FN vi vi_load_lanes(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vi_load(p);
    return _mm512_maskz_loadu_epi32(vm_first(n), p);
}
SIMD_FN void vi_store_digits(uint8_t *high, uint8_t *low, vi v) {
    _mm_storeu_si128((__m128i *)high, _mm512_cvtepi32_epi8(_mm512_srli_epi32(v, 8)));
    _mm_storeu_si128((__m128i *)low, _mm512_cvtepi32_epi8(v));
}
#define AT_DOT_SUM(acc, u, s) _mm512_dpbusd_epi32(acc, u, s)

#define AT_MR     7
#define AT_WIDE   3
#define AT_MRS(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7)

#define AT_NAME(x)  avx512vnni_attention_int8_##x
#define AT_ROW      avx512vnni_attention_int8
#define AT_ROW_NAME "avx512vnni_attention_int8"
#define AT_KV       AT_KV_INT8
#define AT_DOT      1
#include "kernels/cpu/attention_body.inc"
