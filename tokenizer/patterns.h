/* The split patterns of well-known tokenisers, as their authors published them: what rank files and
 * GGUF vocabularies mean by a name. Written in the form that scan.c recognises. */
#ifndef TOKENIZER_PATTERNS_H
#define TOKENIZER_PATTERNS_H

#define PATTERN_ENDS_    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_SUFFIX_  "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define PATTERN_WORDS_   PATTERN_SUFFIX_ "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define PATTERN_SYMBOLS_ "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" PATTERN_ENDS_
#define PATTERN_UPPER_   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define PATTERN_LOWER_   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* Words by case, each followed by `suffix`; then digits. */
#define PATTERN_CASED_(suffix, digits)                                                             \
    "[^\\r\\n\\p{L}\\p{N}]?" PATTERN_UPPER_ "*" PATTERN_LOWER_ "+" suffix                          \
    "|[^\\r\\n\\p{L}\\p{N}]?" PATTERN_UPPER_ "+" PATTERN_LOWER_ "*" suffix "|" digits              \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" PATTERN_ENDS_

#define PATTERN_GPT2                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PATTERN_LLAMA3 PATTERN_WORDS_ "\\p{N}{1,3}" PATTERN_SYMBOLS_
#define PATTERN_QWEN2  PATTERN_WORDS_ "\\p{N}" PATTERN_SYMBOLS_
#define PATTERN_O200K  PATTERN_CASED_(PATTERN_SUFFIX_ "?", "\\p{N}{1,3}")
#define PATTERN_TEKKEN PATTERN_CASED_("", "\\p{N}")

#endif
