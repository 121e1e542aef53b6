/* A generation: one HTTP call, its prompts, their requests to the scheduler, its choices, and how
 * they become an answer. Reactor thread only. */
#ifndef SERVER_CALL_H
#define SERVER_CALL_H

#include "server/exchange.h"
#include "server/output.h"
#include "server/prompt.h"
#include "server/reactor.h"

typedef struct choice {
    output out;
    int32_t part;   /* index of its prompt */
    bool acked;     /* the scheduler has said that it is over: nothing more comes */
    bool last_sent; /* the chunk with finish_reason is out */
    size_t text_sent, tokens_sent, ids_sent; /* how far the stream has taken `out` */
    size_t chars_sent; /* characters of text before the first token not sent: text_offset */
    uint64_t token_us; /* when the last token was seen */
} choice;

/* One prompt and its request. */
typedef struct part {
    ticket *l;  /* in the request's arena; NULL until submitted */
    request *r; /* our reference */
    prompt prompt;
    bool echoed; /* the choices have got the prompt's text and logprobs */
    int32_t n_acked;
} part;

struct call {
    exchange *x;
    arena *mem; /* parameters, prompts, stop sets */
    gen_params p;
    stop_set *stops;
    part *parts;
    int32_t n_parts;
    choice *choices; /* [n_choices] = n of the first prompt, n of the second, ... */
    int32_t n_choices, n_acked;
    int64_t created;
    char id[40];        /* "chatcmpl-...", "cmpl-..." */
    int64_t n_logprobs; /* most that the answer may hold */
    bool entered;       /* key_enter was passed */
    error *err;         /* why it failed: the answer; NULL: it did not */
    const char *err_code;
    bool abandoned;

    /* stream */
    strbuf head; /* what every event begins with, up to the choice's index */
    bool begun;  /* the role events are out */
};

/* Parse the body, make and submit the requests. Leaves the exchange waiting, streaming, or with an
 * error as its answer. */
void call_start(exchange *x, api_kind kind);
/* The scheduler has news of one of its requests. */
void call_news(call *c);
bool call_done(const call *c); /* a whole answer can be given */
void call_finish(call *c);     /* give it: fills the exchange's answer */
/* Append the stream's new events, about `max` bytes at most; true: the last ones. */
bool call_stream_fill(call *c, strbuf *out, size_t max);
/* The client is gone: cancel at once. The call itself goes with call_free. */
void call_abandon(call *c);
void call_free(call *c);

/* Sums over the parts that have ended: prompt tokens, generated tokens, cached tokens. */
typedef struct call_usage {
    int32_t n_prompt, n_output, n_cached;
} call_usage;
call_usage call_usage_of(const call *c);

#endif
