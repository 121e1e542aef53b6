/* What the pickle of a torch.save file may make: storages (a run of numbers under a key) and
 * tensors (a shape over one of them). */
#ifndef ENGINE_PTH_OBJECT_H
#define ENGINE_PTH_OBJECT_H

#include "conf/limits.h"
#include "engine/base/map.h"
#include "engine/base/vec.h"
#include "engine/pickle.h"
#include "kernels/dtype.h"

typedef struct pth_type {
    const char *storage, *dtype_name; /* torch's names: "HalfStorage", "float16" */
    const char *name;                 /* ours: "F16" */
    dtype dt;
    uint8_t bytes;
} pth_type;

typedef struct pth_storage {
    str key;
    const pth_type *type;
    int64_t numel;
    uint64_t off, bytes; /* in the file: filled in by pth.c once it is known */
} pth_storage;

typedef struct pth_tensor {
    pth_storage *storage;
    const pth_type *type;
    int64_t first; /* its first element in the storage, in elements of `type` */
    int32_t n_dims;
    int64_t dims[LIMIT_TENSOR_DIMS], strides[LIMIT_TENSOR_DIMS];
} pth_tensor;

typedef struct pth_objects {
    VEC(pth_storage *) storages; /* in the order of their first mention */
    map by_key;
} pth_objects;

/* Rules of pickle_read; their ctx is a pth_objects. */
pickle_rules pth_rules(pth_objects *o);
void pth_objects_done(pth_objects *o);

/* The tensor of a value, NULL when it is none. */
const pth_tensor *pth_tensor_of(const pickle_value *v);

#endif
