/* POST /v1/chat/completions, /v1/completions and /v1/embeddings: all of it is the call's (call.c).
 */
#include "server/api.h"
#include "server/call.h"

void api_chat(exchange *x) {
    call_start(x, API_CHAT);
}

void api_embeddings(exchange *x) {
    call_start(x, API_EMBEDDINGS);
}

void api_completions(exchange *x) {
    call_start(x, API_COMPLETIONS);
}
