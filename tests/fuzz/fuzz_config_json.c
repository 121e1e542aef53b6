/* A config.json against every built-in family: matching, dimensions, layers, ropes. */
#include <stdint.h>

#include "engine/arch.h"
#include "engine/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool some_names(void *ctx, const char *name) {
    return (strlen(name) & 1) != 0;
}

static void resolve(const family *f, const json_t *config) {
    arch *a = NULL;
    error err;
    if (arch_resolve(f, config, "config.json", (tensor_names){some_names, NULL}, &a, &err) != OK)
        return;
    for (int32_t k = 0; k < a->n_ropes; k++) {
        float *freq = mem_alloc((size_t)a->ropes[k].dim / 2 * sizeof *freq);
        rope_inv_freq(&a->ropes[k], 1 << 20, freq);
        mem_free(freq);
    }
    arch_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static family_set s;
    const family *f;
    json_t *config = NULL;
    error err;
    if (s.n == 0 && family_set_load(NULL, &s, &err) != OK) return 0;
    if (js_parse(str_n((const char *)data, n), &config, &err) != OK) return 0;
    if (json_is_object(config) && family_match(&s, config, "config.json", &f, &err) == OK)
        resolve(f, config);
    json_decref(config);
    return 0;
}
