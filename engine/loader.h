/* Reads a checkpoint's bytes into their final places: worker threads, each with a few blocks in
 * flight (io_uring where the system has it, else pread), packing one while the next are read, or,
 * on a device, leaving it to the copy engine. */
#ifndef ENGINE_LOADER_H
#define ENGINE_LOADER_H

#include "engine/weights.h"

typedef struct loader_options {
    int n_threads;      /* >= 1; at most LOADER_THREADS_MAX are used */
    bool no_uring;      /* tests: the pread path */
    size_t block_bytes; /* tests: of a read; 0: 2 MiB */
    bool measure_only;  /* quantise and note the errors, store nothing: w needs no memory */
    /* Called from the calling thread about ten times a second and at the end; may be NULL. */
    void (*progress)(void *ctx, size_t bytes_done, size_t bytes_total);
    void *ctx;
} loader_options;

#define LOADER_THREADS_MAX 8

/* Bytes of staging that a load of these weights needs of the host: part of the memory plan. */
size_t loader_staging_bytes(const weights *w, int n_threads);

/* Fill w (after weights_alloc), and w->errors. Errors name the file, or the tensor with a value
 * that cannot be quantised. */
NODISCARD status loader_run(weights *w, const checkpoint *c, const loader_options *o, error *err);

#endif
