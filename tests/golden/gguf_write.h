/* GGUF files made by a test, byte by byte, to be read and damaged by it. */
#ifndef TESTS_GOLDEN_GGUF_WRITE_H
#define TESTS_GOLDEN_GGUF_WRITE_H

#include "engine/base/gguf.h"

/* {0} is an empty file of version 3. */
typedef struct gguf_writer {
    strbuf values, tensors, data;
    uint64_t n_values, n_tensors;
} gguf_writer;

void gguf_write_int(gguf_writer *w, const char *key, gguf_kind kind, uint64_t x);
void gguf_write_f32(gguf_writer *w, const char *key, float x);
void gguf_write_str(gguf_writer *w, const char *key, const char *text);
/* An array of n elements whose bytes are `raw`. */
void gguf_write_array(gguf_writer *w, const char *key, gguf_kind kind, uint64_t n, str raw);
void gguf_write_strs(gguf_writer *w, const char *key, const char *const *list, size_t n);
/* Its bytes go at the end of the data, aligned to 32; ne inner to outer. */
void gguf_write_tensor(gguf_writer *w, const char *name, uint32_t type, int n_dims,
                       const int64_t *ne, str data);
/* The whole file, appended to *ret; w is empty afterwards. */
void gguf_write_end(gguf_writer *w, strbuf *ret);

#endif
