/* --gemm-library cublaslt on the emulated device, with a library made for it (fake_cublaslt.c):
 * which products go there, that they are right, that an algorithm is chosen once for a shape, and
 * what a missing library is called. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/device.h"
#include "tests/golden/expect.h"

#define M 200
#define N 96
#define K 72

static const struct counts { int proposals, products, refused, open; } * counts;

static backend *open_device(void) {
    backend *b = NULL;
    error err;
    device_options o = {.device = "cuda"};
    status st = device_open(&o, &b, &err);
    EXPECT(st == OK, "%s", err.text);
    return b;
}

static void *put(backend *b, const void *src, size_t bytes) {
    void *p = NULL;
    error err;
    status st = b->v->mem_alloc(b, bytes, &p, &err);
    EXPECT(st == OK, "%s", err.text);
    b->v->upload(b, p, src, bytes);
    return p;
}

typedef struct product {
    dtype dt;
    int32_t m;
    bool bias, accumulate;
} product;

static float value(int i) {
    return (float)((i * 7919) % 255 - 127) / 128;
}

/* The product by the backend; fresh [m,N]. */
static float *run_product(backend *b, const product *p) {
    float *x = mem_alloc(M * K * sizeof *x), *out = mem_alloc(M * N * sizeof *out);
    float w_rows[N * K], bias[N];
    for (int i = 0; i < M * K; i++) x[i] = value(i);
    for (int i = 0; i < N * K; i++) w_rows[i] = value(i + 11);
    for (int i = 0; i < N; i++) bias[i] = value(i + 5);
    for (int i = 0; i < M * N; i++) out[i] = value(i + 3);
    wmat w;
    size_t bytes = b->v->wmat_bytes(b, N, K, p->dt);
    void *data = NULL;
    error err;
    status st = b->v->mem_alloc(b, bytes, &data, &err);
    EXPECT(st == OK, "%s", err.text);
    b->v->wmat_init(b, &w, N, K, p->dt, data);
    b->v->wmat_pack(b, &w, 0, N, w_rows, DT_F32, K);
    float *dev_x = put(b, x, M * K * sizeof *x), *dev_out = put(b, out, M * N * sizeof *out);
    float *dev_bias = put(b, bias, sizeof bias);
    op_gemm op = {.m = p->m, .a = dev_x, .a_stride = K, .w = &w, .out = dev_out, .out_stride = N};
    op.bias = p->bias ? dev_bias : NULL;
    op.accumulate = p->accumulate;
    b->v->gemm(b, &op);
    b->v->download(b, out, dev_out, M * N * sizeof *out);
    st = b->v->sync(b, &err);
    EXPECT(st == OK, "%s", err.text);
    b->v->mem_free(b, data, bytes), b->v->mem_free(b, dev_x, M * K * sizeof *x);
    b->v->mem_free(b, dev_out, M * N * sizeof *out), b->v->mem_free(b, dev_bias, sizeof bias);
    mem_free(x);
    return out;
}

static double difference(const float *a, const float *b, int n) {
    double d = 0, norm = 0;
    for (int i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(d / norm);
}

static void check_products(backend *own, backend *with) {
    static const product all[] = {{DT_BF16, M, false, false}, {DT_BF16, M, true, false},
                                  {DT_BF16, M, false, true},  {DT_BF16, M, true, true},
                                  {DT_F16, M, false, false},  {DT_F16, M, true, true},
                                  {DT_F32, M, true, false},   {DT_BF16, 8, true, false}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        const product *p = &all[i];
        struct counts before = *counts;
        float *a = run_product(own, p);
        EXPECT(counts->products == before.products, "case %zu: the own backend asked", i);
        float *b = run_product(with, p);
        bool large = p->dt != DT_F32 && p->m == M;
        EXPECT((counts->products > before.products) == large, "case %zu: %d products", i,
               counts->products - before.products);
        double d = difference(b, a, p->m * N);
        EXPECT(d < 1e-4, "case %zu: differs by %g", i, d);
        EXPECT(memcmp(b + p->m * N, a + p->m * N, (size_t)(M - p->m) * N * sizeof *a) == 0,
               "case %zu: rows past the last were written", i);
        mem_free(a), mem_free(b);
    }
}

/* Once chosen, a shape costs one product and no question; fewer rows of its bucket, too. */
static void check_choices(backend *with) {
    struct counts before = *counts;
    EXPECT(before.proposals == 4, "%d shapes were asked for: two types, with and without bias",
           before.proposals);
    EXPECT(before.refused == 4, "%d refusals: one of each shape's", before.refused);
    product p = {DT_BF16, M, false, false};
    mem_free(run_product(with, &p));
    p.m = 130;
    mem_free(run_product(with, &p));
    EXPECT(counts->proposals == before.proposals, "asked again");
    EXPECT(counts->products == before.products + 2, "%d products",
           counts->products - before.products);
    p.m = 100;
    mem_free(run_product(with, &p));
    EXPECT(counts->proposals == before.proposals + 1, "another bucket is another choice");
}

static void check_missing(void) {
    char path[4096];
    error err = {0};
    snprintf(path, sizeof path, "%s", getenv("PAGODA_CUBLASLT_LIBRARY"));
    setenv("PAGODA_CUBLASLT_LIBRARY", "/nowhere/libcublasLt.so", 1);
    backend *b = open_device();
    status st = b->v->use_library(b, &err);
    EXPECT(st == ERR_NOT_FOUND && strstr(err.text, "gemm_library cublaslt: no cuBLASLt: ") &&
               strstr(err.text, "/nowhere/libcublasLt.so"),
           "%s", err.text);
    product p = {DT_BF16, M, true, false}; /* goes on with its own */
    mem_free(run_product(b, &p));
    backend_close(b);
    setenv("PAGODA_CUBLASLT_LIBRARY", path, 1);
}

int main(void) {
    void *library = dlopen(getenv("PAGODA_CUBLASLT_LIBRARY"), RTLD_NOW);
    counts = library ? dlsym(library, "fake_cublaslt_counts") : NULL;
    EXPECT(counts != NULL, "%s", dlerror());
    if (!counts) return 1;
    check_missing();
    backend *own = open_device(), *with = open_device();
    error err = {0};
    status st = with->v->use_library(with, &err);
    EXPECT(st == OK, "%s", err.text);
    check_products(own, with);
    check_choices(with);
    backend_close(own), backend_close(with);
    EXPECT(counts->open == 0, "%d things of the library are still open", counts->open);
    return n_failed != 0;
}
