/* gemm: describes the product, lets the plan choose (cuda_gemm_plan.h), runs the passes it needs
 * and one of the kernels.
 *
 * Rows of `a` that come in the type that the tensor cores take are read where they are; f32 ones
 * are rounded in registers or by a pass, with the same result.
 *
 * Bits: f32 and quantised weights are multiplied in f32 in the order of cu_lanes.h; 16-bit ones on
 * tensor cores in the order of cuda_gemm_plan.h, with a rounded to their type (an f16 matrix so
 * turns activations beyond 65504 into infinities, as f16 inference does everywhere); quantised ones
 * the same way where the matrix says that its arithmetic is of 16 bits, and bytes by bytes where it
 * says that activations are. Both orders depend on K alone, so every plan gives a row the same
 * bits. */
#include "kernels/cuda/cuda_gemm.h"

#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cu_rows.h"

extern "C" {
#include "engine/base/check.h"
#include "kernels/feed.h"
}

#define EXPAND_BYTES ((int64_t)64 << 20) /* of weights as f32 at once */

bool gemm_by_group(const gemm_w *w) {
    return w->kind == GEMM_F8 && (w->groups > 1 || w->q.act == ACT_ROUND_FP8_GROUP);
}
bool gemm_shifts(const gemm_w *w) {
    return w->kind == GEMM_S8 && (w->q.has_zeros || w->q.zero != 128);
}

gemm_w gemm_w_of(const wmat *w) {
    gemm_w g = {};
    const uint8_t *data = (const uint8_t *)w->data;
    g.dt = w->dt;
    if (dtype_is_float(w->dt)) {
        g.kind = gemm_kind_of(w->dt, w->k, NULL, 0);
        g.rows = data;
        g.ld = (int32_t)cuda_ld(w->dt, w->k);
        g.row_bytes = (int64_t)g.ld * (int64_t)dtype_bytes(w->dt);
        return g;
    }
    g.kind = (gemm_kind)w->layout;
    quant_layout l = quant_layout_of(g.kind, w->dt, &w->q, w->n, w->k);
    g.row_bytes = (int64_t)l.codes.row_bytes;
    g.rows = data + l.codes.at;
    g.is_codes = dtype_kind_of(w->dt) == DTYPE_CODES;
    if (!g.is_codes) return g;
    g.q = w->q;
    if (g.q.act != ACT_ROUND_INT8_STATIC) g.q.act_zero = 0;
    g.side = data;
    g.groups = l.groups;
    g.ld = (int32_t)(g.row_bytes / 2);
    if (l.scales.row_bytes) g.scales = data + l.scales.at;
    if (l.zeros.row_bytes) g.zeros = data + l.zeros.at;
    return g;
}

/* Codes: only with scales that such rows have, and where a product needs nothing beside them. */
dtype cuda_feed_dt(backend *b, const wmat *w) {
    gemm_w g = gemm_w_of(w);
    if (g.kind == GEMM_S8)
        return g.q.act == ACT_ROUND_INT8_TOKEN && !gemm_shifts(&g) ? DT_I8 : DT_F32;
    if (g.kind == GEMM_F8) return g.q.act == ACT_ROUND_FP8_TOKEN ? DT_F8_E4M3 : DT_F32;
    /* rows that cannot be read by 16 bytes are quicker read as f32 */
    return g.q.act == ACT_ROUND_NONE && w->k % 8 == 0 ? gemm_feed_dt(g.kind) : DT_F32;
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

/* The columns that row r of rounded activations takes, or NULL: all in sequence. */
static __device__ __forceinline__ const int32_t *order_of(const gemm_call &c, int32_t r) {
    const uint8_t *side = c.w.side;
    bool has_order = c.w.q.has_order;
    if (c.row_expert) {
        const gemm_w *w = &c.experts[c.row_expert[r]];
        side = w->side, has_order = w->q.has_order;
    }
    return has_order ? (const int32_t *)side : NULL;
}

/* A thread writes 16 bytes: eight columns of a row. */
template <class H>
static __global__ void __launch_bounds__(256)
    round16_kernel(const gemm_call c, int32_t n_rows, uint16_t *to) {
    cu_next_begin();
    int32_t k = c.k;
    int32_t slabs = gemm_slabs(k), chunks = slabs * (GEMM_SLAB / 8);
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= (int64_t)chunks * n_rows) return;
    int64_t r = i / chunks;
    int32_t k0 = (int32_t)(i - r * chunks) * 8;
    int64_t from = c.row_expert ? gemm_a_row(c, (int32_t)r) : r;
    const int32_t *columns = NULL;
    if (c.ordered) columns = order_of(c, (int32_t)r);
    float v[8];
#pragma unroll
    for (int j = 0; j < 8; j++)
        v[j] = k0 + j < k ? row_value(c.in, from, columns ? columns[k0 + j] : k0 + j) : 0;
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
        CU_LAUNCH_NEXT(c, (round16_kernel<cu_bf16>), grid, block, 0, *g, n_rows, to);
    else
        CU_LAUNCH_NEXT(c, (round16_kernel<cu_f16>), grid, block, 0, *g, n_rows, to);
    cuda_launched(c, "gemm");
}

