#include "tokenizer/unigram.h"

status unigram_read(str vocab_json, str unk_id, bool byte_fallback, tokenizer *t, error *err) {
    return error_set(err, ERR_UNSUPPORTED, "model.type Unigram is not supported");
}
