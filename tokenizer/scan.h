/* Hand-written scanners for the split patterns of well-known tokenisers: the same matches as the
 * regular expression, several times faster. tests/unit/tokenizer/test_tok_scan.c holds each equal
 * to PCRE2 on generated text.
 *
 * The tiles (gpt2, llama3, qwen2, o200k, tekken) match at every position, so that their matches
 * cover the text. A run is one property, as in \s?\p{L}+ or \p{N}{1,3}; besides being fast it knows
 * characters that PCRE2's older Unicode does not. */
#ifndef TOKENIZER_SCAN_H
#define TOKENIZER_SCAN_H

#include "engine/base/str.h"

typedef enum scan_kind { SCAN_NONE, SCAN_TILE, SCAN_RUN } scan_kind;

typedef struct scan {
    scan_kind kind;
    const char *name;
    /* End of the match that starts at `at` (at < n, at a character). */
    size_t (*tile)(const char *p, size_t n, size_t at);
    /* SCAN_RUN: one to run_max characters of the classes run, after a white space if there is one.
     */
    unsigned run, run_max;
    bool after_space;
} scan;

/* {SCAN_NONE} for a pattern that no scanner serves. */
scan scan_of_pattern(str pattern);
const char *scan_pattern(size_t i);   /* the patterns that are served; NULL past the last */
const char *scan_name(const scan *s); /* NULL for SCAN_NONE */
bool scan_find(const scan *s, str text, size_t from, size_t *ret_start, size_t *ret_end);

#endif
