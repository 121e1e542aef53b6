/* Where an answer of a chat format ends, in the tokenizer's terms. */
#ifndef SERVER_TURN_H
#define SERVER_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/limits.h"
#include "engine/base/str.h"
#include "tokenizer/tokenizer.h"

typedef struct chat chat; /* tokenizer/chat.h */

/* A stop of the format that is one token is an id; one that is not, or whose token shows as text,
 * is a text. Texts are borrowed from the chat. */
typedef struct turn_ends {
    int32_t ids[LIMIT_TEMPLATE_STOPS];
    str texts[LIMIT_TEMPLATE_STOPS];
    int32_t n_ids, n_texts;
    bool add_special_tokens; /* the tokenizer's own go before a chat prompt */
} turn_ends;

/* `c` may be NULL (no template): nothing then. */
turn_ends turn_ends_of(const chat *c, const tokenizer *t);

#endif
