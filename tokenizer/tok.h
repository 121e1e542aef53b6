/* The inside of a tokenizer: what the file readers (hf.c, spm.c, tiktoken.c, gpt2files.c) fill in
 * and tokenizer.c runs. Private to this folder. */
#ifndef TOKENIZER_TOK_H
#define TOKENIZER_TOK_H

#include <jansson.h>

#include "engine/base/vec.h"
#include "tokenizer/added.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalize.h"
#include "tokenizer/pretok.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocab.h"

/* A model: word -> ids. One of these per kind of file content. spans gives the same ids, and for
 * each the bytes of the word that it stands for, as the reference counts them; it is the slower
 * one. */
typedef struct model {
    const char *kind;
    void *self;
    void (*encode)(const void *self, str word, vec_i32 *ids);
    void (*spans)(const void *self, str word, vec_i32 *ids, span_vec *spans);
    void (*free)(void *self);
} model;

/* ByteLevel and RobertaProcessing with trim_offsets. */
#define TOK_TRIMS     4
#define TOK_TRIM      1
#define TOK_TRIM_KEEP 2 /* add_prefix_space: the first token keeps one space */

struct tokenizer {
    model model;
    vocab pieces;       /* as stored, added tokens included */
    vocab raw;          /* ids -> bytes where the decoder wants those; no look-up by string */
    bool raw_is_stored; /* pieces are bytes already: raw is left empty */
    uint8_t *special;   /* by id, pieces.n entries */
    uint8_t *types;     /* spm_type by id, NULL: all normal */
    normalizer *norm;
    pretok *pre;
    added_set *added;            /* matched in the text as it is */
    added_set *added_normalized; /* matched in the normalised text */
    vec_i32 before, after;       /* what ENCODE_SPECIAL puts around */
    uint8_t trims[TOK_TRIMS];    /* post-processors that take white space out of spans */
    int n_trims;
    decoder *dec;
    int32_t bos, eos;
    strbuf template; /* the chat template that the file carries; empty: none */
};

/* The bytes or string of id as the decoder wants it; {NULL,0}: none. */
static inline str tok_for_decoder(const tokenizer *t, int32_t id) {
    return vocab_piece(t->raw.n ? &t->raw : &t->pieces, id);
}

tokenizer *tok_new(void);
/* Make `special` as long as the vocabulary and fill raw if the decoder wants it. The last step of
 * every reader. */
void tok_finish(tokenizer *t);

/* An added token as the files describe it. */
typedef struct added_spec {
    int32_t id;
    str content;
    bool special, normalized, lstrip, rstrip, single_word;
} added_spec;
/* Put it into pieces, special and the set it belongs to. Needs t->norm. */
NODISCARD status tok_add(tokenizer *t, const added_spec *a, error *err);

/* A piece at `id`, whatever was there and wherever the string was. */
NODISCARD status tok_put(tokenizer *t, int32_t id, str piece, error *err);
/* A special piece that is not looked for in text. */
NODISCARD status tok_put_special(tokenizer *t, int32_t id, str piece, error *err);

/* Readers. `text` is the file's content, borrowed during the call. */
NODISCARD status hf_open(str text, tokenizer **ret, error *err);
NODISCARD status spm_open(str text, tokenizer **ret, error *err);
NODISCARD status tiktoken_open(str text, const char *pretokenizer, tokenizer **ret, error *err);
NODISCARD status gpt2files_open(str vocab_json, str merges_txt, tokenizer **ret, error *err);

/* A model directory's small files; NULL: absent. */
typedef struct tok_files {
    const char *dir; /* borrowed */
    json_t *model;   /* config.json */
    json_t *config;  /* tokenizer_config.json */
    json_t *map;     /* special_tokens_map.json */
    json_t *added;   /* added_tokens.json */
} tok_files;
NODISCARD status tok_files_load(const char *dir, tok_files *ret, error *err);
void tok_files_done(tok_files *f);
/* tokenizer_class is `class`; where no class is given, model_type is `model_type`. */
bool tok_files_say(const tok_files *f, const char *class, const char *model_type);

typedef enum tok_config_how {
    TOK_CONFIG_ENDS,    /* bos and eos alone: a tokenizer.json said the rest */
    TOK_CONFIG_ALL,     /* added and special tokens, add_bos_token, add_eos_token */
    TOK_CONFIG_ALL_BOS, /* the same, and add_bos_token is true unless it says otherwise */
} tok_config_how;
NODISCARD status tok_config(tokenizer *t, const tok_files *f, tok_config_how how, error *err);

/* ChatGLM's own tokenizers (chatglm.c). */
NODISCARD status glm6b_open(str text, const json_t *config, tokenizer **ret, error *err);
NODISCARD status glm2_specials(tokenizer *t, error *err);
/* Byte pairs that merge by rank (= id) over t->pieces, which are bytes: model and decoder. */
NODISCARD status rank_model(tokenizer *t, error *err);
/* The special tokens of a family's rank file, by what the directory says it is (ranks.c); nothing
 * for others. After the directory's own added tokens. */
NODISCARD status rank_specials(tokenizer *t, const tok_files *f, int32_t n_ranks, error *err);
/* The split pattern by name that the directory's rank file needs; NULL: not known. */
const char *rank_pattern(const tok_files *f);
NODISCARD status tekken_open(str text, tokenizer **ret, error *err);
NODISCARD status rwkv_open(str text, tokenizer **ret, error *err);

#endif
