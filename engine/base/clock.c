/* CLOCK_MONOTONIC for decisions, CLOCK_REALTIME for what people read. */
#include "engine/base/clock.h"

#include <stddef.h>
#include <time.h>

static int64_t read_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint64_t clock_ns(void) {
    return (uint64_t)read_ns(CLOCK_MONOTONIC);
}
uint64_t clock_us(void) {
    return clock_ns() / 1000;
}
int64_t clock_unix_us(void) {
    return read_ns(CLOCK_REALTIME) / 1000;
}
int64_t clock_unix_s(void) {
    return read_ns(CLOCK_REALTIME) / 1000000000;
}

static uint64_t monotonic(void *ctx) {
    (void)ctx;
    return clock_us();
}

clock_src clock_monotonic(void) {
    return (clock_src){monotonic, NULL};
}
