/* Where the end of a sequence's text stood before: prompt lookup (Saxena 2023). What followed there
 * is a good guess at what follows now when text is copied, edited or goes in circles.
 *
 * Entering a token and finding take constant time. One thread. */
#ifndef SCHEDULER_NGRAM_H
#define SCHEDULER_NGRAM_H

#include <stddef.h>
#include <stdint.h>

enum {
    NGRAM_LEAST = 2, /* tokens that must agree */
    NGRAM_MOST = 8,  /* tokens that are compared */
};

/* Place p is that behind ids[p-1]. */
typedef struct ngram {
    int32_t *head; /* [1 << bits] latest place behind two tokens of this hash; 0: none */
    int32_t *prev; /* [len_max] by place: the one before it of the same hash */
    int32_t bits;
    int32_t n; /* places below are entered */
} ngram;

/* Memory for sequences of up to len_max tokens, zeroed by the caller. */
size_t ngram_bytes(int32_t len_max);
void ngram_init(ngram *x, void *mem, int32_t len_max);
/* The places before n; ids [n] begin with those of the last call. */
void ngram_enter(ngram *x, const int32_t *ids, int32_t n);
/* After ngram_enter: the place p < n before which the most of ids[..n)'s last tokens stand, at
 * least NGRAM_LEAST, of several the latest; 0: none. In *ret_match how many they are. */
int32_t ngram_find(const ngram *x, const int32_t *ids, int32_t n, int32_t *ret_match);

#endif
