/* A family resolved against one config.json: dimensions, one description per layer that forward.c
 * runs, and the list of tensors with the place each has. */
#ifndef ENGINE_ARCH_H
#define ENGINE_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/family.h"
#include "engine/rope.h"
#include "kernels/ops.h"

/* Where a tensor goes. A weight may be made of several tensors stacked by rows: QKV of q, k, v. The
 * bias of a layer's matrix is the slot after it. */
typedef enum weight_slot {
    W_EMBED,      /* [V,C] table, as stored */
    W_ATTN_NORM,  /* [C] */
    W_QKV,        /* [(H+2G)*D,C] */
    W_QKV_BIAS,   /* [(H+2G)*D] */
    W_Q_NORM,     /* [D] */
    W_K_NORM,     /* [D] */
    W_O,          /* [C,H*D] */
    W_O_BIAS,     /* [C] */
    W_MLP_NORM,   /* [C] */
    W_UP,         /* [2F,C] gate above up, or [F,C] */
    W_UP_BIAS,    /* the same rows */
    W_DOWN,       /* [C,F] */
    W_DOWN_BIAS,  /* [C] */
    W_FINAL_NORM, /* [C] */
    W_HEAD,       /* [V,C] */
    W_SLOT_COUNT
} weight_slot;

typedef struct arch_tensor {
    char *name; /* in the checkpoint */
    weight_slot slot;
    int32_t layer;            /* -1: not of a layer */
    int32_t row0, rows, cols; /* its rows of the slot; cols 0: a vector of `rows` */
} arch_tensor;

/* One layer: x += attn(norm(x)); x += mlp(norm(x)). */
typedef struct arch_layer {
    float scale;    /* of q.k */
    int32_t window; /* 0: all positions */
    int32_t rope;   /* index into ropes, -1: none */
    bool qk_norm;   /* RMS over each head of q and k, before the rotation */
    bool qkv_bias, o_bias;
    act_kind act;
    bool gated;
    bool up_bias, down_bias;
} arch_layer;

typedef struct arch {
    char family[32];
    char architecture[64];
    int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab;
    int32_t ctx_max; /* positions the config allows, rope scaling included */
    norm_kind norm;
    float eps;
    bool tied;          /* the head is the embedding */
    arch_layer *layers; /* [n_layers] */
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

/* Errors name the file (config_path or the family's) and the key. */
NODISCARD status arch_resolve(const family *f, const json_t *config, const char *config_path,
                              tensor_names names, arch **ret, error *err);
void arch_free(arch *a); /* takes NULL */

/* Rows and columns of a slot in layer l (cols 0: a vector); rows 0 when the layer has none. */
void arch_slot_shape(const arch *a, int32_t l, weight_slot slot, int32_t *ret_rows,
                     int32_t *ret_cols);
const char *weight_slot_name(weight_slot slot);

#endif
