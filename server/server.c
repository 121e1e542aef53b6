/* The server's life. All that is per connection or per request lives in the reactors; here are the
 * options, the model once it is there, the key table, and the switches. */
#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "conf/limits.h"
#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/keys.h"
#include "server/listen.h"
#include "server/metrics.h"
#include "server/peers.h"
#include "server/reactor.h"

enum { OTHER_FDS = 256 }; /* descriptors that are not connections */

server_options server_options_default(void) {
    return (server_options){
        .host = "127.0.0.1",
        .port = 8000,
        .listen_fd = -1,
        .n_threads = 2,
        .max_connections = 16384,
        .body_bytes_max = (size_t)32 << 20,
        .header_timeout_ms = 15000,
        .body_timeout_ms = 60000,
        .idle_timeout_ms = 75000,
        .stall_timeout_ms = 30000,
        .keepalive_ms = 10000,
        .retry_after_s = 1,
        .access_log = true,
        .max_logprobs = LIMIT_TOP_LOGPROBS,
    };
}

static status check_options(const server_options *o, error *err) {
    if (o->n_threads < 1 || o->n_threads > 256)
        return error_set(err, ERR_INVALID, "the number of HTTP threads must be from 1 to 256");
    if (o->max_connections < 1 || o->max_connections > 1000000)
        return error_set(err, ERR_INVALID, "the number of connections must be from 1 to 1000000");
    if (o->port < 0 || o->port > 65535)
        return error_set(err, ERR_INVALID, "the port must be from 0 to 65535");
    if (o->body_bytes_max < 1024)
        return error_set(err, ERR_INVALID, "the body limit must be at least 1024 bytes");
    if (o->max_logprobs < 0 || o->max_logprobs > LIMIT_TOP_LOGPROBS)
        return error_set(err, ERR_INVALID, "max_logprobs must be from 0 to %d", LIMIT_TOP_LOGPROBS);
    return OK;
}

static char *dup_or_null(const char *s) {
    return s ? mem_strdup(s) : NULL;
}

static void own_strings(server_options *o) {
    o->host = dup_or_null(o->host);
    o->unix_socket = dup_or_null(o->unix_socket);
    o->api_key_file = dup_or_null(o->api_key_file);
}

status server_new(const server_options *o, server **ret, error *err) {
    TRY(check_options(o, err));
    keys *ks = NULL;
    TRY(keys_load(o->api_keys, o->n_api_keys, o->api_key_file, &ks, err));
    server *s = mem_calloc(1, sizeof *s);
    s->o = *o;
    own_strings(&s->o);
    /* Plain keys are hashed into the table; a reload needs them again only as hashes. */
    s->o.api_keys = NULL;
    s->o.n_api_keys = 0;
    s->keys = ks;
    pthread_mutex_init(&s->keys_lock, NULL);
    s->start_us = clock_us();
    s->start_unix_s = clock_unix_s();
    s->id_seed = hash_key_random().k[0];
    s->metrics = metrics_new();
    s->peers = peers_new(o->max_connections_per_ip, o->max_connections);
    s->reactors = mem_calloc((size_t)o->n_threads, sizeof(reactor *));
    *ret = s;
    return OK;
}

static status open_listener(server *s, int *ret_fd, error *err) {
    if (s->o.listen_fd >= 0) {
        fcntl(s->o.listen_fd, F_SETFL, fcntl(s->o.listen_fd, F_GETFL) | O_NONBLOCK);
        *ret_fd = s->o.listen_fd;
        return OK;
    }
    if (s->o.unix_socket) return listen_unix(s->o.unix_socket, ret_fd, err);
    return listen_tcp(s->o.host, s->o.port, ret_fd, &s->port, err);
}

/* Each connection is a descriptor, and the usual soft limit (1024) is lower than what one server
 * may hold: go up to the hard limit. Where that is too low as well, fewer connections are taken;
 * the rest waits in the listen queue. */
static void raise_descriptors(server *s) {
    struct rlimit l;
    rlim_t want = (rlim_t)s->o.max_connections + OTHER_FDS;
    if (getrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur >= want) return;
    l.rlim_cur = MIN(want, l.rlim_max);
    if (setrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur >= want) return;
    int most = MAX(s->o.n_threads, (int)l.rlim_cur - OTHER_FDS);
    log_warn(
        "%d connections need %llu file descriptors and this process may have %llu (ulimit -n): "
        "at most %d connections",
        s->o.max_connections, (unsigned long long)want, (unsigned long long)l.rlim_cur, most);
    s->o.max_connections = most;
}

