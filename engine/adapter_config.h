/* adapter_config.json as the peft library writes it: which kind of adapter, and the numbers that
 * its tensors do not tell. Keys that would change the result and are not supported here are refused
 * by file, key and value; so are unknown keys with a value that says anything. */
#ifndef ENGINE_ADAPTER_CONFIG_H
#define ENGINE_ADAPTER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/json.h"
#include "engine/base/status.h"

typedef enum adapter_kind {
    ADAPTER_LORA,       /* also rsLoRA and DoRA: y = (W + s B A) x */
    ADAPTER_ADALORA,    /* W + s B (A * E) */
    ADAPTER_IA3,        /* outputs, or the inputs of feed-forward modules, times a vector */
    ADAPTER_PROMPT,     /* embeddings of virtual tokens: prompt tuning, P-tuning */
    ADAPTER_PREFIX,     /* keys and values of virtual tokens */
    ADAPTER_PREFIX_GLM, /* the same from ChatGLM's own training: positions are not shifted */
} adapter_kind;

typedef struct adapter_config {
    adapter_kind kind;
    char *path;                  /* of the file, for errors */
    json_t *root;                /* the file; NULL with ADAPTER_PREFIX_GLM */
    int32_t r, init_r;           /* LoRA; AdaLoRA */
    double alpha;                /* lora_alpha */
    bool rslora, dora;           /* scale is alpha / sqrt(r); magnitude vectors */
    bool tie;                    /* ensure_weight_tying: the head follows the embedding */
    int32_t n_virtual;           /* soft prompts */
    int32_t n_layers, token_dim; /* of a soft prompt, 0: not said */
} adapter_config;

NODISCARD status adapter_config_read(const char *path, adapter_config *ret, error *err);
/* The same from the file's text; path is for errors. */
NODISCARD status adapter_config_parse(str text, const char *path, adapter_config *ret, error *err);
void adapter_config_done(adapter_config *c);
const char *adapter_kind_name(adapter_kind k); /* "lora" */

/* The factor of B A for a module, whose A has `rank` rows: alpha_pattern and rank_pattern are
 * consulted. ERR_FORMAT when the config says another rank. */
NODISCARD status adapter_config_scale(const adapter_config *c, const char *module, int32_t rank,
                                      double *ret, error *err);
/* Does the config's list of target modules name this module (or a parent's last components)?
 * False also when the targets are no list. */
bool adapter_config_targets(const adapter_config *c, const char *module, int32_t layer);

#endif
