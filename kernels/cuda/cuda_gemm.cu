/* gemm: describes the product, lets the plan choose (cuda_gemm_plan.h), runs the passes it needs
 * and one of four kernels.
 *
 * Rows of `a` that come in the type that the tensor cores take are read where they are; f32 ones
 * are rounded in registers or by a pass, with the same result.
 *
 * Bits: f32 and quantised weights are multiplied in f32 in the order of cu_lanes.h; 16-bit ones on
 * tensor cores in the order of cuda_gemm_plan.h, with a rounded to their type (an f16 matrix so
 * turns activations beyond 65504 into infinities, as f16 inference does everywhere); int4 codes the
 * same way where the matrix says that its arithmetic is of 16 bits. Both orders depend on K alone,
 * so every plan gives a row the same bits. */
#include "kernels/cuda/cuda_gemm.h"

#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cu_quant.h"

extern "C" {
#include "engine/base/check.h"
#include "kernels/feed.h"
}

#define EXPAND_BYTES ((int64_t)64 << 20) /* of weights as f32 at once */

gemm_w gemm_w_of(const wmat *w) {
    gemm_w g = {};
    g.dt = w->dt;
    bool is_codes = dtype_kind_of(w->dt) == DTYPE_CODES;
    g.kind = gemm_kind_of(w->dt, w->k, is_codes ? &w->q : NULL);
    g.rows = (const uint8_t *)w->data;
    if (dtype_is_float(w->dt)) {
        g.ld = (int32_t)cuda_ld(w->dt, w->k);
        g.row_bytes = (int64_t)g.ld * (int64_t)dtype_bytes(w->dt);
        return g;
    }
    g.row_bytes = (int64_t)quant_row_bytes(w->dt, &w->q, w->k);
    if (!is_codes) return g;
    g.q = w->q;
    g.side = g.rows;
    g.rows += quant_side_bytes(w->dt, &w->q, w->k);
    g.is_codes = true;
    return g;
}

dtype cuda_feed_dt(backend *b, const wmat *w) {
    return gemm_feed_dt(gemm_w_of(w).kind);
}

/* Element i of row r. */
static __device__ __forceinline__ float row_value(const gemm_rows &in, int64_t r, int32_t i) {
    int64_t at = r * in.stride + i;
    switch (in.dt) {
    case DT_F32: return ((const float *)in.p)[at];
    case DT_F16: return cu_from_f16(((const uint16_t *)in.p)[at]);
    case DT_BF16: return cu_from_bf16(((const uint16_t *)in.p)[at]);
    case DT_I8: return (float)((const int8_t *)in.p)[at] * in.scale[r];
    default: return cu_e4m3_values[((const uint8_t *)in.p)[at]] * in.scale[r];
    }
}

static __global__ void __launch_bounds__(256)
    widen_kernel(const gemm_rows in, int32_t n_rows, int32_t k, float *to) {
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < (int64_t)n_rows * k) to[i] = row_value(in, i / k, (int32_t)(i % k));
}

void gemm_widen(cuda_backend *c, gemm_call *g, int32_t n_rows, float *to) {
    int64_t n = (int64_t)n_rows * g->k;
    CU_LAUNCH(widen_kernel, dim3((unsigned)CEIL_DIV(n, 256)), dim3(256), 0, c->stream, g->in,
              n_rows, g->k, to);
    g->in = {to, g->k, DT_F32, NULL};
    cuda_launched(c, "gemm");
}

/* A thread writes 16 bytes: eight columns of a row. */
template <class H>
static __global__ void __launch_bounds__(256)
    round16_kernel(const gemm_call c, int32_t n_rows, uint16_t *to) {
    int32_t k = c.k;
    int32_t slabs = gemm_slabs(k), chunks = slabs * (GEMM_SLAB / 8);
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= (int64_t)chunks * n_rows) return;
    int64_t r = i / chunks;
    int32_t k0 = (int32_t)(i - r * chunks) * 8;
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = k0 + j < k ? row_value(c.in, r, k0 + j) : 0;
    cu_words w = {H::pack(v[0], v[1]), H::pack(v[2], v[3]), H::pack(v[4], v[5]),
                  H::pack(v[6], v[7])};
    if (c.interleaved)
        w = {H::pack(v[0], v[4]), H::pack(v[1], v[5]), H::pack(v[2], v[6]), H::pack(v[3], v[7])};
    ((cu_words *)to)[i] = w;
}

