/* The client, see client.h. The response parser is a byte-fed state machine, so that the same code
 * serves a blocking caller and an epoll loop over many connections. */
#include "server/client.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/base/json.h"

#define HEAD_MAX (64u << 10)

enum { HEADER, BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

status client_url_parse(const char *text, client_url *ret, error *err) {
    client_url u = {.host = "localhost", .port = "80"};
    str s = str_z(text);
    if (str_starts(s, STR("unix:"))) {
        if (s.n - 5 == 0 || s.n - 5 >= sizeof u.path)
            return error_set(err, ERR_INVALID, "\"%s\": a socket's path has 1 to %zu bytes", text,
                             sizeof u.path - 1);
        memcpy(u.path, s.p + 5, s.n - 5);
        *ret = u;
        return OK;
    }
    if (str_starts(s, STR("http://"))) s = str_cut(s, 7, s.n);
    if (str_find(s, STR("://"), 0) >= 0)
        return error_set(err, ERR_INVALID, "\"%s\": only http:// is spoken here", text);
    ptrdiff_t slash = str_find(s, STR("/"), 0);
    str host = slash < 0 ? s : str_cut(s, 0, (size_t)slash);
    str base = slash < 0 ? STR("") : str_cut(s, (size_t)slash, s.n);
    while (str_ends(base, STR("/"))) base.n--;
    if (str_ends(base, STR("/v1"))) base.n -= 3;
    str port = STR("80");
    ptrdiff_t bracket = str_find(host, STR("]"), 0);
    ptrdiff_t colon = str_find(host, STR(":"), bracket < 0 ? 0 : (size_t)bracket);
    if (colon >= 0) {
        port = str_cut(host, (size_t)colon + 1, host.n);
        host = str_cut(host, 0, (size_t)colon);
    }
    if (bracket > 0 && host.p[0] == '[') host = str_cut(host, 1, (size_t)bracket);
    int64_t number;
    if (!host.n || host.n >= sizeof u.host || base.n >= sizeof u.base || port.n >= sizeof u.port ||
        !str_to_i64(port, &number) || number < 1 || number > 65535)
        return error_set(err, ERR_INVALID, "\"%s\" is not a URL such as http://127.0.0.1:8000",
                         text);
    memset(u.host, 0, sizeof u.host);
    memcpy(u.host, host.p, host.n);
    memcpy(u.base, base.p, base.n);
    memset(u.port, 0, sizeof u.port);
    memcpy(u.port, port.p, port.n);
    *ret = u;
    return OK;
}

static status connect_unix(const client_url *u, int flags, int *ret_fd, error *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, u->path, sizeof a.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0) {
        *ret_fd = fd;
        return OK;
    }
    int reason = errno;
    if (fd >= 0) close(fd);
    return error_set(err, ERR_IO, "cannot connect to %s: %s", u->path, strerror(reason));
}

status client_connect(const client_url *u, bool nonblock, int *ret_fd, error *err) {
    int flags = SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0);
    if (u->path[0]) return connect_unix(u, flags, ret_fd, err);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    int rc = getaddrinfo(u->host, u->port, &hints, &list);
    if (rc != 0) return error_set(err, ERR_IO, "%s:%s: %s", u->host, u->port, gai_strerror(rc));
    int fd = -1, reason = 0;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | flags, a->ai_protocol);
        if (fd < 0) {
            reason = errno;
            continue;
        }
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0 || (nonblock && errno == EINPROGRESS))
            break;
        reason = errno;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(list);
    if (fd < 0)
        return error_set(err, ERR_IO, "cannot connect to %s:%s: %s", u->host, u->port,
                         strerror(reason));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    *ret_fd = fd;
    return OK;
}

void client_request(strbuf *out, const client_url *u, const char *method, const char *path,
                    const char *key, str body) {
    strbuf_addf(out, "%s %s%s HTTP/1.1\r\nHost: %s:%s\r\nAccept: */*\r\n", method, u->base, path,
                u->host, u->port);
    if (key) strbuf_addf(out, "Authorization: Bearer %s\r\n", key);
    if (body.n)
        strbuf_addf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.n);
    strbuf_addz(out, "\r\n");
    strbuf_add(out, body);
}

