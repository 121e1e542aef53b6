/* gemm with quantised weights, every storage type on every level: equal to a product with the same
 * values stored as f32 on that level, bit for bit, or a product of codes; near the reference's
 * product of them; the same bits for any number of rows and threads, and for rows packed in any
 * pieces. */
#include <math.h>
#include <string.h>

#include "kernels/ref/rows.h"
#include "tests/kernels/checkkern.h"

typedef struct quant_case {
    dtype dt;
    quant_spec q;
    int32_t n, k;
    uint8_t *codes, *zeros; /* codes: GGUF blocks too */
    void *scales;           /* of q.scale_dt */
    int32_t *order;
    float table[16];
    mat a, bias, old;
} quant_case;

static uint8_t *bytes_new(check_ctx *c, size_t n, int bits) {
    uint8_t *p = packed_alloc(n);
    uint64_t s = (uint64_t)(check_uniform(c) * 0x1p53) | 1;
    for (size_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(s >> 40 & ((1u << bits) - 1));
    }
    return p;
}

/* Random GGUF bytes may be infinite or NaN scales: tame the half-precision fields by value. */
static void tame_blocks(const quant_case *q) {
    size_t block = dtype_block_bytes(q->dt);
    size_t n = (size_t)q->n * dtype_row_bytes(q->dt, q->k) / block;
    float values[256];
    for (size_t i = 0; i < n; i++) {
        uint8_t *b = q->codes + i * block;
        for (size_t at = 0; at < block; at++) b[at] &= 0x7F; /* E8M0 scales too */
        for (size_t at = 1; at < block; at++) {
            quant_blocks_f32(q->dt, b, dtype_block(q->dt), values);
            float sum = 0;
            for (int32_t j = 0; j < dtype_block(q->dt); j++) sum += values[j] * values[j];
            if (sum < 1e4f && sum > 0) break;
            b[at] = b[at] / 2, b[at - 1] = b[at - 1] / 2;
        }
    }
}

static void *scales_new(check_ctx *c, dtype dt, size_t n) {
    void *scales = mem_alloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        float v = (float)check_uniform(c) * 0.1f;
        if (dt == DT_F32)
            ((float *)scales)[i] = v;
        else
            ((uint16_t *)scales)[i] = dt == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v);
    }
    return scales;
}

/* Any group for any column, or, where groups are whole, all of their columns in random places. */
static void order_of(check_ctx *c, quant_case *q) {
    int32_t groups = quant_groups(&q->q, q->k);
    bool whole = q->q.whole_order || (q->k % q->q.group == 0 && check_int(c, 0, 3));
    for (int32_t i = 0; i < q->k; i++)
        q->order[i] = whole ? i / q->q.group : check_int(c, 0, groups - 1);
    for (int32_t i = q->k - 1; whole && i > 0; i--) {
        int32_t j = check_int(c, 0, i), t = q->order[i];
        q->order[i] = q->order[j];
        q->order[j] = t;
    }
}

static quant_case case_new(check_ctx *c, dtype dt, quant_spec spec, int32_t m, int32_t n,
                           int32_t k) {
    quant_case q = {.dt = dt, .q = spec, .n = n, .k = k};
    q.a = mat_new(m, k, mat_stride(k)), q.bias = mat_new(1, n, n), q.old = mat_new(m, n, n + 5);
    mat_random(c, &q.a, 1), mat_random(c, &q.bias, 1), mat_random(c, &q.old, 1);
    for (int i = 0; i < 16; i++) q.table[i] = (float)check_uniform(c) - 0.5f;
    if (dtype_kind_of(dt) == DTYPE_GGUF) {
        q.codes = bytes_new(c, (size_t)n * dtype_row_bytes(dt, k), 8);
        tame_blocks(&q);
        return q;
    }
    size_t groups = (size_t)(n * quant_groups(&spec, k));
    q.codes = bytes_new(c, (size_t)(n * k), dt == DT_F8_E4M3 ? 6 : MIN(6, quant_bits(dt)));
    q.zeros = bytes_new(c, groups, MIN(6, quant_bits(dt)));
    q.scales = scales_new(c, spec.scale_dt, groups);
    q.order = mem_alloc((size_t)k * sizeof *q.order);
    order_of(c, &q);
    return q;
}

