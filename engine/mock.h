/* A stepper without a model: deterministic tokens from the ids in its (real) paged cache, at a
 * chosen speed. Front-end load tests measure the front end with it; scheduler tests see at once
 * when a page table is wrong, because the cache holds a digest of every prefix and the next token
 * is made of it. */
#ifndef ENGINE_MOCK_H
#define ENGINE_MOCK_H

#include "engine/batch.h"

#define MOCK_DEPTH_MAX 2

typedef struct mock_options {
    int32_t vocab;         /* > 0 */
    int32_t page_tokens;   /* 0: 16 */
    int32_t n_pages;       /* > 0 */
    int32_t n_host_pages;  /* 0: no second tier */
    int32_t max_tokens;    /* most tokens in one step, > 0 */
    int32_t max_seqs;      /* > 0 */
    int32_t max_model_len; /* > 0 */
    /* With text: the k-th generated token is text[k], then eos_id. Copied. */
    const int32_t *text; /* [n_text] or NULL */
    int32_t n_text;
    /* Without text: tokens are drawn from words by the digest. Copied; NULL: every id of the
     * vocabulary. */
    const int32_t *words; /* [n_words] or NULL */
    int32_t n_words;
    int32_t eos_id; /* -1: a text starts again at its end */
    int32_t depth;  /* most steps in flight, at most MOCK_DEPTH_MAX; 0: 1 */
    /* What a step costs: step_us + token_ns * tokens, from its launch or the end of the one before;
     * collect sleeps for what is left. */
    uint32_t step_us, token_ns;
    int64_t fail_step; /* this step (from 1) and all after it fail with ERR_DEVICE; 0: none */
    bool verify; /* check the digest of every page of every sequence, not only the last token's */
} mock_options;

typedef struct mock mock;

/* Never fails for good options (CHECKed); memory is page_tokens * n_pages * 8 bytes. */
mock *mock_new(const mock_options *o);
void mock_free(mock *m); /* takes NULL */
/* Valid while m lives. A cache that does not hold the prefix that the plan claims fails the step
 * with ERR_INTERNAL and names sequence and position. */
stepper mock_stepper(mock *m);

#endif
