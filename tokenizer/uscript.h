/* Scripts of code points as the UnicodeScripts pre-tokeniser tells them apart: numbers without
 * further meaning, Han, Hiragana and Katakana being one. */
#ifndef TOKENIZER_USCRIPT_H
#define TOKENIZER_USCRIPT_H

#include <stdint.h>

unsigned uscript(uint32_t cp); /* 0: of any script (a space, an unassigned character) */

#endif