gemm_plan gemm_choose(const cuda_backend *c, const gemm_call *g, int32_t n_experts) {
    gemm_shape s = {};
    s.kind = g->kind;
    s.m = g->m, s.n = g->n, s.k = g->k;
    s.n_experts = n_experts;
    s.n_sms = c->n_sms;
    bool aligned = (uintptr_t)g->in.p % 16 == 0;
    s.a_aligned = g->in.dt == DT_F32 && aligned && g->in.stride % 4 == 0 && !g->ordered;
    s.a_is16 = g->in.dt == gemm_feed_dt(g->kind) && g->in.dt != DT_F32 && aligned;
    if (gemm_is_bytes(g->kind)) /* codes have zeros behind them */
        s.a_is16 &= g->in.stride % 16 == 0 && !g->shifts && !g->row_expert;
    else
        s.a_is16 &= g->in.stride % 8 == 0 && g->k % 8 == 0 && !g->ordered;
    if (g->rounds) s.a_is16 = false, s.a_aligned = g->k % 4 == 0; /* as round_acts leaves them */
    return gemm_plan_of(&s);
}

/* Bytes of a row of expanded weights; rows of them that are made at once. */
static int64_t expand_row_bytes(const gemm_call *g) {
    return g->kind == GEMM_CODES ? cuda_ld(DT_F32, g->k) * 4 : gemm_round_ld(g->k) * 2;
}
static int32_t expand_rows(const gemm_call *g) {
    return (int32_t)MIN(g->n, MAX(1, EXPAND_BYTES / expand_row_bytes(g)));
}

/* Scales of a row of codes: one, or one a group where some matrix asks for that. */
static int32_t act_groups(const gemm_call *g) {
    return g->kind == GEMM_F8 && g->by_group ? CEIL_DIV(g->columns, ACT_GROUP) : 1;
}

/* Codes, then scales, then sums; returns the bytes of all. */
static size_t place_codes(const gemm_call *g, int32_t n_rows, char *at, gemm_codes *ret) {
    size_t rows = (size_t)n_rows, groups = (size_t)act_groups(g);
    size_t codes = ALIGN_UP(rows * (size_t)gemm_round_ld(g->k) * 2, (size_t)256);
    size_t scales = ALIGN_UP(rows * groups * sizeof(float), (size_t)256);
    if (at)
        *ret = {(uint8_t *)at, (float *)(at + codes), (int32_t *)(at + codes + scales),
                (int32_t)groups};
    return codes + scales + ALIGN_UP(rows * sizeof(int32_t), (size_t)256);
}

size_t gemm_act_bytes(const gemm_call *g, int32_t n_rows) {
    if (gemm_is_bytes(g->kind)) return place_codes(g, n_rows, NULL, NULL);
    return ALIGN_UP((size_t)n_rows * (size_t)gemm_round_ld(g->k) * 2, (size_t)256);
}

/* Of activations in the form that kernels read. */
static size_t round_bytes(const gemm_plan *p, const gemm_call *g, int32_t n_rows) {
    size_t wide =
        gemm_widens(g) ? ALIGN_UP((size_t)n_rows * (size_t)g->k * sizeof(float), (size_t)256) : 0;
    return MAX(wide, p->round_a ? gemm_act_bytes(g, n_rows) : 0);
}

/* Rows of g->in as the kernels of its kind read them, by a pass. */
static void make_acts(cuda_backend *c, gemm_call *g, int32_t n_rows, char *scratch) {
    g->a16 = (const uint16_t *)scratch, g->a16_stride = gemm_round_ld(g->k);
    if (gemm_is_bytes(g->kind)) {
        gemm_codes to;
        place_codes(g, n_rows, scratch, &to);
        gemm_codes8(c, g, n_rows, &to);
        g->a_scale = to.scale, g->a_sum = to.sum, g->a_groups = to.groups;
    } else {
        gemm_round16(c, g, n_rows, (uint16_t *)scratch);
    }
    if (g->row_expert) g->a_row = NULL; /* rows are in the order of the products now */
}

