/* Members form a tree: member m has the children FAN*m+1 .. FAN*m+FAN. A run goes down the tree
 * (each starts its children, then does its part) and comes up again (each waits for its children,
 * then tells its parent); a barrier comes up and goes down. So no word is written by more than one
 * thread, or waited for by more than one, and with 128 members nobody deals with more than nine
 * others. Up to nine members the tree is flat.
 *
 * Every pass down has a number, and a word holds that of the last pass. Passes down and up take
 * turns, but for the barrier of a pair: there both say that they came and then look for the other,
 * which takes one trip of a cache line instead of two.
 *
 * Each wait is: look again and again for at most SPIN_NS, then sleep in the kernel on the word
 * itself (futex). The sleeper announces itself before it sleeps and the kernel compares the word
 * again, so the waker may skip the system call when nobody sleeps. Waking a CPU that sleeps takes
 * 0.4 ms on a virtual machine, a pass from one that looks 0.2 us: so the time to look is what lies
 * between two operations of a step, and more.
 *
 * A looking member that shares its CPU with a working one only delays it, hence none of it when
 * there are more members than CPUs. */
#include "kernels/cpu/team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

#define SPIN_NS 200000
enum { FAN = 8, LOOKS = 64 }; /* looks between two at the clock */

/* A word to wait on: one thread waits, one writes. */
typedef struct gate {
    _Atomic uint32_t word;
    _Atomic uint32_t sleeps;
} gate;

typedef struct member {
    _Alignas(64) gate down; /* written by the parent: the pass under way, and what to do in it */
    team_fn fn;
    void *ctx;
    _Alignas(64) gate up;       /* written by the member */
    _Alignas(64) uint32_t pass; /* the member's own */
    int id, child0, child1;     /* children: [child0, child1) */
    team *t;
    pthread_t thread;
} member;

struct team {
    int n;
    uint64_t spin_ns;
    _Alignas(64) _Atomic int64_t next;
    member m[]; /* [n]; 0 is the caller and has no thread */
};

static _Thread_local int own_id; /* as a member; who calls team_run is 0 */

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

/* In a pair the word may be one ahead already. */
static bool has_reached(uint32_t word, uint32_t want) {
    return (int32_t)(word - want) >= 0;
}

/* Wait until the word has reached `want`. */
static void gate_wait(gate *g, uint32_t want, uint64_t spin_ns) {
    uint64_t end = 0;
    while (spin_ns) {
        for (int i = 0; i < LOOKS; i++) {
            if (has_reached(atomic_load_explicit(&g->word, memory_order_acquire), want)) return;
            relax();
        }
        uint64_t now = clock_ns();
        if (!end) end = now + spin_ns;
        if (now >= end) break;
    }
    atomic_store(&g->sleeps, 1);
    for (uint32_t now; !has_reached(now = atomic_load(&g->word), want);)
        futex(&g->word, FUTEX_WAIT_PRIVATE, now);
    atomic_store_explicit(&g->sleeps, 0, memory_order_relaxed);
}

static void gate_set(gate *g, uint32_t to) {
    atomic_store(&g->word, to);
    if (atomic_load(&g->sleeps)) futex(&g->word, FUTEX_WAKE_PRIVATE, 1);
}

/* The next pass down, from m to its children. */
static void pass_down(team *t, member *m, team_fn fn, void *ctx) {
    m->pass++;
    for (int c = m->child0; c < m->child1; c++) {
        t->m[c].fn = fn;
        t->m[c].ctx = ctx;
        gate_set(&t->m[c].down, m->pass);
    }
}

/* All below m have come this far. */
static void wait_below(team *t, const member *m) {
    for (int c = m->child0; c < m->child1; c++) gate_wait(&t->m[c].up, m->pass, t->spin_ns);
}

static void *member_main(void *arg) {
    member *m = arg;
    team *t = m->t;
    own_id = m->id;
    for (;;) {
        gate_wait(&m->down, m->pass + 1, t->spin_ns);
        team_fn fn = m->fn;
        void *ctx = m->ctx;
        pass_down(t, m, fn, ctx);
        if (!fn) return NULL;
        fn(ctx, m->id);
        wait_below(t, m);
        gate_set(&m->up, m->pass);
    }
}

static size_t bytes_of(int n) {
    return sizeof(team) + (size_t)n * sizeof(member);
}

team *team_new(int n) {
    CHECK(n >= 1);
    CHECK(n <= TEAM_MAX);
    team *t = mem_map(bytes_of(n));
    CHECK(t);
    t->n = n;
    t->spin_ns = n <= cpu_count() ? SPIN_NS : 0;
    for (int i = 0; i < n; i++) {
        member *m = &t->m[i];
        m->t = t;
        m->id = i;
        m->child0 = (int)MIN((int64_t)FAN * i + 1, n);
        m->child1 = (int)MIN((int64_t)FAN * i + FAN + 1, n);
    }
    for (int i = 1; i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "cpu-%d", i);
        t->m[i].thread = thread_start(name, member_main, &t->m[i]);
    }
    return t;
}

void team_free(team *t) {
    if (!t) return;
    pass_down(t, &t->m[0], NULL, NULL);
    for (int i = 1; i < t->n; i++) pthread_join(t->m[i].thread, NULL);
    mem_unmap(t, bytes_of(t->n));
}

int team_size(const team *t) {
    return t->n;
}

static void pin(pthread_t thread, int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    /* A CPU that was taken away since it was listed: then wherever the kernel wants. */
    (void)pthread_setaffinity_np(thread, sizeof set, &set);
}

void team_pin(team *t, const int *cpus) {
    for (int i = 1; i < t->n; i++) pin(t->m[i].thread, cpus[i]);
}

void team_pin_caller(const int *cpus) {
    pin(pthread_self(), cpus[0]);
}

void team_run(team *t, team_fn fn, void *ctx) {
    member *m = &t->m[0];
    atomic_store_explicit(&t->next, 0, memory_order_relaxed);
    m->fn = fn; /* a barrier passes them on */
    m->ctx = ctx;
    pass_down(t, m, fn, ctx);
    fn(ctx, 0);
    wait_below(t, m);
}

/* Of two members each only has to know that the other has come. */
static void pair_barrier(team *t) {
    member *m = &t->m[own_id];
    gate *own = own_id ? &m->up : &t->m[1].down, *other = own_id ? &m->down : &t->m[1].up;
    uint32_t up = m->pass, down = ++m->pass;
    gate_set(own, own_id ? up : down);
    gate_wait(other, own_id ? down : up, t->spin_ns);
}

void team_barrier(team *t) {
    member *m = &t->m[own_id];
    if (t->n == 2) {
        pair_barrier(t);
        return;
    }
    wait_below(t, m);
    if (own_id > 0) {
        gate_set(&m->up, m->pass);
        gate_wait(&m->down, m->pass + 1, t->spin_ns);
    }
    pass_down(t, m, m->fn, m->ctx);
}

int64_t team_next(team *t) {
    return atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
}
