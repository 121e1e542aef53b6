/* Attention over int8 pages of the avxvnni level: codes multiplied as they are. */
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/maker.h"
#include "kernels/kv8.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/simd_math.inc"
#include "kernels/cpu/ints_ymm.inc"
#include "kernels/cpu/attention_state.inc"

/* What these are: attention_avx512vnni.c. */
SIMD_FN vi vi_unsigned(vi v) {
    return _mm256_xor_si256(v, _mm256_set1_epi8((char)0x80));
}
SIMD_FN vi vi_pair_unsigned(const char *a, const char *b) {
    __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)a));
    __m256i y = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)b));
    return vi_unsigned(_mm256_or_si256(x, _mm256_slli_epi32(y, 8)));
}
SIMD_FN vi vi_load_lanes(const void *p, int n) {
    if (__builtin_constant_p(n) && n == VW) return vi_load(p);
    return _mm256_maskload_epi32((const int *)p, vm_first_i(n));
}
SIMD_FN void vi_store_digits(uint8_t *high, uint8_t *low, vi v) {
    __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    __m128i h = _mm_srli_epi16(w, 8), l = _mm_and_si128(w, _mm_set1_epi16(255));
    _mm_storel_epi64((__m128i *)high, _mm_packus_epi16(h, h));
    _mm_storel_epi64((__m128i *)low, _mm_packus_epi16(l, l));
}
#define AT_DOT_SUM(acc, u, s) _mm256_dpbusd_avx_epi32(acc, u, s)

#define AT_MR     3
#define AT_WIDE   1
#define AT_MRS(M) M(1) M(2) M(3)

#define AT_NAME(x)  avxvnni_attention_int8_##x
#define AT_ROW      avxvnni_attention_int8
#define AT_ROW_NAME "avxvnni_attention_int8"
#define AT_KV       AT_KV_INT8
#define AT_DOT      1
#include "kernels/cpu/attention_body.inc"
