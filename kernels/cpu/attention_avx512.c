/* Attention of the avx512 level: products in f32, KV pages in f32, bf16 or eight bits. */
#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/maker.h"
#include "kernels/kv8.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/mac.inc"
#include "kernels/cpu/simd_math.inc"
#include "kernels/cpu/attention_state.inc"

#define AT_MR   12
#define AT_WIDE 6
/* clang-format off */
#define AT_MRS(M) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12)
/* clang-format on */

#define AT_NAME(x)  avx512_attention_f32_##x
#define AT_ROW      avx512_attention_f32
#define AT_ROW_NAME "avx512_attention_f32"
#define AT_KV       AT_KV_F32
#include "kernels/cpu/attention_body.inc"

#define AT_NAME(x)  avx512_attention_bf16_##x
#define AT_ROW      avx512_attention_bf16
#define AT_ROW_NAME "avx512_attention_bf16"
#define AT_KV       AT_KV_BF16
#include "kernels/cpu/attention_body.inc"

#define AT_NAME(x)  avx512_attention_int8_##x
#define AT_ROW      avx512_attention_int8
#define AT_ROW_NAME "avx512_attention_int8"
#define AT_KV       AT_KV_INT8
#include "kernels/cpu/attention_body.inc"

#define AT_NAME(x)  avx512_attention_f8_##x
#define AT_ROW      avx512_attention_f8
#define AT_ROW_NAME "avx512_attention_f8"
#define AT_KV       AT_KV_F8
#include "kernels/cpu/attention_body.inc"

#define LT_MR    6
#define AT_LEVEL "avx512"
/* clang-format off */
#define LT_MRS(M) M(1) M(2) M(3) M(4) M(5) M(6)
/* clang-format on */
#include "kernels/cpu/latent_body.inc"
