/* Text the way Python sees it: character classes, case, white space, escapes. No state. */
#ifndef TOKENIZER_TEMPLATE_TEXT_H
#define TOKENIZER_TEMPLATE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/str.h"

/* Character classes of Python's str methods and re (\w). */
bool cp_is_space(uint32_t cp);    /* str.isspace, \s */
bool cp_is_word(uint32_t cp);     /* \w: letters, digits, underscore */
bool cp_is_id_start(uint32_t cp); /* str.isidentifier */
bool cp_is_id_continue(uint32_t cp);
bool cp_is_printable(uint32_t cp); /* repr() leaves it as it is */
bool cp_is_alpha(uint32_t cp);
bool cp_is_decimal(uint32_t cp); /* isdecimal: category Nd */
bool cp_is_digit(uint32_t cp);   /* isdigit: also superscripts and the like */
bool cp_is_numeric(uint32_t cp);
bool cp_is_lower(uint32_t cp);
bool cp_is_upper(uint32_t cp);
bool cp_is_title(uint32_t cp);
bool cp_is_cased(uint32_t cp);

/* Length of s without white space at its end. */
size_t str_rstrip_n(str s);

/* Full case mappings ("ß" -> "SS"): append to out. CASE_FIRST titles the first character and
 * lowers the rest (capitalize); CASE_TITLE does that for each word (str.title). */
typedef enum text_case {
    CASE_LOWER,
    CASE_UPPER,
    CASE_FIRST,
    CASE_TITLE,
    CASE_SWAP,
    CASE_FOLD
} text_case;
bool text_case_add(strbuf *out, str s, text_case to); /* false: out is full */

/* Python's escapes in a string literal's text. Returns the length written to out (of at least
 * str_unescape_room bytes); *problem is set for a malformed escape. */
size_t str_unescape_room(str raw);
size_t str_unescape(str raw, char *out, const char **problem);

#endif
