/* Everything that answers requests in one process: HTTP front end, scheduler, engine, tokenizer,
 * chat template, in the order that server.h describes. `pagoda serve` runs one on its port;
 * `pagoda generate` and `pagoda chat --model` run one on a private Unix socket and are its
 * clients, so that there is one way of a request and one validation of its fields. */
#ifndef SERVER_CMD_RUNTIME_H
#define SERVER_CMD_RUNTIME_H

#include "conf/conf.h"
#include "scheduler/scheduler.h"
#include "server/server.h"

typedef struct runtime runtime;

typedef struct runtime_hooks {
    /* Any may be NULL. Called from the thread that opens. */
    void (*on_listen)(void *ctx, const server *s); /* the port is bound, loading begins */
    void (*on_plan)(void *ctx, str plan);          /* the memory plan, before it is allocated */
    void (*on_loaded)(void *ctx, str text);        /* what loading has to tell, if anything */
    void (*on_progress)(void *ctx, size_t bytes_done, size_t bytes_total);
    void *ctx;
} runtime_hooks;

/* Listen (health: loading), load the model, start serving. `unix_socket` overrides the conf's
 * address; NULL: as in c. On failure everything is closed again. */
NODISCARD status runtime_open(const conf *c, const char *unix_socket, const runtime_hooks *hooks,
                              runtime **ret, error *err);
/* Wait for running requests up to grace_us (asking `stop_now` in between, may be NULL), end the
 * rest, close everything. Takes NULL. */
void runtime_close(runtime *r, uint64_t grace_us, bool (*stop_now)(void *ctx), void *ctx);

server *runtime_server(runtime *r);
scheduler *runtime_scheduler(runtime *r);
const char *runtime_model_name(const runtime *r);

#endif
