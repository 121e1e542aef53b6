/* Answers as server-sent events, written by the reactor itself.
 *
 * A connection in libmicrohttpd costs its memory pool (16 KiB, all of it touched by then) and two
 * walks of the library's state machine an event. A stream lives for thousands of events and needs
 * neither: when it begins, the connection is taken over (a duplicate of its descriptor; the library
 * is told to close and frees what it had), and when it has ended well, the socket goes back to the
 * library as a new connection, so that keep-alive goes on.
 *
 * Where that cannot be (a Unix socket, requests pipelined behind this one, no descriptor left), the
 * library writes the stream as it writes every answer. */
#ifndef SERVER_STREAM_H
#define SERVER_STREAM_H

#include "server/reactor.h"

/* Begin the answer of x, which is in PHASE_STREAM. Called as the last thing of the library's
 * request callback, which returns what this returns; *ctx is that callback's. */
enum MHD_Result stream_begin(exchange *x, void **ctx);
/* Write what the call has for the client, as far as the socket takes it; frees x at the end of the
 * answer, and when the client is gone. Not inside the library's callbacks. */
void stream_run(exchange *x);
/* A comment line, where nothing else waits to be written. */
void stream_keepalive(exchange *x);
/* The client is gone, or shall be: cancels, closes, frees x. */
void stream_drop(exchange *x);
/* Is something left that the socket did not take? */
bool stream_blocked(const exchange *x);

#endif
