/* The rows that the vector levels bring; one line per file that defines them. */
#ifndef KERNELS_CPU_LEVELS_H
#define KERNELS_CPU_LEVELS_H

#include "kernels/ref/rows.h"

extern const gemm_row avx2_gemm_f32, avx2_gemm_f16, avx2_gemm_bf16;       /* gemm_avx2.c */
extern const gemm_row avx512_gemm_f32, avx512_gemm_f16, avx512_gemm_bf16; /* gemm_avx512.c */
extern const gemm_row avx512bf16_gemm_bf16;                               /* gemm_avx512bf16.c */
extern const gemm_row avx512fp16_gemm_f16, avx512fp16_gemm_bf16;          /* gemm_avx512fp16.c */

/* pack_avx512fp16.c: WMAT_HALVES */
void avx512fp16_pack(wmat *w, int32_t row0, int32_t n_rows, const void *src, dtype src_dt,
                     int64_t src_stride);

extern const attention_row avx2_attention_f32, avx2_attention_bf16; /* attention_avx2.c */
extern const attention_row avx2_attention_int8, avx2_attention_f8;
extern const attention_row avx512_attention_f32, avx512_attention_bf16; /* attention_avx512.c */
extern const attention_row avx512_attention_int8, avx512_attention_f8;

extern const attention_row avxvnni_attention_int8;    /* attention_avxvnni.c */
extern const attention_row avx512vnni_attention_int8; /* attention_avx512vnni.c */

extern const attention_row avx2_latent_f32, avx2_latent_bf16; /* attention_avx2.c */
extern const attention_row avx2_latent_int8, avx2_latent_f8;
extern const attention_row avx512_latent_f32, avx512_latent_bf16; /* attention_avx512.c */
extern const attention_row avx512_latent_int8, avx512_latent_f8;

extern const code_row avx2_codes_int8;                         /* codes_avx2.c */
extern const code_row avxvnni_codes_int8;                      /* codes_avxvnni.c */
extern const code_row avx512vnni_codes_int8;                   /* codes_avx512vnni.c */
extern const code_row avx512bf16_codes_int8;                   /* codes_avx512bf16.c */
extern const code_row avx2_codes_narrow, avxvnni_codes_narrow; /* narrow_avx2.c, .. */
extern const code_row avx512vnni_codes_narrow, avx512bf16_codes_narrow;

extern const value_row avx2_values, avx512_values; /* values_avx2.c, .. */

/* ops_avx2.c, ops_avx512.c */
extern const embed_row avx2_embed, avx512_embed;
extern const norm_row avx2_norm, avx512_norm;
extern const act_row avx2_act, avx512_act;
extern const add_row avx2_add, avx512_add;
extern const scale_row avx2_scale, avx512_scale;
extern const limit_row avx2_limit, avx512_limit;
extern const logsumexp_row avx2_logsumexp, avx512_logsumexp;
extern const rope_kv_row avx2_rope_kv, avx512_rope_kv;
extern const latent_kv_row avx2_latent_kv, avx512_latent_kv;

/* gemm_neon.c, attention_neon.c, ops_neon.c */
extern const gemm_row neon_gemm_f32, neon_gemm_f16, neon_gemm_bf16;
extern const attention_row neon_attention_f32, neon_attention_bf16, neon_attention_int8,
    neon_attention_f8, neon_latent_f32, neon_latent_bf16, neon_latent_int8, neon_latent_f8;
extern const embed_row neon_embed;
extern const norm_row neon_norm;
extern const act_row neon_act;
extern const add_row neon_add;
extern const scale_row neon_scale;
extern const limit_row neon_limit;
extern const logsumexp_row neon_logsumexp;
extern const rope_kv_row neon_rope_kv;
extern const latent_kv_row neon_latent_kv;
extern const gemm_row amx_gemm_bf16;        /* gemm_amx.c */
extern const code_row amx_codes_int8;       /* codes_amx.c */
extern const code_row neoni8mm_codes_int8;  /* codes_neoni8mm.c */
extern const code_row neondot_codes_int8;   /* codes_neondot.c */
extern const code_row neondot_codes_narrow; /* narrow_neondot.c */
extern const gemm_row neonbf16_gemm_bf16;   /* gemm_neonbf16.c */

#endif
