/* Checks of the test programs that run whole models: one that fails is told and counted, and the
 * rest goes on. A program ends with n_failed != 0. */
#ifndef TESTS_GOLDEN_EXPECT_H
#define TESTS_GOLDEN_EXPECT_H

#include <stdio.h>

static int n_failed;

#define EXPECT(cond, ...)                                                                          \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            n_failed++;                                                                            \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                             \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
        }                                                                                          \
    } while (0)

#endif