/* Value of a header in the block, or {NULL,0}. Names are ASCII and any case. */
static str header(str head, const char *name) {
    size_t n = strlen(name);
    for (ptrdiff_t at = str_find(head, STR("\r\n"), 0); at >= 0;
         at = str_find(head, STR("\r\n"), (size_t)at + 2)) {
        str line = str_cut(head, (size_t)at + 2, head.n);
        if (line.n <= n || line.p[n] != ':' || strncasecmp(line.p, name, n) != 0) continue;
        ptrdiff_t end = str_find(line, STR("\r\n"), 0);
        return str_trim(str_cut(line, n + 1, end < 0 ? line.n : (size_t)end));
    }
    return (str){0};
}

static status head_complete(client_reply *r, error *err) {
    str head = strbuf_str(&r->head);
    int64_t code, length;
    if (head.n < 12 || !str_starts(head, STR("HTTP/1.")) ||
        !str_to_i64(str_cut(head, 9, 12), &code))
        return error_set(err, ERR_IO, "the server's answer is not HTTP/1.1");
    str encoding = header(head, "Transfer-Encoding"), close_ = header(head, "Connection");
    r->chunked = encoding.n == 7 && strncasecmp(encoding.p, "chunked", 7) == 0;
    r->close = close_.n == 5 && strncasecmp(close_.p, "close", 5) == 0;
    bool bodiless = code == 204 || code == 304 || code < 200;
    if (bodiless)
        r->left = 0;
    else if (str_to_i64(header(head, "Content-Length"), &length) && length >= 0)
        r->left = length;
    else
        r->left = -1;
    strbuf_clear(&r->head);
    if (code < 200) { /* 100 Continue: the real one follows */
        r->phase = HEADER;
        return OK;
    }
    r->http = (int)code;
    r->phase = r->chunked ? CHUNK_SIZE : BODY;
    r->done = !r->chunked && r->left == 0;
    return OK;
}

/* One byte of a line; true when its end has come. */
static bool line_byte(client_reply *r, char c) {
    strbuf_addc(&r->head, c);
    return str_ends(strbuf_str(&r->head), STR("\r\n"));
}

static status chunk_size(client_reply *r, error *err) {
    char *end;
    unsigned long long n = strtoull(r->head.p, &end, 16);
    if (end == r->head.p || n > CLIENT_BODY_MAX)
        return error_set(err, ERR_IO, "the server sent a bad chunk size");
    r->left = (int64_t)n;
    r->phase = n ? CHUNK_DATA : TRAILER;
    strbuf_clear(&r->head);
    return OK;
}

/* One byte outside of body data. */
static status control_byte(client_reply *r, char c, error *err) {
    if (r->head.n >= HEAD_MAX) return error_set(err, ERR_IO, "the server's header is too long");
    bool line = line_byte(r, c);
    if (r->phase == HEADER)
        return str_ends(strbuf_str(&r->head), STR("\r\n\r\n")) ? head_complete(r, err) : OK;
    if (!line) return OK;
    if (r->phase == CHUNK_SIZE) return chunk_size(r, err);
    if (r->phase == CHUNK_END)
        r->phase = CHUNK_SIZE;
    else if (r->head.n == 2) /* the empty line after the trailers */
        r->done = true;
    strbuf_clear(&r->head);
    return OK;
}

static size_t body_bytes(client_reply *r, const char *p, size_t n) {
    size_t take = r->left < 0 || (uint64_t)r->left > n ? n : (size_t)r->left;
    strbuf_add(&r->body, str_n(p, take));
    if (r->left >= 0) r->left -= (int64_t)take;
    if (r->left == 0 && r->phase == CHUNK_DATA)
        r->phase = CHUNK_END;
    else if (r->left == 0)
        r->done = true;
    return take;
}

status client_reply_feed(client_reply *r, const char *p, size_t n, size_t *ret_used, error *err) {
    size_t i = 0;
    if (n == 0) {
        if (r->phase != BODY || r->left >= 0)
            return error_set(err, ERR_IO, "the server closed the connection in mid-answer");
        r->done = true;
    }
    while (i < n && !r->done) {
        if (r->phase == BODY || r->phase == CHUNK_DATA)
            i += body_bytes(r, p + i, n - i);
        else
            TRY(control_byte(r, p[i++], err));
        if (r->body.n > CLIENT_BODY_MAX)
            return error_set(err, ERR_IO, "the server's answer is too long");
    }
    *ret_used = i;
    return OK;
}

void client_reply_done(client_reply *r) {
    strbuf_done(&r->head);
    strbuf_done(&r->body);
    *r = (client_reply){0};
}

