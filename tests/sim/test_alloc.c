/* The steady-state step allocates nothing: the linker puts these counters before malloc and its
 * like (-Wl,--wrap), and decoding steps, page turns and prefix hashes included, must not move them.
 * Preempting and readmitting must not either. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "scheduler/core.h"
#include "tests/sim/fake.h"

static unsigned long n_calls;

#define COUNTED(ret, name, params, args)                                                           \
    ret __real_##name params;                                                                      \
    ret __wrap_##name params;                                                                      \
    ret __wrap_##name params {                                                                     \
        n_calls++;                                                                                 \
        return __real_##name args;                                                                 \
    }
COUNTED(void *, malloc, (size_t n), (n))
COUNTED(void *, calloc, (size_t n, size_t size), (n, size))
COUNTED(void *, realloc, (void *p, size_t n), (p, n))
COUNTED(void *, mmap64, (void *p, size_t n, int a, int b, int c, long d), (p, n, a, b, c, d))

enum { SEQS = 20, STEPS = 300 };

static void read_all(void *ctx, request **ready, int32_t n) {
    token_event e;
    for (int32_t i = 0; i < n; i++)
        while (spsc_pop(ready[i]->events, &e)) {
        }
}

static request *submit(core *c, int32_t i) {
    request *r = request_new(1 << 16);
    int32_t *p = arena_array(r->mem, 30, sizeof *p);
    for (int32_t k = 0; k < 30; k++) p[k] = k < 16 ? k : k * 100 + i;
    r->prompt = p;
    r->n_prompt = 30;
    r->max_tokens = STEPS * 4;
    r->n = 1 + i % 2;
    r->stream = true;
    request_arm(r);
    if (core_prepare(c, r, NULL) != OK) abort();
    core_add(c, request_ref(r));
    return r;
}

static int count(int32_t n_pages, int32_t n_slots, const char *what, bool want_preemptions) {
    fake f;
    fake_init(&f, 16, n_pages, 10000);
    fake_host(&f, n_slots, 0);
    scheduler_options o = {.max_running = 2 * SEQS,
                           .token_budget = 256,
                           .prefix_cache = true,
                           .stall_us = 1000000,
                           .clock = clock_monotonic(),
                           .on_ready = read_all};
    core *c = core_new(&o, fake_stepper(&f, 256, 64, 10000), (hash_key){{1, 2}});
    request *r[SEQS];
    scheduler_stats st;
    for (int32_t i = 0; i < SEQS; i++) r[i] = submit(c, i);
    for (int i = 0; i < 20; i++) (void)core_step(c, false);
    unsigned long before = n_calls;
    for (int i = 0; i < STEPS; i++) (void)core_step(c, true);
    unsigned long calls = n_calls - before;
    core_stats(c, &st);
    printf("%s: %lu allocations in %d steps, %d running, %llu preemptions\n", what, calls, STEPS,
           st.n_running, (unsigned long long)st.n_preemptions);
    core_abort(c);
    core_free(c);
    for (int32_t i = 0; i < SEQS; i++) request_unref(r[i]);
    fake_done(&f);
    if ((st.pages_out > 0) != (n_slots > 0)) return 1;
    return calls != 0 || (st.n_preemptions > 0) != want_preemptions || before == 0;
}

int main(void) {
    int bad = count(2000, 0, "roomy", false);
    bad |= count(120, 0, "tight", true);
    return bad | count(120, 400, "tight, with a second tier", true);
}
