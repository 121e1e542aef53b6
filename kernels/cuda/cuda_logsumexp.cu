/* Statistics of logits. A row is cut into pieces of fixed length, one block each, so that a few
 * rows of a large vocabulary still fill the machine; a second kernel merges the pieces of a row in
 * one warp. The order of all sums is fixed by the width. Maxima first, then the sum of exp against
 * the piece's own maximum, which reads the piece again from the cache. Not yet timed on a GPU. */
#include <math.h>

#include "kernels/cuda/cu_num.h"
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
}

#define PIECE   4096
#define THREADS 256
#define ROWS    4 /* of a block that merges */

typedef struct lse_best {
    float max;
    int32_t at; /* the lowest index that has it */
} lse_best;
typedef struct lse_piece {
    lse_best best;
    float sum; /* of exp(x - max) */
    int32_t unused;
} lse_piece;

/* A NaN is above everything. */
static __device__ __forceinline__ lse_best better(lse_best a, lse_best b) {
    bool nan_a = a.max != a.max, nan_b = b.max != b.max;
    bool second = nan_a != nan_b ? nan_b : !nan_a && a.max != b.max ? b.max > a.max : b.at < a.at;
    return second ? b : a;
}

static __device__ __forceinline__ lse_best warp_best(lse_best x) {
    for (int d = CU_WARP / 2; d; d >>= 1) {
        lse_best other;
        other.max = __shfl_xor_sync(CU_FULL, x.max, d);
        other.at = __shfl_xor_sync(CU_FULL, x.at, d);
        x = better(x, other);
    }
    return x;
}

/* Columns beyond the row count as -infinity with an index above all others. */
static __device__ __forceinline__ lse_best lse_none(void) {
    lse_best none = {-INFINITY, INT32_MAX};
    return none;
}

static __global__ void pieces_kernel(op_logsumexp a, int32_t n_pieces, lse_piece *to) {
    __shared__ lse_best bests[THREADS / CU_WARP];
    __shared__ float sums[THREADS / CU_WARP];
    int32_t row = (int32_t)(blockIdx.x / (unsigned)n_pieces);
    int32_t first = (int32_t)(blockIdx.x % (unsigned)n_pieces) * PIECE;
    int32_t n = a.width - first < PIECE ? a.width - first : PIECE;
    const float *x = a.x + row * a.x_stride + first;
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    lse_best best = lse_none();
    for (int32_t i = threadIdx.x; i < n; i += THREADS) {
        lse_best one = {x[i], first + i};
        best = better(best, one);
    }
    best = warp_best(best);
    if (lane == 0) bests[warp] = best;
    __syncthreads();
    best = warp_best(lane < THREADS / CU_WARP ? bests[lane] : lse_none());
    float sum = 0;
    if (best.max != -INFINITY)
        for (int32_t i = threadIdx.x; i < n; i += THREADS) sum += expf(x[i] - best.max);
    sum = cu_warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    sum = cu_warp_sum(lane < THREADS / CU_WARP ? sums[lane] : 0.0f);
    if (threadIdx.x == 0) {
        lse_piece p = {best, sum, 0};
        to[blockIdx.x] = p;
    }
}

static __global__ void merge_kernel(op_logsumexp a, int32_t n_pieces, const lse_piece *from) {
    int32_t row = (int32_t)(blockIdx.x * ROWS + threadIdx.x / CU_WARP);
    int lane = threadIdx.x % CU_WARP;
    if (row >= a.n_rows) return;
    const lse_piece *p = from + (int64_t)row * n_pieces;
    lse_best best = lse_none();
    for (int32_t i = lane; i < n_pieces; i += CU_WARP) best = better(best, p[i].best);
    best = warp_best(best);
    float sum = 0;
    for (int32_t i = lane; i < n_pieces; i += CU_WARP)
        sum += p[i].best.max == best.max ? p[i].sum : p[i].sum * expf(p[i].best.max - best.max);
    sum = cu_warp_sum(sum);
    if (lane) return;
    a.ret_max[row] = best.max;
    a.ret_lse[row] = best.max + logf(sum);
    a.ret_argmax[row] = best.at;
}

size_t cuda_logsumexp_need(int32_t n_rows, int32_t vocab) {
    return (size_t)n_rows * (size_t)CEIL_DIV(vocab, PIECE) * sizeof(lse_piece);
}

void cuda_logsumexp(backend *b, const op_logsumexp *a) {
    cuda_backend *c = cuda_of(b);
    CHECK(a->width > 0);
    if (!cuda_ready(c) || a->n_rows <= 0) return;
    int32_t n_pieces = CEIL_DIV(a->width, PIECE);
    size_t n = (size_t)a->n_rows * (size_t)n_pieces;
    lse_piece *pieces = (lse_piece *)cuda_scratch(c, cuda_logsumexp_need(a->n_rows, a->width));
    if (!pieces) return;
    CU_LAUNCH(pieces_kernel, dim3((unsigned)n), dim3(THREADS), 0, c->stream, *a, n_pieces, pieces);
    CU_LAUNCH(merge_kernel, dim3((unsigned)CEIL_DIV(a->n_rows, ROWS)), dim3(ROWS * CU_WARP), 0,
              c->stream, *a, n_pieces, (const lse_piece *)pieces);
    cuda_launched(c, "logsumexp");
}
