/* Decoders: tokens -> text, as a pipeline of stages through which tokens are pushed one by one
 * (tokenizer.json's "decoder", Sequence flattened; SentencePiece's; plain bytes).
 *
 * There is one implementation for whole sequences and for streams: decoding is "push all, flush".
 * What a stage writes is final; what a later token could still change is held back. */
#ifndef TOKENIZER_DECODER_H
#define TOKENIZER_DECODER_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "tokenizer/matcher.h"

typedef struct decoder decoder;
typedef struct decode_stream decode_stream;

/* `spec`: the JSON value, NULL: tokens are joined by spaces. */
NODISCARD status decoder_new(const json_t *spec, decoder **ret, error *err);
/* Tokens are bytes: concatenated, then read as UTF-8. */
decoder *decoder_of_bytes(void);

typedef enum spm_type {
    SPM_NORMAL = 1,
    SPM_UNKNOWN = 2,
    SPM_CONTROL = 3,
    SPM_USER = 4,
    SPM_UNUSED = 5,
    SPM_BYTE = 6,
} spm_type;
/* SentencePiece: drop_space: the first piece's leading space goes; drop_all: and all that follow
 * it before there is text. */
decoder *decoder_of_spm(bool drop_space, bool drop_all, str unk_surface);
void decoder_free(decoder *d); /* takes NULL */

/* True when the first stage wants the bytes that a token stands for in GPT-2's byte alphabet
 * (tokenizer.raw) instead of the token as stored. */
bool decoder_wants_raw(const decoder *d);
/* What one token stands for in running text, without what depends on its place. */
void decoder_token_bytes(const decoder *d, str token, spm_type type, strbuf *out);

decode_stream *decode_begin(const decoder *d);
void decode_end(decode_stream *s); /* takes NULL */
/* type: SPM_NORMAL except for SentencePiece's decoder. */
void decode_push(decode_stream *s, str token, spm_type type, strbuf *out);
void decode_flush(decode_stream *s, strbuf *out);

#endif
