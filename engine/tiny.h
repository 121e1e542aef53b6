/* Small random checkpoints of any family: what `pagoda make-tiny` writes. They compute nonsense
 * with the family's whole dataflow: what tests of loaders, servers and converters need. */
#ifndef ENGINE_TINY_H
#define ENGINE_TINY_H

#include <stdint.h>

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "kernels/dtype.h"

typedef struct tiny_options {
    const char *family;        /* its name, or an architecture: "llama", "LlamaForCausalLM" */
    const char *register_path; /* more families, or NULL */
    const char *dir;           /* made if it is not there; must not hold a config.json */
    const json_t *set;         /* config.json keys over the defaults, or NULL */
    dtype dt;                  /* f32, f16, bf16 */
    uint64_t seed;
} tiny_options;

#define TINY_VOCAB 260 /* 256 bytes and 4 more */

/* Write dir/config.json and dir/model.safetensors. Errors name family, file and key. */
NODISCARD status tiny_model_make(const tiny_options *o, error *err);

#endif
