/* What the files of server/ share and nobody else sees. */
#ifndef SERVER_INTERNAL_H
#define SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "server/adapters.h"
#include "server/server.h"

typedef struct reactor reactor;
typedef struct metrics metrics;
typedef struct keys keys;
typedef struct peers peers;

/* A server_model with strings of its own. Immutable once published in server.model. */
typedef struct model {
    server_model m; /* names point into `names` */
    char **names;
    char *info_json, *default_adapter;
    adapters *no_adapters; /* an empty list of our own, where the model brings none */
    scheduler *sched;
} model;

struct server {
    server_options o;       /* its strings are our own */
    _Atomic(model *) model; /* NULL while loading */
    reactor **reactors;     /* [o.n_threads] */
    int port;
    uint64_t start_us;
    int64_t start_unix_s;
    metrics *metrics;
    peers *peers;

    pthread_mutex_t keys_lock; /* of the pointer below; the table itself is shared by reference */
    keys *keys;

    _Atomic bool draining, stopping;
    _Atomic int in_flight;
    _Atomic uint64_t request_ids;
    uint64_t id_seed; /* makes ids of two runs differ */
};

static inline const model *server_model_get(const server *s) {
    return atomic_load_explicit(&s->model, memory_order_acquire);
}

#endif
