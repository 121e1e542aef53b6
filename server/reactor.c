/* The loop of a front-end thread:
 *
 *     wait for: the daemon's sockets | a wake-up from the engine | a hang-up | the next sweep
 *     take the ready stack: requests with news          (all of an engine step at once)
 *     resume their connections, then run the daemon once
 *
 * libmicrohttpd 0.9.75 walks its list of suspended connections in every run after a resume. Because
 * resumes are collected here and the daemon runs after them on the same thread, that walk happens
 * once per engine step, not once per stream.
 *
 * Time limits are a sweep over the reactor's connections a few times a second: one pass over a
 * list costs less than a timer per connection, and no limit here needs to be sharper. */
#include "server/reactor.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/call.h"
#include "server/http.h"
#include "server/job.h"
#include "server/peers.h"
#include "server/stream.h"

enum {
    EVENTS_MAX = 256,
    ACCEPT_MAX = 64, /* connections accepted in one turn */
    SWEEP_MS = 200,
    SHUT_US = 200000, /* how long the door stays shut when there is no descriptor left */
    STOP_US = 2000000,
    /* Where front end and CPU engine want more than there is, the engine comes first: a step waits
     * for the slowest member of its team. Two cores, 0.5B, 4 streams, /health asked for as fast as
     * wrk can: 84 ms between tokens without it, 47 to 61 with it (32 with no wrk), and wrk gets
     * 92,000 to 101,000 answers a second, not 135,000. 400 streams of a model with steps of 8 ms
     * feel nothing. */
    NICENESS = 10,
};

static void hangup(conn *c) {
    exchange *x = c->x;
    reactor_unwatch(c);
    if (!x || !x->call) return;
    stream_drop(x);
}

static void on_socket(conn *c, uint32_t events) {
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        hangup(c);
    else if (c->taken && c->x->phase == PHASE_STREAM)
        stream_run(c->x);
}

static void take_ready(reactor *re) {
    ticket *l = atomic_exchange_explicit(&re->ready, NULL, memory_order_acquire);
    ticket *oldest = NULL;
    while (l) { /* the stack has the newest on top */
        ticket *next = l->next;
        l->next = oldest;
        oldest = l;
        l = next;
    }
    while (oldest) {
        ticket *next = oldest->next;
        request *r = oldest->r;
        atomic_store(&oldest->queued, false); /* before the ring is read: later news queue again */
        if (oldest->call) call_news(oldest->call);
        request_unref(r);
        oldest = next;
    }
}

static bool over(uint64_t now, uint64_t since, int64_t limit_ms) {
    return limit_ms > 0 && now - since > (uint64_t)limit_ms * 1000;
}

static void cut(conn *c) {
    if (c->x && c->x->call) {
        call_abandon(c->x->call);
        c->x->phase = PHASE_DROP;
    }
    shutdown(c->fd, SHUT_RDWR);
}

static void sweep_busy(conn *c, uint64_t now) {
    exchange *x = c->x;
    const server_options *o = &c->re->srv->o;
    if (x->phase == PHASE_STREAM && stream_blocked(x)) {
        if (over(now, c->since_us, o->stall_timeout_ms)) cut(c);
    } else if (x->phase == PHASE_STREAM) {
        if (over(now, c->since_us, o->keepalive_ms)) stream_keepalive(x);
    } else if (x->phase == PHASE_SENT && over(now, c->since_us, o->body_timeout_ms)) {
        cut(c);
    }
}

static void sweep_conn(conn *c, uint64_t now) {
    const server_options *o = &c->re->srv->o;
    switch (c->state) {
    case CONN_HEADERS:
        if (over(now, c->since_us, o->header_timeout_ms)) cut(c);
        break;
    case CONN_BODY:
        if (over(now, c->since_us, o->body_timeout_ms)) {
            http_refuse_raw(c->x, ERR_TIMEOUT, "the request body did not arrive in time");
            cut(c);
        }
        break;
    case CONN_BUSY: sweep_busy(c, now); break;
    case CONN_IDLE:
        if (over(now, c->since_us, o->idle_timeout_ms)) cut(c);
        break;
    }
}

static void sweep(reactor *re) {
    if (re->now_us < re->sweep_at_us) return;
    re->sweep_at_us = re->now_us + SWEEP_MS * 1000;
    for (conn *c = re->conns, *next; c; c = next) {
        next = c->next; /* a stream whose client is gone ends here */
        sweep_conn(c, re->now_us);
    }
}

/* --- the door --- */

