/* Whose core this is: makers differ in what no feature flag tells, such as how a core likes to be
 * told what to read next. What depends on it changes times, never a bit of a result, but for the
 * level that is chosen (select.c). */
#ifndef KERNELS_CPU_MAKER_H
#define KERNELS_CPU_MAKER_H

#include <stdbool.h>

static inline bool cpu_is_intel(void) {
#if defined(__x86_64__)
    return __builtin_cpu_is("intel");
#else
    return false;
#endif
}

static inline bool cpu_is_amd(void) {
#if defined(__x86_64__)
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

#endif
