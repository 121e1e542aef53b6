/* Threads and wake-ups. */
#ifndef ENGINE_BASE_THREAD_H
#define ENGINE_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Start a named thread (name at most 15 bytes); the process ends with a sentence if the system
 * refuses. Join with pthread_join. All signals are blocked in it. */
pthread_t thread_start(const char *name, void *(*run)(void *), void *arg);
/* CPUs this process may use (affinity and cgroup quota), at least 1. */
int cpu_count(void);

/* A wake-up that counts: signal from any thread, wait from one. */
typedef struct waker {
    int fd; /* an eventfd: may be polled */
} waker;
void waker_init(waker *w);
void waker_done(waker *w);
void waker_signal(waker *w);
/* Wait until signalled or timeout_us (UINT64_MAX: for ever); true if signalled. */
bool waker_wait(waker *w, uint64_t timeout_us);

#endif
