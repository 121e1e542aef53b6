/* The commands of the program. Each gets its options and returns the process's exit status. */
#ifndef SERVER_CMD_H
#define SERVER_CMD_H

#include <stdbool.h>

#include "conf/conf.h"
#include "engine/base/status.h"

/* Exit status of a server whose engine failed: a supervisor starts it again. */
#define EXIT_ENGINE 3

/* Print "pagoda: TEXT" to stderr and return 1: how every command ends on an error. */
int cmd_fail(const error *err);
int cmd_failf(const char *fmt, ...) PRINTF_LIKE(1, 2);

int cmd_serve(const conf *c);
int cmd_chat(const conf *c);
int cmd_generate(const conf *c);
int cmd_bench(const conf *c);
int cmd_eval(const conf *c);
int cmd_predict(const conf *c);
int cmd_devices(const conf *c);
int cmd_inspect(const conf *c);
int cmd_tokenize(const conf *c);
int cmd_render(const conf *c);
int cmd_logits(const conf *c);
int cmd_make_tiny(const conf *c);
int cmd_convert(const conf *c);

#endif
