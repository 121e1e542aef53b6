/* Which kernel and which tile a product runs under.
 *
 * Few rows are bound by reading the weights once: as many warps as the device holds, each with
 * several 16-byte loads under way. From about a hundred rows on tensor cores are the limit and
 * tiles grow. The bounds between are estimates from those two limits; none has been timed on a GPU.
 */
#include "kernels/cuda/cuda_gemm_plan.h"

#include "engine/base/mem.h"

static bool is_half(dtype dt) {
    return dt == DT_F16 || dt == DT_BF16;
}

/* What the int4 kernels are written for: groups that hold slabs, an order that makes whole groups
 * of neighbours once sorted, zeros that 16 bits keep exact. */
static bool has_int4_kernel(dtype dt, int32_t k, const quant_spec *q) {
    if (dt != DT_INT4 || q->act != ACT_ROUND_NONE || !is_half(q->scale_dt)) return false;
    if (q->has_order && k % q->group != 0) return false;
    if (q->group % GEMM_SLAB != 0 && q->group < k) return false;
    return q->zero >= 0 && q->zero <= 16;
}

/* One scale a row; sums of at most 2^16 products of bytes fit 31 bits with room for corrections. */
static bool has_s8_kernel(dtype dt, int32_t k, const quant_spec *q) {
    return dt == DT_INT8 && act_round_is_int8(q->act) && q->group >= k && !q->has_order &&
           k <= 1 << 16;
}

/* Sums leave the tensor cores every 128 columns, where groups of weights may end. */
static bool has_f8_kernel(dtype dt, int32_t k, const quant_spec *q, int cc) {
    if (dt != DT_F8_E4M3 || !act_round_is_fp8(q->act) || cc < 89) return false;
    return !q->has_order && (q->group % ACT_GROUP == 0 || q->group >= k);
}

gemm_kind gemm_kind_of(dtype dt, int32_t k, const quant_spec *q, int cc) {
    if (!dtype_is_quant(dt)) return dt == DT_F16 ? GEMM_F16 : dt == DT_BF16 ? GEMM_BF16 : GEMM_F32;
    bool is_codes = dtype_kind_of(dt) == DTYPE_CODES;
    if (is_codes && has_s8_kernel(dt, k, q)) return GEMM_S8;
    if (!q || !is_half(q->math)) return GEMM_CODES;
    if (is_codes && has_f8_kernel(dt, k, q, cc)) return GEMM_F8;
    if (is_codes && has_int4_kernel(dt, k, q))
        return q->math == DT_F16 ? GEMM_INT4_F16 : GEMM_INT4_BF16;
    return q->math == DT_F16 ? GEMM_VALUES_F16 : GEMM_VALUES_BF16;
}

dtype gemm_feed_dt(gemm_kind kind) {
    switch (kind) {
    case GEMM_F16:
    case GEMM_VALUES_F16:
    case GEMM_INT4_F16: return DT_F16;
    case GEMM_BF16:
    case GEMM_VALUES_BF16:
    case GEMM_INT4_BF16: return DT_BF16;
    case GEMM_S8: return DT_I8;
    case GEMM_F8: return DT_F8_E4M3;
    default: return DT_F32;
    }
}

int64_t gemm_row_tiles(int32_t m, int32_t n_experts, int32_t tokens) {
    int64_t full = m / tokens;
    if (n_experts == 0) return CEIL_DIV(m, tokens);
    return full + MIN(m, n_experts); /* each expert may end with a part of a tile */
}

/* Rows that one matrix meets, on average over those that meet any. */
static int32_t rows_each(const gemm_shape *s) {
    int32_t active = s->n_experts ? MIN(s->m, s->n_experts) : 1;
    return active ? CEIL_DIV(s->m, active) : 0;
}

static int64_t blocks_of(const gemm_shape *s, int32_t features, int32_t tokens) {
    return gemm_row_tiles(s->m, s->n_experts, tokens) * CEIL_DIV(s->n, features);
}

static gemm_plan lanes_plan(int32_t rows) {
    int32_t tokens = rows <= 1 ? 1 : rows <= 4 ? 4 : 16;
    return (gemm_plan){.kernel = GEMM_LANES, .features = 32, .tokens = tokens, .warps = 8};
}

static gemm_plan unpack_plan(const gemm_shape *s, int32_t rows) {
    if (rows > 16 && s->n_experts == 0) {
        gemm_plan p = lanes_plan(rows);
        p.expand = true;
        return p;
    }
    int32_t tokens = rows <= 1 ? 1 : rows <= 4 ? 4 : 8;
    return (gemm_plan){.kernel = GEMM_UNPACK, .features = 16, .tokens = tokens, .warps = 8};
}

