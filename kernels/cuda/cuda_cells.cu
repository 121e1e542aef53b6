/* The elementwise ops: act, add, scale, limit. Bound by memory; a thread has four columns, so that
 * the step of one token fills a few blocks and that of a prompt the machine. Functions are the
 * accurate ones of the CUDA math library, within 2 ulp or so. Not yet timed on a GPU. */
#include "kernels/cuda/cu_feed.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/feed.h"
}

/* ---- act ---- */

static __device__ __forceinline__ float times_sigmoid(float x, float y) {
    return x / (1.0f + expf(-y));
}

/* NaN stays. */
static __device__ __forceinline__ float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

static __device__ __forceinline__ float activate(act_kind kind, float x) {
    switch (kind) {
    case ACT_SILU: return times_sigmoid(x, x);
    case ACT_GELU: return 0.5f * x * erfcf(-x * 0.70710678f);
    case ACT_GELU_TANH: return times_sigmoid(x, 1.5957691f * (x + 0.044715f * x * x * x));
    case ACT_RELU: return x < 0 ? 0 : x;
    case ACT_QUICK_GELU: return times_sigmoid(x, 1.702f * x);
    case ACT_RELU2: return x < 0 ? 0 : x * x;
    case ACT_TANH: return tanhf(x);
    case ACT_SIGMOID: return times_sigmoid(1, x);
    default: return x;
    }
}

static __device__ __forceinline__ float activate_gated(act_kind kind, float gate, float up) {
    if (kind != ACT_SWIGLU_OAI) return activate(kind, gate) * up;
    float g = gate > 7 ? 7 : gate;
    return (clamp(up, -7, 7) + 1) * times_sigmoid(g, 1.702f * g);
}

/* Results of columns col .. col+3 of a row. */
template <bool quads>
static __device__ __forceinline__ cu_quad act_of(const op_act &a, int64_t row, int32_t col,
                                                 int32_t n) {
    const float *in = a.in + row * a.in_stride + col;
    cu_quad x = cu_load<quads>(in, n), up = x;
    if (a.gated) up = cu_load<quads>(in + a.width, n);
#pragma unroll
    for (int i = 0; i < 4; i++)
        x.v[i] = a.gated ? activate_gated(a.kind, x.v[i], up.v[i]) : activate(a.kind, x.v[i]);
    return x;
}

template <bool quads> static __global__ void act_kernel(op_act a) {
    cu_next_begin();
    cu_cell c = cu_cell_mine(a.n_rows, a.width);
    if (!c.n) return;
    feed_store<quads>(a.out, a.out_dt, c.row * a.out_stride + c.col, c.n,
                      act_of<quads>(a, c.row, c.col, c.n));
}

/* A block a row: the largest result first, which scales all; then the codes of what is computed
 * again, which costs a second read of a row that the L1 or L2 cache has. */
#define CODES_BLOCK 512
template <bool quads>
static __global__ void __launch_bounds__(CODES_BLOCK) act_codes_kernel(op_act a) {
    cu_next_begin();
    __shared__ float tops[CODES_BLOCK / CU_WARP];
    int64_t row = blockIdx.x;
    float most = 0;
    for (int32_t i = 4 * threadIdx.x; i < a.width; i += 4 * CODES_BLOCK) {
        int32_t n = a.width - i < 4 ? a.width - i : 4;
        cu_quad q = act_of<quads>(a, row, i, n);
        for (int j = 0; j < n; j++) most = feed_most(most, q.v[j]);
    }
    most = feed_warp_most(most);
    if (threadIdx.x % CU_WARP == 0) tops[threadIdx.x / CU_WARP] = most;
    __syncthreads();
    for (int i = 0; i < CODES_BLOCK / CU_WARP; i++) most = feed_most(most, tops[i]);
    float scale = feed_scale(a.out_dt, most);
    int32_t padded = (a.width + FEED_CODES_PAD - 1) / FEED_CODES_PAD * FEED_CODES_PAD;
    for (int32_t i = 4 * threadIdx.x; i < padded; i += 4 * CODES_BLOCK) {
        int32_t n = i >= a.width ? 0 : a.width - i < 4 ? a.width - i : 4;
        cu_quad q = {};
        if (n) q = act_of<quads>(a, row, i, n);
        feed_store_codes(a.out, a.out_dt, row * a.out_stride + i, n, q, scale);
    }
    if (threadIdx.x == 0) a.out_scale[row] = scale;
}

