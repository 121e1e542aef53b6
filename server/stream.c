/* One buffer of the reactor serves all its streams: a stream owns bytes only while its socket does
 * not take them. Each write is one chunk with all the events there are.
 *
 * The library must not shut the socket down when it closes its end, because the duplicate is the
 * same socket: with MHD_USE_TURBO it only closes (http.c). tests/api would not see one whole stream
 * otherwise.
 *
 * What a client has pipelined behind the request may lie in the library's buffer, where nobody can
 * see it; so the bytes of the requests are held against those the socket has received (unread.c),
 * and only where they are the same the connection is taken. */
#include "server/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "server/call.h"
#include "server/http.h"
#include "server/unread.h"

enum {
    WRITE_MAX = 16 << 10, /* bytes of events put together for one write */
    SIZE_DIGITS = 8,      /* of a chunk's size */
};

/* --- taken over --- */

static void add_header(void *ctx, const char *name, const char *value) {
    strbuf_addf(ctx, "%s: %s\r\n", name, value);
}

static void add_date(strbuf *out) {
    time_t now = time(NULL);
    struct tm t;
    char text[40];
    gmtime_r(&now, &t);
    if (strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &t)) add_header(out, "Date", text);
}

static void add_head(exchange *x, strbuf *out) {
    strbuf_addf(out, "HTTP/1.%d %d %s\r\n", x->chunked ? 1 : 0, x->http_status,
                MHD_get_reason_phrase_for((unsigned)x->http_status));
    add_date(out);
    http_headers(x, add_header, out);
    add_header(out, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    add_header(out, "X-Accel-Buffering", "no");
    if (x->chunked) add_header(out, MHD_HTTP_HEADER_TRANSFER_ENCODING, "chunked");
    if (x->close && !atomic_load(&x->srv->draining)) /* draining: already said */
        add_header(out, MHD_HTTP_HEADER_CONNECTION, "close");
    strbuf_addz(out, "\r\n");
}

/* The stream is over; the connection goes back, or is closed. */
static void end(exchange *x, bool left) {
    conn *c = x->cn;
    bool back = !left && !x->close && !atomic_load(&x->srv->draining);
    int fd = c->fd;
    reactor *re = c->re;
    peer_address addr = c->addr;
    reactor_unwatch(c);
    http_ended(x, left);
    conn_leave(c);
    if (back)
        (void)MHD_add_connection(re->daemon, fd, &addr.sa, addr.n); /* closes it where it fails */
    else
        close(fd);
}

/* As much as the socket takes: how many bytes, < 0 when the connection is broken. */
static ssize_t send_some(exchange *x, str s) {
    size_t done = 0;
    while (done < s.n) {
        ssize_t n = send(x->cn->fd, s.p + done, s.n - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) return -1;
        if (n <= 0) break;
        done += (size_t)n;
        x->cn->since_us = x->re->now_us;
    }
    return (ssize_t)done;
}

/* Write, and keep what the socket did not take. False: the stream is no more. */
static bool put(exchange *x, str s) {
    ssize_t n = send_some(x, s);
    if (n < 0) {
        stream_drop(x);
        return false;
    }
    strbuf_add(&x->out, str_cut(s, (size_t)n, s.n));
    return true;
}

/* What was kept before. False: the stream is no more. */
static bool put_kept(exchange *x) {
    ssize_t n = send_some(x, strbuf_str(&x->out));
    if (n < 0) {
        stream_drop(x);
        return false;
    }
    x->out.n -= (size_t)n;
    if (x->out.n)
        memmove(x->out.p, x->out.p + n, x->out.n);
    else
        strbuf_done(&x->out);
    return true;
}

/* New events as one chunk; true when they are the last. */
static bool fill(exchange *x, strbuf *out) {
    if (!x->chunked) return call_stream_fill(x->call, out, WRITE_MAX);
    strbuf_addz(out, "00000000\r\n");
    size_t begin = out->n;
    bool last = call_stream_fill(x->call, out, WRITE_MAX);
    if (out->n == begin) {
        out->n = 0;
    } else {
        static const char hex[] = "0123456789abcdef";
        size_t n = out->n - begin;
        for (int i = SIZE_DIGITS; i-- > 0; n >>= 4) out->p[i] = hex[n & 15];
        strbuf_addz(out, "\r\n");
    }
    if (last) strbuf_addz(out, "0\r\n\r\n");
    return last;
}

static void run_taken(exchange *x) {
    if (x->out.n && !put_kept(x)) return;
    strbuf *b = &x->re->stream;
    while (!x->out.n && !x->all_made) {
        strbuf_clear(b);
        x->all_made = fill(x, b);
        bool more = b->n >= WRITE_MAX;
        if (!put(x, strbuf_str(b))) return;
        if (!more) break;
    }
    if (x->all_made && !x->out.n) end(x, false);
}

static void keep_address(conn *c) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c->x->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *a = info ? info->client_addr : NULL;
    c->addr = (peer_address){.sa.sa_family = AF_UNIX, .n = sizeof c->addr.sa};
    if (a && a->sa_family == AF_INET) c->addr.n = sizeof c->addr.in;
    if (a && a->sa_family == AF_INET6) c->addr.n = sizeof c->addr.in6;
    if (a && a->sa_family != AF_UNIX) memcpy(&c->addr, a, c->addr.n);
}

