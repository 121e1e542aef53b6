/* Typed growing arrays: `VEC(int32_t) ids = {0}; vec_push(&ids, 7); ids.p[0]; vec_done(&ids);` */
#ifndef ENGINE_BASE_VEC_H
#define ENGINE_BASE_VEC_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/mem.h"

#define VEC(T)                                                                                     \
    struct {                                                                                       \
        T *p;                                                                                      \
        size_t n, cap;                                                                             \
    }

typedef VEC(int32_t) vec_i32;

#define vec_reserve(v, want)                                                                       \
    do {                                                                                           \
        size_t vec_want_ = (want);                                                                 \
        if (vec_want_ > (v)->cap) {                                                                \
            (v)->cap = MAX(vec_want_, MAX((v)->cap * 2, (size_t)8));                               \
            (v)->p = mem_realloc((v)->p, (v)->cap * sizeof *(v)->p);                               \
        }                                                                                          \
    } while (0)
#define vec_push(v, x)                                                                             \
    do {                                                                                           \
        vec_reserve(v, (v)->n + 1);                                                                \
        (v)->p[(v)->n++] = (x);                                                                    \
    } while (0)
#define vec_done(v)                                                                                \
    do {                                                                                           \
        mem_free((v)->p);                                                                          \
        (v)->p = NULL;                                                                             \
        (v)->n = (v)->cap = 0;                                                                     \
    } while (0)

#endif
