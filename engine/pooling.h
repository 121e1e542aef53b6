/* How a model makes embeddings: modules.json and 1_Pooling of a sentence-transformers directory,
 * else the family's word, else the mean for encoders and the last token for decoders. */
#ifndef ENGINE_POOLING_H
#define ENGINE_POOLING_H

#include "engine/engine.h"

/* Fills info's pool fields; info->has_head is there. Errors name the file and the key. */
NODISCARD status pooling_read(const char *model_dir, str family_word, model_info *info, error *err);

#endif