static void case_free(quant_case *q) {
    mat_free(&q->a), mat_free(&q->bias), mat_free(&q->old);
    fenced_free(q->codes), fenced_free(q->zeros), mem_free(q->scales), mem_free(q->order);
}

/* All rows as they are stored (quant.h), and what belongs to all of them. */
static void *stored_rows(const quant_case *q) {
    size_t bytes = (size_t)q->n * quant_row_bytes(q->dt, &q->q, q->k);
    char *stored = mem_alloc(bytes + QUANT_STRIP);
    quant_rows rows = {.codes = q->codes, .scales = q->scales, .zeros = q->zeros};
    if (q->scales)
        quant_pack_rows(q->dt, &q->q, q->k, &rows, q->n, stored);
    else
        memcpy(stored, q->codes, bytes);
    return stored;
}
static void *stored_side(const quant_case *q) {
    void *side = mem_calloc(1, quant_side_bytes(q->dt, &q->q, q->k) + 1);
    quant_pack_side(q->dt, &q->q, q->k, q->order, q->table, side);
    return side;
}

/* A matrix in the backend's memory, which ends at a fence. */
static wmat pack(backend *b, const quant_case *q) {
    wmat w;
    size_t bytes = b->v->quant_bytes(b, q->n, q->k, q->dt, &q->q);
    size_t row_bytes = quant_row_bytes(q->dt, &q->q, q->k), third = (size_t)(q->n / 3);
    void *data = packed_alloc(bytes);
    char *stored = stored_rows(q);
    memset(data, 0x7F, bytes);
    b->v->quant_init(b, &w, q->n, q->k, q->dt, &q->q, data);
    if (q->scales) b->v->quant_side(b, &w, q->order, q->table);
    b->v->quant_pack(b, &w, q->n / 3, q->n - q->n / 3, stored + third * row_bytes);
    b->v->quant_pack(b, &w, 0, q->n / 3, stored);
    check_wait(b);
    mem_free(stored);
    return w;
}

static void round_half(dtype dt, float *x, int32_t n) {
    for (int32_t i = 0; i < n && dt == DT_F16; i++) x[i] = f16_to_f32(f32_to_f16(x[i]));
    for (int32_t i = 0; i < n && dt == DT_BF16; i++) x[i] = bf16_to_f32(f32_to_bf16(x[i]));
}

/* The same values as f32 weights, rounded to `half` if that is a 16-bit type. */
static wmat pack_values(backend *b, const quant_case *q, dtype half) {
    wmat w;
    float *row = mem_alloc((size_t)q->k * sizeof *row);
    size_t row_bytes = quant_row_bytes(q->dt, &q->q, q->k);
    char *stored = stored_rows(q), *side = stored_side(q);
    b->v->wmat_init(b, &w, q->n, q->k, DT_F32,
                    packed_alloc(b->v->wmat_bytes(b, q->n, q->k, DT_F32)));
    for (int32_t r = 0; r < q->n; r++) {
        quant_row_f32(q->dt, &q->q, q->k, side, stored + (size_t)r * row_bytes, 0, q->k, row);
        round_half(half, row, q->k);
        b->v->wmat_pack(b, &w, r, 1, row, DT_F32, q->k);
    }
    check_wait(b);
    mem_free(row), mem_free(stored), mem_free(side);
    return w;
}

void quant_wmats_new(check_ctx *c, backend *b, dtype dt, quant_spec spec, int32_t n, int32_t k,
                     wmat *ret_quant, wmat *ret_values) {
    quant_case q = case_new(c, dt, spec, 1, n, k);
    *ret_quant = pack(b, &q);
    *ret_values = pack_values(b, &q, DT_F32);
    case_free(&q);
}

