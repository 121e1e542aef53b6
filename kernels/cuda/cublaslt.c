/* The library is column-major: out[M,N] = a . w^T in rows is out^T[N,M] = w . a^T in columns, where
 * w's rows are columns to be transposed: the one form that FP8 has, and the fastest of bf16. */
#include <dlfcn.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cuda/cublaslt_calls.h"

static const struct {
    const char *name;
    size_t at;
} symbols[] = {
    {"cublasLtCreate", offsetof(lt_calls, create)},
    {"cublasLtDestroy", offsetof(lt_calls, destroy)},
    {"cublasLtMatmulDescCreate", offsetof(lt_calls, desc_create)},
    {"cublasLtMatmulDescDestroy", offsetof(lt_calls, desc_destroy)},
    {"cublasLtMatmulDescSetAttribute", offsetof(lt_calls, desc_set)},
    {"cublasLtMatrixLayoutCreate", offsetof(lt_calls, layout_create)},
    {"cublasLtMatrixLayoutDestroy", offsetof(lt_calls, layout_destroy)},
    {"cublasLtMatmulPreferenceCreate", offsetof(lt_calls, prefer_create)},
    {"cublasLtMatmulPreferenceDestroy", offsetof(lt_calls, prefer_destroy)},
    {"cublasLtMatmulPreferenceSetAttribute", offsetof(lt_calls, prefer_set)},
    {"cublasLtMatmulAlgoGetHeuristic", offsetof(lt_calls, propose)},
    {"cublasLtMatmul", offsetof(lt_calls, matmul)},
};

static void *open_library(error *err) {
    const char *own = getenv("PAGODA_CUBLASLT_LIBRARY");
    const char *names[] = {own ? own : "libcublasLt.so.13", "libcublasLt.so.12"};
    void *library = NULL;
    for (int i = 0; i < (own ? 1 : 2) && !library; i++) {
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!library && i == 0) error_set(err, ERR_NOT_FOUND, "no cuBLASLt: %s", dlerror());
    }
    return library;
}

status cublaslt_open(cublaslt **ret, error *err) {
    void *library = open_library(err);
    if (!library) return ERR_NOT_FOUND;
    cublaslt *lt = mem_calloc(1, sizeof *lt);
    lt->library = library;
    for (size_t i = 0; i < ARRAY_LEN(symbols); i++) {
        void *f = dlsym(library, symbols[i].name);
        if (!f) {
            cublaslt_close(lt);
            return error_set(err, ERR_NOT_FOUND, "cuBLASLt has no %s", symbols[i].name);
        }
        *(void **)((char *)&lt->call + symbols[i].at) = f;
    }
    int e = lt->call.create(&lt->handle);
    if (e == 0) {
        *ret = lt;
        return OK;
    }
    lt->handle = NULL;
    cublaslt_close(lt);
    return error_set(err, ERR_NOT_FOUND, "cuBLASLt does not start: status %d", e);
}

static void product_free(cublaslt *lt) {
    lt_product *p = &lt->last;
    if (p->out) lt->call.layout_destroy(p->out);
    if (p->a) lt->call.layout_destroy(p->a);
    if (p->w) lt->call.layout_destroy(p->w);
    if (p->desc) lt->call.desc_destroy(p->desc);
    *p = (lt_product){0};
}

void cublaslt_close(cublaslt *lt) {
    if (!lt) return;
    product_free(lt);
    mem_free(lt->chosen);
    if (lt->handle) lt->call.destroy(lt->handle);
    dlclose(lt->library);
    mem_free(lt);
}

static int describe(cublaslt *lt, lt_product *p) {
    int32_t transposed = TRANSPOSED;
    int8_t fast = 1;
    int type = p->dt == DT_BF16 ? TYPE_BF16 : TYPE_E4M3;
    int e = lt->call.desc_create(&p->desc, COMPUTE_F32, TYPE_F32);
    if (!e) e = lt->call.desc_set(p->desc, DESC_TRANSPOSE_A, &transposed, sizeof transposed);
    if (!e && type == TYPE_E4M3) e = lt->call.desc_set(p->desc, DESC_FAST_SUMS, &fast, 1);
    uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    if (!e) e = lt->call.layout_create(&p->w, type, k, n, p->k);
    if (!e) e = lt->call.layout_create(&p->a, type, k, m, p->k);
    if (!e) e = lt->call.layout_create(&p->out, TYPE_BF16, n, m, p->n);
    return e;
}

static int choose(cublaslt *lt, lt_product *p) {
    void *preference = NULL;
    size_t bytes = CUBLASLT_WORKSPACE;
    lt_proposal first = {0};
    int n = 0;
    int e = lt->call.prefer_create(&preference);
    if (e) return e;
    e = lt->call.prefer_set(preference, PREFER_WORKSPACE, &bytes, sizeof bytes);
    if (!e)
        e = lt->call.propose(lt->handle, p->desc, p->w, p->a, p->out, p->out, preference, 1, &first,
                             &n);
    lt->call.prefer_destroy(preference);
    p->algo = first.algo;
    return e ? e : n == 1 ? first.state : -1;
}

static int prepare(cublaslt *lt, const probe_work *w) {
    lt_product *p = &lt->last;
    if (p->desc && p->m == w->m && p->n == w->n && p->k == w->k && p->dt == w->dt) return 0;
    product_free(lt);
    p->m = w->m, p->n = w->n, p->k = w->k, p->dt = w->dt;
    int e = describe(lt, p);
    if (!e) e = choose(lt, p);
    if (e) product_free(lt);
    return e;
}

status cublaslt_matmul(cublaslt *lt, void *stream, const probe_work *w, void *workspace,
                       error *err) {
    const float one = 1, zero = 0;
    CHECK(w->dt == DT_BF16 || w->dt == DT_F8_E4M3);
    int e = prepare(lt, w);
    lt_product *p = &lt->last;
    if (!e)
        e = lt->call.matmul(lt->handle, p->desc, &one, w->w, p->w, w->a, p->a, &zero, w->out,
                            p->out, w->out, p->out, &p->algo, workspace, CUBLASLT_WORKSPACE,
                            stream);
    if (e == 0) return OK;
    return error_set(err, ERR_UNSUPPORTED,
                     "cuBLASLt has no %s product [%d,%d] x [%d,%d]: status %d", dtype_name(w->dt),
                     w->m, w->k, w->k, w->n, e);
}
