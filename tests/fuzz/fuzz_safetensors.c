/* A safetensors header: the first byte scales the claimed data length, the rest is the JSON. */
#include <stdint.h>

#include "engine/base/mem.h"
#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static char file[] = "fuzz.safetensors";
    if (n < 1) return 0;
    checkpoint c = {0};
    c.files = mem_calloc(1, sizeof *c.files);
    c.files[c.n_files++] = mem_strdup(file);
    error err;
    status st = safetensors_add(&c, str_n((const char *)data + 1, n - 1), file, 0, 8 + n - 1,
                                (uint64_t)data[0] * 64, &err);
    for (int32_t i = 0; st == OK && i < c.n_tensors; i++) {
        char text[128];
        st_tensor_describe(&c.tensors[i], text, sizeof text);
    }
    checkpoint_done(&c);
    return 0;
}
