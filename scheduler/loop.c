/* The scheduler's thread around the core, and what other threads may call.
 *
 * Submitting: the records are made by the caller, the request goes through the inbox. The engine
 * thread drains it before every step and sleeps on the waker when a step had nothing to do.
 *
 * Waking: `poked` says that there is something to look at. Only the call that turns it on pays for
 * the system call; the engine thread turns it off before it looks, so nothing set before is missed.
 *
 * Counting: n_queued (submitted, not started) is the queue's bound and n_open (submitted, not
 * ended) is what drain waits for. Submitters add, the engine thread subtracts what the core says
 * left since last time.
 *
 * Stopping: a submit under way is counted in n_submitting; stop first closes the door, then waits
 * for that to be 0, so the last look at the inbox misses nothing. */
#include <sched.h>
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "scheduler/core.h"

enum { LOOP_RUNS, LOOP_DRAINS, LOOP_STOPS };

struct scheduler {
    core *core;
    int32_t max_waiting;
    void (*on_ready)(void *ctx, request **ready, int32_t n); /* the options' own */
    void *ctx;
    mpsc *inbox;
    waker wake;
    pthread_t thread;
    bool is_started;
    _Atomic bool poked, healthy;
    _Atomic int phase; /* LOOP_* */
    _Atomic int32_t n_submitting, n_queued, n_open;
    _Atomic uint64_t n_rejected;
    uint64_t n_unqueued, n_ended; /* the core's counts when last looked at: engine thread */
    pthread_mutex_t stats_mu;
    scheduler_stats stats; /* as of a recent step; under stats_mu */
    error failure;         /* of the device; under stats_mu */
};

/* Whoever learns that a request failed with the device finds the scheduler unhealthy. */
static void tell(void *ctx, request **ready, int32_t n) {
    scheduler *s = ctx;
    const error *failure = core_failure(s->core);
    if (failure && atomic_exchange(&s->healthy, false)) {
        pthread_mutex_lock(&s->stats_mu);
        s->stats.healthy = false;
        s->failure = *failure;
        pthread_mutex_unlock(&s->stats_mu);
    }
    if (s->on_ready) s->on_ready(s->ctx, ready, n);
}

scheduler *scheduler_new(const scheduler_options *o, stepper st) {
    scheduler *s = mem_calloc(1, sizeof *s);
    scheduler_options own = *o;
    s->on_ready = o->on_ready;
    s->ctx = o->ctx;
    own.on_ready = tell;
    own.ctx = s;
    s->core = core_new(&own, st, hash_key_random());
    s->max_waiting = MAX(1, o->max_waiting);
    s->inbox = mpsc_new((size_t)s->max_waiting);
    waker_init(&s->wake);
    CHECK(pthread_mutex_init(&s->stats_mu, NULL) == 0);
    atomic_init(&s->healthy, true);
    core_stats(s->core, &s->stats);
    return s;
}

static void drain_inbox(scheduler *s) {
    for (request *r; (r = mpsc_pop(s->inbox));) core_add(s->core, r);
}

/* Numbers for who asks. A step does not wait for a reader that holds the lock (and may have lost
 * its CPU): the next one tells. But before the loop sleeps, or drain may see the end, it has to be
 * told.
 */
static void publish_stats(scheduler *s, const scheduler_stats *now, bool must) {
    if (must)
        pthread_mutex_lock(&s->stats_mu);
    else if (pthread_mutex_trylock(&s->stats_mu) != 0)
        return;
    s->stats = *now;
    pthread_mutex_unlock(&s->stats_mu);
}

/* After a step: counters and numbers for the other threads. */
static void publish(scheduler *s, bool goes_on) {
    uint64_t n_unqueued = core_n_unqueued(s->core), n_ended = core_n_ended(s->core);
    atomic_fetch_sub(&s->n_queued, (int32_t)(n_unqueued - s->n_unqueued));
    scheduler_stats now;
    core_stats(s->core, &now);
    atomic_store(&s->healthy, now.healthy);
    publish_stats(s, &now, !goes_on || n_ended != s->n_ended);
    atomic_fetch_sub(&s->n_open, (int32_t)(n_ended - s->n_ended)); /* last: drain sees the rest */
    s->n_unqueued = n_unqueued;
    s->n_ended = n_ended;
}

