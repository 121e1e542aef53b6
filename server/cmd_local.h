/* A runtime of one's own for commands that are clients: on a Unix socket in a private directory
 * (mode 0700), gone at the end. */
#ifndef SERVER_CMD_LOCAL_H
#define SERVER_CMD_LOCAL_H

#include "conf/conf.h"
#include "server/client.h"
#include "server/cmd_runtime.h"

typedef struct local {
    char dir[64];
    runtime *r;
    client_url url;
} local;

/* Loads the model of c; the memory plan and progress are shown on a terminal only. */
NODISCARD status local_open(const conf *c, local *ret, error *err);
void local_close(local *l);

#endif
