/* Which combining marks the normalisers of tokenizer.json take away. */
#ifndef TOKENIZER_MARKS_H
#define TOKENIZER_MARKS_H

#include <stdbool.h>
#include <stdint.h>

bool mark_is_accent(uint32_t cp);      /* StripAccents */
bool mark_is_bert_accent(uint32_t cp); /* BertNormalizer with strip_accents */

#endif
