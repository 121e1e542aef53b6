/* Regular expressions over the names of modules, as files of models bring them: in Python's syntax
 * and with the meaning of re.match. Made for patterns of strangers: memory is bounded by the number
 * of states, time by states times the name's length, whatever the pattern.
 *
 * Read: literals, ., classes, \d \w \s and what they exclude, \b \B \A \Z ^ $, groups (captures are
 * not kept), |, * + ? {n} {n,} {,m} {n,m} and their lazy forms (which match the same names),
 * look-ahead. Everything else (look-behind, back references, flags, named groups, possessive
 * repeats) is refused by name. Patterns are ASCII and so are \d \w \s (as with re.ASCII): of a
 * name's other characters only . and complements know. */
#ifndef ENGINE_NAME_REGEX_H
#define ENGINE_NAME_REGEX_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

#define NAME_REGEX_BYTES  512  /* of a pattern */
#define NAME_REGEX_STATES 4096 /* of its machine: 8 bytes each */

typedef struct name_regex name_regex;

/* ERR_UNSUPPORTED names the pattern and what in it is not read, or is too large. */
NODISCARD status name_regex_new(str pattern, name_regex **ret, error *err);
void name_regex_free(name_regex *r); /* takes NULL */
size_t name_regex_states(const name_regex *r);
/* Does the pattern match at the name's beginning (not necessarily all of it)? Any thread. */
bool name_regex_match(const name_regex *r, str name);

#endif
