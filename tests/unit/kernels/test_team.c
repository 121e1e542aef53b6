/* Unit tests of the thread team: every member runs once, barriers hold, the counter covers a range
 * exactly, an idle team takes no CPU, teams larger than the machine work. */
#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <sched.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "kernels/cpu/place.h"
#include "kernels/cpu/team.h"
#include "tests/unit/suite.h"

typedef struct job {
    team *t;
    int n;
    int seen[TEAM_MAX];  /* written by its member only */
    int stage[TEAM_MAX]; /* read by others after a barrier */
    bool ok[TEAM_MAX];
    _Atomic int taken[1000];
} job;

static void mark(void *ctx, int member) {
    job *j = ctx;
    j->seen[member]++;
}

START_TEST(every_member_runs_once_per_run) {
    static const int sizes[] = {1, 2, 3, 5, 16, 128};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        job *j = calloc(1, sizeof *j);
        team *t = team_new(sizes[s]);
        ck_assert_int_eq(team_size(t), sizes[s]);
        int runs = sizes[s] > 16 ? 20 : 200;
        for (int i = 0; i < runs; i++) team_run(t, mark, j);
        for (int i = 0; i < TEAM_MAX; i++) ck_assert_int_eq(j->seen[i], i < sizes[s] ? runs : 0);
        team_free(t);
        free(j);
    }
}
END_TEST

static void staged(void *ctx, int member) {
    job *j = ctx;
    j->ok[member] = true;
    for (int s = 1; s <= 50; s++) {
        j->stage[member] = s;
        team_barrier(j->t);
        for (int i = 0; i < j->n; i++) j->ok[member] &= j->stage[i] == s;
        team_barrier(j->t);
    }
}

START_TEST(barrier_separates_stages) {
    static const int sizes[] = {1, 2, 3, 7};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        job *j = calloc(1, sizeof *j);
        j->n = sizes[s];
        j->t = team_new(j->n);
        for (int i = 0; i < 5; i++) {
            team_run(j->t, staged, j);
            for (int k = 0; k < j->n; k++) ck_assert(j->ok[k]);
        }
        team_free(j->t);
        free(j);
    }
}
END_TEST

static void take(void *ctx, int member) {
    job *j = ctx;
    for (int64_t i; (i = team_next(j->t)) < 1000;) atomic_fetch_add(&j->taken[i], 1);
}

START_TEST(counter_gives_each_item_once) {
    job *j = calloc(1, sizeof *j);
    j->t = team_new(4);
    for (int run = 1; run <= 20; run++) {
        team_run(j->t, take, j);
        for (int i = 0; i < 1000; i++) ck_assert_int_eq(j->taken[i], run);
    }
    team_free(j->t);
    free(j);
}
END_TEST

static double cpu_seconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

START_TEST(idle_team_parks) {
    job *j = calloc(1, sizeof *j);
    team *t = team_new(3);
    team_run(t, mark, j);
    usleep(50000); /* past the spin time */
    double before = cpu_seconds();
    usleep(300000);
    ck_assert(cpu_seconds() - before < 0.03);
    team_run(t, mark, j); /* and wakes again */
    ck_assert_int_eq(j->seen[2], 2);
    team_free(t);
    free(j);
}
END_TEST

/* Runs with any number of barriers, one after the other without a pause or with one in which
 * members fall asleep; each checks what the stage before wrote. */
typedef struct storm {
    team *t;
    int n, n_stages;
    uint64_t value;          /* plain: ordered by the team alone */
    uint64_t mark[TEAM_MAX]; /* each written by its member */
    _Atomic int n_wrong;
} storm;

static void storm_run(void *ctx, int member) {
    storm *s = ctx;
    for (int k = 1; k <= s->n_stages; k++) {
        s->mark[member] = s->value + (uint64_t)k;
        team_barrier(s->t);
        for (int i = 0; i < s->n; i++) s->n_wrong += s->mark[i] != s->value + (uint64_t)k;
        team_barrier(s->t);
    }
    s->mark[member] = s->value;
}

