/* libmicrohttpd's callbacks: from headers to a routed exchange, from an answer to bytes. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "server/keys.h"
#include "server/reactor.h"

/* A daemon without a thread and without a listening socket: connections are given to it
 * (MHD_add_connection). NULL if the system refuses. */
struct MHD_Daemon *http_daemon(reactor *re);
/* The header fields that every answer has. */
void http_headers(exchange *x, header_fn add, void *ctx);
/* Answer with r, which is given up. */
enum MHD_Result http_queue(exchange *x, struct MHD_Response *r);
/* The exchange has ended (left: before its answer was out): counted, logged, freed. */
void http_ended(exchange *x, bool left);
/* Write a whole error answer straight to the socket: for the moments at which the library cannot
 * take one (in the middle of a body). The connection must be closed afterwards. */
void http_refuse_raw(exchange *x, status code, const char *text);
void http_exchanges_free(reactor *re);

#endif