/* Rows of g->in as they are. */
static void take_acts(gemm_call *g) {
    if (g->in.dt == DT_F32) {
        g->a = (const float *)g->in.p, g->a_stride = g->in.stride;
        return;
    }
    g->a16 = (const uint16_t *)g->in.p;
    g->a16_stride = gemm_is_bytes(g->kind) ? g->in.stride / 2 : g->in.stride;
    g->a_scale = g->in.scale, g->a_sum = NULL, g->a_groups = 1;
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
    case GEMM_VALUES: gemm_values(c, g, p); break;
    case GEMM_TILES:
        if (!cuda_library_gemm(c, g)) gemm_tiles_run(c, g, p);
        break;
    case GEMM_BYTE_SPLITS: gemm_byte_splits(c, g, p); break;
    case GEMM_BYTE_TILES: gemm_byte_tiles(c, g, p); break;
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
        g.made_w = true;
        g.w.rows = (const uint8_t *)values;
        g.w.row_bytes = expand_row_bytes(all);
        if (all->kind == GEMM_CODES) {
            gemm_expand(c, &all->w, all->k, n0, g.n, (float *)values);
            g.kind = GEMM_F32;
            g.w.ld = (int32_t)cuda_ld(DT_F32, all->k);
        } else {
            if (gemm_is_int4(all->kind))
                gemm_expand16(c, &all->w, all->k, n0, g.n, (uint16_t *)values);
            else
                gemm_expand_values(c, &all->w, all->k, n0, g.n, (uint16_t *)values);
            g.kind = is_bf16(all->kind) ? GEMM_BF16 : GEMM_F16;
            g.w.ld = (int32_t)gemm_round_ld(all->k);
        }
        run(c, &g, p);
    }
}

void gemm_product(cuda_backend *c, gemm_call *g, const gemm_plan *p, int32_t a_rows,
                  void *scratch) {
    CHECK(gemm_blocks(g, p) <= INT32_MAX);
    char *values = (char *)scratch + round_bytes(p, g, a_rows);
    g->interleaved = gemm_is_int4(g->kind) && p->expand; /* as expand16 makes the weights */
    if (gemm_widens(g)) gemm_widen(c, g, a_rows, (float *)scratch);
    if (p->round_a)
        make_acts(c, g, a_rows, (char *)scratch);
    else
        take_acts(g);
    if (p->expand)
        expand_product(c, g, p, values);
    else
        run(c, g, p);
}

/* What the matrix says of the call; columns of in is set. */
static void describe(gemm_call *g) {
    g->kind = g->w.kind;
    g->k = gemm_k_of(g->kind, g->columns);
    g->whole_groups = g->w.q.group % 128 == 0;
    g->ordered = gemm_is_int4(g->kind) && g->w.q.has_order;
    g->by_group = gemm_by_group(&g->w);
    g->shifts = gemm_shifts(&g->w);
    g->rounds = g->w.q.act != ACT_ROUND_NONE && !gemm_is_bytes(g->kind) && !feed_is_codes(g->in.dt);
}

/* Of activations rounded as the matrix says, before those of gemm_scratch. */
static size_t acts_bytes(const gemm_call *g) {
    return g->rounds ? ALIGN_UP((size_t)g->m * (size_t)g->k * sizeof(float), (size_t)256) : 0;
}

size_t cuda_gemm_need(const cuda_backend *c, const wmat *w, int32_t m) {
    gemm_call g = {};
    wmat of = *w;
    if (dtype_is_quant(w->dt)) of.layout = cuda_quant_kind(c, w->k, w->dt, &w->q);
    g.w = gemm_w_of(&of);
    g.m = m, g.n = w->n, g.columns = w->k;
    g.in.stride = 1; /* rows that are not aligned may need a pass more */
    describe(&g);
    gemm_plan p = gemm_choose(c, &g, 0);
    /* an adapter's matrix of the same width may be of 16 bits where this is not */
    size_t rounded = ALIGN_UP((size_t)m * (size_t)gemm_round_ld(w->k) * 2, (size_t)256);
    return MAX(acts_bytes(&g) + gemm_scratch(&p, &g, m), rounded);
}

void cuda_gemm(backend *b, const op_gemm *a) {
    cuda_backend *c = cuda_of(b);
    CHECK(feed_is_type(a->a_dt));
    if (!cuda_ready(c) || a->m <= 0 || a->w->n <= 0) return;
    gemm_call g = {};
    g.w = gemm_w_of(a->w);
    g.m = a->m, g.n = a->w->n, g.columns = a->w->k;
    g.in = {a->a, a->a_stride, a->a_dt, a->a_scale};
    describe(&g);
    g.out = a->out, g.out_stride = a->out_stride;
    g.bias = a->bias;
    g.accumulate = a->accumulate;
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