START_TEST(storm_of_runs_and_barriers) {
    static const int sizes[] = {2, 3, 9, 10, 20, 73, 128};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        storm s = {.n = sizes[k], .t = team_new(sizes[k])};
        int runs = s.n == 2 ? 3000 : s.n < 20 ? 60 : 6;
        for (int i = 0; i < runs; i++) {
            s.n_stages = i % 4;
            s.value = (uint64_t)i << 32;
            team_run(s.t, storm_run, &s);
            for (int m = 0; m < s.n; m++) s.n_wrong += s.mark[m] != s.value;
            if (i % 50 == 7) usleep(600);
        }
        ck_assert_int_eq(s.n_wrong, 0);
        team_free(s.t);
    }
}
END_TEST

/* The thread that calls may be another each time. */
static void *run_once(void *arg) {
    storm *s = arg;
    team_run(s->t, storm_run, s);
    return NULL;
}

START_TEST(any_thread_may_call) {
    storm s = {.n = 3, .n_stages = 2, .t = team_new(3)};
    for (int i = 0; i < 20; i++) {
        s.value = (uint64_t)i << 32;
        pthread_join(thread_start("caller", run_once, &s), NULL);
        team_run(s.t, storm_run, &s);
    }
    ck_assert_int_eq(s.n_wrong, 0);
    team_free(s.t);
}
END_TEST

static void where(void *ctx, int member) {
    ((int *)ctx)[member] = sched_getcpu();
}

START_TEST(pinned_members_stay) {
    cpu_set_t old;
    int cpus[2], nodes[2], seen[2];
    const char *sys = PLACE_SYSFS;
    ck_assert_int_eq(sched_getaffinity(0, sizeof old, &old), 0);
    ck_assert(place_cpus(sys, NULL, 1, cpus, nodes) && CPU_ISSET((size_t)cpus[0], &old));
    if (CPU_COUNT(&old) < 2) return; /* nothing to tell apart */
    ck_assert(place_cpus(sys, NULL, 2, cpus, nodes) && cpus[0] != cpus[1]);
    team *t = team_new(2);
    team_pin(t, cpus);
    team_pin_caller(cpus);
    for (int i = 0; i < 50; i++) {
        team_run(t, where, seen);
        ck_assert_int_eq(seen[0], cpus[0]);
        ck_assert_int_eq(seen[1], cpus[1]);
    }
    /* among the CPUs that are left */
    int only;
    ck_assert(place_cpus(sys, NULL, 1, &only, nodes) && only == cpus[0]);
    team_free(t);
    ck_assert_int_eq(sched_setaffinity(0, sizeof old, &old), 0);
}
END_TEST

START_TEST(ranges_cover_exactly) {
    for (int n = 1; n < 9; n++)
        for (int count = 0; count < 100; count += 7)
            for (int grain = 1; grain < 40; grain += 13) {
                int64_t at = 0, from, to;
                for (int i = 0; i < n; i++) {
                    team_range(count, grain, i, n, &from, &to);
                    ck_assert(from == at && to >= from);
                    ck_assert(to == count || to % grain == 0);
                    at = to;
                }
                ck_assert(at == count);
            }
}
END_TEST

int main(void) {
    Suite *s = suite_create("team");
    TCase *tc = tcase_create("team");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, every_member_runs_once_per_run);
    tcase_add_test(tc, barrier_separates_stages);
    tcase_add_test(tc, counter_gives_each_item_once);
    tcase_add_test(tc, idle_team_parks);
    tcase_add_test(tc, storm_of_runs_and_barriers);
    tcase_add_test(tc, any_thread_may_call);
    tcase_add_test(tc, pinned_members_stay);
    tcase_add_test(tc, ranges_cover_exactly);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