static bool is_bf16(gemm_kind kind) {
    return gemm_feed_dt(kind) == DT_BF16;
}

void gemm_round16(cuda_backend *c, const gemm_call *g, int32_t n_rows, uint16_t *to) {
    int64_t n = gemm_round_ld(g->k) / 8 * n_rows;
    dim3 grid((unsigned)CEIL_DIV(n, 256)), block(256);
    if (is_bf16(g->kind))
        CU_LAUNCH((round16_kernel<cu_bf16>), grid, block, 0, c->stream, *g, n_rows, to);
    else
        CU_LAUNCH((round16_kernel<cu_f16>), grid, block, 0, c->stream, *g, n_rows, to);
    cuda_launched(c, "gemm");
}

gemm_plan gemm_choose(const cuda_backend *c, const gemm_call *g, int32_t n_experts) {
    gemm_shape s = {};
    s.kind = g->kind;
    s.m = g->m, s.n = g->n, s.k = g->k;
    s.n_experts = n_experts;
    s.n_sms = c->n_sms;
    bool aligned = (uintptr_t)g->in.p % 16 == 0;
    s.a_aligned = g->in.dt == DT_F32 && aligned && g->in.stride % 4 == 0;
    s.a_is16 = g->in.dt == gemm_feed_dt(g->kind) && g->in.dt != DT_F32 && aligned &&
               g->in.stride % 8 == 0 && g->k % 8 == 0;
    return gemm_plan_of(&s);
}

/* Bytes of a row of expanded weights; rows of them that are made at once. */
static int64_t expand_row_bytes(const gemm_call *g) {
    return g->kind == GEMM_CODES ? cuda_ld(DT_F32, g->k) * 4 : (int64_t)g->k * 2;
}
static int32_t expand_rows(const gemm_call *g) {
    return (int32_t)MIN(g->n, MAX(1, EXPAND_BYTES / expand_row_bytes(g)));
}
/* Of activations in the form that kernels read. */
static size_t round_bytes(const gemm_plan *p, const gemm_call *g, int32_t a_rows) {
    if (gemm_widens(g)) return ALIGN_UP((size_t)a_rows * (size_t)g->k * sizeof(float), (size_t)256);
    return p->round_a ? ALIGN_UP((size_t)a_rows * (size_t)gemm_round_ld(g->k) * 2, (size_t)256) : 0;
}

size_t gemm_scratch(const gemm_plan *p, const gemm_call *g, int32_t a_rows) {
    int64_t weights = p->expand ? expand_rows(g) * expand_row_bytes(g) : 0;
    return round_bytes(p, g, a_rows) + (size_t)weights;
}

static void run(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    switch (p->kernel) {
    case GEMM_LANES: gemm_lanes(c, g, p); break;
    case GEMM_UNPACK: gemm_unpack(c, g, p); break;
    case GEMM_SPLITS: gemm_splits_run(c, g, p); break;
    case GEMM_INT4: gemm_int4(c, g, p); break;
    case GEMM_TILES: gemm_tiles_run(c, g, p); break;
    }
}

/* Expand some rows of weights, multiply, go on; launches are in order, so scratch is used again. */
static void expand_product(cuda_backend *c, const gemm_call *all, const gemm_plan *p,
                           void *values) {
    int32_t step = expand_rows(all);
    for (int32_t n0 = 0; n0 < all->n; n0 += step) {
        gemm_call g = *all;
        g.n = MIN(step, all->n - n0);
        g.out = all->out + n0;
        if (g.bias) g.bias += n0;
        g.w = {};
        g.w.rows = (const uint8_t *)values;
        g.w.row_bytes = expand_row_bytes(all);
        if (all->kind == GEMM_CODES) {
            gemm_expand(c, &all->w, all->k, n0, g.n, (float *)values);
            g.kind = GEMM_F32;
            g.w.ld = (int32_t)cuda_ld(DT_F32, all->k);
        } else {
            gemm_expand16(c, &all->w, all->k, n0, g.n, (uint16_t *)values);
            g.kind = is_bf16(all->kind) ? GEMM_BF16 : GEMM_F16;
            g.w.ld = all->k;
        }
        run(c, &g, p);
    }
}