status server_start(server *s, error *err) {
    int fd = -1;
    raise_descriptors(s);
    TRY(open_listener(s, &fd, err));
    status st = OK;
    for (int i = 0; i < s->o.n_threads && st == OK; i++) {
        int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        st = own < 0 ? error_set(err, ERR_IO, "cannot duplicate a socket: %s", strerror(errno))
                     : reactor_new(s, i, own, &s->reactors[i], err);
    }
    close(fd);
    for (int i = 0; i < s->o.n_threads && st == OK; i++) reactor_start(s->reactors[i]);
    return st;
}

void server_attach(server *s, const server_model *m, scheduler *sched) {
    model *own = mem_calloc(1, sizeof *own);
    own->m = *m;
    own->sched = sched;
    own->names = mem_calloc((size_t)m->n_names, sizeof *own->names);
    for (int i = 0; i < m->n_names; i++) own->names[i] = mem_strdup(m->names[i]);
    own->m.names = (const char *const *)own->names;
    own->info_json = dup_or_null(m->info_json);
    own->m.info_json = own->info_json;
    own->m.default_adapter = own->default_adapter = dup_or_null(m->default_adapter);
    if (!m->adapters) own->m.adapters = own->no_adapters = adapters_new((adapter_host){0});
    int32_t *eos = mem_calloc((size_t)MAX(1, m->n_eos), sizeof *eos);
    if (m->n_eos) memcpy(eos, m->eos_ids, (size_t)m->n_eos * sizeof *eos);
    own->m.eos_ids = eos;
    atomic_store_explicit(&s->model, own, memory_order_release);
}

void server_on_ready(void *ctx, request **ready, int32_t n) {
    server *s = ctx;
    bool woken[256] = {0};
    for (int32_t i = 0; i < n; i++) {
        ticket *l = ready[i]->owner;
        reactor_push(l);
        woken[l->re->index] = true;
    }
    for (int i = 0; i < s->o.n_threads; i++)
        if (woken[i]) reactor_wake(s->reactors[i]);
}

int server_port(const server *s) {
    return s->port;
}

keys *keys_acquire(server *s) {
    pthread_mutex_lock(&s->keys_lock);
    keys *k = keys_ref(s->keys);
    pthread_mutex_unlock(&s->keys_lock);
    return k;
}

status server_reload(server *s, error *err) {
    if (!s->o.api_key_file) return OK;
    keys *fresh = NULL;
    TRY(keys_load(NULL, 0, s->o.api_key_file, &fresh, err));
    pthread_mutex_lock(&s->keys_lock);
    keys *old = s->keys;
    keys_inherit(fresh, old);
    s->keys = fresh;
    pthread_mutex_unlock(&s->keys_lock);
    keys_release(old);
    return OK;
}

void server_drain(server *s) {
    atomic_store(&s->draining, true);
}

int server_in_flight(const server *s) {
    return atomic_load(&s->in_flight);
}

void server_stop(server *s) {
    atomic_store(&s->draining, true);
    atomic_store(&s->stopping, true);
    for (int i = 0; i < s->o.n_threads; i++)
        if (s->reactors[i]) reactor_wake(s->reactors[i]);
    for (int i = 0; i < s->o.n_threads; i++)
        if (s->reactors[i]) reactor_join(s->reactors[i]);
    for (int i = 0; i < s->o.n_threads; i++) {
        reactor_free(s->reactors[i]);
        s->reactors[i] = NULL;
    }
    if (s->o.unix_socket && s->port == 0) unlink(s->o.unix_socket);
}

static void model_free(model *m) {
    if (!m) return;
    for (int i = 0; i < m->m.n_names; i++) mem_free(m->names[i]);
    mem_free(m->names);
    mem_free(m->info_json);
    mem_free(m->default_adapter);
    adapters_free(m->no_adapters);
    mem_free((void *)m->m.eos_ids);
    mem_free(m);
}

void server_free(server *s) {
    if (!s) return;
    server_stop(s);
    model_free(atomic_load(&s->model));
    keys_release(s->keys);
    metrics_free(s->metrics);
    peers_free(s->peers);
    pthread_mutex_destroy(&s->keys_lock);
    mem_free((void *)s->o.host);
    mem_free((void *)s->o.unix_socket);
    mem_free((void *)s->o.api_key_file);
    mem_free(s->reactors);
    mem_free(s);
}
