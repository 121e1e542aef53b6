/* Copies of pages between the device and pinned memory (copy_pieces). On the stream of everything
 * else, or aside: on a second one, which begins where the first is when `aside` is called and which
 * the first waits for at `rejoin`. Both are events that the device looks at; the host goes on.
 *
 * Not timed on a GPU yet. */
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/mem.h"
}

/* Of copies in two dimensions: cudaDeviceProp.memPitch of every device so far. */
#define PITCH_MOST ((size_t)INT32_MAX)

struct cuda_pieces {
    cudaStream_t stream;
    cudaEvent_t left, joined;
    bool is_aside;
};

static cudaError_t start(cuda_pieces *p) {
    cudaError_t e = cudaStreamCreateWithFlags(&p->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&p->left, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&p->joined, cudaEventDisableTiming);
    return e;
}

void cuda_pieces_free(cuda_backend *c) {
    cuda_pieces *p = c->pieces;
    if (!p) return;
    if (p->stream) {
        cudaStreamSynchronize(p->stream);
        cudaStreamDestroy(p->stream);
    }
    if (p->left) cudaEventDestroy(p->left);
    if (p->joined) cudaEventDestroy(p->joined);
    mem_free(p);
}

void cuda_aside(backend *b) {
    cuda_backend *c = cuda_of(b);
    cudaError_t e = cudaSuccess;
    if (!cuda_ready(c) || cuda_refuse(c) || (c->pieces && c->pieces->is_aside)) return;
    if (!c->pieces) {
        c->pieces = (cuda_pieces *)mem_calloc(1, sizeof *c->pieces);
        e = start(c->pieces);
    }
    if (e == cudaSuccess) e = cudaEventRecord(c->pieces->left, c->main);
    if (e == cudaSuccess) e = cudaStreamWaitEvent(c->pieces->stream, c->pieces->left, 0);
    c->pieces->is_aside = cuda_note(c, e, "aside");
}

void cuda_rejoin(backend *b) {
    cuda_backend *c = cuda_of(b);
    if (!c->pieces || !c->pieces->is_aside || !cuda_ready(c) || cuda_refuse(c)) return;
    cudaError_t e = cudaEventRecord(c->pieces->joined, c->pieces->stream);
    if (e == cudaSuccess) e = cudaStreamWaitEvent(c->main, c->pieces->joined, 0);
    cuda_note(c, e, "rejoin");
    c->pieces->is_aside = false;
}

/* One call of the copy engine; where the strides exceed its pitch, one for each piece. */
void cuda_copy_pieces(backend *b, void *dst, size_t dst_stride, const void *src, size_t src_stride,
                      size_t bytes, int32_t n) {
    cuda_backend *c = cuda_of(b);
    cudaError_t e = cudaSuccess;
    if (!bytes || n <= 0 || !cuda_ready(c) || cuda_refuse(c)) return;
    cudaStream_t s = c->pieces && c->pieces->is_aside ? c->pieces->stream : c->main;
    if (cuda_fault(c, "copy_pieces")) e = cudaErrorLaunchFailure;
    if (e == cudaSuccess && MAX(dst_stride, src_stride) <= PITCH_MOST)
        e = cudaMemcpy2DAsync(dst, dst_stride, src, src_stride, bytes, (size_t)n, cudaMemcpyDefault,
                              s);
    else
        for (size_t i = 0; i < (size_t)n && e == cudaSuccess; i++)
            e = cudaMemcpyAsync((char *)dst + i * dst_stride, (const char *)src + i * src_stride,
                                bytes, cudaMemcpyDefault, s);
    cuda_note(c, e, "copy_pieces");
}
