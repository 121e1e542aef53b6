/* The error body of OpenAI's API, from an error record. */
#ifndef SERVER_ERRORS_H
#define SERVER_ERRORS_H

#include "engine/base/status.h"
#include "engine/base/str.h"

/* Append {"error":{"message","type","param","code"}}. `code` NULL: the usual one of e->code
 * ("invalid_api_key", "rate_limit_exceeded", ...), or JSON null where OpenAI has none. */
void errors_add_json(strbuf *out, const error *e, const char *code);

#endif
