/* Large 16-bit products by cuBLASLt, where --gemm-library asks for it: those that would run under
 * tiles of the own kernel. What the library cannot do, and shapes that are first met while a graph
 * is recorded, where nothing can be timed, stay with the own kernel. */
#include <stdlib.h>

#include "kernels/cuda/cuda_gemm.h"

extern "C" {
#include "kernels/cuda/cublaslt.h"
}

#define ROWS_LEAST 64 /* fewer are bound by reading the weights, which the own kernels do once */
#define REPEATS    3

struct cuda_library {
    cublaslt *lt;
    void *workspace;
};

status cuda_use_library(backend *b, error *err) {
    cuda_backend *c = cuda_of(b);
    error why;
    cublaslt *lt = NULL;
    void *workspace = NULL;
    if (c->library) return OK;
#ifdef PAGODA_SIMT /* only one made for it reaches the memory of an emulated device */
    if (!getenv("PAGODA_CUBLASLT_LIBRARY"))
        return error_set(err, ERR_NOT_FOUND, "gemm_library cublaslt: the device is emulated");
#endif
    status st = cublaslt_open(&lt, &why);
    if (st != OK) return error_set(err, st, "gemm_library cublaslt: %s", why.text);
    st = b->v->mem_alloc(b, CUBLASLT_WORKSPACE, &workspace, err);
    if (st != OK) {
        cublaslt_close(lt);
        return st;
    }
    c->library = (struct cuda_library *)mem_calloc(1, sizeof *c->library);
    c->library->lt = lt;
    c->library->workspace = workspace;
    return OK;
}

void cuda_library_free(cuda_backend *c) {
    if (!c->library) return;
    cublaslt_close(c->library->lt);
    cudaFree(c->library->workspace);
    mem_free(c->library);
    c->library = NULL;
}

static double time_launch(void *ctx, int (*launch)(void *), void *arg) {
    cuda_backend *c = (cuda_backend *)ctx;
    cudaEvent_t from = NULL, to = NULL;
    float ms = 0;
    cudaError_t e = cudaEventCreateWithFlags(&from, cudaEventDefault);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&to, cudaEventDefault);
    if (e == cudaSuccess) e = cudaEventRecord(from, c->stream);
    for (int i = 0; i < REPEATS; i++) launch(arg);
    if (e == cudaSuccess) e = cudaEventRecord(to, c->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(c->stream);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, from, to);
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    cuda_note(c, e, "gemm");
    return 1e3 * ms;
}

/* The trial's results go to memory of their own, for which there may be none: then nothing is timed
 * and the library's first proposal is taken. */
static void choose(cuda_backend *c, const lt_gemm *g) {
    void *out = NULL;
    size_t bytes = (size_t)g->m * (size_t)g->n * sizeof(float);
    if (cudaMalloc(&out, bytes) != cudaSuccess) {
        cudaGetLastError();
        cublaslt_choose(c->library->lt, c->stream, g, c->library->workspace, NULL);
        return;
    }
    lt_clock clock = {time_launch, c, (float *)out};
    cublaslt_choose(c->library->lt, c->stream, g, c->library->workspace, &clock);
    cudaFree(out);
}

static bool is_aligned(const void *p, int64_t stride_bytes) {
    return ((uintptr_t)p | (uintptr_t)stride_bytes) % 16 == 0;
}

bool cuda_library_gemm(cuda_backend *c, const gemm_call *g) {
    if (!c->library || g->m < ROWS_LEAST || g->experts || g->interleaved || !g->a16) return false;
    if (g->kind != GEMM_BF16 && g->kind != GEMM_F16) return false;
    lt_gemm l = {};
    l.m = g->m, l.n = g->n, l.k = g->k;
    l.dt = g->kind == GEMM_BF16 ? DT_BF16 : DT_F16;
    l.w = g->w.rows, l.w_ld = g->w.ld;
    l.a = g->a16, l.a_ld = g->a16_stride;
    l.bias = g->bias;
    l.out = g->out, l.out_ld = g->out_stride;
    l.accumulate = g->accumulate;
    if (!is_aligned(l.w, 2 * l.w_ld) || !is_aligned(l.a, 2 * l.a_ld) ||
        !is_aligned(l.out, 4 * l.out_ld) || !is_aligned(l.bias, 0))
        return false;
    if (!cublaslt_knows(c->library->lt, &l)) {
        if (cuda_recording(c)) return false;
        choose(c, &l);
    }
    return cublaslt_gemm(c->library->lt, c->stream, &l, c->library->workspace);
}