/* Rows [row0, row0+m); bit 0 of `how`: bias, bit 1: accumulate. */
static mat run(backend *b, const quant_case *q, const wmat *w, int32_t row0, int32_t m, int how) {
    mat out = mat_new(m, q->n, q->old.stride);
    for (int32_t r = 0; r < m && (how & 2); r++)
        memcpy(out.p + r * out.stride, q->old.p + (row0 + r) * q->old.stride, (size_t)q->n * 4);
    op_gemm g = {.m = m,
                 .a = q->a.p + row0 * q->a.stride,
                 .a_stride = q->a.stride,
                 .w = w,
                 .bias = how & 1 ? q->bias.p : NULL,
                 .out = out.p,
                 .out_stride = out.stride,
                 .accumulate = (how & 2) != 0};
    CALL(b, gemm, &g);
    return out;
}

/* Does rounding of `a` by the product equal rounding before it? The plain product gets it done. */
static void round_input(quant_case *q, dtype half) {
    for (int32_t r = 0; r < q->a.rows; r++) {
        quant_round_acts(&q->q, q->k, q->order, q->a.p + r * q->a.stride);
        round_half(half, q->a.p + r * q->a.stride, q->k);
    }
}

/* The type that values are rounded to and no more: on a device, where codes have no arithmetic of
 * their own. */
static dtype half_of(const check_ctx *c, dtype dt, const quant_spec *q) {
    bool own = (dt == DT_INT4 && q->scale_dt != DT_F32) ||
               (dt == DT_INT8 && act_round_is_int8(q->act)) ||
               (dt == DT_F8_E4M3 && act_round_is_fp8(q->act));
    return own || c->be[0]->host_memory ? DT_F32 : q->math;
}

static void check_case(check_ctx *c, dtype dt, quant_spec spec, int32_t m, int32_t n, int32_t k) {
    quant_case q = case_new(c, dt, spec, m, n, k);
    wmat w = pack(c->be[0], &q);
    dtype half = half_of(c, dt, &spec);
    wmat values = pack_values(c->be[0], &q, half);
    wmat ref = pack_values(c->ref, &q, half);
    int how = check_int(c, 0, 3);
    mat all = run(c->be[0], &q, &w, 0, m, how);
    for (int t = 0; t < c->n_be; t++) {
        mat again = run(c->be[t], &q, &w, 0, m, how);
        check_same(c, &all, 0, &again, "gemm %s bits n=%d k=%d threads=%d", dtype_name(dt), n, k,
                   t + 1);
        mat_free(&again);
        int32_t rows = check_int(c, 1, m), row0 = check_int(c, 0, m - rows);
        mat part = run(c->be[t], &q, &w, row0, rows, how);
        check_same(c, &all, row0, &part, "gemm %s bits m=%d of %d n=%d k=%d threads=%d",
                   dtype_name(dt), rows, m, n, k, t + 1);
        mat_free(&part);
    }
    round_input(&q, half);
    mat same = run(c->be[0], &q, &values, 0, m, how), want = run(c->ref, &q, &ref, 0, m, how);
    bool on_host = c->be[0]->host_memory, is_narrow = spec.math != DT_F32 && !on_host;
    /* Sums of codes are exact, which no sum of floats is. */
    bool exact = on_host ? w.layout == WMAT_CODES : dt == DT_INT8 && act_round_is_int8(spec.act);
    exact |= w.layout == WMAT_VALUES && spec.has_order; /* sums go over sorted columns */
    if (!is_narrow && !exact)
        check_same(c, &same, 0, &all, "gemm %s as f32 m=%d n=%d k=%d act=%d", dtype_name(dt), m, n,
                   k, (int)spec.act);
    check_close(c, &want, &all, half == DT_F32 ? check_tol("gemm", is_narrow) : 2e-5,
                "gemm %s m=%d n=%d k=%d how=%d act=%d math=%s", dtype_name(dt), m, n, k, how,
                (int)spec.act, dtype_name(spec.math));
    mat_free(&all), mat_free(&same), mat_free(&want);
    fenced_free(w.data), fenced_free(values.data), fenced_free(ref.data);
    case_free(&q);
}

