/* Unicode normal forms in linear time. */
#ifndef TOKENIZER_UNORM_H
#define TOKENIZER_UNORM_H

#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef enum unorm_form { UNORM_NFC, UNORM_NFD, UNORM_NFKC, UNORM_NFKD } unorm_form;

/* Append the normal form of text (valid UTF-8) to out. */
void unorm(unorm_form form, str text, strbuf *out);
/* The same, and for each character written what it replaces (trace.h), as the reference tells it.
 */
void unorm_traced(unorm_form form, str text, strbuf *out, vec_i32 *changes);
/* True when text is surely in NFC: a quick look that may say false for a text that is. */
bool unorm_is_nfc_quick(str text);

#endif
