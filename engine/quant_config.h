/* How a checkpoint's quantised modules are stored: what config.json's quantization_config (or
 * quantize_config.json, quant_config.json beside it) says. Which modules are quantised is seen from
 * their tensors; what the config says of them is held against those. */
#ifndef ENGINE_QUANT_CONFIG_H
#define ENGINE_QUANT_CONFIG_H

#include "engine/base/json.h"
#include "engine/quant_match.h"
#include "kernels/quant.h"

typedef enum quant_method {
    QUANT_GPTQ,       /* qweight, qzeros, scales, g_idx */
    QUANT_AWQ,        /* qweight, qzeros, scales; the gemm layout */
    QUANT_COMPRESSED, /* compressed-tensors: the format says */
    QUANT_FP8,        /* weight, weight_scale or weight_scale_inv */
    QUANT_BNB,        /* bitsandbytes: NF4, FP4, int8 */
    QUANT_MXFP4,      /* experts' *_blocks and *_scales */
} quant_method;

/* Formats of compressed-tensors. */
typedef enum quant_format {
    FORMAT_PLAIN,  /* weights are floats */
    FORMAT_PACKED, /* weight_packed: integers of `bits` in words */
    FORMAT_INT8,   /* weight: int8 */
    FORMAT_FP8,    /* weight: E4M3 */
    FORMAT_FP4,    /* weight_packed: two E2M1 a byte */
} quant_format;

/* How one group of modules is stored. */
typedef struct quant_scheme {
    quant_format format;
    int bits;
    int32_t group; /* columns of one scale, -1: the whole row, 0: not said */
    bool symmetric;
    bool plus_one;            /* GPTQ v1: a stored zero is one too small */
    int32_t block_n, block_k; /* FP8 blocks, 0: none */
    act_round act;            /* activations are rounded before the product */
} quant_scheme;

/* A rule for some modules: compressed-tensors' groups, GPTQ's dynamic. */
typedef struct quant_rule {
    name_pattern *names; /* [n_names] */
    int32_t n_names;
    bool all;   /* every Linear */
    bool plain; /* must be stored as floats */
    quant_scheme scheme;
} quant_rule;

typedef struct quant_config {
    char *path; /* the file it is from */
    quant_method method;
    quant_rule *rules; /* [n_rules], the first that matches holds; the last is for all or none */
    int32_t n_rules;
    name_pattern *plain; /* [n_plain] modules that must be stored as floats */
    int32_t n_plain;
    size_t n_states; /* of all expressions together */
    bool kv_scales;  /* scales of a quantised KV cache may lie beside; they are not used */
} quant_config;

/* From a model directory and its parsed config.json. *ret is NULL when nothing is quantised.
 * Methods and variants that cannot be read are ERR_UNSUPPORTED; errors name file, key and value. */
NODISCARD status quant_config_read(const char *model_dir, const char *config_path,
                                   const json_t *config, quant_config **ret, error *err);
/* The same from the object itself; path is for errors. */
NODISCARD status quant_config_parse(const char *path, const json_t *q, quant_config **ret,
                                    error *err);
void quant_config_free(quant_config *q); /* takes NULL */

/* The scheme of a module; NULL where the config wants it stored as floats. */
const quant_scheme *quant_config_scheme(const quant_config *q, const char *module);
const char *quant_method_name(quant_method m); /* "gptq" */

#endif
