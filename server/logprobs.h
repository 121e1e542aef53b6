/* The logprobs member of a choice, in both APIs' shapes. */
#ifndef SERVER_LOGPROBS_H
#define SERVER_LOGPROBS_H

#include "server/call.h"

/* The value of "logprobs" for tokens [from, to) of o: JSON null when none were asked (or there is
 * nothing to tell). *chars counts characters over the calls of one choice (text_offset). */
void logprobs_add(const output *o, api_kind kind, size_t from, size_t to, size_t *chars,
                  strbuf *out);
/* ,"prompt_logprobs":[null, {"ID": {"logprob","rank","decoded_token"}, ...}, ...] */
void logprobs_add_prompt(const call *c, const part *pt, strbuf *out);

#endif
