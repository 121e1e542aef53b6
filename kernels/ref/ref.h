/* The reference rows: plain C, the meaning of every op. Their KV page layout is [G][S][D]. Experts
 * have no row: the driver (cpu/experts.c) makes them of gemm and act. */
#ifndef KERNELS_REF_REF_H
#define KERNELS_REF_REF_H

#include "kernels/ref/rows.h"

extern const embed_row ref_embed;
extern const norm_row ref_norm;
extern const gemm_row ref_gemm_f32, ref_gemm_f16, ref_gemm_bf16;
extern const rope_kv_row ref_rope_kv;
extern const attention_row ref_attention_f32, ref_attention_bf16;
extern const attention_row ref_attention_int8, ref_attention_f8;
extern const latent_kv_row ref_latent_kv;
extern const attention_row ref_latent_f32, ref_latent_bf16, ref_latent_int8, ref_latent_f8;
extern const act_row ref_act;
extern const add_row ref_add;
extern const scale_row ref_scale;
extern const limit_row ref_limit;
extern const route_row ref_route;
extern const copy_pages_row ref_copy_pages;
extern const logsumexp_row ref_logsumexp;

/* low: [n_rows,rank], scratch. */
void ref_lora(const op_lora *a, int32_t row0, int32_t row1, float *low);

/* The same at every level: all rows of the call. */
void ref_chain(const op_chain *a);
/* The optional op. */
void ref_sample(const op_sample *a);

#endif
