/* What several commands ask of the engine and the backend, from the options. */
#ifndef SERVER_CMD_ENGINE_H
#define SERVER_CMD_ENGINE_H

#include "conf/conf.h"
#include "engine/engine.h"

/* Borrows c's strings. Hooks are empty. */
engine_options cmd_engine_options(const conf *c);
/* --print-kernels: which kernel serves which op; the exit status. */
int cmd_print_kernels(const conf *c);

#endif
