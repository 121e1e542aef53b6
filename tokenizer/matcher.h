/* Find matches of a pattern in text: the patterns of pre-tokenisers, normalisers and decoders.
 *
 * A pattern is a literal string or a regular expression in Oniguruma's (Ruby's) syntax, which
 * tokenizer.json uses. Regular expressions run in PCRE2 (UTF, Unicode properties, JIT) after
 * translation of what differs; what cannot be translated is refused by name. The patterns of
 * well-known tokenisers are recognised and served by hand-written scanners (scan.h).
 *
 * A matcher is immutable; match_work holds one thread's scratch. */
#ifndef TOKENIZER_MATCHER_H
#define TOKENIZER_MATCHER_H

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct matcher matcher;

typedef struct match_work {
    void *data, *context, *stack; /* PCRE2's */
    bool failed;                  /* a match gave up at a resource bound: the result is not valid */
} match_work;

NODISCARD status matcher_regex(str pattern, matcher **ret, error *err);
matcher *matcher_literal(str text); /* text is not empty */
void matcher_free(matcher *m);      /* takes NULL */

/* The first match that starts at or after `from` (text valid UTF-8, from at a character). A match
 * may be empty. */
bool matcher_find(const matcher *m, match_work *w, str text, size_t from, size_t *ret_start,
                  size_t *ret_end);
void match_work_done(match_work *w);

/* The hand-written scanner that serves it, NULL if PCRE2 does: its name, for tests and inspect. */
const char *matcher_scanner(const matcher *m);
/* Never use a scanner from here on: what tests compare the scanners with. */
NODISCARD status matcher_regex_plain(str pattern, matcher **ret, error *err);

#endif
