/* The life of an exchange, as the library calls it:
 *
 *     headers complete   begin(): route, key, limits, media type      -> body, or a refusal
 *     body bytes         take_body(): bounded
 *     body complete      the route's handler                          -> answer, wait or stream
 *     (resumed)          call_finish() when a waiting generation ended
 *     answer             send_answer(), or the connection goes to a stream (stream.c)
 *     all sent, or gone  on_completed(): metrics, log line, cleanup; exactly once
 *
 * A refusal before the body is in is kept until the body has been read and dropped, so that the
 * connection lives on; only a body that is announced (or grows) over the limit is cut off. */
#include "server/http.h"

#include <ctype.h>
#include <stdio.h>
#include <sys/socket.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/access_log.h"
#include "server/call.h"
#include "server/errors.h"
#include "server/keys.h"
#include "server/metrics.h"
#include "server/peers.h"
#include "server/stream.h"
#include "server/unread.h"

enum {
    KEEP_BUFFER = 64 << 10, /* larger buffers are not kept for the next exchange */
    KEEP_EXCHANGES = 256,
};

static const char *header(const exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, name);
}

static exchange *exchange_take(reactor *re) {
    exchange *x = re->free_exchanges;
    if (!x) return mem_calloc(1, sizeof *x);
    re->free_exchanges = x->next_free;
    re->n_free--;
    strbuf body = x->body, out = x->out;
    memset(x, 0, sizeof *x);
    x->body = body;
    x->out = out;
    return x;
}

static void keep_or_free(strbuf *b) {
    if (b->cap > KEEP_BUFFER) strbuf_done(b);
    b->max = 0;
    strbuf_clear(b);
}

static void exchange_give(reactor *re, exchange *x) {
    keep_or_free(&x->body);
    keep_or_free(&x->out);
    if (re->n_free >= KEEP_EXCHANGES) {
        strbuf_done(&x->body);
        strbuf_done(&x->out);
        mem_free(x);
        return;
    }
    x->next_free = re->free_exchanges;
    re->free_exchanges = x;
    re->n_free++;
}

void http_exchanges_free(reactor *re) {
    while (re->free_exchanges) {
        exchange *x = re->free_exchanges;
        re->free_exchanges = x->next_free;
        strbuf_done(&x->body);
        strbuf_done(&x->out);
        mem_free(x);
    }
}

/* The client's request id if it is short and plain, else our own. */
static void choose_id(exchange *x) {
    const char *given = header(x, "x-request-id");
    size_t n = given ? strlen(given) : 0;
    bool sane = n > 0 && n <= LIMIT_REQUEST_ID_BYTES;
    for (size_t i = 0; sane && i < n; i++)
        sane = isalnum((unsigned char)given[i]) || strchr("-_.:/+=", given[i]);
    if (sane) {
        memcpy(x->id, given, n + 1);
        return;
    }
    memcpy(x->id, "req-", 4);
    exchange_unique(x->srv, x->id + 4);
}

static status check_key(exchange *x, error *e) {
    if (x->route->flags & ROUTE_OPEN) return OK;
    x->keys = keys_acquire(x->srv);
    if (!x->keys) return OK;
    const char *given = header(x, MHD_HTTP_HEADER_AUTHORIZATION);
    return keys_check(x->keys, given, &x->key, e);
}

static status check_media(exchange *x, error *e) {
    const char *type = header(x, MHD_HTTP_HEADER_CONTENT_TYPE);
    const size_t n = strlen("application/json");
    if (x->method != METHOD_POST || !type) return OK;
    if (strncasecmp(type, "application/json", n) == 0 && (!type[n] || strchr("; \t", type[n])))
        return OK;
    return error_set(e, ERR_MEDIA, "Content-Type must be application/json, found '%.100s'", type);
}

static status check_state(exchange *x, error *e) {
    if (!(x->route->flags & ROUTE_MODEL)) return OK;
    x->model = server_model_get(x->srv);
    if (!x->model) return error_set(e, ERR_UNAVAILABLE, "the model is still being loaded");
    if (x->method == METHOD_POST && atomic_load(&x->srv->draining))
        return error_set(e, ERR_UNAVAILABLE, "the server is shutting down");
    return OK;
}

/* Everything that the headers decide, in the order of who may learn what: key, route, method. */
static status check_headers(exchange *x, const route_match *m, str path, error *e) {
    TRY(check_key(x, e));
    if (!m->path)
        return error_set(e, ERR_NOT_FOUND, "unknown path '" STR_FMT "'",
                         (int)MIN(path.n, (size_t)200), path.p);
    if (x->method == METHOD_OPTIONS) return OK;
    if (!m->route) return error_set(e, ERR_METHOD, "this path answers to %s only", m->allow);
    TRY(check_state(x, e));
    return check_media(x, e);
}

