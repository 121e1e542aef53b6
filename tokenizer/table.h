/* A vocabulary in the words of GGUF (tokenizer.ggml.*), the middle between the two kinds of files:
 *
 *     a GGUF header ----+                +---- a tokenizer (gguf_tok.c)
 *                       +--> tok_table --+---- keys of a GGUF header (the caller writes them)
 *     a directory ------+                +---- tokenizer.json and its configs (table_hf.c)
 *
 * What a table cannot say is refused, or, where it concerns single added tokens only, noted. */
#ifndef TOKENIZER_TABLE_H
#define TOKENIZER_TABLE_H

#include "engine/base/arena.h"
#include "engine/base/gguf.h"
#include "tokenizer/tokenizer.h"

typedef enum tok_id {
    TOK_BOS,
    TOK_EOS,
    TOK_EOT,
    TOK_EOM,
    TOK_UNK,
    TOK_SEP,
    TOK_PAD,
    TOK_CLS,
    TOK_MASK,
    TOK_IDS
} tok_id;

/* tokenizer.ggml.NAME_token_id of each; NAME_token in tokenizer_config.json, NULL: none. */
typedef struct tok_id_name {
    const char *gguf, *hf;
} tok_id_name;
extern const tok_id_name tok_id_names[TOK_IDS];

#define TOK_UNSAID (-1) /* a switch that a file leaves to its model */

typedef struct tok_table {
    str model; /* gpt2, llama, bert, t5 */
    str pre;   /* of gpt2: the name of the split */
    int32_t n;
    str *pieces;    /* [n]; n = 0: none at that id */
    uint8_t *types; /* [n] 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 a byte */
    float *scores;  /* [n] or NULL */
    str *merges;    /* "left right", in order; NULL: no list */
    size_t n_merges;
    int32_t ids[TOK_IDS]; /* -1: none */
    int8_t add_bos, add_eos, add_sep, add_space_prefix, remove_extra_spaces;
    bool rstrip;  /* special tokens swallow the white space that follows (Phi-3, by its name) */
    str charsmap; /* SentencePiece's precompiled normalisation */
    str chat_template;
    strbuf notes; /* a line for each thing that the table could not keep */
    arena *mem;
    tokenizer *source; /* whose pieces are borrowed; NULL: none */
} tok_table;

/* Borrows from g. */
NODISCARD status tok_table_of_gguf(const gguf *g, tok_table *ret, error *err);
/* A model directory's tokenizer, as n_rows pieces (the model's vocabulary; 0: as many as there
 * are). Refused by name: kinds and settings that GGUF has no word for. What was made was compared
 * with the directory's own tokenizer on texts of its whole vocabulary. */
NODISCARD status tok_table_of_dir(const char *dir, int32_t n_rows, tok_table *ret, error *err);
void tok_table_done(tok_table *t); /* takes {0} */

NODISCARD status tok_table_open(const tok_table *t, tokenizer **ret, error *err);

typedef struct tok_files_text {
    strbuf tokenizer, config, generation; /* the contents of three JSON files */
} tok_files_text;
/* The files of a model directory that Hugging Face reads as the same tokenizer: tokenizer.json,
 * tokenizer_config.json, generation_config.json. `name` is for errors. Compared as above. */
NODISCARD status tok_table_files(const tok_table *t, const char *name, tok_files_text *ret,
                                 error *err);
void tok_files_text_done(tok_files_text *f);

#endif
