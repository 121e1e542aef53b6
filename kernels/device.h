/* Which device computes: names to backends. The CPU is built in; CUDA is a shared object that is
 * opened by dlopen when it is asked for, so that the program itself starts on any machine. */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include "kernels/backend.h"

typedef struct device_options {
    const char *device; /* "auto", "cpu", "cuda" (the first), "cuda:N"; NULL: auto */
    cpu_options cpu;    /* where it is the CPU */
    strbuf *note;       /* auto: why it is not a GPU (appended, one sentence); may be NULL */
} device_options;

/* Open the device. auto is cuda where one can be used, else the CPU; with cpu.isa it is the CPU.
 * auto opens no plugin where device_signs has none and PAGODA_CUDA_LIBRARY is not set.
 * ERR_INVALID: no such name or index. ERR_NOT_FOUND: no plugin (the paths that were tried).
 * ERR_UNAVAILABLE: no driver, no device. ERR_UNSUPPORTED: a device or plugin that cannot be used.
 *
 * The plugin is libpagoda_cuda.so: the file that the environment variable PAGODA_CUDA_LIBRARY
 * names, else the first of: beside the program, kernels/cuda below it (a build folder), the
 * installation's library folder. */
NODISCARD status device_open(const device_options *o, backend **ret, error *err);

/* May there be an NVIDIA device? The files that a driver leaves below root ("": this machine's):
 * of Linux, of WSL, of Tegra, or the tool that loads it. */
bool device_signs(const char *root);

/* What there is, a line each, and why something cannot be used; or one JSON object:
 * {"devices": [{"device": "cuda:0", "name": ..., "usable": true, ...}, ...]}. */
void device_list(strbuf *out, bool json);

#endif
