/* One shape for what follows: the keys of the language model are those of the root. */
#include "engine/model_config.h"

#include <string.h>

#include "conf/limits.h"

static void lift_text_config(json_t *config) {
    json_t *text = json_object_get(config, "text_config");
    const char *key;
    json_t *v;
    if (!json_is_object(text)) return;
    json_incref(text);
    json_object_foreach(text, key, v) {
        if (strcmp(key, "architectures") == 0) continue;
        json_object_set(config, strcmp(key, "model_type") == 0 ? "text_model_type" : key, v);
    }
    json_object_del(config, "text_config");
    json_decref(text);
}

status model_config_read(const char *path, json_t **ret, error *err) {
    json_t *config;
    TRY(js_parse_file(path, LIMIT_CONFIG_BYTES, &config, err));
    if (!json_is_object(config)) {
        json_decref(config);
        return error_set(err, ERR_FORMAT, "%s: not a JSON object", path);
    }
    lift_text_config(config);
    *ret = config;
    return OK;
}
