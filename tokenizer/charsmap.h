/* SentencePiece's precompiled normalisation map: a double-array trie of byte strings with their
 * replacements (format of sentencepiece's normalizer.cc: u32 trie bytes, trie, then replacement
 * strings, each ended by NUL). */
#ifndef TOKENIZER_CHARSMAP_H
#define TOKENIZER_CHARSMAP_H

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef struct charsmap charsmap;

NODISCARD status charsmap_new(str blob, charsmap **ret, error *err);
NODISCARD status charsmap_from_base64(str text, charsmap **ret, error *err);
void charsmap_free(charsmap *m); /* takes NULL */

/* The longest entry that starts s: bytes of s that it takes (0: none) and its replacement. */
size_t charsmap_longest(const charsmap *m, str s, str *ret);
/* tokenizer.json's way: per grapheme cluster up to 5 bytes an exact entry, else per character.
 * changes (may be NULL): what became of each character (trace.h). */
void charsmap_graphemes(const charsmap *m, str in, strbuf *out, vec_i32 *changes);

/* Standard base64 (padding optional at the end); false if s is not. */
bool base64_decode(str s, strbuf *out);

#endif
