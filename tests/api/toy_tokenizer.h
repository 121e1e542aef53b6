/* The tokenizer of the front end's tests: links in place of tokenizer/. */
#ifndef TESTS_API_TOY_TOKENIZER_H
#define TESTS_API_TOY_TOKENIZER_H

#include "tokenizer/chat.h"

tokenizer *toy_tokenizer(void); /* one, static */
/* A stand-in for a chat template: never looked into. */
const chat *toy_chat(void);

#endif
