/* The vocabulary of a GGUF file (tokenizer.ggml.*) as a tokenizer. Private to this folder. */
#ifndef TOKENIZER_GGUF_TOK_H
#define TOKENIZER_GGUF_TOK_H

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

#endif
