/* A small HTTP/1.1 client for `pagoda chat --url` and `pagoda bench serve`: one request per
 * connection or many, responses parsed as they come, server-sent events cut out of them.
 * Plain http only. Not thread-safe; no state but its structs. */
#ifndef SERVER_CLIENT_H
#define SERVER_CLIENT_H

#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

#define CLIENT_BODY_MAX ((size_t)64 << 20) /* bytes of a response that may wait to be consumed */

typedef struct client_url {
    char host[256], port[8];
    char base[256]; /* path before /v1, without a final slash */
    char path[108]; /* of a Unix socket, then nothing else counts; else "" */
} client_url;

/* "http://host:port[/base]", "host:port", "[::1]:8000", "unix:/path"; a final /v1 is cut off.
 * Errors quote the text. */
NODISCARD status client_url_parse(const char *text, client_url *ret, error *err);

/* A connected TCP socket (Nagle off); nonblock: for an epoll loop. The caller closes it. */
NODISCARD status client_connect(const client_url *u, bool nonblock, int *ret_fd, error *err);

/* Append a request: METHOD base+path, JSON body where there is one (POST) and the key as bearer
 * where it is not NULL. */
void client_request(strbuf *out, const client_url *u, const char *method, const char *path,
                    const char *key, str body);

/* A response being received. {0} is ready for the first byte. */
typedef struct client_reply {
    int http; /* status code, 0 until the header is complete */
    bool chunked, close, done;
    int64_t left; /* of the body or the chunk; -1: until the connection closes */
    int phase;
    strbuf head; /* the header or chunk-size line being received */
    strbuf body; /* what has come and was not consumed */
} client_reply;

/* Take n bytes; *ret_used of them belong to this response (less than n only at its end). n == 0:
 * the peer closed. ERR_IO when what comes is not HTTP, or the connection ended too early. */
NODISCARD status client_reply_feed(client_reply *r, const char *p, size_t n, size_t *ret_used,
                                   error *err);
void client_reply_done(client_reply *r); /* frees; leaves {0} */

/* The next complete server-sent event of r->body: its data (borrowed until the next call), false
 * if none is complete. `*pos` starts at 0 and is the caller's. Comments are skipped. */
bool client_event(client_reply *r, size_t *pos, str *ret_data);

/* Receive once from a blocking socket into r, through buf. ERR_CANCELLED when a signal came. */
NODISCARD status client_receive(int fd, client_reply *r, char *buf, size_t n, error *err);

/* Blocking exchange for small answers: connect, ask, wait for all of it. The caller frees *ret. */
NODISCARD status client_call(const client_url *u, const char *method, const char *path,
                             const char *key, str body, client_reply *ret, error *err);

/* One parsed event; a failure ends the stream. */
typedef status (*client_event_fn)(void *ctx, const json_t *event, error *err);

/* Blocking POST with "stream": true in its body: each event goes to fn until [DONE]. An error
 * answer or an error event is ERR_INVALID with the server's sentence. `stop` (may be NULL) is set
 * by a signal handler: the connection is closed and the status is OK. */
NODISCARD status client_stream(const client_url *u, const char *path, const char *key, str body,
                               client_event_fn fn, void *ctx, volatile sig_atomic_t *stop,
                               error *err);

/* OK for status 200 without an "error" member in the text, else the server's sentence. */
NODISCARD status client_refusal(int http, str text, error *err);

/* Id of the first model that the server lists; the caller frees it (mem_free). */
NODISCARD status client_first_model(const client_url *u, const char *key, char **ret, error *err);

/* Write all of s to a blocking socket. */
NODISCARD status client_send(int fd, str s, error *err);

#endif
