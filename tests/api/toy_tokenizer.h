/* The tokenizer of the front end's tests: links in place of tokenizer/. */
#ifndef TESTS_API_TOY_TOKENIZER_H
#define TESTS_API_TOY_TOKENIZER_H

#include <jansson.h>

#include "tokenizer/tokenizer.h"

typedef struct chat chat;

tokenizer *toy_tokenizer(void); /* one, static */
/* A stand-in for a chat template: never looked into. */
const chat *toy_chat(void);
status chat_render(const chat *c, const json_t *vars, strbuf *out, error *err);

#endif
