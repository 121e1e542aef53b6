/* A cuBLASLt for the emulated device, as far as kernels/cuda/cublaslt*.c use it: column-major
 * products of bf16 and f16, the first matrix transposed, out in f32. It proposes four algorithms:
 * one that it says is not good, one that refuses to run, and two that are alike. Counts what it
 * does in fake_cublaslt_counts. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/dtype.h"

#define API __attribute__((visibility("default")))

struct {
    int proposals, products, refused, open; /* open: handles, descriptions, layouts, preferences */
} API fake_cublaslt_counts;

typedef struct desc {
    int transposed, epilogue;
    const float *bias;
} desc;
typedef struct layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
} layout;
typedef struct proposal {
    uint64_t algo[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
} proposal;

static int make(void **ret, size_t bytes) {
    *ret = calloc(1, bytes);
    fake_cublaslt_counts.open++;
    return 0;
}
static int drop(void *p) {
    free(p);
    fake_cublaslt_counts.open--;
    return 0;
}

API int cublasLtCreate(void **handle) {
    return make(handle, 1);
}
API int cublasLtDestroy(void *handle) {
    return drop(handle);
}
API int cublasLtMatmulDescCreate(void **d, int compute, int scale_type) {
    return compute == 68 && scale_type == 0 ? make(d, sizeof(desc)) : 7;
}
API int cublasLtMatmulDescDestroy(void *d) {
    return drop(d);
}
API int cublasLtMatmulDescSetAttribute(void *of, int attribute, const void *value, size_t bytes) {
    desc *d = of;
    if (attribute == 3 && bytes == 4) return memcpy(&d->transposed, value, 4), 0;
    if (attribute == 7 && bytes == 4) return memcpy(&d->epilogue, value, 4), 0;
    if (attribute == 8 && bytes == sizeof d->bias) return memcpy(&d->bias, value, bytes), 0;
    return 7;
}
API int cublasLtMatrixLayoutCreate(void **ret, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (ld < (int64_t)rows) return 7;
    make(ret, sizeof(layout));
    *(layout *)*ret = (layout){type, rows, cols, ld};
    return 0;
}
API int cublasLtMatrixLayoutDestroy(void *l) {
    return drop(l);
}
API int cublasLtMatmulPreferenceCreate(void **p) {
    return make(p, 1);
}
API int cublasLtMatmulPreferenceDestroy(void *p) {
    return drop(p);
}
API int cublasLtMatmulPreferenceSetAttribute(void *p, int attribute, const void *v, size_t bytes) {
    if (attribute == 1) return bytes == sizeof(size_t) ? 0 : 7;
    return attribute >= 5 && attribute <= 8 && bytes == 4 && *(const uint32_t *)v == 16 ? 0 : 7;
}
API int cublasLtMatmulAlgoGetHeuristic(void *handle, void *d, void *a, void *b, void *c, void *out,
                                       void *preference, int wanted, proposal *ret, int *ret_n) {
    fake_cublaslt_counts.proposals++;
    *ret_n = wanted < 4 ? wanted : 4;
    for (int i = 0; i < *ret_n; i++) ret[i] = (proposal){.algo = {77, (uint64_t)i}};
    ret[0].state = 15; /* no good */
    return 0;
}

/* A product on its way. */
typedef struct work {
    desc d;
    layout a, b, out;
    const void *a_data, *b_data;
    float *to;
    const float *from;
    float alpha, beta;
} work;

static float number(const layout *l, const void *data, uint64_t row, uint64_t col) {
    const uint16_t *x = (const uint16_t *)data + (int64_t)col * l->ld + (int64_t)row;
    return l->type == 14 ? bf16_to_f32(*x) : f16_to_f32(*x);
}

static void run(void *ctx) {
    work *w = ctx;
    for (uint64_t j = 0; j < w->out.cols; j++)
        for (uint64_t i = 0; i < w->out.rows; i++) {
            double sum = 0;
            for (uint64_t k = 0; k < w->a.rows; k++)
                sum += (double)number(&w->a, w->a_data, k, i) * number(&w->b, w->b_data, k, j);
            int64_t at = (int64_t)j * w->out.ld + (int64_t)i;
            float more = w->beta != 0 ? w->beta * w->from[at] : 0;
            w->to[at] = w->alpha * (float)sum + more + (w->d.epilogue == 4 ? w->d.bias[i] : 0);
        }
    free(w);
}

API int cublasLtMatmul(void *handle, void *d, const void *alpha, const void *a, void *a_layout,
                       const void *b, void *b_layout, const void *beta, const void *c,
                       void *c_layout, void *out, void *out_layout, const uint64_t *algo,
                       void *workspace, size_t bytes, void *stream) {
    work *w = malloc(sizeof *w);
    *w = (work){
        *(desc *)d, *(layout *)a_layout,   *(layout *)b_layout, *(layout *)out_layout, a, b, out,
        c,          *(const float *)alpha, *(const float *)beta};
    bool fits = w->a.rows == w->b.rows && w->out.rows == w->a.cols && w->out.cols == w->b.cols;
    if (!fits || !w->d.transposed || algo[0] != 77 || algo[1] < 2 || !workspace || !bytes) {
        fake_cublaslt_counts.refused++;
        free(w);
        return 15;
    }
    void *plugin = dlopen(getenv("PAGODA_CUDA_LIBRARY"), RTLD_NOW | RTLD_NOLOAD);
    void (*submit)(void *, void (*)(void *), void *);
    *(void **)&submit = plugin ? dlsym(plugin, "simt_submit") : NULL;
    if (!submit) abort();
    fake_cublaslt_counts.products++;
    submit(stream, run, w);
    dlclose(plugin);
    return 0;
}
