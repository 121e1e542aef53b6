/* Byte-pair encoding of one word: the lowest-ranked pair of neighbours is merged, leftmost first,
 * until none is left (Sennrich et al. 2016). One engine for tokenizer.json's BPE (over bytes or
 * characters), SentencePiece's BPE (rank by score) and tiktoken's (rank by id): they differ only in
 * where the table of pairs comes from.
 *
 * Symbols are ids. A character that has no id of its own but takes part in merges gets a private id
 * from bpe.n_ids upward; what is left of those at the end is unknown. */
#ifndef TOKENIZER_BPE_H
#define TOKENIZER_BPE_H

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/base/vec.h"
#include "tokenizer/trace.h"
#include "tokenizer/vocab.h"
#include "tokenizer/wordcache.h"

typedef struct bpe_pair {
    int32_t left, right; /* left < 0: empty */
    uint32_t rank;
    int32_t id;
} bpe_pair;

typedef struct bpe_char {
    uint32_t cp1; /* code point + 1; 0: empty */
    int32_t id;
} bpe_char;

#define BPE_JOINED_BITS 17
#define BPE_AFFIX_MAX   30
#define BPE_AFFIXED_MAX (2 * BPE_AFFIX_MAX + 4)

typedef struct bpe {
    bool bytes; /* a word is bytes, each a symbol; otherwise UTF-8 characters */
    bool fuse_unk, ignore_merges, byte_fallback;
    bool careful;         /* unknown characters may bring their neighbours together */
    int32_t n_ids;        /* ids at or above are private */
    int32_t unk;          /* -1: characters that are not there vanish */
    int32_t byte_id[256]; /* bytes: the symbol; characters: "<0x00>"..., -1: none */
    str prefix, suffix;   /* continuing_subword_prefix, end_of_word_suffix; owned, up to
                             BPE_AFFIX_MAX bytes */
    vocab whole;          /* word -> id, where ignore_merges, prefix or suffix need it */
    bpe_pair *pairs;
    uint32_t n_pairs, pair_slots; /* slots: a power of two or 0 */
    bpe_char *chars;
    uint32_t n_chars, char_slots;
    VEC(uint32_t) privates; /* code points of the private ids */
    uint64_t
        *joined; /* BPE_JOINED_BITS bits by hash: neighbours inside some piece; NULL: never cut */
    wordcache *cache;
} bpe;

void bpe_init(bpe *b);
void bpe_done(bpe *b);
void bpe_reserve_pairs(bpe *b, size_t n);
/* A later rank for the same pair replaces the earlier one. */
void bpe_add_pair(bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id);
void bpe_prefetch_pair(const bpe *b, int32_t left, int32_t right); /* it is added soon */
void bpe_add_char(bpe *b, uint32_t cp, int32_t id);
int32_t bpe_char_id(const bpe *b, uint32_t cp); /* -1: none */

/* Every way to build a piece of v from two pieces of v becomes a pair with rank[id]; single
 * characters that are no piece themselves get private ids from n_ids (characters only). */
void bpe_pairs_from_pieces(bpe *b, const vocab *v, const uint32_t *rank, int32_t n_ids);
/* The same where rank and id are one and every byte is a piece (rank files): of all ways only the
 * one that merging itself would take, for no other can come up. */
void bpe_pairs_from_ranks(bpe *b, const vocab *v);
/* Allow cutting words between characters that are neighbours in no piece of v, so that the parts
 * can be remembered (characters only). After the symbols. */
void bpe_set_breaks(bpe *b, const vocab *v);

/* Append the ids of one word (not empty, below 2 GiB). Any thread. */
void bpe_encode(const bpe *b, str word, vec_i32 *ids);
/* The same, and the bytes of the word behind each id. Past a character that vanished the spans are
 * short by its length, as in the reference. */
void bpe_spans(const bpe *b, str word, vec_i32 *ids, span_vec *spans);

#endif
