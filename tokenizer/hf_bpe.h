/* The tables of a BPE model from the files that list merges: tokenizer.json and vocab.json with
 * merges.txt. */
#ifndef TOKENIZER_HF_BPE_H
#define TOKENIZER_HF_BPE_H

#include "tokenizer/tok.h"

/* {"token": id, ...} into v. */
NODISCARD status hf_vocab(str json, vocab *v, error *err);
/* ["a b", ...] or [["a", "b"], ...] as pairs of b, rank by order; b->prefix is set. */
NODISCARD status hf_merges(str json, const vocab *v, bpe *b, error *err);
/* The lines of a merges.txt ("a b"; a first line "#version" is passed over). */
NODISCARD status hf_merges_text(str text, const vocab *v, bpe *b, error *err);
/* A fresh BPE as t's model. */
bpe *hf_bpe_make(tokenizer *t, bool bytes);
/* The tables that follow from the vocabulary t->pieces and b's flags: symbols, whole words, where
 * words may be cut. After the merges, before any token is added. */
void hf_bpe_finish(tokenizer *t, bpe *b);

#endif
