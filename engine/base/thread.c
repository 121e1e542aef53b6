/* pthreads and an eventfd. */
#include "engine/base/thread.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

pthread_t thread_start(const char *name, void *(*run)(void *), void *arg) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_t t;
    int rc = pthread_create(&t, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        fprintf(stderr, "pagoda: cannot start thread %s: %s\n", name, strerror(rc));
        abort();
    }
    pthread_setname_np(t, name);
    return t;
}

/* cgroup v2 quota in whole CPUs (rounded up), or a large number. */
static int cgroup_cpus(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!f) return 1 << 20;
    long quota = 0, period = 0;
    int got = fscanf(f, "%ld %ld", &quota, &period);
    fclose(f);
    if (got != 2 || quota <= 0 || period <= 0) return 1 << 20;
    return (int)CEIL_DIV(quota, period);
}

int cpu_count(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    return MAX(1, MIN(n, cgroup_cpus()));
}

void waker_init(waker *w) {
    w->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(w->fd >= 0);
}

void waker_done(waker *w) {
    if (w->fd >= 0) close(w->fd);
    w->fd = -1;
}

void waker_signal(waker *w) {
    uint64_t one = 1;
    ssize_t ignored = write(w->fd, &one, sizeof one);
    (void)ignored;
}

bool waker_wait(waker *w, uint64_t timeout_us) {
    struct pollfd p = {.fd = w->fd, .events = POLLIN};
    struct timespec t = {(time_t)(timeout_us / 1000000), (long)(timeout_us % 1000000) * 1000};
    int rc;
    do rc = ppoll(&p, 1, timeout_us == UINT64_MAX ? NULL : &t, NULL);
    while (rc < 0 && errno == EINTR);
    if (rc <= 0) return false;
    uint64_t n;
    return read(w->fd, &n, sizeof n) == (ssize_t)sizeof n;
}
