/* The core: all of the scheduler but its thread. loop.c steps it for real, the simulator steps the
 * same code with a fake engine and a virtual clock. One thread, except where said. */
#ifndef SCHEDULER_CORE_H
#define SCHEDULER_CORE_H

#include "scheduler/scheduler.h"
#include "engine/base/hash.h"

typedef struct core core;

/* Everything that a step needs is allocated here. Options are clamped to what the stepper takes:
 * max_running <= max_seqs, max_running <= token_budget <= max_tokens; with whole_prompt
 * prefix_cache is off: a page of such a prompt depends on all of it. `key` keys page hashes. */
core *core_new(const scheduler_options *o, stepper s, hash_key key);
void core_free(core *c); /* takes NULL; nothing may be in flight */

/* Any thread: check the request and make its records (r->sched). ERR_INVALID: can never run. */
NODISCARD status core_prepare(const core *c, request *r, error *err);
/* Take over a reference to a prepared request; it waits from now on. Unhealthy: it ends at once. */
void core_add(core *c, request *r);

/* The calling thread will be the one that steps. */
void core_enter(core *c);
/* One step: deadlines, stalls and (look) cancel and choice_done flags; plan; the stepper; results;
 * on_ready. False if there was nothing to do: see core_wait_us. */
bool core_step(core *c, bool look);
/* How long core_step would go on having nothing to do if nothing comes from outside:
 * UINT64_MAX: for ever. A full ring is looked at again after at most 1 ms. */
uint64_t core_wait_us(const core *c);
/* End everything in flight with FINISH_CANCEL and deliver. */
void core_abort(core *c);

int32_t core_n_requests(const core *c);               /* in flight */
uint64_t core_n_unqueued(const core *c);              /* requests that ever left the queue */
uint64_t core_n_ended(const core *c);                 /* requests that ever ended */
void core_stats(const core *c, scheduler_stats *ret); /* all fields but n_rejected */
const error *core_failure(const core *c); /* what the device failed with; NULL: it is well */

#endif
