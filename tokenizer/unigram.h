/* Unigram language model segmentation (Kudo 2018): the most likely sequence of pieces. */
#ifndef TOKENIZER_UNIGRAM_H
#define TOKENIZER_UNIGRAM_H

#include "tokenizer/tok.h"

/* tokenizer.json: `vocab` is [[piece, score], ...], `unk_id` a number or null. Fills t->model and
 * t->pieces. */
NODISCARD status unigram_read(str vocab, str unk_id, bool byte_fallback, tokenizer *t, error *err);

#endif
