/* config.json of a model directory. */
#ifndef ENGINE_MODEL_CONFIG_H
#define ENGINE_MODEL_CONFIG_H

#include "engine/base/json.h"
#include "engine/base/status.h"

/* The object of a config.json. Of a multimodal model (a nested text_config) the text part is meant:
 * its keys stand over those beside it, except architectures and model_type, which choose the
 * family; the text part's own model_type becomes text_model_type. Errors name the path. */
NODISCARD status model_config_read(const char *path, json_t **ret, error *err);

#endif
