/* What a backend in a shared object of its own gives to the program: one exported struct. The
 * program and the plugin must be of one build: both carry the same number and version. */
#ifndef KERNELS_DEVICE_PLUGIN_H
#define KERNELS_DEVICE_PLUGIN_H

#include "kernels/backend.h"

/* Changes with the interface: counted up by hand when only the meaning of something changes, the
 * rest by the sizes of all that passes between the two. */
#define DEVICE_PLUGIN_REVISION 2
enum {
    DEVICE_PLUGIN_ABI = DEVICE_PLUGIN_REVISION * 0x100000 + sizeof(backend_vtbl) +
                        3 * sizeof(backend) + 5 * sizeof(wmat) + 7 * (int)DT_COUNT +
                        sizeof(op_bounds) + sizeof(op_sample) + 9 * sizeof(sample_row) +
                        11 * sizeof(sample_result)
#define OP(name, tol32, tol16, what) +(int)sizeof(op_##name)
#include "kernels/ops.def"
#undef OP
                        + (int)(sizeof(op_sample) + sizeof(sample_row) + sizeof(sample_result))
};

/* One device, for people and for lists. */
typedef struct device_info {
    char name[96];
    int cc;                         /* compute capability: 90 is 9.0 */
    size_t free_bytes, total_bytes; /* of its memory */
    int driver, runtime;            /* 13000 is 13.0: the highest CUDA the driver takes, and ours */
} device_info;

typedef struct device_plugin {
    int32_t abi;         /* DEVICE_PLUGIN_ABI; nothing else is read where it differs */
    const char *version; /* of the program it was built with */
    /* How many devices there are, at least 1. ERR_UNAVAILABLE: none, and why: no driver, a driver
     * that is too old, no device. */
    status (*count)(int *ret, error *err);
    /* ERR_INVALID: there is no such index. *ret is filled even where the device is not usable
     * (ERR_UNSUPPORTED), as far as it is known. */
    status (*info)(int index, device_info *ret, error *err);
    status (*open)(int index, backend **ret, error *err);
} device_plugin;

/* The name of the exported struct. */
#define DEVICE_PLUGIN_SYMBOL "pagoda_cuda_plugin"

#endif
