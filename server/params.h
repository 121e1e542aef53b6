/* The fields of a generation request (chat and text completions, `pagoda generate --json`): parsed,
 * bounded and completed with the model's defaults. This is the one place where they are judged; a
 * field that is known but cannot be honoured is an error that names it. */
#ifndef SERVER_PARAMS_H
#define SERVER_PARAMS_H

#include <jansson.h>

#include "engine/base/arena.h"
#include "scheduler/request.h"
#include "server/server.h"
#include "server/turn.h"

typedef enum api_kind { API_CHAT, API_COMPLETIONS, API_EMBEDDINGS } api_kind;

typedef struct gen_params {
    api_kind kind;
    str model; /* as asked, {NULL,0} if absent */
    bool stream, include_usage, continuous_usage;
    int32_t n;
    int32_t max_tokens;          /* -1: not given */
    sample_params sample;        /* arrays in the arena; stop_ids: the model's and the request's */
    const int32_t *own_stop_ids; /* [n_own_stop_ids] stop_token_ids: told back as stop_reason */
    int32_t n_own_stop_ids;
    bool has_seed;
    str *stops; /* [n_stops], none empty: the request's, then the chat format's */
    int32_t n_stops;
    int32_t n_turn_stops; /* the last so many are the format's: an end like any other, not told */
    bool include_stop, skip_special, return_token_ids, echo;
    bool add_special_tokens; /* what the tokenizer's post-processor adds */
    bool want_logprobs;      /* sample.n_logprobs >= 0 was asked for the output */
    int32_t n_top;           /* top alternatives to show, 0..LIMIT_TOP_LOGPROBS */
    int32_t n_prompt_top;    /* prompt_logprobs; -1: not asked */
    int32_t priority;
    str cache_salt;
    int32_t truncate_prompt; /* -1: no; else keep the last so many tokens */
    /* chat */
    bool add_generation_prompt, continue_final_message;
    const json_t *template_kwargs; /* NULL or an object, borrowed from the body */
    str chat_template;             /* {NULL,0}, or the request's own */
    str reasoning_effort;
    /* embeddings (embeddings.h) */
    bool embed_base64, embed_normalize;
    int32_t embed_dims;
} gen_params;

/* What the judgement depends on besides the request. */
typedef struct params_context {
    const server_defaults *defaults;
    const int32_t *eos_ids;
    int32_t n_eos, vocab, max_model_len;
    bool strict, request_template;
    int max_logprobs;
    const turn_ends *turn; /* of the chat format; NULL: none */
} params_context;

/* Strings of *ret are borrowed from `body`, arrays live in `mem`. */
NODISCARD status params_parse(const json_t *body, api_kind kind, const params_context *c,
                              arena *mem, gen_params *ret, error *err);

#endif
