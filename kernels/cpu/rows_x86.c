/* The tables of the vector levels. A level lists what it does better than the ones before it. */
#include "kernels/cpu/levels.h"

const cpu_rows rows_avx2 = {
    .gemm_f32 = &avx2_gemm_f32,
    .gemm_f16 = &avx2_gemm_f16,
    .gemm_bf16 = &avx2_gemm_bf16,
    .attention_f32 = &avx2_attention_f32,
    .attention_bf16 = &avx2_attention_bf16,
    .attention_int8 = &avx2_attention_int8,
    .attention_f8 = &avx2_attention_f8,
    .rope_kv = &avx2_rope_kv,
    .latent_f32 = &avx2_latent_f32,
    .latent_bf16 = &avx2_latent_bf16,
    .latent_int8 = &avx2_latent_int8,
    .latent_f8 = &avx2_latent_f8,
    .latent_kv = &avx2_latent_kv,
    .embed = &avx2_embed,
    .norm = &avx2_norm,
    .act = &avx2_act,
    .add = &avx2_add,
    .scale = &avx2_scale,
    .limit = &avx2_limit,
    .logsumexp = &avx2_logsumexp,
    .codes_int8 = &avx2_codes_int8,
    .codes_narrow = &avx2_codes_narrow,
    .values = &avx2_values,
};

const cpu_rows rows_avxvnni = {
    .attention_int8 = &avxvnni_attention_int8,
    .codes_int8 = &avxvnni_codes_int8,
    .codes_narrow = &avxvnni_codes_narrow,
};

const cpu_rows rows_avx512 = {
    .gemm_f32 = &avx512_gemm_f32,
    .gemm_f16 = &avx512_gemm_f16,
    .gemm_bf16 = &avx512_gemm_bf16,
    .attention_f32 = &avx512_attention_f32,
    .attention_bf16 = &avx512_attention_bf16,
    .attention_int8 = &avx512_attention_int8,
    .attention_f8 = &avx512_attention_f8,
    .rope_kv = &avx512_rope_kv,
    .latent_f32 = &avx512_latent_f32,
    .latent_bf16 = &avx512_latent_bf16,
    .latent_int8 = &avx512_latent_int8,
    .latent_f8 = &avx512_latent_f8,
    .latent_kv = &avx512_latent_kv,
    .embed = &avx512_embed,
    .norm = &avx512_norm,
    .act = &avx512_act,
    .add = &avx512_add,
    .scale = &avx512_scale,
    .limit = &avx512_limit,
    .logsumexp = &avx512_logsumexp,
    .values = &avx512_values,
};

const cpu_rows rows_avx512vnni = {
    .attention_int8 = &avx512vnni_attention_int8,
    .codes_int8 = &avx512vnni_codes_int8,
    .codes_narrow = &avx512vnni_codes_narrow,
};

const cpu_rows rows_avx512bf16 = {
    .gemm_bf16 = &avx512bf16_gemm_bf16,
    .codes_int8 = &avx512bf16_codes_int8,
    .codes_narrow = &avx512bf16_codes_narrow,
};

const cpu_rows rows_avx512fp16 = {
    .gemm_f16 = &avx512fp16_gemm_f16,
    .gemm_bf16 = &avx512fp16_gemm_bf16,
    .codes_int8 = &avx512vnni_codes_int8, /* of Intel's cores: not what avx512bf16 has */
    .codes_narrow = &avx512vnni_codes_narrow,
};

const cpu_rows rows_amx = {
    .gemm_bf16 = &amx_gemm_bf16,
    .codes_int8 = &amx_codes_int8,
};
