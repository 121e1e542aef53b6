/* libmicrohttpd's callbacks: from headers to a routed exchange, from an answer to bytes. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "server/reactor.h"

/* A daemon without a thread of its own, accepting from listen_fd (which it then owns). NULL if the
 * system refuses. */
struct MHD_Daemon *http_daemon(reactor *re, int listen_fd);
/* Write a whole error answer straight to the socket: for the moments at which the library cannot
 * take one (in the middle of a body). The connection must be closed afterwards. */
void http_refuse_raw(exchange *x, status code, const char *text);
void http_exchanges_free(reactor *re);

#endif
