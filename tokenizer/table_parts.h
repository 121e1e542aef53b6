/* What the table's two makers and its writer share. Private to this folder. */
#ifndef TOKENIZER_TABLE_PARTS_H
#define TOKENIZER_TABLE_PARTS_H

#include <jansson.h>

#include "tokenizer/table.h"
#include "tokenizer/tok.h"

/* n pieces, all normal; scores and merges are left out. */
void tok_table_init(tok_table *t, int32_t n);
float *tok_table_scores(tok_table *t);
/* A copy that lives as long as the table. */
str tok_table_keep(tok_table *t, str s);
void tok_table_note(tok_table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Do a and b give the same ids for some hard texts, each piece's text, and chains of pieces? A
 * text that they differ in is an error; with `few` one in a thousand is let pass and counted. */
NODISCARD status tok_compare(const tokenizer *a, const tokenizer *b, bool few, int *ret_differ,
                             error *err);

/* What a model directory's file says, into a table whose pieces and types are those of t->source.
 * (table_models.c) */
NODISCARD status table_of_json(const char *path, tok_table *t, error *err);
NODISCARD status table_of_spm(const char *path, tok_table *t, error *err);
NODISCARD status table_of_merges(const char *path, tok_table *t, error *err);
NODISCARD status table_of_words(tok_table *t, error *err);

#endif
