/* What the thread team costs by itself:
 *
 *     bench_team [MEMBERS...]       (default: 1, 2, ... up to the usable CPUs, then twice as many)
 *
 * run: nanoseconds of a team_run with nothing to do, back to back; after a pause in which the
 * members still spin (20 us) and one after which they sleep (5 ms). barrier: of one barrier inside
 * a run. next: of one team_next, all members at it. Median of several rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "kernels/cpu/team.h"

enum { ROUNDS = 31, INSIDE = 200 };

static void nothing(void *ctx, int member) {}

static void barriers(void *ctx, int member) {
    for (int i = 0; i < INSIDE; i++) team_barrier(ctx);
}

static void nexts(void *ctx, int member) {
    while (team_next(ctx) < INSIDE) {
    }
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Without giving the CPU away. */
static void busy(uint64_t ns) {
    uint64_t end = clock_ns() + ns;
    while (clock_ns() < end) {
    }
}

/* Nanoseconds of a team_run of fn: n of them in a row, before each a pause. */
static double timed(team *t, team_fn fn, int n, uint64_t pause_ns) {
    double took[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        uint64_t sum = 0;
        for (int i = 0; i < n; i++) {
            if (pause_ns >= 1000000)
                nanosleep(&(struct timespec){.tv_nsec = (long)pause_ns}, NULL);
            else if (pause_ns)
                busy(pause_ns);
            uint64_t start = clock_ns();
            team_run(t, fn, t);
            sum += clock_ns() - start;
        }
        took[r] = (double)sum / n;
    }
    qsort(took, ROUNDS, sizeof *took, by_value);
    return took[ROUNDS / 2];
}

static void measure(int n) {
    team *t = team_new(n);
    int runs = n > cpu_count() ? 5 : 1000;
    double run = timed(t, nothing, runs, 0);
    printf("%7d %9.0f %9.0f %9.0f", n, run, timed(t, nothing, runs > 5 ? 50 : 2, 20000),
           timed(t, nothing, 2, 5000000));
    printf(" %9.0f %9.1f\n", (timed(t, barriers, runs > 5 ? 10 : 1, 0) - run) / INSIDE,
           timed(t, nexts, runs > 5 ? 10 : 1, 0) / INSIDE);
    team_free(t);
}

int main(int argc, char **argv) {
    printf("members    run ns  after 20us  after 5ms   barrier      next\n");
    for (int i = 1; i < argc; i++) measure(MAX(1, MIN(atoi(argv[i]), TEAM_MAX)));
    if (argc > 1) return 0;
    int n = cpu_count();
    for (int k = 1; k < n; k *= 2) measure(k);
    measure(n);
    measure(2 * n);
    return 0;
}