void gemm_product(cuda_backend *c, gemm_call *g, const gemm_plan *p, int32_t a_rows,
                  void *scratch) {
    CHECK(gemm_blocks(g, p) <= INT32_MAX);
    char *values = (char *)scratch + round_bytes(p, g, a_rows);
    bool is_int4 = g->kind == GEMM_INT4_F16 || g->kind == GEMM_INT4_BF16;
    g->interleaved = is_int4 && p->expand; /* as expand16 makes the weights */
    if (gemm_widens(g)) gemm_widen(c, g, a_rows, (float *)scratch);
    if (p->round_a) {
        gemm_round16(c, g, a_rows, (uint16_t *)scratch);
        g->a16 = (const uint16_t *)scratch, g->a16_stride = gemm_round_ld(g->k);
    } else if (g->in.dt == DT_F32) {
        g->a = (const float *)g->in.p, g->a_stride = g->in.stride;
    } else {
        g->a16 = (const uint16_t *)g->in.p, g->a16_stride = g->in.stride;
    }
    if (p->expand)
        expand_product(c, g, p, values);
    else
        run(c, g, p);
}

/* Of activations rounded as the matrix says, before those of gemm_scratch. */
static size_t acts_bytes(const gemm_call *g) {
    bool rounds = g->w.q.act != ACT_ROUND_NONE && !feed_is_codes(g->in.dt);
    return rounds ? ALIGN_UP((size_t)g->m * (size_t)g->k * sizeof(float), (size_t)256) : 0;
}

size_t cuda_gemm_need(const cuda_backend *c, const wmat *w, int32_t m) {
    gemm_call g = {};
    g.w = gemm_w_of(w);
    g.kind = g.w.kind;
    g.m = m, g.n = w->n, g.k = w->k;
    g.in.stride = 1; /* rows that are not aligned may need a pass more */
    gemm_plan p = gemm_choose(c, &g, 0);
    /* an adapter's matrix of the same width may be of 16 bits where this is not */
    size_t rounded = ALIGN_UP((size_t)m * (size_t)gemm_round_ld(g.k) * 2, (size_t)256);
    return MAX(acts_bytes(&g) + gemm_scratch(&p, &g, m), rounded);
}

void cuda_gemm(backend *b, const op_gemm *a) {
    cuda_backend *c = cuda_of(b);
    CHECK(feed_is_type(a->a_dt));
    if (!cuda_ready(c) || a->m <= 0 || a->w->n <= 0) return;
    gemm_call g = {};
    g.w = gemm_w_of(a->w);
    g.kind = g.w.kind;
    g.m = a->m, g.n = a->w->n, g.k = a->w->k;
    g.in = {a->a, a->a_stride, a->a_dt, a->a_scale};
    g.out = a->out, g.out_stride = a->out_stride;
    g.bias = a->bias;
    g.accumulate = a->accumulate;
    g.whole_groups = g.w.q.group % 128 == 0;
    size_t acts = acts_bytes(&g);
    gemm_plan p = gemm_choose(c, &g, 0);
    size_t bytes = acts + gemm_scratch(&p, &g, g.m);
    char *ws = bytes ? (char *)cuda_scratch(c, bytes) : NULL;
    if (bytes && !ws) return;
    if (acts) {
        if (gemm_widens(&g)) gemm_widen(c, &g, g.m, (float *)(ws + acts));
        gemm_round_acts(c, &g, g.m, NULL, (float *)ws);
        g.in = {ws, g.k, DT_F32, NULL};
    }
    gemm_product(c, &g, &p, g.m, ws + acts);
}
