/* A file of torch.save: archive or older layout, pickle, and the table of its tensors. */
#include <stdint.h>

#include "engine/base/mem.h"
#include "engine/pth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    checkpoint c = {0};
    error err;
    uint64_t sum = 0;
    checkpoint_add_path(&c, mem_strdup("fuzz.bin"));
    if (pth_add(&c, 0, data, n, &err) == OK)
        for (int32_t i = 0; i < c.n_tensors; i++) {
            const st_tensor *t = &c.tensors[i];
            if (t->bytes) sum += data[t->off] + data[t->off + t->bytes - 1];
        }
    checkpoint_done(&c);
    return sum == UINT64_MAX;
}
