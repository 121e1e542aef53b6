/* A pull scanner over JSON text for files whose bulk is one large table (tokenizer.json: 10^5
 * vocabulary entries and merges). Values are read in place, nothing is built; the small rest of
 * such a file goes through engine/base/json.h.
 *
 * Errors are sticky: after the first one every call returns false and jscan_status() says what
 * happened. The text must be valid UTF-8 and outlive the scanner. */
#ifndef TOKENIZER_JSCAN_H
#define TOKENIZER_JSCAN_H

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct jscan {
    str text;
    size_t at;
    bool first;       /* just inside a container: no comma yet */
    const char *want; /* what was expected where it failed; NULL: no error */
    strbuf buf;       /* an unescaped string */
} jscan;

void jscan_init(jscan *s, str text);
void jscan_done(jscan *s);
/* OK, or ERR_FORMAT with the offset and what was expected; `what` names the value. */
NODISCARD status jscan_status(const jscan *s, const char *what, error *err);

bool jscan_enter(jscan *s, char open); /* '{' or '[' */
/* True when another element follows, false at the end (consumed). */
bool jscan_more(jscan *s, char close);
/* A string; borrowed from the text or from the scanner until its next string. */
bool jscan_string(jscan *s, str *ret);
bool jscan_key(jscan *s, str *ret); /* a string and its colon */
bool jscan_int(jscan *s, int64_t *ret);
/* Any value, returned as its text. Checks only what is needed to find its end. */
bool jscan_raw(jscan *s, str *ret);
char jscan_peek(jscan *s); /* first character of the next value, 0 at the end */

/* The texts of an object's members named in names[n], into ret[n] ({NULL,0}: absent or null; of
 * equal names the last). `what` names the object in errors. */
NODISCARD status jscan_members(str object, const char *what, const char *const *names, size_t n,
                               str *ret, error *err);

#endif