static bool announced_too_large(exchange *x) {
    const char *text = header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    int64_t n;
    return text && (!str_to_i64(str_z(text), &n) || n < 0 || (size_t)n > x->srv->o.body_bytes_max);
}

static void too_large(const exchange *x, error *e) {
    error_set(e, ERR_TOO_LARGE, "the request body is larger than the limit of %zu bytes",
              x->srv->o.body_bytes_max);
}

/* Does the client want the connection closed after the answer? */
static bool wants_close(const exchange *x) {
    const char *said = header(x, MHD_HTTP_HEADER_CONNECTION);
    return !x->chunked || (said && strcasestr(said, "close"));
}

static exchange *begin(reactor *re, struct MHD_Connection *mhd, const char *method,
                       const char *version) {
    exchange *x = exchange_take(re);
    x->srv = re->srv;
    x->re = re;
    x->mhd = mhd;
    x->cn = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    x->cn->x = x;
    x->cn->state = CONN_BODY;
    x->start_us = x->cn->since_us = re->now_us;
    x->method = route_method(method);
    x->chunked = strcmp(version, MHD_HTTP_VERSION_1_1) == 0;
    x->close = wants_close(x);
    x->body.max = x->srv->o.body_bytes_max;
    x->phase = PHASE_BODY;
    choose_id(x);
    atomic_fetch_add_explicit(&x->srv->in_flight, 1, memory_order_relaxed);
    return x;
}

static void look_at_headers(exchange *x, const char *url) {
    route_match m;
    error e;
    str path = str_z(url);
    route_find(x->method, path, &m);
    x->route = m.route ? m.route : m.path ? m.path : &route_none;
    if (m.arg.n < sizeof x->arg_buf) {
        memcpy(x->arg_buf, m.arg.n ? m.arg.p : "", m.arg.n);
        x->arg = str_n(x->arg_buf, m.arg.n);
    }
    if (check_headers(x, &m, path, &e) != OK) {
        if (e.code == ERR_METHOD) snprintf(x->allow, sizeof x->allow, "%s", m.allow);
        exchange_fail(x, &e, NULL);
        x->phase = PHASE_REFUSE;
    } else if (x->method == METHOD_OPTIONS) {
        snprintf(x->allow, sizeof x->allow, "%s", m.allow);
        exchange_answer(x, 204, NULL);
        x->phase = PHASE_REFUSE;
    }
    if (announced_too_large(x)) {
        if (x->phase == PHASE_BODY) {
            too_large(x, &e);
            exchange_fail(x, &e, NULL);
        }
        x->phase = PHASE_ANSWER; /* at once: the body is not read */
    }
}

/* The library's count of the header's bytes goes to the first empty line included. */
static void count_header(exchange *x) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    x->sure_of_bytes = info && !header(x, MHD_HTTP_HEADER_TRANSFER_ENCODING);
    if (info) x->cn->n_read += info->header_size;
}

static void take_body(exchange *x, const char *data, size_t n) {
    x->cn->n_read += n;
    if (x->phase != PHASE_BODY) return;
    if (strbuf_add(&x->body, str_n(data, n))) return;
    error e;
    too_large(x, &e);
    http_refuse_raw(x, ERR_TOO_LARGE, e.text);
    x->phase = PHASE_DROP;
}

static void add_header(void *r, const char *name, const char *value) {
    MHD_add_response_header(r, name, value);
}

