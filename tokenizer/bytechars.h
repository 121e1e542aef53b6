/* GPT-2's byte alphabet: one printable character for each of the 256 bytes. */
#ifndef TOKENIZER_BYTECHARS_H
#define TOKENIZER_BYTECHARS_H

#include "engine/base/str.h"

/* Code point that stands for byte b (below U+0144). */
uint32_t bytechar_of(uint8_t b);
/* The byte that cp stands for, -1 if none. */
int bytechar_byte(uint32_t cp);
/* Append the bytes that the characters of s stand for; false (nothing appended) when one of them is
 * not of the alphabet. */
bool bytechars_decode(str s, strbuf *out);
void bytechars_encode(str bytes, strbuf *out);

#endif
