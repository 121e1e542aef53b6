/* Generation counter for the start of a run, arrival counter for its end, a second pair for the
 * barrier inside. Each wait is: spin with pause for at most SPIN_NS, then sleep in the kernel on
 * the word itself (futex). The sleeper announces itself before it sleeps and the kernel compares
 * the word again, so the waker may skip the system call when nobody sleeps.
 *
 * A spinning member that shares its CPU with a working one only delays it, hence no spinning when
 * there are more members than CPUs. */
#include "kernels/cpu/team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

#define SPIN_NS 200000

/* A word to wait on, alone on its cache line. */
typedef struct gate {
    _Alignas(64) _Atomic uint32_t word;
    _Atomic uint32_t sleepers;
} gate;

typedef struct worker {
    team *t;
    int member;
    pthread_t thread;
} worker;

struct team {
    int n;
    uint64_t spin_ns;
    team_fn fn;
    void *ctx;
    bool stop;
    gate start; /* counts runs */
    gate done;  /* counts members that finished, over all runs */
    gate phase; /* counts barriers passed */
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic int64_t next;
    worker workers[]; /* [n]; entry 0 is the caller and has no thread */
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static long futex(_Atomic uint32_t *word, int op, uint32_t value) {
    return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* Wait until the word is no longer `old`. */
static void gate_wait(gate *g, uint32_t old, uint64_t spin_ns) {
    if (spin_ns) {
        uint64_t end = 0;
        for (unsigned i = 0;; i++) {
            if (atomic_load_explicit(&g->word, memory_order_acquire) != old) return;
            relax();
            if ((i & 63) != 63) continue;
            uint64_t now = clock_ns();
            if (!end) end = now + spin_ns;
            if (now >= end) break;
        }
    }
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->word) == old) futex(&g->word, FUTEX_WAIT_PRIVATE, old);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_add(gate *g) {
    atomic_fetch_add(&g->word, 1);
    if (atomic_load(&g->sleepers)) futex(&g->word, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

static void *worker_main(void *arg) {
    const worker *w = arg;
    team *t = w->t;
    for (uint32_t run = 0;; run++) {
        gate_wait(&t->start, run, t->spin_ns);
        if (t->stop) return NULL;
        t->fn(t->ctx, w->member);
        gate_add(&t->done);
    }
}

team *team_new(int n) {
    CHECK(n >= 1);
    CHECK(n <= TEAM_MAX);
    size_t bytes = ALIGN_UP(sizeof(team) + (size_t)n * sizeof(worker), 64);
    team *t = mem_map(bytes);
    CHECK(t);
    t->n = n;
    t->spin_ns = n <= cpu_count() ? SPIN_NS : 0;
    for (int i = 1; i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "cpu-%d", i);
        t->workers[i].t = t;
        t->workers[i].member = i;
        t->workers[i].thread = thread_start(name, worker_main, &t->workers[i]);
    }
    return t;
}

void team_free(team *t) {
    if (!t) return;
    t->stop = true;
    gate_add(&t->start);
    for (int i = 1; i < t->n; i++) pthread_join(t->workers[i].thread, NULL);
    mem_unmap(t, ALIGN_UP(sizeof(team) + (size_t)t->n * sizeof(worker), 64));
}

int team_size(const team *t) {
    return t->n;
}

void team_run(team *t, team_fn fn, void *ctx) {
    atomic_store_explicit(&t->next, 0, memory_order_relaxed);
    if (t->n == 1) {
        fn(ctx, 0);
        return;
    }
    uint32_t target =
        atomic_load_explicit(&t->done.word, memory_order_relaxed) + (uint32_t)t->n - 1;
    t->fn = fn;
    t->ctx = ctx;
    gate_add(&t->start);
    fn(ctx, 0);
    for (uint32_t seen;
         (seen = atomic_load_explicit(&t->done.word, memory_order_acquire)) != target;)
        gate_wait(&t->done, seen, t->spin_ns);
}

void team_barrier(team *t) {
    if (t->n == 1) return;
    uint32_t phase = atomic_load_explicit(&t->phase.word, memory_order_relaxed);
    if (atomic_fetch_add(&t->arrived, 1) == (uint32_t)t->n - 1) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        gate_add(&t->phase);
    } else
        gate_wait(&t->phase, phase, t->spin_ns);
}

int64_t team_next(team *t) {
    return atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
}
