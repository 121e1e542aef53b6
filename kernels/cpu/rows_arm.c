/* The tables of the vector levels of aarch64. */
#include "kernels/cpu/levels.h"

const cpu_rows rows_neon = {
    .gemm_f32 = &neon_gemm_f32,
    .gemm_f16 = &neon_gemm_f16,
    .gemm_bf16 = &neon_gemm_bf16,
    .attention_f32 = &neon_attention_f32,
    .attention_bf16 = &neon_attention_bf16,
    .attention_int8 = &neon_attention_int8,
    .attention_f8 = &neon_attention_f8,
    .rope_kv = &neon_rope_kv,
    .latent_f32 = &neon_latent_f32,
    .latent_bf16 = &neon_latent_bf16,
    .latent_int8 = &neon_latent_int8,
    .latent_f8 = &neon_latent_f8,
    .latent_kv = &neon_latent_kv,
    .embed = &neon_embed,
    .norm = &neon_norm,
    .act = &neon_act,
    .add = &neon_add,
    .scale = &neon_scale,
    .limit = &neon_limit,
    .logsumexp = &neon_logsumexp,
};

const cpu_rows rows_neondot = {
    .codes_int8 = &neondot_codes_int8,
    .codes_narrow = &neondot_codes_narrow,
};

const cpu_rows rows_neoni8mm = {
    .codes_int8 = &neoni8mm_codes_int8,
};

const cpu_rows rows_neonbf16 = {
    .gemm_bf16 = &neonbf16_gemm_bf16,
};
