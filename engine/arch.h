/* A family resolved against one config.json: dimensions, one description per layer that forward.c
 * runs, and the list of tensors with the place each has. */
#ifndef ENGINE_ARCH_H
#define ENGINE_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/family.h"
#include "engine/rope.h"
#include "kernels/ops.h"

/* Where a tensor goes: see slots.def. A weight may be made of several tensors stacked by rows: QKV
 * of q, k, v; of several items: one per expert or head. */
typedef enum weight_slot {
#define SLOT(name, text, of_layer, kind) name,
#include "engine/slots.def"
#undef SLOT
    W_SLOT_COUNT
} weight_slot;

typedef enum slot_kind { SLOT_TABLE, SLOT_MATRIX, SLOT_VECTOR } slot_kind;

typedef struct slot_info {
    const char *name;
    bool of_layer;
    slot_kind kind;
} slot_info;
extern const slot_info slot_infos[W_SLOT_COUNT];

/* Rows of a source tensor: part row r is source row start + (r / run) * stride + r % run. */
typedef struct row_view {
    int64_t start, run, stride;
} row_view;

typedef enum tensor_xform {
    XFORM_NONE,
    XFORM_PLUS_ONE, /* Gemma's norms: 1 + w */
    XFORM_L2_ROWS,  /* Baichuan2's head: rows of length 1 */
} tensor_xform;

/* One part of a slot: rows [row0, row0+rows) x cols (cols 0: a vector of `rows`). The source
 * tensor is [stack,] [src_rows, cols], or [stack,] [cols, src_rows] if transposed; the view picks
 * rows of it. `transpose_view`: the view picks `cols` rows of a [src_rows, rows] source. */
typedef struct arch_tensor {
    char *name; /* in the checkpoint */
    weight_slot slot;
    int32_t layer; /* -1: not of a layer */
    int32_t item;  /* expert or head, else 0 */
    int32_t row0, rows, cols;
    int64_t src_rows;
    row_view view;
    int32_t n_stack, stack; /* length of the leading dimension, 0: none; index in it */
    bool transpose;         /* stored [in, out]: Conv1D */
    bool transpose_view;
    tensor_xform xform;
} arch_tensor;

/* in the order of use: x' = alpha * (from_norm ? N(x) : x) + scale * N_out(f(N_in(x))), then
 * N_post of that. Each norm may be missing. */
typedef struct arch_branch {
    bool in_norm, out_norm, post_norm; /* in and post share a slot */
    bool from_norm;
    float alpha, scale;
} arch_branch;

typedef enum attn_kind { ATTN_GQA, ATTN_MLA } attn_kind;
typedef enum attn_mask { MASK_CAUSAL, MASK_BIDIR, MASK_PREFIX } attn_mask;
typedef enum qk_norm_kind { QK_NONE, QK_PER_HEAD, QK_FULL, QK_HEAD_WEIGHTS } qk_norm_kind;

typedef struct arch_attn {
    float scale;       /* of q.k */
    float softcap;     /* 0: none */
    float clip;        /* of q, k, v; 0: none */
    int32_t window;    /* 0: all positions */
    int32_t rope;      /* index into ropes, -1: none */
    int32_t logn_base; /* q *= log(pos+1)/log(base) past base; 0: off */
    float logn_beta;   /* not 0: q *= 1 + beta*log(1 + floor(pos/base)) instead */
    qk_norm_kind qk_norm;
    norm_kind qk_norm_kind;
    bool sinks;
} arch_attn;

typedef enum mlp_kind { MLP_NONE, MLP_DENSE, MLP_MOE } mlp_kind;

typedef struct arch_mlp {
    mlp_kind kind;
    act_kind act;
    bool gated;
    int32_t ffn; /* F, of one expert with MLP_MOE */
    /* MLP_MOE */
    int32_t n_experts, top_k, n_groups, top_groups;
    score_kind score;
    group_kind group_score;
    bool renorm;
    float route_scale;
    int32_t shared_ffn; /* 0: no shared expert */
    bool shared_gate;
} arch_mlp;

typedef struct arch_layer {
    arch_branch attn_branch, mlp_branch;
    bool parallel;    /* both branches read the same x */
    bool shared_norm; /* parallel: one norm for both */
    arch_attn attn;
    arch_mlp mlp;
} arch_layer;

typedef enum pos_kind { POS_DEFAULT, POS_OFFSET, POS_GLM2D } pos_kind;

typedef struct arch {
    char family[32];
    char architecture[64];
    int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab;
    int32_t ctx_max; /* positions the config allows, rope scaling included */
    norm_kind norm;
    float eps;

    int32_t embed_width; /* E */
    float embed_scale;
    bool proj_in, proj_out;
    bool embed_norm;
    pos_kind positions;
    int32_t pos_offset; /* POS_OFFSET */
    bool pos_embed;
    int32_t pos_embed_rows, pos_embed_offset;
    bool type_embed;

    attn_kind attn;
    attn_mask mask;
    int32_t latent, rope_width, nope_width, v_width, q_rank; /* MLA; q_rank 0: q is not factored */
    float latent_eps;
    float *alibi; /* [H] slopes, scaled as the scores are; NULL: none */

    bool final_norm;
    bool has_head;   /* false: an encoder */
    bool tied;       /* the head is the embedding */
    char *head_name; /* of the head's own tensor, stored or not; NULL: the family names none */
    float pre_head_scale, logit_scale, logit_softcap; /* 1, 1, 0: off */

    arch_layer *layers; /* [n_layers] */
    int32_t n_windows;  /* different ones among them, none counting as one */
    rope_spec *ropes;   /* [n_ropes], distinct */
    int32_t n_ropes;
    arch_tensor *tensors; /* [n_tensors] */
    int32_t n_tensors;
    char **ignore; /* [n_ignore] globs of tensors that may stay unused */
    int32_t n_ignore;
} arch;

/* Does the checkpoint hold a tensor of that name? */
typedef struct tensor_names {
    bool (*has)(void *ctx, const char *name);
    void *ctx;
} tensor_names;

/* For a config.json without weights: every tensor that the family may ask for is there, but for
 * biases that are looked up by name. */
bool arch_assumed_tensor(void *ctx, const char *name);

/* Errors name the file (config_path or the family's) and the key. */
NODISCARD status arch_resolve(const family *f, const json_t *config, const char *config_path,
                              tensor_names names, arch **ret, error *err);
void arch_free(arch *a); /* takes NULL */

/* Dimensions of the tensor as the checkpoint must have it; returns how many (1 to 3). */
int32_t arch_tensor_dims(const arch_tensor *t, int64_t ret[3]);
/* Numbers in all tensors; a table that is also the head counts once. */
int64_t arch_n_params(const arch *a);
/* The whole prompt must be in one step: its tokens see later ones. */
static inline bool arch_whole_prompt(const arch *a) {
    return a->mask != MASK_CAUSAL;
}

#endif