void http_headers(exchange *x, header_fn add, void *ctx) {
    add(ctx, "x-request-id", x->id);
    if (x->content_type) add(ctx, MHD_HTTP_HEADER_CONTENT_TYPE, x->content_type);
    if (x->allow[0]) add(ctx, MHD_HTTP_HEADER_ALLOW, x->allow);
    if (x->http_status == 401) add(ctx, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (x->retry_after_s > 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", x->retry_after_s);
        add(ctx, MHD_HTTP_HEADER_RETRY_AFTER, text);
    }
    if (x->limits_header) keys_limit_headers(x->key, add, ctx);
    if (atomic_load_explicit(&x->srv->draining, memory_order_relaxed))
        add(ctx, MHD_HTTP_HEADER_CONNECTION, "close");
}

enum MHD_Result http_queue(exchange *x, struct MHD_Response *r) {
    http_headers(x, add_header, r);
    enum MHD_Result ok = MHD_queue_response(x->mhd, (unsigned)x->http_status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result send_answer(exchange *x) {
    struct MHD_Response *r = MHD_create_response_from_buffer(
        x->out.n, x->out.n ? x->out.p : (char *)"", MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    x->phase = PHASE_SENT;
    x->cn->state = CONN_BUSY;
    x->cn->since_us = x->re->now_us;
    return http_queue(x, r);
}

static enum MHD_Result proceed(exchange *x, void **ctx) {
    switch (x->phase) {
    case PHASE_ANSWER: return send_answer(x);
    case PHASE_STREAM: return stream_begin(x, ctx);
    case PHASE_WAIT:
        MHD_suspend_connection(x->mhd);
        x->suspended = true;
        return MHD_YES;
    case PHASE_DROP: return MHD_NO;
    default: return MHD_YES;
    }
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **ctx) {
    exchange *x = *ctx;
    if (!x) {
        *ctx = x = begin(cls, mhd, method, version);
        count_header(x);
        look_at_headers(x, url);
        return x->phase == PHASE_ANSWER ? send_answer(x) : MHD_YES;
    }
    if (*n) {
        take_body(x, data, *n);
        *n = 0;
        return x->phase == PHASE_DROP ? MHD_NO : MHD_YES;
    }
    x->cn->state = CONN_BUSY;
    if (x->phase == PHASE_BODY)
        x->route->handler(x);
    else if (x->phase == PHASE_REFUSE)
        x->phase = PHASE_ANSWER;
    else if (x->phase == PHASE_WAIT && x->call && call_done(x->call))
        call_finish(x->call);
    return proceed(x, ctx);
}

void http_ended(exchange *x, bool left) {
    reactor *re = x->re;
    x->cn->x = NULL;
    x->cn->state = CONN_IDLE;
    uint64_t now = x->cn->since_us = clock_us();
    if (x->call) call_free(x->call);
    metrics_http(re->srv->metrics, x, left, now);
    access_log(x, left, now);
    if (x->keys) keys_release(x->keys);
    adapter_entry_release(x->adapter);
    x->adapter = NULL;
    atomic_fetch_sub_explicit(&re->srv->in_flight, 1, memory_order_relaxed);
    exchange_give(re, x);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **ctx,
                         enum MHD_RequestTerminationCode why) {
    exchange *x = *ctx;
    if (!x) return;
    *ctx = NULL;
    reactor_unwatch(x->cn);
    http_ended(x, why != MHD_REQUEST_TERMINATED_COMPLETED_OK);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **ctx,
                          enum MHD_ConnectionNotificationCode what) {
    reactor *re = cls;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        conn *c = mem_calloc(1, sizeof *c);
        c->re = re;
        c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        c->n_read = unread_taken(c->fd); /* not 0 after a stream */
        c->held = true;
        c->since_us = re->now_us;
        conn_enter(re, c);
        *ctx = c;
        return;
    }
    conn *c = *ctx;
    *ctx = NULL;
    c->held = false;
    if (c->gone) {
        mem_free(c);
    } else if (!c->taken) {
        peers_leave(re->srv->peers,
                    MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
        conn_leave(c);
    }
}

static enum MHD_Result on_accept(void *cls, const struct sockaddr *addr, socklen_t n) {
    reactor *re = cls;
    return peers_enter(re->srv->peers, addr) ? MHD_YES : MHD_NO;
}

static void on_message(void *cls, const char *fmt, va_list ap) {
    char text[512];
    vsnprintf(text, sizeof text, fmt, ap);
    log_debug("http library: %s", text);
}

/* Paths stay as sent, but for percent escapes; '+' is not a space. */
static size_t unescape(void *cls, struct MHD_Connection *mhd, char *s) {
    return MHD_http_unescape(s);
}

/* TURBO: the library closes sockets without shutting them down first, which would end the stream
 * that has taken the connection over (stream.c). How many connections there are is the reactor's
 * business, streams included; the library's own limit is never met. */
struct MHD_Daemon *http_daemon(reactor *re) {
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                                MHD_USE_NO_LISTEN_SOCKET | MHD_USE_TURBO,
                            0, on_accept, re, on_request, re, MHD_OPTION_EXTERNAL_LOGGER,
                            on_message, NULL, MHD_OPTION_CONNECTION_LIMIT,
                            (unsigned)re->conns_max + 1, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            (size_t)LIMIT_HEADER_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, re,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, re,
                            MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL, MHD_OPTION_END);
}

void http_refuse_raw(exchange *x, status code, const char *text) {
    error e;
    error_set(&e, code, "%s", text);
    strbuf_clear(&x->out);
    errors_add_json(&x->out, &e, NULL);
    x->http_status = status_http(code);
    char head[320];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\nConnection: close\r\nx-request-id: %s\r\n\r\n",
                     x->http_status, MHD_get_reason_phrase_for((unsigned)x->http_status), x->out.n,
                     x->id);
    if (send(x->cn->fd, head, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n)
        (void)!send(x->cn->fd, x->out.p, x->out.n, MSG_NOSIGNAL | MSG_DONTWAIT);
}