static quant_spec random_spec(check_ctx *c, int32_t k, act_round act) {
    int how = check_int(c, 0, 3);
    int32_t group = how == 1 ? k : 16 << check_int(c, 0, 4);
    return (quant_spec){.group = group,
                        .scale_dt = DT_F32,
                        .has_zeros = how & 1,
                        .has_order = how & 2,
                        .whole_order = (how & 2) && k % group == 0 && check_int(c, 0, 3),
                        .zero = (int16_t)check_int(c, 0, 8),
                        .scale_mul = 1,
                        .act = act,
                        .act_scale = 0.02f,
                        .act_zero = 5,
                        .act_group = 32};
}

/* A rounding from `from` on; the one in groups is the CPU's alone. */
static act_round random_act(check_ctx *c, act_round from) {
    act_round act = (act_round)check_int(c, from, ACT_ROUND_FP8_STATIC);
    return c->device && act == ACT_ROUND_INT8_GROUP ? ACT_ROUND_INT8_TOKEN : act;
}

/* Embedding rows of a table of blocks are the rows of the table. */
static void check_embed(check_ctx *c, dtype dt) {
    enum { T = 40, ROWS = 30 };
    quant_case q = case_new(c, dt, (quant_spec){0}, 1, ROWS, dtype_block(dt) * 3);
    int32_t *ids = fenced_alloc(T * sizeof *ids);
    for (int i = 0; i < T; i++) ids[i] = check_int(c, 0, ROWS - 1);
    for (int t = 0; t < c->n_be; t++) {
        mat want = mat_new(T, q.k, q.k), got = mat_new(T, q.k, q.k);
        mat_random(c, &want, 1), mat_copy(&got, &want);
        float *row = mem_alloc((size_t)q.k * sizeof *row);
        for (int i = 0; i < T; i++) {
            const uint8_t *at = q.codes + (size_t)ids[i] * dtype_row_bytes(dt, q.k);
            quant_blocks_f32(dt, at, q.k, row);
            for (int32_t j = 0; j < q.k; j++)
                want.p[i * q.k + j] = 1.5f * row[j] + (t == 1 ? want.p[i * q.k + j] : 0);
        }
        op_embed e = {.ids = ids,
                      .n_tokens = T,
                      .width = q.k,
                      .rows = ROWS,
                      .table = q.codes,
                      .table_dt = dt,
                      .scale = 1.5f,
                      .out = got.p,
                      .accumulate = t == 1};
        CALL(c->be[t], embed, &e);
        check_close(c, &want, &got, 0, "embed %s accumulate=%d threads=%d", dtype_name(dt), t == 1,
                    t + 1);
        mem_free(row), mat_free(&want), mat_free(&got);
    }
    fenced_free(ids);
    case_free(&q);
}

/* Codes that may be multiplied in 16 bits: every number of rows that changes how, widths whose
 * splits are not whole units, rows that do not begin at 16 bytes. */
static void check_math(check_ctx *c) {
    static const int32_t rows[] = {1, 6, 8, 9, 16, 17, 33, 70}, widths[] = {128, 1024, 1536, 2048};
    static const int32_t groups[] = {32, 64, 128, 256};
    for (size_t m = 0; m < ARRAY_LEN(rows); m++)
        for (size_t k = 0; k < ARRAY_LEN(widths); k++) {
            int v = check_int(c, 0, 7);
            quant_spec spec = {.group = groups[(m + k) % ARRAY_LEN(groups)],
                               .scale_dt = v & 1 ? DT_F16 : DT_BF16,
                               .has_zeros = v & 2,
                               .zero = v & 2 ? 1 : 8,
                               .scale_mul = 1,
                               .math = v & 4 ? DT_F16 : DT_BF16};
            check_case(c, DT_INT4, spec, rows[m], check_int(c, 1, 150), widths[k]);
        }
}