static void act_codes(cuda_backend *c, const op_act *a, bool quads) {
    dim3 grid((unsigned)a->n_rows), block(CODES_BLOCK);
    CHECK((uintptr_t)a->out % 16 == 0 && a->out_stride % FEED_CODES_PAD == 0);
    if (quads)
        CU_LAUNCH_NEXT(c, (act_codes_kernel<true>), grid, block, 0, *a);
    else
        CU_LAUNCH_NEXT(c, (act_codes_kernel<false>), grid, block, 0, *a);
}

void cuda_act(backend *b, const op_act *a) {
    cuda_backend *c = cuda_of(b);
    CHECK(a->kind < ACT_COUNT && (a->gated || a->kind != ACT_SWIGLU_OAI));
    CHECK(feed_is_type(a->out_dt));
    if (!cuda_ready(c) || a->n_rows <= 0 || a->width <= 0) return;
    bool quads = a->width % 4 == 0 && cells_aligned(a->in, a->in_stride) &&
                 feed_aligned(a->out, a->out_stride, a->out_dt);
    if (feed_is_codes(a->out_dt))
        act_codes(c, a, quads);
    else
        CELLS_LAUNCH(c, act_kernel, quads, a->n_rows, a->width, *a);
    cuda_launched(c, "act");
}

/* ---- add ---- */

template <bool quads> static __global__ void add_kernel(op_add a) {
    cu_next_begin();
    cu_cell c = cu_cell_mine(a.n_rows, a.width);
    if (!c.n) return;
    float *to = a.x + c.row * a.x_stride + c.col;
    cu_quad y = cu_load<quads>(a.y + c.row * a.y_stride + c.col, c.n), x = y;
    if (a.x_scale != 0) x = cu_load<quads>(to, c.n);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float scaled = a.y_scale * y.v[i];
        x.v[i] = a.x_scale == 0 ? scaled : a.x_scale * x.v[i] + scaled;
    }
    cu_store<quads>(to, c.n, x);
}

void cuda_add(backend *b, const op_add *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_rows <= 0 || a->width <= 0) return;
    bool quads =
        a->width % 4 == 0 && cells_aligned(a->x, a->x_stride) && cells_aligned(a->y, a->y_stride);
    CELLS_LAUNCH(c, add_kernel, quads, a->n_rows, a->width, *a);
    cuda_launched(c, "add");
}

/* ---- scale ---- */

template <bool quads> static __global__ void scale_kernel(op_scale a) {
    cu_next_begin();
    cu_cell c = cu_cell_mine(a.n_rows, a.width);
    if (!c.n) return;
    float factor = a.scale, *at = a.x + c.row * a.x_stride + c.col;
    if (a.row) {
        float f = a.row[c.row * a.row_stride];
        factor *= a.row_sigmoid ? times_sigmoid(1, f) : f;
    }
    cu_quad x = cu_load<quads>(at, c.n), col = x;
    if (a.col) col = cu_load<quads>(a.col + c.col, c.n);
#pragma unroll
    for (int i = 0; i < 4; i++) x.v[i] = x.v[i] * factor * (a.col ? col.v[i] : 1.0f);
    cu_store<quads>(at, c.n, x);
}

void cuda_scale(backend *b, const op_scale *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_rows <= 0 || a->width <= 0) return;
    bool quads = a->width % 4 == 0 && cells_aligned(a->x, a->x_stride) && cells_aligned(a->col, 0);
    CELLS_LAUNCH(c, scale_kernel, quads, a->n_rows, a->width, *a);
    cuda_launched(c, "scale");
}

/* ---- limit ---- */

template <bool quads> static __global__ void limit_kernel(op_limit a) {
    cu_next_begin();
    cu_cell c = cu_cell_mine(a.n_rows, a.width);
    if (!c.n) return;
    float *at = a.x + c.row * a.x_stride + c.col;
    cu_quad x = cu_load<quads>(at, c.n);
#pragma unroll
    for (int i = 0; i < 4; i++)
        x.v[i] = a.kind == LIMIT_CLAMP ? clamp(x.v[i], -a.limit, a.limit)
                                       : a.limit * tanhf(x.v[i] / a.limit);
    cu_store<quads>(at, c.n, x);
}

void cuda_limit(backend *b, const op_limit *a) {
    cuda_backend *c = cuda_of(b);
    CHECK(a->limit > 0);
    if (!cuda_ready(c) || a->n_rows <= 0 || a->width <= 0) return;
    bool quads = a->width % 4 == 0 && cells_aligned(a->x, a->x_stride);
    CELLS_LAUNCH(c, limit_kernel, quads, a->n_rows, a->width, *a);
    cuda_launched(c, "limit");
}