static void *loop_run(void *arg) {
    scheduler *s = arg;
    core_enter(s->core);
    while (atomic_load(&s->phase) != LOOP_STOPS) {
        bool look = atomic_exchange(&s->poked, false);
        drain_inbox(s);
        bool worked = core_step(s->core, look);
        publish(s, worked);
        if (!worked) (void)waker_wait(&s->wake, core_wait_us(s->core));
    }
    return NULL;
}

void scheduler_start(scheduler *s) {
    CHECK(!s->is_started);
    s->is_started = true;
    s->thread = thread_start("engine", loop_run, s);
}

void scheduler_poke(scheduler *s) {
    if (!atomic_exchange(&s->poked, true)) waker_signal(&s->wake);
}

static status submit(scheduler *s, request *r, error *err) {
    if (atomic_load(&s->phase) != LOOP_RUNS)
        return error_set(err, ERR_UNAVAILABLE, "the server is shutting down");
    if (!atomic_load(&s->healthy))
        return error_set(err, ERR_UNAVAILABLE, "the engine failed and takes no more requests");
    if (atomic_fetch_add(&s->n_queued, 1) >= s->max_waiting) {
        atomic_fetch_sub(&s->n_queued, 1);
        return error_set(err, ERR_BUSY, "the queue is full: %d requests are waiting",
                         s->max_waiting);
    }
    status st = core_prepare(s->core, r, err);
    if (st != OK) {
        atomic_fetch_sub(&s->n_queued, 1);
        return st;
    }
    atomic_fetch_add(&s->n_open, 1);
    /* the inbox holds max_waiting, and no more than that are queued */
    CHECK(mpsc_push(s->inbox, request_ref(r)));
    scheduler_poke(s);
    return OK;
}

status scheduler_submit(scheduler *s, request *r, error *err) {
    atomic_fetch_add(&s->n_submitting, 1);
    status st = submit(s, r, err);
    atomic_fetch_sub(&s->n_submitting, 1);
    if (st != OK) atomic_fetch_add(&s->n_rejected, 1);
    return st;
}

bool scheduler_drain(scheduler *s) {
    int runs = LOOP_RUNS;
    (void)atomic_compare_exchange_strong(&s->phase, &runs, LOOP_DRAINS);
    return atomic_load(&s->n_submitting) == 0 && atomic_load(&s->n_open) == 0;
}

void scheduler_stop(scheduler *s) {
    atomic_store(&s->phase, LOOP_STOPS);
    waker_signal(&s->wake);
    if (s->is_started) pthread_join(s->thread, NULL);
    s->is_started = false;
    while (atomic_load(&s->n_submitting)) sched_yield();
    drain_inbox(s);
    core_abort(s->core);
    publish(s, false);
}

void scheduler_free(scheduler *s) {
    if (!s) return;
    scheduler_stop(s);
    core_free(s->core);
    mpsc_free(s->inbox);
    waker_done(&s->wake);
    pthread_mutex_destroy(&s->stats_mu);
    mem_free(s);
}

void scheduler_stats_get(scheduler *s, scheduler_stats *ret) {
    pthread_mutex_lock(&s->stats_mu);
    *ret = s->stats;
    pthread_mutex_unlock(&s->stats_mu);
    ret->n_rejected = atomic_load(&s->n_rejected);
}

bool scheduler_failed(scheduler *s, error *ret) {
    pthread_mutex_lock(&s->stats_mu);
    bool failed = !s->stats.healthy;
    if (failed) *ret = s->failure;
    pthread_mutex_unlock(&s->stats_mu);
    return failed;
}
