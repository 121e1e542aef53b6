/* Packing: weights come from mapped files and buffers of readers, in any thread, and go to the
 * device as rows of its own layout. They are converted straight into pinned memory, a slot at a
 * time: while one slot is on its way, the next is filled, by this thread or another. A slot is
 * free again when the event behind its copy has passed. */
#include <pthread.h>
#include <string.h>

#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
}

#define SLOTS      8
#define SLOT_BYTES ((size_t)4 << 20) /* a multiple of 16 */

typedef struct slot {
    char *p;
    cudaEvent_t passed;
    bool taken;
} slot;

struct cuda_staging {
    pthread_mutex_t lock;
    pthread_cond_t given;
    slot slots[SLOTS];
    int next; /* slots are taken in turn, so that the oldest copy is waited for */
};

void cuda_staging_free(struct cuda_staging *s) {
    if (!s) return;
    for (int i = 0; i < SLOTS; i++) {
        if (s->slots[i].passed) cudaEventDestroy(s->slots[i].passed);
        cudaFreeHost(s->slots[i].p);
    }
    pthread_cond_destroy(&s->given);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

struct cuda_staging *cuda_staging_new(cudaError_t *ret) {
    struct cuda_staging *s = (struct cuda_staging *)mem_calloc(1, sizeof *s);
    cudaError_t e = cudaSuccess;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->given, NULL);
    for (int i = 0; i < SLOTS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&s->slots[i].passed, cudaEventDisableTiming);
    *ret = e;
    if (e == cudaSuccess) return s;
    cuda_staging_free(s);
    return NULL;
}

static slot *take(cuda_backend *c) {
    struct cuda_staging *s = c->staging;
    pthread_mutex_lock(&s->lock);
    slot *got = NULL;
    while (!got) {
        for (int i = 0; i < SLOTS && !got; i++) {
            slot *one = &s->slots[(s->next + i) % SLOTS];
            if (!one->taken) got = one;
        }
        if (!got) pthread_cond_wait(&s->given, &s->lock);
    }
    got->taken = true;
    s->next = (int)(got - s->slots + 1) % SLOTS;
    pthread_mutex_unlock(&s->lock);
    /* Pinned memory is taken when it is first needed: inspecting a model packs nothing. */
    cudaError_t e = got->p ? cudaEventSynchronize(got->passed)
                           : cudaHostAlloc((void **)&got->p, SLOT_BYTES, cudaHostAllocPortable);
    cuda_note(c, e, "staging of weights");
    return got;
}

static void give(cuda_backend *c, slot *one) {
    struct cuda_staging *s = c->staging;
    pthread_mutex_lock(&s->lock);
    one->taken = false;
    pthread_cond_signal(&s->given);
    pthread_mutex_unlock(&s->lock);
}

/* Bytes on their way to consecutive addresses of the device. */
typedef struct writer {
    cuda_backend *c;
    char *dst;
    slot *at;
    size_t used;
} writer;

static writer writer_open(cuda_backend *c, void *dst) {
    writer w = {c, (char *)dst, take(c), 0};
    return w;
}

static void flush(writer *w) {
    if (w->used && cuda_ready(w->c)) {
        cudaStream_t stream = w->c->main;
        cudaError_t e = cudaMemcpyAsync(w->dst, w->at->p, w->used, cudaMemcpyDefault, stream);
        if (e == cudaSuccess) e = cudaEventRecord(w->at->passed, stream);
        cuda_note(w->c, e, "copy of weights");
    }
    w->dst += w->used;
    w->used = 0;
}

static void writer_close(writer *w) {
    flush(w);
    give(w->c, w->at);
}

/* Room for at most `want` bytes, *ret_got of them, as written from here on. NULL after a failure.
 */
static char *room(writer *w, size_t want, size_t *ret_got) {
    if (w->used == SLOT_BYTES) {
        flush(w);
        give(w->c, w->at);
        w->at = take(w->c);
    }
    if (!cuda_ready(w->c)) return NULL;
    char *p = w->at->p + w->used;
    *ret_got = MIN(want, SLOT_BYTES - w->used);
    w->used += *ret_got;
    return p;
}

/* n elements of src from src_dt to dt. */
static void convert(const char *src, dtype src_dt, char *dst, dtype dt, size_t n) {
    if (src_dt == dt) {
        memcpy(dst, src, n * dtype_bytes(dt));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float f = src_dt == DT_F32   ? ((const float *)src)[i]
                  : src_dt == DT_F16 ? f16_to_f32(((const uint16_t *)src)[i])
                                     : bf16_to_f32(((const uint16_t *)src)[i]);
        if (dt == DT_F32)
            ((float *)dst)[i] = f;
        else
            ((uint16_t *)dst)[i] = dt == DT_F16 ? f32_to_f16(f) : f32_to_bf16(f);
    }
}

/* One row of k elements and the zeros behind it. False after a failure. */
static bool put_row(writer *to, const wmat *w, const char *src, dtype src_dt) {
    size_t size = dtype_bytes(w->dt), k = (size_t)w->k, got;
    for (size_t i = 0; i < k; i += got / size) {
        char *p = room(to, (k - i) * size, &got);
        if (!p) return false;
        convert(src + i * dtype_bytes(src_dt), src_dt, p, w->dt, got / size);
    }
    size_t padding = ((size_t)cuda_ld(w->dt, w->k) - k) * size;
    for (; padding; padding -= got) {
        char *p = room(to, padding, &got);
        if (!p) return false;
        memset(p, 0, got);
    }
    return true;
}

void cuda_wmat_pack(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *src,
                    dtype src_dt, int64_t src_stride) {
    CHECK(row0 >= 0 && n_rows >= 0 && row0 + n_rows <= w->n);
    CHECK(dtype_is_float(src_dt) && dtype_is_float(w->dt));
    cuda_backend *c = cuda_of(b);
    if (!n_rows || !cuda_ready(c)) return;
    size_t row_bytes = (size_t)cuda_ld(w->dt, w->k) * dtype_bytes(w->dt);
    writer to = writer_open(c, (char *)w->data + (size_t)row0 * row_bytes);
    const char *from = (const char *)src;
    for (int32_t r = 0; r < n_rows; r++)
        if (!put_row(&to, w, from + (size_t)r * (size_t)src_stride * dtype_bytes(src_dt), src_dt))
            break;
    writer_close(&to);
}

void cuda_put_bytes(cuda_backend *c, void *dst, const void *src, size_t n) {
    if (!n || !cuda_ready(c)) return;
    writer to = writer_open(c, dst);
    for (size_t i = 0, got; i < n; i += got) {
        char *p = room(&to, n - i, &got);
        if (!p) break;
        memcpy(p, (const char *)src + i, got);
    }
    writer_close(&to);
}
