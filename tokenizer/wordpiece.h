/* WordPiece: greedy longest match from the left, BERT's way. */
#ifndef TOKENIZER_WORDPIECE_H
#define TOKENIZER_WORDPIECE_H

#include "tokenizer/tok.h"

/* Fill t->model; the vocabulary is t->pieces as it is now. Takes `prefix` (mem_free'd; may be
 * {NULL,0}). A word of more than max_chars characters is unknown. */
void wordpiece_make(int32_t unk, str prefix, int64_t max_chars, tokenizer *t);

/* The same for WordLevel (wordlevel.c): what is no token is unknown, or nothing when unk is -1. */
void wordlevel_make(int32_t unk, tokenizer *t);

#endif
