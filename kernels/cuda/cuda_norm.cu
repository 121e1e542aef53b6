/* Norms. A group of columns belongs to one warp (up to 256 columns: QK norms) or one block, whose
 * size depends on the width alone; a thread takes quads of columns, threads apart, in ascending
 * order, and partial sums meet in a butterfly per warp and one over the warps. So the order of the
 * sums is fixed by the width. Layer norm takes the mean first and the squares of the differences in
 * a second pass; the row then comes from the L1 cache. Results are written in the type that the
 * product behind asks for (cu_feed.h). Not yet timed on a GPU. */
#include "kernels/cuda/cu_feed.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/feed.h"
}

#define WARP_WIDTH   256 /* widest group of one warp */
#define WARPS        8   /* of a block of such groups */
#define THREADS_MOST 1024

/* The threads that share a group. */
typedef struct team {
    int me, n;
    float *sums; /* [32] of the block, NULL: one warp */
} team;

static __device__ __forceinline__ float team_sum(const team &t, float x) {
    x = cu_warp_sum(x);
    if (!t.sums) return x;
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    __syncthreads(); /* the sums of the call before have been read */
    if (lane == 0) t.sums[warp] = x;
    __syncthreads();
    return cu_warp_sum(lane < t.n / CU_WARP ? t.sums[lane] : 0.0f);
}

static __device__ __forceinline__ float team_most(const team &t, float x) {
    x = feed_warp_most(x);
    if (!t.sums) return x;
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    __syncthreads(); /* as in team_sum */
    if (lane == 0) t.sums[warp] = x;
    __syncthreads();
    return feed_warp_most(lane < t.n / CU_WARP ? t.sums[lane] : 0.0f);
}

/* x += add where there is one; sum of x - 0. */
template <bool quads>
static __device__ __forceinline__ float first_pass(const team &t, float *x, const float *add,
                                                   int32_t n, bool squares) {
    float sum = 0;
    for (int32_t i = 4 * t.me; i < n; i += 4 * t.n) {
        int32_t left = n - i < 4 ? n - i : 4;
        cu_quad q = cu_load<quads>(x + i, left);
        if (add) {
            cu_quad more = cu_load<quads>(add + i, left);
#pragma unroll
            for (int j = 0; j < 4; j++) q.v[j] += more.v[j];
            cu_store<quads>(x + i, left, q);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) sum += squares ? q.v[j] * q.v[j] : q.v[j];
    }
    return team_sum(t, sum);
}

template <bool quads>
static __device__ __forceinline__ float square_pass(const team &t, const float *x, int32_t n,
                                                    float mean) {
    float sum = 0;
    for (int32_t i = 4 * t.me; i < n; i += 4 * t.n) {
        int32_t left = n - i < 4 ? n - i : 4;
        cu_quad q = cu_load<quads>(x + i, left);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float d = j < left ? q.v[j] - mean : 0.0f;
            sum += d * d;
        }
    }
    return team_sum(t, sum);
}

/* A group's sums are done: what makes a column's result. */
typedef struct norm_terms {
    const float *weight, *bias; /* of the group, or NULL */
    float mean, scale;
} norm_terms;

/* Results of columns i .. i+3. */
template <bool quads>
static __device__ __forceinline__ cu_quad results(const norm_terms &y, const float *x, int32_t i,
                                                  int32_t left) {
    cu_quad q = cu_load<quads>(x + i, left), weight, bias;
    if (y.weight) weight = cu_load<quads>(y.weight + i, left);
    if (y.bias) bias = cu_load<quads>(y.bias + i, left);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float v = (q.v[j] - y.mean) * y.scale;
        if (y.weight) v *= weight.v[j];
        if (y.bias) v += bias.v[j];
        q.v[j] = v;
    }
    return q;
}

template <bool quads>
static __device__ __forceinline__ void write_pass(const team &t, const op_norm &a, const float *x,
                                                  int64_t out, const norm_terms &y) {
    for (int32_t i = 4 * t.me; i < a.width; i += 4 * t.n) {
        int32_t left = a.width - i < 4 ? a.width - i : 4;
        feed_store<quads>(a.out, a.out_dt, out + i, left, results<quads>(y, x, i, left));
    }
}

