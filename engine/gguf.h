/* GGUF models: tensors into the table of a checkpoint, metadata into a config.json.
 *
 * The config has the names that Hugging Face configs use (hidden_size, rope_scaling.factor, ...),
 * so that families read both alike, and architectures ["gguf-<general.architecture>"]: the families
 * of conf/archs/gguf_*.json know the names of the tensors and what llama.cpp's converter changed in
 * them (permuted rows, norms that hold 1 + w). Nothing is renamed or permuted in code. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include "engine/base/gguf.h"
#include "engine/checkpoint.h"

/* The tensors of a model and c->config; c must be empty. `path` may be any part of a split model
 * (NAME-00002-of-00005.gguf): all parts are read, from the same directory. */
NODISCARD status gguf_add_model(checkpoint *c, const char *path, error *err);

/* The config of a model's parts: keys are those of the first, tensors may be in any. `path` is for
 * errors; the caller owns *ret. */
NODISCARD status gguf_config(const gguf *parts, int32_t n_parts, const char *path, json_t **ret,
                             error *err);

/* "NAME-00002-of-00005.gguf": the stem "NAME", 2 (1-based) and 5; false for other names. */
bool gguf_split_name(str path, str *ret_stem, int32_t *ret_no, int32_t *ret_count);

#endif
