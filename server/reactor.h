/* A reactor: one thread, one libmicrohttpd daemon, its connections and their exchanges.
 *
 * The daemon is driven from outside: the reactor's own epoll set holds the daemon's epoll
 * descriptor, a wake-up, and the sockets of connections that wait for a generation. So everything
 * of a connection happens on one thread and needs no lock; the only thing other threads touch is
 * the stack of ready requests. */
#ifndef SERVER_REACTOR_H
#define SERVER_REACTOR_H

#include <microhttpd.h>
#include <netinet/in.h>

#include "engine/base/thread.h"
#include "server/exchange.h"

typedef enum conn_state {
    CONN_HEADERS, /* accepted, no whole request yet */
    CONN_BODY,    /* a request's body comes in */
    CONN_BUSY,    /* a request is being answered */
    CONN_IDLE,    /* kept alive, between requests */
} conn_state;

typedef struct job job;

typedef struct peer_address {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    };
    socklen_t n;
} peer_address;

/* One TCP connection. */
struct conn {
    conn *prev, *next; /* the reactor's list */
    reactor *re;
    int fd;
    conn_state state;
    uint64_t since_us; /* of the state, or of the last progress of a stream */
    exchange *x;       /* the request being served, or NULL */
    bool watched;      /* in the reactor's epoll set, for hang-ups */
    uint64_t n_read;   /* bytes of the requests so far, as sent (chunked bodies left out) */
    bool held;         /* the library knows it */
    bool taken;        /* by a stream (stream.c) */
    bool gone;         /* left the list; freed when the library lets go */
    peer_address addr; /* with `taken` */
};

/* Ties a request (engine side) to its call (reactor side). Lives in the request's arena, so it is
 * there as long as anybody may still report news of the request. */
typedef struct ticket ticket;
struct ticket {
    request *r;
    reactor *re;
    call *call;           /* reactor thread only; NULL once the call is gone */
    int32_t first_choice; /* of the call's choices */
    ticket *next;
    _Atomic bool queued; /* on the reactor's ready stack */
};

struct reactor {
    server *srv;
    int index;
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool started;
    int epoll_fd;
    waker wake;
    _Atomic(job *) jobs;     /* that have ended (job.h) */
    int n_jobs;              /* under way or ended: this thread's count */
    _Atomic(ticket *) ready; /* pushed by the engine thread, taken whole by the reactor */
    int listen_fd;
    bool listening;         /* listen_fd is in the epoll set */
    uint64_t shut_until_us; /* no descriptor was left for a connection: wait until then */
    conn *conns;
    int n_conns, conns_max;
    strbuf stream; /* where events of all streams are put together */
    exchange *free_exchanges;
    int n_free;
    uint64_t now_us; /* when this turn of the loop began: good enough for limits and arrivals */
    uint64_t sweep_at_us;
    strbuf scratch;
};

/* `listen_fd` is taken over (each reactor gets a duplicate of the server's). */
NODISCARD status reactor_new(server *s, int index, int listen_fd, reactor **ret, error *err);
void reactor_start(reactor *re);
void reactor_join(reactor *re); /* after server.stopping is set and reactor_wake */
void reactor_free(reactor *re); /* takes NULL */
void reactor_wake(reactor *re);
/* Any thread. Does not wake: the caller does, once per reactor. */
void reactor_push(ticket *l);

/* Let the library go on with a suspended exchange. */
void reactor_resume(exchange *x);
/* Tell the reactor when the client of a waiting exchange hangs up: the library does not look at
 * the socket of a suspended connection. */
void reactor_watch(exchange *x);
void reactor_unwatch(conn *c);

void conn_enter(reactor *re, conn *c);
/* Out of the list and of the count of its address; freed here or when the library lets go. */
void conn_leave(conn *c);

#endif
