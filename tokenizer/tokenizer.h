/* Text <-> token ids, exactly as the reference libraries do it.
 *
 * A tokenizer is immutable after opening and may be used from any number of threads. */
#ifndef TOKENIZER_TOKENIZER_H
#define TOKENIZER_TOKENIZER_H

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef struct tokenizer tokenizer;

typedef struct tokenizer_options {
    /* For rank files, which do not say how text is split: cl100k, o200k, llama3, llama4, qwen2 or
     * glm4. NULL: a model directory's config.json decides by its model_type. */
    const char *pretokenizer;
} tokenizer_options;

/* `path`: a model directory (tokenizer.json, else tokenizer.model, else vocab.json + merges.txt),
 * or one such file, or a tiktoken rank file. Errors name file and key. */
NODISCARD status tokenizer_open(const char *path, const tokenizer_options *o, tokenizer **ret,
                                error *err);
void tokenizer_free(tokenizer *t); /* takes NULL */

typedef enum encode_flags {
    ENCODE_PLAIN = 0,
    ENCODE_SPECIAL = 1,  /* add what the post-processor adds (BOS, EOS, ...) */
    ENCODE_NO_ADDED = 2, /* do not recognise added/special tokens inside the text */
} encode_flags;

/* Append the ids of text (any bytes; invalid UTF-8 becomes U+FFFD first) to *ids. Fails only with
 * ERR_TOO_LARGE when more than ids_max (0 = no bound) would be there. */
NODISCARD status tokenizer_encode(const tokenizer *t, str text, unsigned flags, size_t ids_max,
                                  vec_i32 *ids, error *err);
/* Where a token stands in the text: code points [from, to), as Python counts them (each maximal
 * invalid part of the UTF-8 is one). */
typedef struct token_span {
    uint32_t from, to;
} token_span;
typedef VEC(token_span) token_spans;

/* The same ids, and for each of them where it stands, appended to *spans: the offset mapping of the
 * reference library, through everything that changes the text's length. Tokens that were put around
 * (ENCODE_SPECIAL) have {0, 0}; tokens that share a character have its span each. Texts below 4
 * GiB; slower than tokenizer_encode, and linear in the text but for a logarithm. */
NODISCARD status tokenizer_encode_spans(const tokenizer *t, str text, unsigned flags,
                                        size_t ids_max, vec_i32 *ids, token_spans *spans,
                                        error *err);
/* Append the text of ids as the reference library's decode (clean-up off). Unknown ids give
 * nothing. Output is valid UTF-8 (U+FFFD for bytes that are not). */
void tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      strbuf *out);

int32_t tokenizer_vocab(const tokenizer *t);         /* ids are 0 .. vocab-1 (holes allowed) */
int32_t tokenizer_id(const tokenizer *t, str piece); /* id of an exact token string, -1 if none */
/* The token as stored ("▁the", "Ġthe", "<0x0A>"); borrowed while t lives; {NULL,0} for a hole. */
str tokenizer_piece(const tokenizer *t, int32_t id);
/* The bytes that the token stands for in running text ("\n" for "<0x0A>"), appended to out. */
void tokenizer_bytes(const tokenizer *t, int32_t id, strbuf *out);
bool tokenizer_is_special(const tokenizer *t, int32_t id);
int32_t tokenizer_bos(const tokenizer *t); /* -1 if the files name none */
int32_t tokenizer_eos(const tokenizer *t);
/* The chat template that the tokenizer's own file carries (GGUF); {NULL,0}: none. Borrowed. */
str tokenizer_template(const tokenizer *t);
const char *tokenizer_kind(const tokenizer *t); /* "bpe (byte level)", "sentencepiece bpe", ... */

#endif
