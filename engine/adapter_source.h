/* An adapter's directory: its config and its tensors, sorted by the base's module that they change.
 * Nothing here knows the base; adapter_delta.h turns a module into numbers, adapter.h binds them.
 *
 * Layouts: the peft library's (adapter_config.json with adapter_model.safetensors or .bin), and
 * ChatGLM's P-tuning v2 checkpoints (a model file that holds transformer.prefix_encoder.*). */
#ifndef ENGINE_ADAPTER_SOURCE_H
#define ENGINE_ADAPTER_SOURCE_H

#include "engine/adapter_config.h"
#include "engine/checkpoint.h"

/* What a tensor is to its module; shapes as stored. */
typedef enum adapter_role {
    ROLE_A,         /* [r,in] */
    ROLE_B,         /* [out,r] */
    ROLE_B_BIAS,    /* [out], lora_bias */
    ROLE_E,         /* [r,1], AdaLoRA */
    ROLE_MAGNITUDE, /* [out], DoRA */
    ROLE_EMBED_A,   /* [r,V] */
    ROLE_EMBED_B,   /* [H,r] */
    ROLE_IA3,       /* [out,1] or [1,in] */
    ROLE_WEIGHT,    /* the whole weight anew: modules_to_save */
    ROLE_BIAS,      /* the whole bias anew */
    ROLE_COUNT
} adapter_role;

typedef struct adapter_module {
    char *name;                     /* "model.layers.0.self_attn.q_proj" */
    const st_tensor *t[ROLE_COUNT]; /* borrowed from the source; NULL: none */
} adapter_module;

typedef struct adapter_source {
    adapter_config config;
    checkpoint files;
    adapter_module *modules; /* [n_modules] in the order of their first tensor */
    int32_t n_modules;
    map by_name;                 /* name -> index */
    const st_tensor *soft;       /* [n_virtual, width], or NULL */
    const st_tensor *project[4]; /* GLM: weight and bias of the two layers of its projection */
} adapter_source;

/* Errors name the file and the key or tensor; a tensor of unknown meaning is one. */
NODISCARD status adapter_source_open(const char *dir, adapter_source *ret, error *err);
void adapter_source_done(adapter_source *s);
const adapter_module *adapter_source_find(const adapter_source *s, const char *module);

/* A tensor's elements as f32 into ret[elements]. Values that are not finite are refused. */
NODISCARD status adapter_source_read(const adapter_source *s, const st_tensor *t, float *ret,
                                     error *err);
int64_t st_tensor_elements(const st_tensor *t);

#endif
