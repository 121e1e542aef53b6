/* Added tokens: strings of the vocabulary that are recognised in the text before anything else
 * happens to it ("<|im_start|>"), with the flags of tokenizer.json.
 *
 * Two sets are kept, as in the reference: those matched in the text as it is, and those
 * (normalized: true) matched in the normalised text by their normalised content. */
#ifndef TOKENIZER_ADDED_H
#define TOKENIZER_ADDED_H

#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef struct added_token {
    int32_t id;
    str pattern; /* what is looked for; owned by the set */
    bool lstrip, rstrip, single_word;
} added_token;

typedef struct added_set added_set;

added_set *added_set_new(void);
void added_set_free(added_set *s); /* takes NULL */
/* Of equal patterns the first stays. Empty ones are left out. */
void added_set_add(added_set *s, const added_token *t);
bool added_set_empty(const added_set *s);
/* All of them, in the order in which they came; borrowed. */
const added_token *added_set_list(const added_set *s, size_t *ret_n);

typedef struct added_part {
    int32_t id; /* -1: text between tokens */
    size_t from, to;
} added_part;
typedef VEC(added_part) added_parts;

/* Cut text into tokens and what lies between, appended to *out. Parts cover the text in order; one
 * after a token that strips to the right may overlap it, as in the reference. */
void added_set_split(const added_set *s, str text, added_parts *out);

#endif