static bool epoll_add(reactor *re, int fd, uint32_t events, void *tag) {
    struct epoll_event ev = {.events = events, .data.ptr = tag};
    return epoll_ctl(re->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

/* Accepting stops while this reactor has its share of the connections: who comes then waits in the
 * listen queue, or is taken by another reactor. */
static void set_listening(reactor *re, bool on) {
    if (on == re->listening) return;
    if (on)
        re->listening = epoll_add(re, re->listen_fd, EPOLLIN | EPOLLEXCLUSIVE, &re->listen_fd);
    else
        re->listening = epoll_ctl(re->epoll_fd, EPOLL_CTL_DEL, re->listen_fd, NULL) != 0;
}

static void accept_some(reactor *re) {
    for (int i = 0; i < ACCEPT_MAX && re->n_conns < re->conns_max; i++) {
        peer_address a = {.n = sizeof a.in6};
        int fd = accept4(re->listen_fd, &a.sa, &a.n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        a.n = MAX(a.n, (socklen_t)sizeof a.sa); /* a Unix socket's peer has no name */
        if (fd >= 0) {
            (void)MHD_add_connection(re->daemon, fd, &a.sa, a.n); /* closes it where it fails */
            continue;
        }
        if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
        log_warn("cannot accept a connection: %s; %d are open", strerror(errno), re->n_conns);
        re->shut_until_us = re->now_us + SHUT_US;
        return;
    }
}

static void set_door(reactor *re) {
    bool pause = re->now_us < re->shut_until_us;
    set_listening(re, re->n_conns < re->conns_max && !pause && !atomic_load(&re->srv->stopping));
}

static int wait_ms(reactor *re) {
    MHD_UNSIGNED_LONG_LONG ms;
    if (MHD_get_timeout(re->daemon, &ms) == MHD_YES && ms < SWEEP_MS) return (int)ms;
    return SWEEP_MS;
}

static void turn(reactor *re) {
    struct epoll_event ev[EVENTS_MAX];
    int n = epoll_wait(re->epoll_fd, ev, EVENTS_MAX, wait_ms(re));
    re->now_us = clock_us();
    for (int i = 0; i < n; i++) {
        if (ev[i].data.ptr == &re->wake)
            waker_wait(&re->wake, 0);
        else if (ev[i].data.ptr == &re->listen_fd)
            accept_some(re);
        else if (ev[i].data.ptr != re)
            on_socket(ev[i].data.ptr, ev[i].events);
    }
    take_ready(re);
    jobs_take(re);
    sweep(re);
    MHD_run(re->daemon);
    set_door(re);
}

static bool busy(const reactor *re) {
    for (const conn *c = re->conns; c; c = c->next)
        if (c->x) return true;
    return false;
}

static void *reactor_run(void *arg) {
    reactor *re = arg;
    (void)setpriority(PRIO_PROCESS, 0, NICENESS); /* Linux: of this thread and its jobs */
    while (!atomic_load(&re->srv->stopping)) turn(re);
    /* What the scheduler ended last still goes out, within a bound. */
    uint64_t until = clock_us() + STOP_US;
    while (busy(re) && clock_us() < until) turn(re);
    return NULL;
}

status reactor_new(server *s, int index, int listen_fd, reactor **ret, error *err) {
    reactor *re = mem_calloc(1, sizeof *re);
    re->srv = s;
    re->index = index;
    re->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    waker_init(&re->wake);
    re->listen_fd = listen_fd;
    re->conns_max = CEIL_DIV(s->o.max_connections, s->o.n_threads);
    re->daemon = http_daemon(re);
    if (!re->daemon || re->epoll_fd < 0) {
        reactor_free(re);
        return error_set(err, ERR_IO, "cannot start the HTTP daemon: out of file descriptors?");
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(re->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || !epoll_add(re, info->epoll_fd, EPOLLIN, re) ||
        !epoll_add(re, re->wake.fd, EPOLLIN, &re->wake)) {
        reactor_free(re);
        return error_set(err, ERR_IO, "cannot watch the HTTP daemon's sockets");
    }
    set_door(re);
    *ret = re;
    return OK;
}

void reactor_start(reactor *re) {
    char name[16];
    snprintf(name, sizeof name, "http-%d", re->index);
    re->thread = thread_start(name, reactor_run, re);
    re->started = true;
}

void reactor_join(reactor *re) {
    if (re->started) pthread_join(re->thread, NULL);
    re->started = false;
}

void reactor_free(reactor *re) {
    if (!re) return;
    while (re->n_jobs > 0) { /* they have a bounded amount to read */
        (void)waker_wait(&re->wake, SWEEP_MS * 1000);
        jobs_take(re);
    }
    for (conn *c = re->conns, *next; c; c = next) {
        next = c->next;
        if (!c->x) continue;
        if (c->taken) {
            stream_drop(c->x);
            continue;
        }
        if (c->x->call) call_abandon(c->x->call);
        c->x->phase = PHASE_DROP;
        reactor_resume(c->x); /* the library refuses to stop with suspended connections */
    }
    take_ready(re);
    if (re->daemon) MHD_stop_daemon(re->daemon);
    take_ready(re);
    http_exchanges_free(re);
    if (re->epoll_fd >= 0) close(re->epoll_fd);
    close(re->listen_fd);
    waker_done(&re->wake);
    strbuf_done(&re->scratch);
    strbuf_done(&re->stream);
    mem_free(re);
}

void reactor_wake(reactor *re) {
    waker_signal(&re->wake);
}

void reactor_push(ticket *l) {
    if (atomic_exchange(&l->queued, true)) return;
    request_ref(l->r);
    l->next = atomic_load_explicit(&l->re->ready, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&l->re->ready, &l->next, l, memory_order_release,
                                                  memory_order_relaxed)) {
    }
}

void reactor_resume(exchange *x) {
    if (!x->suspended) return;
    x->suspended = false;
    MHD_resume_connection(x->mhd);
}

void reactor_watch(exchange *x) {
    conn *c = x->cn;
    if (c->watched) return;
    uint32_t room = c->taken ? EPOLLOUT : 0; /* edges: only after the socket was full */
    c->watched = epoll_add(c->re, c->fd, EPOLLRDHUP | EPOLLET | room, c);
}

void reactor_unwatch(conn *c) {
    if (!c->watched) return;
    epoll_ctl(c->re->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    c->watched = false;
}

void conn_enter(reactor *re, conn *c) {
    c->next = re->conns;
    if (c->next) c->next->prev = c;
    re->conns = c;
    re->n_conns++;
}

void conn_leave(conn *c) {
    reactor *re = c->re;
    if (c->prev)
        c->prev->next = c->next;
    else
        re->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    re->n_conns--;
    if (c->taken) peers_leave(re->srv->peers, &c->addr.sa);
    c->gone = true;
    if (!c->held) mem_free(c);
}
