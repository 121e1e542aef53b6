/* String work that filters share with the methods of str. Inside of the template engine only. */
#ifndef TOKENIZER_TEMPLATE_STRINGS_H
#define TOKENIZER_TEMPLATE_STRINGS_H

#include "tokenizer/template_text.h"
#include "tokenizer/template_value.h"

val str_case(rt *r, val self, text_case to);
/* chars: V_STR, or none for white space. */
val str_strip(rt *r, val self, val chars, bool left, bool right);
val str_lines(rt *r, val self, bool keep_ends);                  /* splitlines */
val str_replace(rt *r, val self, val old, val new, int64_t max); /* max < 0: all */
val str_join(rt *r, val sep, val items);
val str_pad(rt *r, val self, int64_t left, int64_t right, str fill);
val str_center(rt *r, val self, int64_t width, str fill);
bool str_is_cased(val s, bool upper); /* islower, isupper */

#endif
