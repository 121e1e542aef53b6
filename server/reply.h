/* The JSON of answers and of stream chunks. Written straight into byte buffers: building a tree
 * for every token would cost more than everything else on the way of a token. */
#ifndef SERVER_REPLY_H
#define SERVER_REPLY_H

#include "server/call.h"

/* The whole answer (chat.completion or text_completion). */
void reply_add_answer(const call *c, strbuf *out);

/* Prepare c->head. */
void reply_stream_begin(call *c);
void reply_add_role(const call *c, int32_t index, strbuf *out);
/* What choice `index` has shown since the last chunk, if anything; moves its marks. */
void reply_add_delta(call *c, int32_t index, strbuf *out);
void reply_add_last(const call *c, int32_t index, strbuf *out); /* finish_reason, own chunk */
void reply_add_usage(const call *c, strbuf *out);               /* the chunk with empty choices */

#endif
