/* Where the time of steps goes: the ops of a backend, timed one by one. */
#ifndef TESTS_BENCH_OP_TIMES_H
#define TESTS_BENCH_OP_TIMES_H

#include "kernels/backend.h"

/* From now on calls of b's ops are timed; of one backend at a time. Ops that an op calls are not
 * counted again. A clock is read twice a call: 0.1 us. */
void op_times_watch(backend *b);
void op_times_clear(void);
/* What was called since, per step of n_steps: calls and time of each op, of products by shape. */
void op_times_print(int32_t n_steps, double step_ms);

#endif
