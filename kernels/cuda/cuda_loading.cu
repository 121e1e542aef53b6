/* Slots for loading (loading.h): pinned memory that io_uring reads files into and that the copy
 * engine takes rows from, on a stream of its own. Rows whose type is the matrix' own go as they
 * are, those with padding behind them by a copy in two dimensions: the block's memory was zeroed,
 * and the padding stays so. Everything else takes the way of cuda_staging.cu. */
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/loading.h"
}

static cudaEvent_t event_of(const load_slot *s) {
    return (cudaEvent_t)s->passed;
}

static void slot_close(backend *b, load_slot *s) {
    cuda_backend *c = cuda_of(b);
    if (!s->p && !s->passed) return;
    cuda_ready(c); /* the thread's device */
    if (s->passed) {
        cuda_note(c, cudaEventSynchronize(event_of(s)), "copy of weights");
        cudaEventDestroy(event_of(s));
    }
    if (s->p) b->v->host_free(b, s->p, s->bytes);
    s->p = NULL;
    s->passed = NULL;
}

/* The stream of copies goes on from where the backend's is now: allocations are zeroed there. */
static cudaError_t begin(cuda_backend *c, load_slot *s) {
    cudaEvent_t e;
    cudaError_t got = cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    if (got != cudaSuccess) return got;
    s->passed = e;
    if (!c->load_stream) got = cudaStreamCreateWithFlags(&c->load_stream, cudaStreamNonBlocking);
    if (got == cudaSuccess) got = cudaEventRecord(e, c->main);
    if (got == cudaSuccess) got = cudaStreamWaitEvent(c->load_stream, e, 0);
    return got;
}

static status slot_open(backend *b, size_t bytes, load_slot *ret, error *err) {
    cuda_backend *c = cuda_of(b);
    void *p = NULL;
    ret->p = NULL;
    ret->bytes = bytes;
    ret->passed = NULL;
    TRY(b->v->host_alloc(b, bytes, &p, err));
    ret->p = (char *)p;
    cudaError_t e = begin(c, ret);
    if (e == cudaSuccess) return OK;
    slot_close(b, ret);
    return error_set(err, ERR_DEVICE, "cuda:%d cannot prepare the loading of weights: %s",
                     c->device, cudaGetErrorString(e));
}

static void slot_wait(backend *b, load_slot *s) {
    cuda_backend *c = cuda_of(b);
    if (cuda_ready(c)) cuda_note(c, cudaEventSynchronize(event_of(s)), "copy of weights");
}

static void sent(cuda_backend *c, load_slot *s, cudaError_t e) {
    if (e == cudaSuccess) e = cudaEventRecord(event_of(s), c->load_stream);
    cuda_note(c, e, "copy of weights");
}

static bool slot_pack(backend *b, load_slot *s, const char *src, wmat *w, int32_t row0,
                      int32_t n_rows, dtype src_dt) {
    cuda_backend *c = cuda_of(b);
    CHECK(row0 >= 0 && n_rows >= 0 && row0 + n_rows <= w->n);
    bool is_float = dtype_is_float(w->dt);
    if (src_dt != w->dt || dtype_kind_of(w->dt) == DTYPE_CODES) return false;
    size_t from =
        is_float ? (size_t)w->k * dtype_bytes(w->dt) : quant_row_bytes(w->dt, &w->q, w->k);
    size_t to = is_float ? (size_t)cuda_ld(w->dt, w->k) * dtype_bytes(w->dt) : from;
    CHECK(src >= s->p && src + (size_t)n_rows * from <= s->p + s->bytes);
    if (!n_rows || !cuda_ready(c)) return true;
    char *dst = (char *)w->data + (size_t)row0 * to;
    size_t n = (size_t)n_rows;
    sent(c, s,
         from == to
             ? cudaMemcpyAsync(dst, src, n * from, cudaMemcpyDefault, c->load_stream)
             : cudaMemcpy2DAsync(dst, to, src, from, from, n, cudaMemcpyDefault, c->load_stream));
    return true;
}

static void slot_upload(backend *b, load_slot *s, const char *src, void *dst, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    CHECK(src >= s->p && src + bytes <= s->p + s->bytes);
    if (!bytes || !cuda_ready(c)) return;
    cudaError_t e = cuda_fault(c, "upload")
                        ? cudaErrorLaunchFailure
                        : cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, c->load_stream);
    sent(c, s, e);
}

extern const loading cuda_load_slots;
const loading cuda_load_slots = {slot_open, slot_close, slot_wait, slot_pack, slot_upload};
