/* Products of codes of the neondot level: sdot, four columns of K summed into 32 bits. It takes
 * signed codes only, so 128 is taken from the weights' codes as they are loaded, and given back to
 * the sums by where they start. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/codes.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_neon.h"

typedef int32x4_t vi;

#define VI_KEEP(v) __asm__("" : "+w"(v))

SIMD_FN vi vi_set1(int32_t x) {
    return vdupq_n_s32(x);
}
SIMD_FN vi vi_load(const void *p) {
    return vreinterpretq_s32_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(128)));
}
SIMD_FN void vi_store(void *p, vi v) {
    vst1q_s32(p, v);
}
SIMD_FN vi vi_add(vi a, vi b) {
    return vaddq_s32(a, b);
}
SIMD_FN vi vi_from_f32(vf v) {
    return vcvtnq_s32_f32(v);
}
SIMD_FN void vi_store_i8(int8_t *p, vi v) {
    int16x4_t w = vmovn_s32(v);
    int32x2_t four = vreinterpret_s32_s8(vmovn_s16(vcombine_s16(w, w)));
    int32_t bytes = vget_lane_s32(four, 0);
    memcpy(p, &bytes, sizeof bytes);
}
SIMD_FN vf vi_to_f32(vi v) {
    return vcvtq_f32_s32(v);
}
SIMD_FN vi vi_load_i16(const int16_t *p) {
    return vmovl_s16(vld1_s16(p));
}
#define VI_DOT(acc, w, a) vdotq_s32(acc, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(a))
#define CODES_BIAS        128
#include "kernels/cpu/codes_vnni.inc"

#define CODES_NAME(x)   neondot_codes_int8_##x
#define CODES_ROW       neondot_codes_int8
#define CODES_ROW_NAME  "neondot_codes_int8"
#define CODES_MR        8
#define CODES_MICROS(M) M(1, 4) M(2, 4) M(3, 4) M(4, 4) M(5, 2) M(6, 2) M(7, 2) M(8, 2)
#include "kernels/cpu/codes_int8_row.inc"