bool client_event(client_reply *r, size_t *pos, str *ret_data) {
    str body = strbuf_str(&r->body);
    for (;;) {
        ptrdiff_t end = str_find(body, STR("\n\n"), *pos);
        if (end < 0) {
            /* What was read is dropped once it is most of the buffer. */
            if (*pos > 4096 && *pos > body.n / 2) {
                memmove(r->body.p, r->body.p + *pos, body.n - *pos);
                r->body.n -= *pos;
                *pos = 0;
            }
            return false;
        }
        str event = str_cut(body, *pos, (size_t)end);
        *pos = (size_t)end + 2;
        if (!str_starts(event, STR("data:"))) continue;
        *ret_data = str_trim(str_cut(event, 5, event.n));
        return true;
    }
}

status client_send(int fd, str s, error *err) {
    while (s.n) {
        ssize_t n = send(fd, s.p, s.n, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return error_set(err, ERR_IO, "sending the request: %s", strerror(errno));
        s = str_cut(s, (size_t)n, s.n);
    }
    return OK;
}

status client_receive(int fd, client_reply *r, char *buf, size_t n, error *err) {
    size_t used;
    ssize_t got = recv(fd, buf, n, 0);
    if (got < 0 && errno == EINTR) return error_set(err, ERR_CANCELLED, "interrupted");
    if (got < 0) return error_set(err, ERR_IO, "reading the answer: %s", strerror(errno));
    return client_reply_feed(r, buf, (size_t)got, &used, err);
}

status client_call(const client_url *u, const char *method, const char *path, const char *key,
                   str body, client_reply *ret, error *err) {
    int fd;
    TRY(client_connect(u, false, &fd, err));
    strbuf out = {0};
    client_request(&out, u, method, path, key, body);
    client_reply r = {0};
    status st = client_send(fd, strbuf_str(&out), err);
    char buf[16384];
    while (st == OK && !r.done) st = client_receive(fd, &r, buf, sizeof buf, err);
    close(fd);
    strbuf_done(&out);
    if (st == OK)
        *ret = r;
    else
        client_reply_done(&r);
    return st;
}

status client_refusal(int http, str text, error *err) {
    json_t *v = NULL;
    error ignored;
    if (js_parse(text, &v, &ignored) != OK) v = NULL;
    status st = OK;
    str message = js_get_str(js_get(v, "error"), "message");
    if (message.n)
        st = error_set(err, ERR_INVALID, STR_FMT, STR_ARG(message));
    else if (http != 200 || js_get(v, "error"))
        st = error_set(err, ERR_INVALID, "the server answered with status %d and no reason", http);
    json_decref(v);
    return st;
}

static status one_event(str data, client_event_fn fn, void *ctx, error *err) {
    json_t *v;
    if (str_eq(data, STR("[DONE]"))) return OK;
    TRY(client_refusal(200, data, err));
    TRY(js_parse(data, &v, err));
    status st = fn(ctx, v, err);
    json_decref(v);
    return st;
}

status client_stream(const client_url *u, const char *path, const char *key, str body,
                     client_event_fn fn, void *ctx, volatile sig_atomic_t *stop, error *err) {
    strbuf out = {0};
    client_reply r = {0};
    int fd = -1;
    size_t pos = 0;
    client_request(&out, u, "POST", path, key, body);
    status st = client_connect(u, false, &fd, err);
    if (st == OK) st = client_send(fd, strbuf_str(&out), err);
    while (st == OK && !r.done && !(stop && *stop)) {
        char buf[16384];
        str data;
        st = client_receive(fd, &r, buf, sizeof buf, err);
        while (st == OK && r.http == 200 && client_event(&r, &pos, &data))
            st = one_event(data, fn, ctx, err);
    }
    if (stop && *stop)
        st = OK;
    else if (st == OK && r.http != 200)
        st = client_refusal(r.http, strbuf_str(&r.body), err);
    if (fd >= 0) close(fd); /* what is still coming is cancelled by this */
    client_reply_done(&r);
    strbuf_done(&out);
    return st;
}

status client_first_model(const client_url *u, const char *key, char **ret, error *err) {
    client_reply r = {0};
    json_t *v = NULL;
    TRY(client_call(u, "GET", "/v1/models", key, STR(""), &r, err));
    status st = client_refusal(r.http, strbuf_str(&r.body), err);
    if (st == OK) st = js_parse(strbuf_str(&r.body), &v, err);
    str id = js_get_str(json_array_get(js_get(v, "data"), 0), "id");
    if (st == OK && !id.n) st = error_set(err, ERR_IO, "the server lists no model");
    if (st == OK) {
        strbuf name = {0};
        strbuf_add(&name, id);
        *ret = strbuf_take(&name);
    }
    json_decref(v);
    client_reply_done(&r);
    return st;
}
