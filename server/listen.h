/* Listening sockets. */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include "engine/base/status.h"

/* Bind and listen, non-blocking, close-on-exec; *ret_port is the port really bound. A busy port or
 * an unknown address is an error that names it. */
NODISCARD status listen_tcp(const char *host, int port, int *ret_fd, int *ret_port, error *err);
/* A Unix socket. A socket file left by a server that is gone is replaced; a live one is busy. */
NODISCARD status listen_unix(const char *path, int *ret_fd, error *err);

#endif
