/* A family file, with its expressions, resolved against a good config. */
#include <stdint.h>

#include "engine/arch.h"
#include "engine/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char config_text[] =
    "{\"hidden_size\":64,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"vocab_size\":100,"
    "\"intermediate_size\":96,\"num_key_value_heads\":2,\"sliding_window\":8,"
    "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"]}";

static bool all_names(void *ctx, const char *name) {
    return true;
}

/* The built-in families, parsed once for all inputs. */
static family_set copy_of(const family_set *all) {
    family_set s = {.list = mem_alloc((size_t)all->n * sizeof *s.list), .n = all->n};
    for (int i = 0; i < all->n; i++) {
        s.list[i] = all->list[i];
        s.list[i].file = mem_strdup(all->list[i].file);
        json_incref(s.list[i].root);
    }
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static json_t *config;
    static family_set all;
    arch *a = NULL;
    error err;
    if (!config && js_parse(str_z(config_text), &config, &err) != OK) return 0;
    if (all.n == 0 && family_set_load(NULL, &all, &err) != OK) return 0;
    family_set s = copy_of(&all);
    int before = s.n;
    if (family_set_add(&s, "fuzz.json", str_n((const char *)data, n), &err) == OK)
        for (int i = 0; i < s.n; i++)
            if (s.n > before || strcmp(s.list[i].file, "fuzz.json") == 0)
                if (arch_resolve(&s.list[i], config, "config.json", (tensor_names){all_names, NULL},
                                 &a, &err) == OK)
                    arch_free(a);
    family_set_done(&s);
    return 0;
}
