/* `pagoda bench kernels`: times the rows of a backend on shapes of real models and prints each as a
 * fraction of the limit that was probed in the same second. */
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

#include <stdio.h>

#include "engine/base/status.h"

typedef struct bench_options {
    const char *device; /* kernels/device.h; NULL: cpu */
    const char *isa;    /* of the CPU; NULL: best */
    int n_threads;      /* 0: one per usable CPU */
    const char *op;     /* NULL: all; else lines whose name contains it */
} bench_options;

/* Writes a table to `out`. Takes about half a second a line and 1 GB of memory. */
NODISCARD status bench_kernels(const bench_options *o, FILE *out, error *err);

#endif
