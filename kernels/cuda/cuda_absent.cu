/* Ops that have no kernel in this build: a call is a failure of the device that names the op, which
 * the next sync reports. */
#include "kernels/cuda/cuda_backend.h"

#define ABSENT(name)                                                                               \
    void cuda_##name(backend *b, const op_##name *a) {                                             \
        (void)a;                                                                                   \
        cuda_note(cuda_of(b), cudaErrorNotSupported, "an op that this build lacks: " #name);       \
    }
ABSENT(rope_kv)
ABSENT(attention)
ABSENT(latent_kv)
ABSENT(latent_attention)