/* Every type by its values in 16 bits, with all that a spec can say. */
static void check_values(check_ctx *c, dtype dt) {
    static const int32_t rows[] = {1, 7, 9, 30, 33, 70};
    for (size_t m = 0; m < ARRAY_LEN(rows); m++) {
        int32_t block = dtype_kind_of(dt) == DTYPE_GGUF ? dtype_block(dt) : 1;
        int32_t k = check_int(c, 1, (m % 2 ? 1100 : 400) / block + 1) * block;
        quant_spec spec = {0};
        if (block == 1) spec = random_spec(c, k, random_act(c, ACT_ROUND_NONE));
        spec.math = check_int(c, 0, 1) ? DT_F16 : DT_BF16;
        check_case(c, dt, spec, rows[m], check_int(c, 1, 100), k);
    }
}

/* int4 with an order of columns: whole groups, as act-order makes them, and others. */
static void check_order(check_ctx *c) {
    static const int32_t rows[] = {1, 9, 40};
    for (size_t m = 0; m < ARRAY_LEN(rows); m++)
        for (int i = 0; i < 2; i++) {
            quant_spec spec = {.group = i ? 64 : 32,
                               .scale_dt = DT_F16,
                               .has_zeros = i == 1,
                               .has_order = true,
                               .whole_order = check_int(c, 0, 1),
                               .zero = i ? 1 : 8,
                               .scale_mul = 1,
                               .math = i ? DT_F16 : DT_BF16};
            check_case(c, DT_INT4, spec, rows[m], check_int(c, 20, 100), 320 + 64 * (int32_t)m);
        }
}

/* Codes of a byte on both sides. */
static void check_bytes(check_ctx *c) {
    static const int32_t rows[] = {1, 6, 8, 9, 17, 33, 70, 140};
    static const int32_t widths[] = {40, 128, 448, 1100, 2050};
    for (size_t m = 0; m < ARRAY_LEN(rows); m++)
        for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
            int32_t k = widths[i], n = check_int(c, 1, 150);
            act_round act = random_act(c, ACT_ROUND_INT8_TOKEN);
            bool fp8 = act_round_is_fp8(act), zeros = !fp8 && check_int(c, 0, 1);
            int how = check_int(c, 0, 2);
            quant_spec spec = {.group = !fp8 || how == 0 ? k
                                        : how == 1       ? 128
                                                         : 256,
                               .scale_dt = check_int(c, 0, 1) ? DT_F32 : DT_BF16,
                               .has_zeros = zeros,
                               .zero = fp8 || zeros ? 0 : 128,
                               .scale_mul = fp8 ? 0.5f : 1,
                               .act = act,
                               .act_scale = 0.02f,
                               .act_zero = (int16_t)check_int(c, 0, 1) * 5,
                               .act_group = 128,
                               .math = fp8 ? DT_BF16 : DT_F32};
            check_case(c, fp8 ? DT_F8_E4M3 : DT_INT8, spec, rows[m], n, k);
        }
}

/* The spec with the rounding that the level's products of codes want; what is expanded to f32 must
 * do the same with it. */
static quant_spec native_spec(check_ctx *c, dtype dt, quant_spec spec, int32_t k) {
    backend *b = c->be[0];
    act_rounding a = b->v->native_act(b, dt, &spec, k);
    spec.act = ACT_ROUND_INT8_GROUP;
    spec.act_group = a.act ? a.act_group : 32 * check_int(c, 1, 4);
    return spec;
}

/* A NaN, an infinity, zeros, and values that are very small and very large: what is not finite
 * shows in all of its row, and nothing else does. A row has several columns: one alone may be small
 * by cancellation, and its error is not. */
