/* BERT's tokenizer around a WordPiece vocabulary: from vocab.txt and from GGUF. Private to this
 * folder. */
#ifndef TOKENIZER_BERT_H
#define TOKENIZER_BERT_H

#include "tokenizer/tok.h"

typedef struct bert_options {
    bool lowercase, strip_accents, chinese; /* of the normaliser */
    int32_t unk;                            /* -1: [UNK], if it is there */
} bert_options;

/* Normaliser, pre-tokeniser, model and decoder for the pieces in t->pieces. */
NODISCARD status bert_make(tokenizer *t, const bert_options *o, error *err);
/* One piece a line, its number the id; `config` is tokenizer_config.json (may be NULL). */
NODISCARD status bert_open(str vocab_txt, const json_t *config, tokenizer **ret, error *err);

#endif
