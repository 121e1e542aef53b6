/* A checkpoint: the names, types and shapes of a model's tensors and where their bytes are,
 * whatever container holds them. safetensors.h, gguf.h and pth.h read their container's headers and
 * fill this table; who reads bytes (loader.h) needs nothing but the table. */
#ifndef ENGINE_CHECKPOINT_H
#define ENGINE_CHECKPOINT_H

#include <stdint.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/map.h"
#include "engine/base/status.h"
#include "kernels/dtype.h"

/* A stored tensor: `bytes` consecutive bytes of one file, little endian, row-major. */
typedef struct st_tensor {
    char *name;
    char dtype_name[16]; /* as the container calls it: "BF16" */
    dtype dt;            /* DT_COUNT when it is none of ours (F64, C64, ...) */
    int32_t n_dims;
    int64_t dims[LIMIT_TENSOR_DIMS]; /* outer to inner */
    uint64_t off, bytes;             /* in the file */
    int32_t file;                    /* index into the checkpoint's files */
} st_tensor;

/* All tensors of a model. */
typedef struct checkpoint {
    char **files; /* [n_files] paths */
    int32_t n_files;
    st_tensor *tensors; /* [n_tensors] by file, then in the container's order or by offset */
    int32_t n_tensors, cap;
    map by_name; /* name -> index */
    uint64_t data_bytes;
    file_map *maps; /* [n_files] those that checkpoint_map has opened; NULL before the first */
    struct quant_config *quant; /* how quantised modules are stored; owned; NULL: none are */
    json_t *config; /* what the container says of the model as a config.json (GGUF), else NULL */
} checkpoint;

/* `model` is a file (*.safetensors, *.gguf, a torch file) or a directory: the shards of
 * model.safetensors.index.json, else model.safetensors, else the same of pytorch_model.bin, else
 * its only *.gguf model, else its only *.safetensors. Errors name path, tensor and key. */
NODISCARD status checkpoint_open(const char *model, checkpoint *ret, error *err);
/* One file, by its name or first bytes: also an adapter's adapter_model.safetensors or .bin. */
NODISCARD status checkpoint_open_file(const char *path, checkpoint *ret, error *err);
void checkpoint_done(checkpoint *c);
const st_tensor *checkpoint_find(const checkpoint *c, const char *name); /* NULL: none */

/* The bytes of a file, mapped read-only until checkpoint_done. */
NODISCARD status checkpoint_map(checkpoint *c, int32_t file, const char **ret, error *err);

/* Loading is over: the mapped pages may leave memory. They come back when they are read. */
void checkpoint_rest(const checkpoint *c);

/* Does the model describe itself (a GGUF file, or a directory whose weights are one)? Then its
 * config is checkpoint.config and not a config.json. */
bool checkpoint_has_config(const char *model);

bool checkpoint_has_weights(const char *dir);

/* "[2048, 128] BF16" */
void st_tensor_describe(const st_tensor *t, char *out, size_t n);

/* For the readers of containers. */
int32_t checkpoint_add_path(checkpoint *c, char *path); /* takes path; returns its file index */
/* Append t (its name is copied from `name`). Errors: too many tensors, a NUL in the name. */
NODISCARD status checkpoint_push(checkpoint *c, st_tensor t, str name, error *err);
void checkpoint_cut(checkpoint *c, int32_t n_tensors); /* forget those pushed after the first n */

#endif
