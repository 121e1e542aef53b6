/* Classes of code points, as the regular expressions and pre-tokenisers of tokenizer files mean
 * them: \p{L}, \p{N}, \s, ... of Unicode 16, and the two tests that the reference implementation
 * takes from elsewhere (char::is_numeric, and a punctuation table of an older Unicode). */
#ifndef TOKENIZER_UCLASS_H
#define TOKENIZER_UCLASS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    UC_L = 1,
    UC_N = 2,
    UC_P = 4,
    UC_S = 8,
    UC_M = 16,
    UC_SPACE = 32,   /* White_Space */
    UC_UP = 64,      /* Lu, Lt */
    UC_LOW = 128,    /* Ll */
    UC_NUM = 256,    /* a number to the Digits pre-tokeniser */
    UC_PUNCT = 512,  /* punctuation to the Punctuation and Bert pre-tokenisers, ASCII symbols too */
    UC_WORD = 1024,  /* \w */
    UC_CTRL = 2048,  /* Cc, Cf, Co, as far as the Bert normaliser knows them */
    UC_OTHER = 4096, /* none of the above: every code point has a class */
};

extern const uint16_t uclass_ascii[128];
unsigned uclass_slow(uint32_t cp);
/* The classes of cp, or'ed. */
static inline unsigned uclass(uint32_t cp) {
    return cp < 128 ? uclass_ascii[cp] : uclass_slow(cp);
}

#endif
