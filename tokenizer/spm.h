/* SentencePiece's two models, BPE and Unigram, with its own normalising, behind the readers that
 * fill them: .model files (spm_file.c) and GGUF vocabularies (gguf_tok.c). Private to this folder.
 *
 * A reader makes one with spm_new, puts pieces, sets the options, and calls spm_finish. */
#ifndef TOKENIZER_SPM_H
#define TOKENIZER_SPM_H

#include "tokenizer/charsmap.h"
#include "tokenizer/tok.h"
#include "tokenizer/unigram.h"

typedef enum spm_algorithm { SPM_UNIGRAM = 1, SPM_BPE = 2 } spm_algorithm;

typedef struct spm {
    bool dummy_prefix, remove_extra, escape, suffix, byte_fallback;
    bool double_sums;  /* a Unigram adds as tokenizer.json's library does */
    bool unused_apart; /* UNUSED pieces take no part; otherwise a BPE with them is refused */
    uint64_t algorithm;
    charsmap *map;
    added_set *user; /* user-defined symbols */
    bpe *bpe;
    unigram *unigram;
    VEC(float) scores;  /* by id */
    VEC(uint8_t) types; /* spm_type by id */
} spm;

/* With SentencePiece's defaults, as t's model. */
spm *spm_new(tokenizer *t);
/* Piece `id` of the vocabulary. Ids that are never put are holes. */
NODISCARD status spm_put(spm *s, tokenizer *t, int32_t id, str piece, float score, uint8_t type,
                         error *err);
/* The tables that follow from pieces and options, and t's decoder. */
NODISCARD status spm_finish(spm *s, tokenizer *t, str unk_surface, error *err);

/* t, whose model is a spm, puts its space before a text only, not before what follows an added
 * token. */
NODISCARD status spm_prefix_first(tokenizer *t, error *err);

/* How the ids of a .model file's pieces are told. */
typedef enum spm_ids {
    SPM_IDS_PLAIN,
    SPM_IDS_FAIRSEQ, /* <s> 0, <pad> 1, </s> 2, <unk> 3, then the file's from its third on + 1 */
} spm_ids;
/* A .model file whose first piece gets id `base`. */
NODISCARD status spm_open_as(str text, spm_ids ids, int32_t base, tokenizer **ret, error *err);

#endif
