/* The tokenizer of the front end's tests: links in place of tokenizer/. */
#ifndef TESTS_API_TOY_TOKENIZER_H
#define TESTS_API_TOY_TOKENIZER_H

#include "tokenizer/tokenizer.h"

tokenizer *toy_tokenizer(void); /* one, static */

#endif
