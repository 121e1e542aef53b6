/* Tiny model directories made by a test, to be damaged by it. */
#ifndef TESTS_GOLDEN_TINY_MODEL_H
#define TESTS_GOLDEN_TINY_MODEL_H

#include "engine/base/str.h"

typedef struct tiny_tensor {
    char name[96], dtype[8];
    int64_t dims[2];
    int32_t n_dims;
    size_t from, to; /* data_offsets */
} tiny_tensor;

typedef struct tiny_model {
    char dir[64];
    tiny_tensor t[64];
    int32_t n;
    strbuf data;
} tiny_model;

/* A llama of 2 layers (hidden 16, vocabulary 32, f32, random) in a fresh directory under /tmp,
 * nothing written yet but config.json. */
void tiny_init(tiny_model *m);
/* Remove the directory and all in it. */
void tiny_done(tiny_model *m);
tiny_tensor *tiny_find(tiny_model *m, const char *name);
void tiny_add(tiny_model *m, const char *name, int64_t rows, int64_t cols); /* cols 0: a vector */
void tiny_remove(tiny_model *m, const char *name);
/* Write tensors [from, to) as FILE in the directory; header replaces the one made of them. */
void tiny_write(tiny_model *m, const char *file, int32_t from, int32_t to, const char *header);
void tiny_put(tiny_model *m, const char *file, const void *p, size_t n);

#endif
