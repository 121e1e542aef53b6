/* Time, injectable: code that decides by time takes a clock_src, so that tests and the simulator
 * bring their own. */
#ifndef ENGINE_BASE_CLOCK_H
#define ENGINE_BASE_CLOCK_H

#include <stdint.h>

typedef struct clock_src {
    uint64_t (*now_us)(void *ctx); /* monotonic microseconds */
    void *ctx;
} clock_src;

clock_src clock_monotonic(void);
static inline uint64_t clock_now_us(clock_src c) {
    return c.now_us(c.ctx);
}
uint64_t clock_us(void);    /* the monotonic clock, directly */
uint64_t clock_ns(void);    /* the same in nanoseconds: benches */
int64_t clock_unix_s(void); /* wall clock seconds: "created" fields and logs */
int64_t clock_unix_us(void);

#endif
