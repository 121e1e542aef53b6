/* A persistent team of threads for one backend: the caller is member 0, n-1 workers wait for work.
 * A run hands one function to all members and returns when all are done.
 *
 * Waiting spins for a bounded time (a step is a chain of short operations), then parks in the
 * kernel, so that an idle team takes no CPU. A team larger than the usable CPUs never spins.
 * One thread at a time may call team_run; team_* inside a run may be called by its members. */
#ifndef KERNELS_CPU_TEAM_H
#define KERNELS_CPU_TEAM_H

#include <stdbool.h>
#include <stdint.h>

#define TEAM_MAX 256

typedef struct team team;
typedef void (*team_fn)(void *ctx, int member);

/* n members, 1 .. TEAM_MAX, the caller included. Ends the process if threads cannot be started. */
team *team_new(int n);
void team_free(team *t); /* takes NULL */
int team_size(const team *t);
/* Keep each member on a CPU of its own: cpus[i] is member i's. Member 0 is whoever calls team_run;
 * team_pin_caller pins the calling thread to cpus[0]. */
void team_pin(team *t, const int *cpus);
void team_pin_caller(const int *cpus);

/* fn(ctx, member) on every member, 0 being the caller. Writes before the call are seen by all
 * members, their writes by the caller afterwards. */
void team_run(team *t, team_fn fn, void *ctx);
/* Inside a run: all members arrive before any leaves. */
void team_barrier(team *t);
/* Inside a run: the next value of a counter that starts at 0 with each run. For dynamic work. */
int64_t team_next(team *t);

/* The static range of member i of n over `count` items in units of `grain` (a multiple of grain
 * at every inner border): [*ret_from, *ret_to). */
static inline void team_range(int64_t count, int64_t grain, int i, int n, int64_t *ret_from,
                              int64_t *ret_to) {
    int64_t units = (count + grain - 1) / grain;
    int64_t from = units * i / n * grain, to = units * (i + 1) / n * grain;
    *ret_from = from < count ? from : count;
    *ret_to = to < count ? to : count;
}

#endif
