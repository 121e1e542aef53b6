/* Writing GGUF (version 3, little endian): key/values first, then tensors.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. */
#ifndef ENGINE_GGUF_WRITE_H
#define ENGINE_GGUF_WRITE_H

#include "engine/base/str.h"
#include "engine/tensor_write.h"

typedef struct gguf_writer {
    strbuf kv;
    uint64_t n_kv;
} gguf_writer;

void gguf_put_str(gguf_writer *g, const char *key, str value);
void gguf_put_u32(gguf_writer *g, const char *key, uint32_t value);
void gguf_put_f32(gguf_writer *g, const char *key, float value);
void gguf_put_bool(gguf_writer *g, const char *key, bool value);
/* Arrays: n elements follow by gguf_add_*, exactly so many. */
void gguf_begin_strings(gguf_writer *g, const char *key, uint64_t n);
void gguf_add_str(gguf_writer *g, str value);
void gguf_put_i32s(gguf_writer *g, const char *key, const int32_t *list, uint64_t n);
void gguf_put_f32s(gguf_writer *g, const char *key, const float *list, uint64_t n);
void gguf_put_u8s(gguf_writer *g, const char *key, str bytes);
void gguf_put_bools(gguf_writer *g, const char *key, const bool *list, uint64_t n);
void gguf_writer_done(gguf_writer *g);

/* The header with these tensors; data begins at its end, which is aligned. */
void gguf_header(const gguf_writer *g, const tensor_out *list, int32_t n, strbuf *out);
/* The whole file. Memory: the largest tensor as f32. */
NODISCARD status gguf_write(const char *path, const gguf_writer *g, const tensor_out *list,
                            int32_t n, tensor_fill fill, void *ctx, error *err);

#endif
