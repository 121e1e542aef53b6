/* Limit of products of codes at the neoni8mm level: an instruction is as many as of eight sums. */
#include <arm_neon.h>

typedef int32x4_t vi;
#define PROBE_CODES          probe_codes_neoni8mm
#define CHAINS               24
#define WIDTH                8
#define PROBE_KEEP           "w"
#define vi_set1(x)           vdupq_n_s32(x)
#define PROBE_DOT(acc, w, a) vusmmlaq_s32(acc, vreinterpretq_u8_s32(w), vreinterpretq_s8_s32(a))
#include "kernels/cpu/probe_codes.inc"
