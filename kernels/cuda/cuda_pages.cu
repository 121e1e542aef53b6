/* Copies of KV pages. The list is ordered: a page that one copy wrote may be read or written by a
 * later one. So the host cuts the list where a copy touches what an earlier one of the same launch
 * touches; launches follow one another on the stream. Pairs and buffers travel as parameters. */
#include <string.h>

#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/mem.h"
}

#define PAIRS   128 /* of one launch */
#define BUFFERS 128
#define THREADS 256

typedef struct page_copies {
    int32_t n_pairs, n_buffers;
    int32_t src[PAIRS], dst[PAIRS];
    char *buffers[BUFFERS];
    size_t page_bytes;
} page_copies; /* less than 4 KB, what a launch can carry */

/* blockIdx.y: pair; blockIdx.z: buffer. */
template <typename word> static __global__ void copy_kernel(page_copies a) {
    const word *from =
        (const word *)(a.buffers[blockIdx.z] + (size_t)a.src[blockIdx.y] * a.page_bytes);
    word *to = (word *)(a.buffers[blockIdx.z] + (size_t)a.dst[blockIdx.y] * a.page_bytes);
    size_t n = a.page_bytes / sizeof(word), step = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) to[i] = from[i];
}

typedef struct __align__(16) cu_line {
    uint32_t v[4];
}
cu_line;

static void launch(cuda_backend *c, const page_copies *a, bool lines) {
    size_t words = a->page_bytes / (lines ? sizeof(cu_line) : 1);
    unsigned across = (unsigned)MIN(CEIL_DIV(words, (size_t)THREADS * 4) + 1, (size_t)64);
    dim3 grid(across, (unsigned)a->n_pairs, (unsigned)a->n_buffers);
    if (lines)
        CU_LAUNCH((copy_kernel<cu_line>), grid, dim3(THREADS), 0, c->stream, *a);
    else
        CU_LAUNCH((copy_kernel<uint8_t>), grid, dim3(THREADS), 0, c->stream, *a);
}

/* Copies of the list from `from` on that one launch can make; those of a page onto itself are left
 * out. */
static int32_t take_pairs(const op_copy_pages *list, int32_t from, page_copies *to) {
    int32_t i = from;
    to->n_pairs = 0;
    for (; i < list->n_copies && to->n_pairs < PAIRS; i++) {
        int32_t src = list->src[i], dst = list->dst[i];
        if (src == dst) continue;
        for (int32_t j = 0; j < to->n_pairs; j++)
            if (to->dst[j] == src || to->dst[j] == dst || to->src[j] == dst) return i;
        to->src[to->n_pairs] = src;
        to->dst[to->n_pairs++] = dst;
    }
    return i;
}

void cuda_copy_pages(backend *b, const op_copy_pages *list) {
    cuda_backend *c = cuda_of(b);
    page_copies a;
    memset(&a, 0, sizeof a);
    a.page_bytes = list->page_bytes;
    if (!cuda_ready(c) || !list->page_bytes) return;
    for (int32_t at = 0; at < list->n_copies;) {
        at = take_pairs(list, at, &a);
        for (int32_t i = 0; a.n_pairs && i < list->n_buffers; i += BUFFERS) {
            bool lines = a.page_bytes % sizeof(cu_line) == 0;
            a.n_buffers = MIN(BUFFERS, list->n_buffers - i);
            for (int32_t j = 0; j < a.n_buffers; j++) {
                a.buffers[j] = (char *)list->buffers[i + j];
                lines = lines && (uintptr_t)a.buffers[j] % sizeof(cu_line) == 0;
            }
            launch(c, &a, lines);
        }
    }
    cuda_launched(c, "copy_pages");
}
