/* One HTTP request and its answer, from the end of the headers to the last byte sent.
 *
 * Belongs to one reactor thread: every function here is called on it. */
#ifndef SERVER_EXCHANGE_H
#define SERVER_EXCHANGE_H

#include <jansson.h>
#include <microhttpd.h>

#include "conf/limits.h"
#include "server/internal.h"
#include "server/routes.h"

typedef struct call call;
typedef struct conn conn;
typedef struct key key;

typedef enum exchange_phase {
    PHASE_BODY,   /* the body comes in */
    PHASE_REFUSE, /* an answer is ready, the rest of the body is read and dropped first */
    PHASE_WAIT,   /* suspended: a generation runs, its answer is built when it has ended */
    PHASE_ANSWER, /* the answer is complete in `out` */
    PHASE_STREAM, /* the headers are out, events follow */
    PHASE_SENT,   /* the answer is with the library */
    PHASE_DROP,   /* the client is gone or was cut: close */
} exchange_phase;

struct exchange {
    exchange *next_free;
    server *srv;
    reactor *re;
    conn *cn;
    struct MHD_Connection *mhd; /* NULL once a stream has taken the connection over */
    exchange_phase phase;
    bool suspended;

    http_method method;
    const route *route; /* never NULL: route_none for unknown paths */
    const model *model; /* with ROUTE_MODEL routes */
    str arg;            /* of a '*' route; in arg_buf */
    char arg_buf[256];
    char id[LIMIT_REQUEST_ID_BYTES + 1]; /* x-request-id */
    bool chunked, close;                 /* the client speaks HTTP/1.1; no request comes after */
    bool sure_of_bytes;                  /* the request's bytes are all in conn.n_read */
    keys *keys;                          /* a reference, or NULL when keys are not in use */
    key *key;                            /* the caller's, inside keys */
    strbuf body;

    int http_status; /* 0 until an answer is chosen */
    strbuf out;      /* the answer; of a stream what the socket did not take yet */
    bool all_made;   /* of a stream: the last event is made */
    const char *content_type;
    char allow[64];
    int retry_after_s;  /* > 0: the header is sent */
    bool limits_header; /* x-ratelimit-* of key */

    adapter_entry *adapter; /* that the request's model names: a reference, or NULL */

    call *call; /* a generation, or NULL */

    /* for the log */
    uint64_t start_us;
    int32_t n_prompt, n_output;
    int32_t n_drafted, n_accepted; /* tokens guessed, and how many of them were right */
    uint64_t ttft_us;
    const char *finish; /* static text, or NULL */
};

/* The answer is in x->out: send it with `http_status`. */
void exchange_answer(exchange *x, int http_status, const char *content_type);
void exchange_json(exchange *x); /* 200 application/json */
/* Replace whatever is in x->out by the error's body. `code` as errors_add_json. */
void exchange_fail(exchange *x, const error *e, const char *code);
/* The body as a JSON object, new reference, or NULL with the failure answered. */
json_t *exchange_body_object(exchange *x);
/* Is `name` a served model that the key may use? NULL or empty: the first one. An adapter, by its
 * name or as base:adapter, becomes x->adapter. Answers on failure. */
bool exchange_model_ok(exchange *x, str name);
static inline str exchange_model_name(const exchange *x) {
    return str_z(x->adapter ? x->adapter->name : x->model->m.names[0]);
}
/* A short unique text for ids of answers, into ret[25]. */
void exchange_unique(server *s, char ret[25]);

#endif
