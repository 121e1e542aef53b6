/* Comparing a tokenizer with what a reference library gave for a text. */
#ifndef TESTS_TOKENIZER_GOLDEN_H
#define TESTS_TOKENIZER_GOLDEN_H

#include <jansson.h>
#include <stdbool.h>

#include "tokenizer/tokenizer.h"

/* `want`: {"ids", "ids_special"?, "decoded"?, "skipped"?, "id"?}. Ids, decoded text (whole and
 * through the incremental detokeniser) are compared; the first differences of a run are printed.
 * True when all is equal. */
bool golden_check(const char *name, const tokenizer *t, str text, const json_t *want);

#endif