static bool take(exchange *x) {
    conn *c = x->cn;
    int fd =
        x->sure_of_bytes && unread_none(c->fd, c->n_read) ? fcntl(c->fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0) return false;
    keep_address(c);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    c->fd = fd;
    c->taken = true;
    strbuf *b = &x->re->stream;
    strbuf_clear(b);
    add_head(x, b);
    x->mhd = NULL;
    /* An error here is seen again, outside of the callback, by the first write. */
    ssize_t n = send(fd, b->p, b->n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < (ssize_t)b->n) strbuf_add(&x->out, str_cut(strbuf_str(b), n < 0 ? 0 : (size_t)n, b->n));
    return true;
}

/* --- through the library --- */

static ssize_t read_some(void *arg, uint64_t pos, char *buf, size_t max) {
    exchange *x = arg;
    strbuf *out = &x->out;
    if (x->phase == PHASE_DROP) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (!out->n && !x->all_made) x->all_made = call_stream_fill(x->call, out, max);
    if (!out->n && x->all_made) return MHD_CONTENT_READER_END_OF_STREAM;
    size_t n = MIN(max, out->n);
    if (n) memcpy(buf, out->p, n);
    out->n -= n;
    if (out->n) memmove(out->p, out->p + n, out->n);
    x->cn->since_us = x->re->now_us;
    if (n == 0) {
        MHD_suspend_connection(x->mhd);
        x->suspended = true;
    }
    return (ssize_t)n;
}

static enum MHD_Result send_by_library(exchange *x) {
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, WRITE_MAX, read_some, x, NULL);
    if (!r) return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(r, "X-Accel-Buffering", "no");
    return http_queue(x, r);
}

/* --- either way --- */

enum MHD_Result stream_begin(exchange *x, void **ctx) {
    bool taken = take(x);
    reactor_watch(x);
    if (!taken) return send_by_library(x);
    *ctx = NULL; /* refused: the library closes its end and frees what it had */
    return MHD_NO;
}

void stream_run(exchange *x) {
    if (x->cn->taken)
        run_taken(x);
    else
        reactor_resume(x); /* its reader takes the events */
}

void stream_keepalive(exchange *x) {
    static const char line[] = ": keep-alive\n\n";
    if (!x->cn->taken) {
        strbuf_addz(&x->out, line);
        reactor_resume(x);
    } else if (x->chunked) {
        (void)put(x, STR("e\r\n: keep-alive\n\n\r\n"));
    } else {
        (void)put(x, str_z(line));
    }
}

void stream_drop(exchange *x) {
    call_abandon(x->call);
    if (x->cn->taken) {
        end(x, true);
        return;
    }
    x->phase = PHASE_DROP;
    reactor_resume(x);
}

bool stream_blocked(const exchange *x) {
    return x->cn->taken ? x->out.n > 0 : !x->suspended;
}
