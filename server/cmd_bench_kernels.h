/* `pagoda bench kernels`: the ops of a forward pass at the sizes of a small model, through the same
 * backend that serves, each beside what this machine can do at that moment. */
#ifndef SERVER_CMD_BENCH_KERNELS_H
#define SERVER_CMD_BENCH_KERNELS_H

#include "conf/conf.h"

/* --op NAME: only this one; --json: an array of rows. Returns the exit status. */
int bench_kernels(const conf *c);

#endif
