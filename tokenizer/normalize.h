/* Normalisers: tokenizer.json's "normalizer" as a list of steps, each text -> text. */
#ifndef TOKENIZER_NORMALIZE_H
#define TOKENIZER_NORMALIZE_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "tokenizer/matcher.h"
#include "tokenizer/trace.h"

typedef struct normalizer normalizer;

/* `spec`: the JSON value, NULL for none. */
NODISCARD status normalizer_new(const json_t *spec, normalizer **ret, error *err);
/* ChatGLM-6B's: "\n", "\t" and runs of 2 to 80 spaces become <n>, <|tab|> and <|blank_k|>. */
normalizer *normalizer_of_blanks(void);
void normalizer_free(normalizer *n); /* takes NULL */

typedef struct normal_work {
    strbuf text[2];
    match_work match;
    trace trace; /* .in: of the text that is given; afterwards of the text that is returned */
} normal_work;
void normal_work_done(normal_work *w);

/* The normal form of text (valid UTF-8), borrowed from text or from w until the next call. */
str normalizer_run(const normalizer *n, normal_work *w, str text);

#endif
