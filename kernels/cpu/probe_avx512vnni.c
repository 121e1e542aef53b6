/* Limit of products of codes at the avx512vnni level. */
#include <immintrin.h>

typedef __m512i vi;
#define PROBE_CODES          probe_codes_avx512vnni
#define CHAINS               24
#define WIDTH                16
#define vi_set1(x)           _mm512_set1_epi32(x)
#define PROBE_DOT(acc, w, a) _mm512_dpbusd_epi32(acc, w, a)
#include "kernels/cpu/probe_codes.inc"