static gemm_plan splits_plan(const gemm_shape *s, int32_t rows) {
    gemm_plan p = {.kernel = GEMM_SPLITS};
    int32_t n_splits = gemm_splits(s->k);
    /* 8 rows are read as they are, so they begin at 16 bytes; others go with those to be rounded */
    p.tokens = rows <= 8 && (s->a_aligned || s->a_is16) ? 8 : rows <= 16 ? 16 : 32;
    bool is_wide = p.tokens == 32 || blocks_of(s, 32, p.tokens) >= 2 * (int64_t)s->n_sms;
    p.features = is_wide ? 32 : 16;
    p.warps = MIN(n_splits, is_wide ? 8 : 16); /* 8 at most with 32 features */
    p.round_a = p.tokens > 8 && !s->a_is16;
    /* a row of sums is 4 floats wider than the tile, which keeps the lanes on different banks */
    p.smem = (size_t)n_splits * (size_t)p.tokens * (size_t)(p.features + 4) * sizeof(float);
    return p;
}

#define TILE_STAGES 4
static gemm_plan tiles_plan(const gemm_shape *s, int32_t size, int32_t warps) {
    gemm_plan p = {.kernel = GEMM_TILES, .features = size, .tokens = size, .warps = warps};
    p.round_a = !s->a_is16;
    p.smem = (size_t)TILE_STAGES * 2 * (size_t)size * GEMM_SLAB * 2;
    return p;
}

static gemm_plan half_plan(const gemm_shape *s, int32_t rows) {
    if (rows <= 32 || blocks_of(s, 64, 64) < s->n_sms) return splits_plan(s, rows);
    if (rows > 96 && blocks_of(s, 128, 128) >= s->n_sms) return tiles_plan(s, 128, 8);
    return tiles_plan(s, 64, 4);
}

/* Blocks that decode 16 features; past what a block takes, values go to memory first. */
static gemm_plan values_plan(const gemm_shape *s, int32_t rows) {
    gemm_plan p = {.kernel = GEMM_VALUES, .features = 16, .warps = 8};
    if (rows > 32 && s->n_experts == 0) {
        p = half_plan(s, rows);
        p.expand = true;
        return p;
    }
    p.tokens = rows <= 8 && (s->a_aligned || s->a_is16) ? 8 : rows <= 16 ? 16 : 32;
    p.round_a = p.tokens > 8 && !s->a_is16;
    p.smem = (size_t)gemm_splits(s->k) * (size_t)p.tokens * (16 + 4) * sizeof(float);
    return p;
}

static gemm_plan bytes_plan(const gemm_shape *of, int32_t rows) {
    gemm_shape s = *of;
    s.a_aligned = true; /* codes are */
    gemm_plan p = half_plan(&s, rows);
    bool tiles = p.kernel == GEMM_TILES;
    p.kernel = tiles ? GEMM_BYTE_TILES : GEMM_BYTE_SPLITS;
    p.round_a = !s.a_is16;
    if (!tiles) p.warps = MIN(p.warps, 8);
    /* E4M3 sums live three times: in the tensor cores, of the split, of all. */
    if (tiles && p.tokens == 128 && s.kind == GEMM_F8) {
        p.tokens = 64;
        p.smem = (size_t)TILE_STAGES * (128 + 64) * GEMM_SLAB * 2;
    }
    return p;
}

static gemm_plan int4_plan(const gemm_shape *s, int32_t rows) {
    gemm_plan p;
    if (rows > 32 && s->n_experts == 0) {
        p = half_plan(s, rows);
        p.expand = true;
        p.round_a = true; /* expanded weights are not in the order of columns */
        return p;
    }
    p = splits_plan(s, rows);
    p.kernel = GEMM_INT4;
    p.warps = MIN(p.warps, 8);
    return p;
}

gemm_plan gemm_plan_of(const gemm_shape *s) {
    int32_t rows = rows_each(s);
    switch (s->kind) {
    case GEMM_F32: return lanes_plan(rows);
    case GEMM_CODES: return unpack_plan(s, rows);
    case GEMM_INT4_F16:
    case GEMM_INT4_BF16: return int4_plan(s, rows);
    case GEMM_VALUES_F16:
    case GEMM_VALUES_BF16: return values_plan(s, rows);
    case GEMM_S8:
    case GEMM_F8: return bytes_plan(s, rows);
    default: return half_plan(s, rows);
    }
}
