/* Limit of products of codes at the avxvnni level. */
#include <immintrin.h>

typedef __m256i vi;
#define PROBE_CODES          probe_codes_avxvnni
#define CHAINS               12
#define WIDTH                8
#define vi_set1(x)           _mm256_set1_epi32(x)
#define PROBE_DOT(acc, w, a) _mm256_dpbusd_avx_epi32(acc, w, a)
#include "kernels/cpu/probe_codes.inc"
