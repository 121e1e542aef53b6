/* What a file of another program says besides options (conf.foreign). */
#ifndef SERVER_CMD_FOREIGN_H
#define SERVER_CMD_FOREIGN_H

#include "conf/conf.h"

/* Log what has no effect, then compare the file's dimensions with the config.json of c->model: the
 * first that differs is the error. OK where there is no such file. */
NODISCARD status cmd_foreign_check(const conf *c, error *err);

#endif
