/* /v1/embeddings: a call whose requests want a pooled hidden state and no tokens. */
#ifndef SERVER_EMBEDDINGS_H
#define SERVER_EMBEDDINGS_H

#include "server/call.h"

/* The fields of an embedding request. Errors name the field, also when the model makes no
 * embeddings of the kind. */
NODISCARD status embeddings_params(const json_t *body, const model *m, bool strict, gen_params *ret,
                                   error *err);
/* The whole answer of a call that has ended. */
void embeddings_add_answer(const call *c, strbuf *out);

#endif
