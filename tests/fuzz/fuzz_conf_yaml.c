/* A file of --config that may be MindFormers': detection, leaves, rows. */
#include <stdint.h>

#include "conf/conf.h"
#include "conf/mindformers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    str text = str_n((const char *)data, size);
    conf c;
    error err = {0};
    conf_init(&c);
    (void)mindformers_is(text);
    if (mindformers_load("f.yaml", text, "model.model_config.top_k=1", &c, &err) != OK &&
        !err.text[0])
        __builtin_trap();
    conf_done(&c);
    return 0;
}