static void check_special(check_ctx *c, dtype dt, quant_spec spec, int32_t m, int32_t n,
                          int32_t k) {
    quant_case q = case_new(c, dt, spec, m, n, k);
    wmat w = pack(c->be[0], &q), ref = pack_values(c->ref, &q, DT_F32);
    float *row[6];
    for (int i = 0; i < 6; i++) row[i] = q.a.p + (check_int(c, 0, m / 6 - 1) * 6 + i) * q.a.stride;
    row[0][check_int(c, 0, k - 1)] = NAN;
    row[1][check_int(c, 0, k - 1)] = check_int(c, 0, 1) ? INFINITY : -INFINITY;
    memset(row[2], 0, (size_t)k * sizeof(float));
    for (int32_t i = 0; i < k; i++) row[3][i] *= 1e-37f, row[4][i] *= 1e30f;
    for (int32_t i = 0; i < MIN(k, 32); i++) row[5][i] = i % 2 ? -0.0f : 1e-44f;
    mat all = run(c->be[0], &q, &w, 0, m, 0);
    round_input(&q, DT_F32);
    mat want = run(c->ref, &q, &ref, 0, m, 0);
    for (int32_t r = 0; r < m; r++) {
        mat w1 = mat_rows(&want, r, 1), g1 = mat_rows(&all, r, 1);
        float *x = q.a.p + r * q.a.stride;
        bool is_bad = x == row[0] || x == row[1], ok = true;
        for (int32_t i = 0; i < n && is_bad; i++) ok &= !isfinite(g1.p[i]);
        if (is_bad)
            check_that(c, ok, "a row with a NaN has finite results", "gemm %s special row %d",
                       dtype_name(dt), r);
        else
            check_close(c, &w1, &g1, 2e-5, "gemm %s special row %d of %d n=%d k=%d", dtype_name(dt),
                        r, m, n, k);
    }
    mat_free(&all), mat_free(&want);
    fenced_free(w.data), fenced_free(ref.data);
    case_free(&q);
}

/* Storage that the CPU multiplies code by code, in its own rounding of activations: every number of
 * rows that a tile may have and several tiles; chunks that end within K, one scale for a row, zeros
 * and none, scales of both widths. */
static void check_codes(check_ctx *c) {
    static const dtype types[] = {DT_INT8,  DT_Q8_0,  DT_INT4, DT_E2M1, DT_Q4_0, DT_Q4_1,
                                  DT_Q5_0,  DT_Q5_1,  DT_Q4_K, DT_Q5_K, DT_Q6_K, DT_IQ4_NL,
                                  DT_MXFP4, DT_INT2,  DT_INT3, DT_Q2_K, DT_Q3_K, DT_IQ4_XS,
                                  DT_TQ1_0, DT_TQ2_0, DT_NVFP4};
    static const int32_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 40, 100};
    static const int32_t groups[] = {32, 64, 96, 128, 160, 256, 384, 512, 1 << 20};
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            int32_t block = dtype_kind_of(types[t]) == DTYPE_GGUF ? dtype_block(types[t]) : 1;
            int32_t k = check_int(c, 1, (i % 3 ? 700 : 2500) / block + 1) * block;
            quant_spec spec = {0};
            if (block == 1)
                spec = (quant_spec){.group = MIN(groups[i % ARRAY_LEN(groups)], k),
                                    .scale_dt = i % 3 == 0   ? DT_F32
                                                : i % 3 == 1 ? DT_F16
                                                             : DT_BF16,
                                    .has_zeros = i & 4,
                                    .zero = i & 4 ? check_int(c, -1, 1) : check_int(c, 100, 156),
                                    .scale_mul = i & 8 ? 0.5f : 1};
            if (types[t] == DT_INT4 && !spec.has_zeros) spec.zero = check_int(c, 0, 16);
            if (types[t] == DT_E2M1) spec.has_zeros = false, spec.zero = 0;
            if (types[t] != DT_INT8 && block == 1 && i % 5 == 4) spec.group = MIN(16, k);
            if (types[t] != DT_INT8 && block == 1 && i % 3 == 2 && spec.group < k) {
                k = CEIL_DIV(k, spec.group) * spec.group;
                spec.has_order = true;
                spec.whole_order = i != 2;
            }
            spec = native_spec(c, types[t], spec, k);
            check_case(c, types[t], spec, rows[i], check_int(c, 1, 200), k);
            if (i % 4 == 0) check_special(c, types[t], spec, 12, check_int(c, 8, 70), k);
        }
}

