/* Pre-tokenisers: text -> the words that the model sees, as a list of steps (tokenizer.json's
 * "pre_tokenizer", Sequence flattened). Steps only cut, except ByteLevel and Metaspace, which may
 * also insert or replace characters.
 *
 * After ByteLevel a word is raw bytes, each of which stands for one character of GPT-2's byte
 * alphabet: the mapping itself is never carried out, the steps that follow look at the bytes
 * through it. */
#ifndef TOKENIZER_PRETOK_H
#define TOKENIZER_PRETOK_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/base/vec.h"
#include "tokenizer/matcher.h"
#include "tokenizer/trace.h"

typedef struct pretok pretok;

/* `spec`: the JSON value, NULL for none. */
NODISCARD status pretok_new(const json_t *spec, pretok **ret, error *err);
/* Splits by regular expressions one after another, isolated, then bytes: what rank files and GGUF
 * vocabularies need. */
NODISCARD status pretok_of_regexes(const char *const *patterns, size_t n, pretok **ret, error *err);
void pretok_free(pretok *p);        /* takes NULL */
bool pretok_bytes(const pretok *p); /* words come out as bytes (ByteLevel is among the steps) */
/* is_first matters to it. */
bool pretok_wants_first(const pretok *p);

/* One thread's scratch; {0} is valid. The result of pretok_run lies here until the next run. */
typedef struct pretok_work {
    strbuf text[2]; /* rewritten texts, in turns */
    span_vec words[2];
    strbuf mapped; /* one word in the byte alphabet */
    match_work match;
    trace trace; /* .in: of the text that is given; afterwards of *ret_text */
} pretok_work;
void pretok_work_done(pretok_work *w);

/* Cut `text` (valid UTF-8, below 4 GiB) into *ret_words over *ret_text; both borrowed from w or
 * from text. is_first: the text begins where the whole input begins. */
void pretok_run(const pretok *p, pretok_work *w, str text, bool is_first, str *ret_text,
                const span_vec **ret_words);

#endif
