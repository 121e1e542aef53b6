/* A fixed-size, lossy map from short words to their ids, shared by all threads without a lock.
 *
 * Words over WORDCACHE_BYTES or with more than WORDCACHE_IDS ids are never kept. A lookup either
 * returns what was put for exactly this word or misses. */
#ifndef TOKENIZER_WORDCACHE_H
#define TOKENIZER_WORDCACHE_H

#include "engine/base/str.h"

#define WORDCACHE_BYTES 24
#define WORDCACHE_IDS   8

typedef struct wordcache wordcache;
typedef struct wordkey {
    uint64_t w[3]; /* the word, zero padded */
    uint32_t slot, n;
} wordkey;

wordcache *wordcache_new(void);
void wordcache_free(wordcache *c); /* takes NULL */
/* False: the word is too long to be kept. */
bool wordcache_key(str word, wordkey *ret);
/* Number of ids written to ids[WORDCACHE_IDS], or -1: not there. */
int wordcache_get(const wordcache *c, const wordkey *k, int32_t *ids);
void wordcache_put(wordcache *c, const wordkey *k, const int32_t *ids, size_t n);

#endif
