/* Model files into other model files: another storage type, shards, container or naming. What is
 * copied are the numbers of slots, so that any family that both sides describe can be converted. */
#ifndef ENGINE_CONVERT_H
#define ENGINE_CONVERT_H

#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "kernels/dtype.h"

typedef struct gguf_writer gguf_writer;

typedef struct convert_options {
    const char *model;         /* a directory or GGUF file */
    const char *register_path; /* more families, or NULL */
    const char *adapter;       /* a LoRA directory to merge, or NULL */
    const char *out;           /* a directory, made if it is not there; or NAME.gguf */
    dtype dt;                  /* f32, f16, bf16; DT_COUNT: as stored, quantised weights as f16 */
    uint64_t shard_bytes;      /* most bytes of a safetensors file; 0: one file */
    /* Add what a GGUF file says of the tokenizer, before anything is written; may be NULL. `rows`
     * is the model's vocabulary: so many tokens there should be. */
    status (*add_tokenizer)(void *ctx, int32_t rows, gguf_writer *g, error *err);
    void *ctx;
} convert_options;

/* Writes config.json and weights, or one GGUF file. Files of a tokenizer are the caller's business.
 * Errors name file, tensor and key. Memory: the largest tensor as f32. */
NODISCARD status convert_run(const convert_options *o, error *err);

#endif
