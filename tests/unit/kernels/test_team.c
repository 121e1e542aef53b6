/* Unit tests of the thread team: every member runs once, barriers hold, the counter covers a range
 * exactly, an idle team takes no CPU, teams larger than the machine work. */
#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
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
    tcase_add_test(tc, ranges_cover_exactly);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