/* The scale is that of the largest result, so results are computed twice; x is in the L1 cache. */
template <bool quads>
static __device__ __forceinline__ void code_pass(const team &t, const op_norm &a, const float *x,
                                                 int64_t row, const norm_terms &y) {
    float most = 0;
    for (int32_t i = 4 * t.me; i < a.width; i += 4 * t.n) {
        int32_t left = a.width - i < 4 ? a.width - i : 4;
        cu_quad q = results<quads>(y, x, i, left);
        for (int j = 0; j < left; j++) most = feed_most(most, q.v[j]);
    }
    float scale = feed_scale(a.out_dt, team_most(t, most));
    int32_t padded = (a.width + FEED_CODES_PAD - 1) / FEED_CODES_PAD * FEED_CODES_PAD;
    for (int32_t i = 4 * t.me; i < padded; i += 4 * t.n) {
        int32_t left = i >= a.width ? 0 : a.width - i < 4 ? a.width - i : 4;
        cu_quad q = {};
        if (left) q = results<quads>(y, x, i, left);
        feed_store_codes(a.out, a.out_dt, row * a.out_stride + i, left, q, scale);
    }
    if (t.me == 0) a.out_scale[row] = scale;
}

template <bool quads, bool codes>
static __device__ __forceinline__ void norm_group(const team &t, const op_norm &a, int64_t row,
                                                  int32_t group) {
    float *x = a.x + row * a.x_stride + (int64_t)group * a.width;
    const float *add = a.add ? a.add + row * a.add_stride : NULL;
    float n = (float)a.width, square;
    int64_t w = group * a.weight_stride;
    norm_terms y = {a.weight ? a.weight + w : NULL, a.bias ? a.bias + w : NULL, 0, 0};
    if (a.kind == NORM_LAYER) {
        y.mean = first_pass<quads>(t, x, add, a.width, false) / n;
        square = square_pass<quads>(t, x, a.width, y.mean);
    } else {
        square = first_pass<quads>(t, x, add, a.width, true);
    }
    y.scale = 1.0f / sqrtf(square / n + a.eps);
    if (codes)
        code_pass<quads>(t, a, x, row, y);
    else
        write_pass<quads>(t, a, x, row * a.out_stride + (int64_t)group * a.width, y);
}

template <bool quads, bool codes> static __global__ void norm_warps(op_norm a) {
    cu_next_begin();
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / CU_WARP;
    team t = {(int)threadIdx.x % CU_WARP, CU_WARP, NULL};
    if (i >= (int64_t)a.n_rows * a.n_groups) return;
    norm_group<quads, codes>(t, a, i / a.n_groups, (int32_t)(i % a.n_groups));
}

template <bool quads, bool codes> static __global__ void norm_blocks(op_norm a) {
    cu_next_begin();
    __shared__ float sums[CU_WARP];
    int64_t i = blockIdx.x;
    team t = {(int)threadIdx.x, (int)blockDim.x, sums};
    norm_group<quads, codes>(t, a, i / a.n_groups, (int32_t)(i % a.n_groups));
}

template <bool quads, bool codes> static void launch(cuda_backend *c, const op_norm *a) {
    int64_t n = (int64_t)a->n_rows * a->n_groups;
    if (a->width <= WARP_WIDTH) {
        CU_LAUNCH_NEXT(c, (norm_warps<quads, codes>), dim3((unsigned)CEIL_DIV(n, WARPS)),
                       dim3(WARPS * CU_WARP), 0, *a);
        return;
    }
    int threads = (int)MIN(ALIGN_UP(CEIL_DIV(a->width, 4), CU_WARP), THREADS_MOST);
    CU_LAUNCH_NEXT(c, (norm_blocks<quads, codes>), dim3((unsigned)n), dim3((unsigned)threads), 0,
                   *a);
}

void cuda_norm(backend *b, const op_norm *a) {
    cuda_backend *c = cuda_of(b);
    bool codes = feed_is_codes(a->out_dt);
    CHECK(feed_is_type(a->out_dt) && ((!a->add && !codes) || a->n_groups == 1));
    CHECK(!codes || ((uintptr_t)a->out % 16 == 0 && a->out_stride % FEED_CODES_PAD == 0));
    if (!cuda_ready(c) || a->n_rows <= 0 || a->n_groups <= 0 || a->width <= 0) return;
    bool quads = a->width % 4 == 0 && cells_aligned(a->x, a->x_stride) &&
                 cells_aligned(a->add, a->add ? a->add_stride : 0) &&
                 cells_aligned(a->weight, a->weight_stride) &&
                 cells_aligned(a->bias, a->weight_stride) &&
                 feed_aligned(a->out, a->out_stride, a->out_dt);
    if (quads)
        codes ? launch<true, true>(c, a) : launch<true, false>(c, a);
    else
        codes ? launch<false, true>(c, a) : launch<false, false>(c, a);
    cuda_launched(c, "norm");
}
