/* POST /v1/chat/completions and /v1/completions: all of it is the call's (call.c). */
#include "server/api.h"
#include "server/call.h"

void api_chat(exchange *x) {
    call_start(x, API_CHAT);
}

void api_completions(exchange *x) {
    call_start(x, API_COMPLETIONS);
}