/* Few rows of what is multiplied by its values in f32, with and without all that a spec can say. */
static void check_few(check_ctx *c, dtype dt) {
    for (int32_t m = 1; m <= 6; m++) {
        int32_t block = dtype_kind_of(dt) == DTYPE_GGUF ? dtype_block(dt) : 1;
        int32_t k = check_int(c, 1, (m % 2 ? 1100 : 400) / block + 1) * block;
        quant_spec spec = {0};
        if (block == 1) {
            if (m % 3 == 2) k = ALIGN_UP(k, 64);
            spec = random_spec(c, k, ACT_ROUND_NONE);
            if (m == 2 || m == 5) spec.group = 64, spec.has_order = spec.whole_order = true;
            if (m % 2) spec.has_order = spec.whole_order = false;
            if (m == 4) spec.scale_dt = DT_BF16, spec.scale_mul = 0.37f;
        }
        check_case(c, dt, spec, m, check_int(c, 1, 200), k);
    }
}

/* A weight that is not a number makes its column of results so, and no other. */
static void check_nan_weights(check_ctx *c) {
    static const dtype types[] = {DT_F8_E4M3, DT_F8_E5M2};
    enum { N = 40, K = 300 };
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (int32_t m = 1; m <= 9; m += 4) {
            quant_spec spec = {.group = 128, .scale_dt = DT_BF16, .scale_mul = 1};
            quant_case q = case_new(c, types[t], spec, m, N, K);
            int32_t col = check_int(c, 0, N - 1);
            q.codes[col * K + check_int(c, 0, K - 1)] = check_int(c, 0, 1) ? 0x7F : 0xFF;
            wmat w = pack(c->be[0], &q);
            mat out = run(c->be[0], &q, &w, 0, m, 0);
            bool ok = true;
            for (int32_t r = 0; r < m; r++)
                for (int32_t j = 0; j < N; j++)
                    ok &= (isnan(out.p[r * out.stride + j]) != 0) == (j == col);
            check_that(c, ok, "NaNs are elsewhere than in its column", "gemm %s NaN m=%d col=%d",
                       dtype_name(types[t]), m, col);
            mat_free(&out);
            fenced_free(w.data);
            case_free(&q);
        }
}

void check_quant(check_ctx *c) {
    for (int d = 0; d < DT_COUNT; d++)
        if (dtype_kind_of(d) == DTYPE_GGUF) check_embed(c, (dtype)d);
    for (int d = 0; d < DT_COUNT; d++)
        for (int i = 0; dtype_is_quant(d) && i < (c->full ? 20 : 4); i++) {
            int32_t block = dtype_kind_of(d) == DTYPE_GGUF ? dtype_block(d) : 1;
            int32_t k = check_int(c, 1, 600 / block) * block, n = check_int(c, 1, 150);
            act_round act = block == 1 ? (act_round)(i % 3) : ACT_ROUND_NONE;
            quant_spec spec = block == 1 ? random_spec(c, k, act) : (quant_spec){0};
            check_case(c, (dtype)d, spec, check_int(c, 1, 40), n, k);
        }
    if (!c->device) check_nan_weights(c);
    bool by_values = c->device || !c->small; /* in 16 bits: on the CPU spec.math says nothing */
    if (by_values) check_math(c);
    check_order(c);
    check_bytes(c);
    if (!c->device) check_codes(c);
    for (int d = 0; d < DT_COUNT && by_values; d++)
        if (dtype_is_quant(d)) check_values(c, (dtype)d), check_few(c, (dtype)d);
    check_case(c, DT_INT4, random_spec(c, 4300, ACT_ROUND_NONE), 90, 70, 4300);
}
