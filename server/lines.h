/* Line tools: one JSON value a line on standard input, one answer a line on standard output. */
#ifndef SERVER_LINES_H
#define SERVER_LINES_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/base/vec.h"

/* Answer one value: append the answer to *out (without the newline), or fail. */
typedef status (*line_fn)(void *ctx, const json_t *in, strbuf *out, error *err);

/* Read standard input to its end. A line that is not JSON, or that fn refuses, is answered with
 * {"error": "..."}; blank lines are skipped; the next line goes on. Lines and answers are bounded
 * (LIMIT_LINE_BYTES). Returns the exit status: 0, or 1 when input or output breaks. */
int lines_run(line_fn fn, void *ctx);

/* Append the token ids of a JSON array; each must be a whole number in [0, vocab). */
NODISCARD status lines_ids(const json_t *in, int32_t vocab, vec_i32 *ids, error *err);

#endif
