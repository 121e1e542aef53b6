/* A GGUF file: header, every value, and the config made of it. */
#include <stdint.h>

#include "engine/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gguf g;
    error err;
    json_t *config = NULL;
    uint64_t sum = 0;
    if (gguf_parse(data, n, "fuzz.gguf", &g, &err) != OK) return 0;
    for (size_t i = 0; i < g.n_values; i++) {
        const gguf_value *v = &g.values[i];
        gguf_strings it = gguf_strings_of(v);
        for (str s; gguf_next(&it, &s);) sum += s.n ? (uint8_t)s.p[s.n - 1] : 0;
        for (uint64_t k = 0; k < v->n && v->kind != GGUF_STRING; k++) {
            int64_t x;
            double f;
            sum += gguf_i64(v, k, &x) + gguf_f64(v, k, &f);
        }
    }
    for (size_t i = 0; i < g.n_tensors; i++)
        if (g.tensors[i].bytes) sum += data[g.tensors[i].off + g.tensors[i].bytes - 1];
    if (gguf_config(&g, 1, "fuzz.gguf", &config, &err) == OK) sum += json_object_size(config);
    json_decref(config);
    gguf_close(&g);
    return sum == UINT64_MAX;
}
