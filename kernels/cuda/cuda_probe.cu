/* Ceilings: how fast memory is read, how fast it is copied, what the vendor's matrix product does.
 * A thread has LOADS loads of 16 bytes under way, neighbours in a warp side by side, and the grid
 * fills the device and strides over the buffer. Not yet timed on a GPU. */
#include "kernels/cuda/cu_load.h"
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cuda/cublaslt.h"
}

#define THREADS       512
#define LOADS         8
#define BLOCKS_PER_SM 4

struct cuda_probes {
    cublaslt *lt;
    void *workspace;
};

/* The words are summed so that no load is left out; the sum is written where it cannot be 1. */
static __global__ void read_kernel(const cu_words *src, int64_t n, unsigned long long *dst) {
    int64_t stride = (int64_t)gridDim.x * THREADS;
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    uint32_t sum = 0;
    for (; at + (LOADS - 1) * stride < n; at += LOADS * stride) {
        cu_words v[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) v[i] = cu_load_stream(src + at + i * stride);
#pragma unroll
        for (int i = 0; i < LOADS; i++) sum += v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
    }
    for (; at < n; at += stride) {
        cu_words v = cu_load_stream(src + at);
        sum += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 1) *dst = sum;
}

static __global__ void copy_kernel(const cu_words *src, cu_words *dst, int64_t n) {
    int64_t stride = (int64_t)gridDim.x * THREADS;
    int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    for (; at + (LOADS - 1) * stride < n; at += LOADS * stride) {
        cu_words v[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) v[i] = cu_load_stream(src + at + i * stride);
#pragma unroll
        for (int i = 0; i < LOADS; i++) dst[at + i * stride] = v[i];
    }
    for (; at < n; at += stride) dst[at] = cu_load_stream(src + at);
}

static unsigned blocks_for(const cuda_backend *c, int64_t n) {
    return (unsigned)MAX(MIN(CEIL_DIV(n, THREADS), (int64_t)c->n_sms * BLOCKS_PER_SM), 1);
}

#ifdef PAGODA_SIMT
/* The library would look for a device of its own, and cannot reach the memory of an emulated one.
 */
static status matmul(cuda_backend *c, const probe_work *w, error *err) {
    return error_set(err, ERR_NOT_FOUND, "no cuBLASLt: the device is emulated");
}
#else
static status matmul(cuda_backend *c, const probe_work *w, error *err) {
    if (!c->probes) c->probes = (struct cuda_probes *)mem_calloc(1, sizeof *c->probes);
    struct cuda_probes *p = c->probes;
    if (!p->lt) TRY(cublaslt_open(&p->lt, err));
    if (!p->workspace) TRY(c->base.v->mem_alloc(&c->base, CUBLASLT_WORKSPACE, &p->workspace, err));
    return cublaslt_matmul(p->lt, c->stream, w, p->workspace, err);
}
#endif

status cuda_probe(backend *b, const probe_work *w, error *err) {
    cuda_backend *c = cuda_of(b);
    int64_t n = (int64_t)(w->bytes / 16);
    if (!cuda_ready(c)) return OK; /* the next sync says why */
    if (w->kind == PROBE_MATMUL) return matmul(c, w, err);
    CHECK(w->bytes % 16 == 0 && (uintptr_t)w->src % 16 == 0 && (uintptr_t)w->dst % 8 == 0);
    if (w->kind == PROBE_READ)
        CU_LAUNCH(read_kernel, dim3(blocks_for(c, n)), dim3(THREADS), 0, c->stream,
                  (const cu_words *)w->src, n, (unsigned long long *)w->dst);
    else
        CU_LAUNCH(copy_kernel, dim3(blocks_for(c, n)), dim3(THREADS), 0, c->stream,
                  (const cu_words *)w->src, (cu_words *)w->dst, n);
    cuda_launched(c, "a probe");
    return OK;
}

void cuda_probes_free(cuda_backend *c) {
    if (!c->probes) return;
    cublaslt_close(c->probes->lt);
    cudaFree(c->probes->workspace);
    mem_free(c->probes);
}
