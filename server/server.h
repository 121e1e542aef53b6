/* The HTTP front end: the OpenAI-compatible API over libmicrohttpd, in front of a scheduler.
 *
 * Life of a server (what `pagoda serve` does):
 *
 *     server_options o = server_options_default();       fill in host, port, keys, limits
 *     server_new(&o, &s, &err);                          checks options, reads the key file
 *     server_start(s, &err);                             listens; /health says 503 "loading"
 *     ... open tokenizer, chat template, engine ...
 *     scheduler_options so = {.on_ready = server_on_ready, .ctx = s, ...};
 *     sched = scheduler_new(&so, stepper); scheduler_start(sched);
 *     server_attach(s, &model, sched);                   /health says 200, requests are served
 *     ... wait for SIGTERM ...
 *     server_drain(s);                                   /ready and new requests 503, streams go on
 *     while (server_in_flight(s) > 0 && time is left) sleep;
 *     scheduler_stop(sched);                             ends what is left with FINISH_CANCEL
 *     server_stop(s);                                    closes connections, joins the threads
 *     server_free(s); scheduler_free(sched);             then tokenizer, template, engine
 *
 * Threads: n_threads reactors, each with a libmicrohttpd daemon of its own; server_* functions are
 * called from the main thread, except server_on_ready (engine thread) and those marked "any". */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "scheduler/scheduler.h"
#include "server/turn.h"
#include "tokenizer/tokenizer.h"

typedef struct server server;
typedef struct chat chat; /* tokenizer/chat.h */

/* Strings are borrowed until server_new returns. Times in milliseconds, 0 = no limit unless said
 * otherwise. */
typedef struct server_options {
    const char *host;        /* address to listen on: "127.0.0.1", "0.0.0.0", "::", a name */
    int port;                /* 0: any free one, see server_port() */
    const char *unix_socket; /* NULL, or a path to listen on instead of host and port */
    int listen_fd;           /* -1, or a listening socket to take over (socket activation) */
    int n_threads;           /* reactors, >= 1 */

    int max_connections;        /* of the whole server */
    int max_connections_per_ip; /* 0: no limit */
    size_t body_bytes_max;
    int64_t header_timeout_ms;   /* from accept to the end of the headers */
    int64_t body_timeout_ms;     /* from the headers to the end of the body */
    int64_t idle_timeout_ms;     /* a kept-alive connection without a request */
    int64_t stall_timeout_ms;    /* a reader that takes nothing for so long is cut */
    int64_t request_timeout_ms;  /* a generation not finished by then ends with 408 */
    int64_t keepalive_ms;        /* comment lines on streams that wait; 0: none */
    int retry_after_s;           /* told to clients on 503 */
    const char *const *api_keys; /* [n_api_keys] plain keys (--api-key); hashed, not kept */
    int n_api_keys;
    const char *api_key_file; /* NULL, or see server/keys.h for the format */
    bool strict;              /* unknown request fields are a 400 */
    bool request_template;    /* allow chat_template in requests */
    bool access_log;          /* one JSON line per request */
    int max_logprobs;         /* most top_logprobs, <= LIMIT_TOP_LOGPROBS */
    bool lora_updates;        /* adapters may be loaded and unloaded over HTTP */
} server_options;

server_options server_options_default(void);

/* Sampling defaults of a model: its generation_config.json, then OpenAI's. */
typedef struct server_defaults {
    float temperature, top_p, min_p, typical_p, repetition_penalty;
    int32_t top_k;           /* 0: off */
    int32_t no_repeat_ngram; /* 0: off */
    int32_t max_new_tokens;  /* 0: none named */
    int32_t max_length;      /* of prompt and answer together; 0: no bound of its own */
} server_defaults;

/* OpenAI's defaults, overwritten by what dir/generation_config.json says (it may be absent). */
NODISCARD status server_defaults_read(const char *dir, server_defaults *ret, error *err);

/* What is served. Borrowed until server_free, except the strings, which are copied. */
typedef struct server_model {
    const char *const *names; /* [n_names]: ids answered to; the first is told back */
    int n_names;
    const tokenizer *tok;
    const chat *chat; /* NULL: the model has no chat template; chat requests are a 400 */
    turn_ends turn;   /* where answers to chat requests end, besides eos_ids */
    server_defaults defaults;
    const int32_t *eos_ids; /* [n_eos] */
    int32_t n_eos;
    int32_t max_model_len;        /* tokens, prompt and output */
    int32_t vocab;                /* ids are 0 .. vocab-1 */
    bool embeds_only;             /* an encoder: no head, no generation */
    int32_t hidden;               /* width of embeddings; 0: none are made */
    pool_kind pool;               /* how they are made */
    bool pool_normalize;          /* to length 1 unless the request says otherwise */
    char pool_unsupported[64];    /* what they would need but is not computed, or "" */
    int64_t created;              /* unix seconds */
    int32_t page_tokens, n_pages; /* for vllm:cache_config_info */
    const char *kv_dtype;         /* static; NULL: no model */
    struct adapters *adapters;    /* server/adapters.h; NULL: none can be loaded */
    const char *default_adapter;  /* NULL, or the adapter that the base's names stand for */
    const char *info_json; /* members of /server_info ("\"family\":\"llama\",..."), or NULL */
} server_model;

/* Errors name the option or the key file's line. */
NODISCARD status server_new(const server_options *o, server **ret, error *err);
/* Bind, listen, start the reactors; raises the soft limit of open files when max_connections needs
 * it. A busy port is a sentence that names it. */
NODISCARD status server_start(server *s, error *err);
/* The model is loaded: serve it. Once. */
void server_attach(server *s, const server_model *m, scheduler *sched);
/* scheduler_options.on_ready, with ctx = the server. Engine thread; does not block. */
void server_on_ready(void *server, request **ready, int32_t n);

int server_port(const server *s); /* the port really bound; 0 on a Unix socket */
/* Read the key file again (SIGHUP). On failure the old keys stay. */
NODISCARD status server_reload(server *s, error *err);
/* Refuse new work from now on (503, Retry-After); what runs goes on. Any thread. */
void server_drain(server *s);
/* Requests being answered (generations and others). Any thread. */
int server_in_flight(const server *s);
void server_stop(server *s);
void server_free(server *s); /* takes NULL */

#endif
