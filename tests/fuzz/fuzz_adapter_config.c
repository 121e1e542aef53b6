/* An adapter_config.json: its keys, and its patterns against a few modules. */
#include <stdint.h>

#include "engine/adapter_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const modules[] = {"model.layers.0.self_attn.q_proj", "lm_head", "", "a.b"};
    adapter_config c;
    error err;
    double scale;
    if (adapter_config_parse(str_n((const char *)data, n), "adapter_config.json", &c, &err) != OK)
        return 0;
    for (size_t i = 0; i < 4 && c.kind <= ADAPTER_IA3; i++) {
        if (adapter_config_scale(&c, modules[i], 4, &scale, &err) != OK) continue;
        (void)adapter_config_targets(&c, modules[i], (int32_t)i);
    }
    adapter_config_done(&c);
    return 0;
}
