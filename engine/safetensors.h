/* safetensors: an 8-byte little-endian header length, a JSON header {name: {dtype, shape,
 * data_offsets}}, then the bytes. Everything is checked before anything is believed: bounds,
 * sizes against shapes, overlaps, holes, duplicate names.
 * Format: https://github.com/huggingface/safetensors (README, "Format"). */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H

#include <stdint.h>

#include "conf/limits.h"
#include "engine/base/map.h"
#include "engine/base/status.h"
#include "kernels/dtype.h"

typedef struct st_tensor {
    char *name;
    char dtype_name[16]; /* as in the file: "BF16" */
    dtype dt;            /* DT_COUNT when it is none of ours (F64, F8_E4M3, ...) */
    int32_t n_dims;
    int64_t dims[LIMIT_TENSOR_DIMS];
    uint64_t off, bytes; /* in the file */
    int32_t file;        /* index into the checkpoint's files */
} st_tensor;

/* All tensors of a model directory. */
typedef struct checkpoint {
    char **files; /* [n_files] paths */
    int32_t n_files;
    st_tensor *tensors; /* [n_tensors] by file, then offset */
    int32_t n_tensors, cap;
    map by_name; /* name -> index */
    uint64_t data_bytes;
} checkpoint;

/* model.safetensors, or the shards of model.safetensors.index.json, or the directory's only
 * *.safetensors. */
NODISCARD status checkpoint_open(const char *model_dir, checkpoint *ret, error *err);
void checkpoint_done(checkpoint *c);
const st_tensor *checkpoint_find(const checkpoint *c, const char *name); /* NULL: none */

/* One header's text, added to c as file `file`; data_off and data_bytes say where the bytes are.
 * On error c keeps what it had. Errors name path and tensor. */
NODISCARD status safetensors_add(checkpoint *c, str header, const char *path, int32_t file,
                                 uint64_t data_off, uint64_t data_bytes, error *err);

/* "[2048, 128] BF16" */
void st_tensor_describe(const st_tensor *t, char *out, size_t n);

#endif
