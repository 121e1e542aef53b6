/* Incremental detokeniser: tokens in one by one, text out in pieces that never split a character.
 * The concatenation of all pieces equals tokenizer_decode of all ids, byte for byte. */
#ifndef TOKENIZER_DETOK_H
#define TOKENIZER_DETOK_H

#include "tokenizer/tokenizer.h"

typedef struct detok detok;

detok *detok_new(const tokenizer *t, bool skip_special);
void detok_free(detok *d); /* takes NULL */
/* Ids that come before the output (the prompt's end), so that the first piece has its context
 * (e.g. a leading space is kept inside a text). Before the first push only. */
void detok_context(detok *d, const int32_t *ids, size_t n);
/* Append to out the text that is certain now. Cost does not grow with what came before. */
void detok_push(detok *d, int32_t id, strbuf *out);
/* The end: what is held back comes out, incomplete characters as U+FFFD. */
void detok_flush(detok *d, strbuf *out);

#endif
