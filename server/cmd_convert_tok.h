/* The tokenizer's side of `pagoda convert` where the container changes. */
#ifndef SERVER_CMD_CONVERT_TOK_H
#define SERVER_CMD_CONVERT_TOK_H

#include "engine/gguf_write.h"
#include "tokenizer/table.h"

/* All keys of a table (tokenizer.ggml.*, tokenizer.chat_template). */
void convert_put_table(const tok_table *t, gguf_writer *g);

/* convert_options.add_tokenizer; ctx is the path of the model directory. Prints what the table
 * could not keep. */
NODISCARD status convert_add_tokenizer(void *dir, int32_t rows, gguf_writer *g, error *err);

/* A GGUF file's tokenizer as files of a directory: made first, so that nothing is written when it
 * cannot be, and written when the weights are. */
NODISCARD status convert_make_files(const char *gguf_path, tok_files_text *ret, error *err);
NODISCARD status convert_write_files(const tok_files_text *f, const char *dir, error *err);

#endif
