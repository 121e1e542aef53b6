/* Loading weights into memory that is not the host's: slots of host memory that files are read into
 * and that the device copies from by itself, while the program reads the next. For backends whose
 * copies run beside the program; elsewhere packing is a copy by the CPU anyway. */
#ifndef KERNELS_LOADING_H
#define KERNELS_LOADING_H

#include "kernels/backend.h"

typedef struct load_slot {
    char *p; /* [bytes] host memory */
    size_t bytes;
    void *passed; /* the backend's: what says that the last copy is over */
} load_slot;

/* Slots are opened by one thread; after that each is used by one thread at a time.
 *
 * pack and upload begin a copy from src, which lies in the slot, and return at once: wait before
 * the slot is written again. They are not ordered with ops: close, which waits, comes before the
 * first. Failures are those of the backend: the next sync tells them. */
typedef struct loading {
    status (*open)(backend *b, size_t bytes, load_slot *ret, error *err);
    void (*close)(backend *b, load_slot *s); /* takes one that is zeroed */
    void (*wait)(backend *b, load_slot *s);
    /* As wmat_pack with rows one after another, or quant_pack. False, and nothing is begun, where
     * the rows must be changed on their way: wmat_pack and quant_pack then do it. */
    bool (*pack)(backend *b, load_slot *s, const char *src, wmat *w, int32_t row0, int32_t n_rows,
                 dtype src_dt);
    void (*upload)(backend *b, load_slot *s, const char *src, void *dst, size_t bytes);
} loading;

#endif
