#include "tokenizer/tok.h"
status spm_open(str text, tokenizer **ret, error *err) {
    return error_set(err, ERR_UNSUPPORTED, "SentencePiece models are not supported");
}
