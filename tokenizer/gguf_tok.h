/* The vocabulary of a GGUF file (tokenizer.ggml.*) as a tokenizer. Private to this folder. */
#ifndef TOKENIZER_GGUF_TOK_H
#define TOKENIZER_GGUF_TOK_H

#include "tokenizer/table.h"
#include "tokenizer/tok.h"

/* Whatever the file's name ends with: true for the bytes that begin a GGUF file. */
bool gguf_magic(const char *path);
NODISCARD status gguf_tok_open(const char *path, tokenizer **ret, error *err);
/* The same of bytes in memory; `name` is for errors. */
NODISCARD status gguf_tok_parse(str bytes, const char *name, tokenizer **ret, error *err);

typedef struct gguf_pre {
    bool bos, sep, ignore_merges; /* what the name implies where the file does not say */
} gguf_pre;
/* The split that a name (empty: none given) stands for into t->pre, and t->norm if it has one. */
NODISCARD status gguf_pre_of(str name, tokenizer *t, gguf_pre *ret, error *err);
/* The same as tokenizer.json's "pre_tokenizer" and, if the name implies one, "normalizer" (else
 * *ret_norm is NULL). The caller owns both. */
NODISCARD status gguf_pre_json(str name, gguf_pre *ret, json_t **ret_pre, json_t **ret_norm,
                               error *err);
/* The name whose split, normaliser and ignore_merges are these of a tokenizer.json. Borrowed
 * constant text. */
NODISCARD status gguf_pre_name(const json_t *pre, const json_t *norm, bool ignore_merges, str *ret,
                               error *err);

/* A piece of model bert in BERT's own form, and what its normaliser is: without upper case all
 * over, text is lowered and accents go. */
void gguf_word_piece(str piece, uint8_t type, strbuf *out);
bool gguf_words_lower(const tok_table *t);

#endif
