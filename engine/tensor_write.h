/* Writing tensors to a file, one after another: what `pagoda make-tiny` and `pagoda convert` end
 * in. Files are written beside their place and renamed, so a name never holds half a file. */
#ifndef ENGINE_TENSOR_WRITE_H
#define ENGINE_TENSOR_WRITE_H

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "kernels/dtype.h"

typedef struct tensor_out {
    const char *name; /* borrowed */
    dtype dt;         /* as it is to be stored: f32, f16, bf16 */
    int32_t n_dims;
    int64_t dims[3]; /* outer to inner */
} tensor_out;

static inline int64_t tensor_out_count(const tensor_out *t) {
    int64_t n = 1;
    for (int32_t i = 0; i < t->n_dims; i++) n *= t->dims[i];
    return n;
}

/* Gives all elements of tensor i as f32, row-major, to ret [tensor_out_count]. Called once for each
 * tensor, in order. */
typedef status (*tensor_fill)(void *ctx, int32_t i, float *ret, error *err);

/* Make the directory for a model if it is not there. One that holds a config.json is refused:
 * what is left of two models would be taken for one. config.json is written last, so a directory
 * that has one is whole. */
NODISCARD status model_dir_make(const char *dir, error *err);

/* A safetensors file. Memory: the largest tensor as f32. */
NODISCARD status tensors_write_safetensors(const char *path, const tensor_out *list, int32_t n,
                                           tensor_fill fill, void *ctx, error *err);

/* A file being written under a temporary name. */
typedef struct out_file {
    const char *path; /* borrowed */
    char *tmp;
    int fd;
} out_file;
NODISCARD status out_file_open(const char *path, out_file *ret, error *err);
NODISCARD status out_file_put(out_file *f, const void *p, size_t n, error *err);
/* Flush and rename if st is OK, else remove; returns st or the failure. */
NODISCARD status out_file_close(out_file *f, status st, error *err);
/* All elements of one tensor, converted to its type; scratch for filling is made here. */
NODISCARD status out_file_tensor(out_file *f, const tensor_out *t, int32_t i, tensor_fill fill,
                                 void *ctx, error *err);

#endif
