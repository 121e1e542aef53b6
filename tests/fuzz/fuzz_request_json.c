/* A request body: JSON, then every field's parsing for all APIs, strict and not, then messages
 * and prompts. The first byte chooses; the rest is the body. */
#include <stdlib.h>
#include <string.h>

#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "server/embeddings.h"
#include "server/messages.h"
#include "server/params.h"
#include "server/prompt.h"
#include "tests/api/toy_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void params(const json_t *body, int bits) {
    static const int32_t eos[] = {256};
    static const char *const names[] = {"toy"};
    server_defaults d = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    params_context c = {&d, eos, 1, 512, 2048, bits & 1, bits & 2, LIMIT_TOP_LOGPROBS};
    model m = {.m = {.names = names,
                     .n_names = 1,
                     .tok = toy_tokenizer(),
                     .chat = toy_chat(),
                     .defaults = d,
                     .max_model_len = 2048,
                     .vocab = 512,
                     .hidden = 8}};
    api_kind kind = bits & 8 ? API_EMBEDDINGS : bits & 4 ? API_CHAT : API_COMPLETIONS;
    arena *mem = arena_new(1 << 20);
    gen_params p;
    prompt *list;
    int32_t n;
    const char *code = NULL;
    error e;
    status st = kind == API_EMBEDDINGS ? embeddings_params(body, &m, bits & 1, &p, &e)
                                       : params_parse(body, kind, &c, mem, &p, &e);
    if (st == OK) {
        st = (kind == API_CHAT ? prompts_of_chat : prompts_of_text)(&m, body, &p, mem, &list, &n,
                                                                    &e, &code);
        int32_t max;
        for (int32_t i = 0; st == OK && i < n && kind != API_EMBEDDINGS; i++)
            if (prompt_max_tokens(&m, &p, list[i].n, &max, &e, &code) == OK &&
                (max < 0 || list[i].n < 1 || (int64_t)list[i].n + max > 2048))
                abort();
    }
    arena_free(mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    json_t *body = NULL;
    error e;
    if (js_parse(str_n((const char *)data + 1, size - 1), &body, &e) != OK) return 0;
    if (json_is_object(body)) params(body, data[0]);
    json_decref(body);
    return 0;
}
