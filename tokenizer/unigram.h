/* Unigram language model segmentation (Kudo 2018): the most likely sequence of pieces, by Viterbi
 * over the places of the text.
 *
 * The two references compute in different precision, and near ties are real: SentencePiece (0.1.97
 * to 0.2.1; 0.2.3 uses float throughout) adds in double and keeps the sums as float,
 * tokenizer.json's library keeps doubles. */
#ifndef TOKENIZER_UNIGRAM_H
#define TOKENIZER_UNIGRAM_H

#include "tokenizer/tok.h"
#include "tokenizer/trie.h"

typedef struct unigram {
    trie pieces;
    VEC(double) scores;   /* by id */
    const uint8_t *types; /* spm_type by id, NULL: all normal; borrowed */
    double min, max;      /* of the scores, as the reference takes them */
    int32_t unk;          /* -1: what is not covered vanishes */
    bool float_sums;      /* SentencePiece */
    int32_t byte_id[256]; /* "<0x00>"...: with all there, unknown text becomes bytes; [0] -1: no */
    vocab whole;          /* tokenizer.json: a fused unknown may be a piece after all */
    wordcache *cache;
} unigram;

/* Append the ids of `word` (valid UTF-8). Any thread. Linear in the word for a given vocabulary. */
void unigram_encode(const unigram *u, str word, vec_i32 *ids);
/* The same, and the bytes of the word behind each id: bytes of unknown text all of it. */
void unigram_spans(const unigram *u, str word, vec_i32 *ids, span_vec *spans);
unigram *unigram_new(void);
void unigram_free(unigram *u); /* takes NULL */

/* tokenizer.json: `list` is [[piece, score], ...], `unk_id` a number or null. Fills t->model and
 * t->pieces. */
NODISCARD status unigram_read(str list, str unk_id, bool byte_fallback, tokenizer *t, error *err);

#endif
