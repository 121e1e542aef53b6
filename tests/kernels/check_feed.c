/* Rows that feed products in other types than f32: what norm, act and attention store is their f32
 * result as feed.h defines its storage, to the bit; and a product of stored rows is the product of
 * their values, to the bit, which for the type that the product rounds to is the product of the f32
 * rows themselves. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/feed.h"
#include "kernels/ref/rows.h"
#include "tests/kernels/checkkern.h"

static const dtype types[] = {DT_BF16, DT_F16, DT_I8, DT_F8_E4M3};

/* Stored rows; what is not an element, or a code's padding, is 0xA5. */
typedef struct rows {
    int32_t n, width;
    int64_t stride;
    dtype dt;
    uint8_t *p;
    float *scale; /* [n] */
    size_t bytes;
} rows;

/* odd: a stride that does not let rows begin at 16 bytes, where the type allows that. */
static rows rows_new(int32_t n, int32_t width, dtype dt, bool odd) {
    rows r = {.n = n, .width = width, .dt = dt};
    r.stride = feed_is_codes(dt) ? ALIGN_UP(width, 16) + 16 : ALIGN_UP(width, 8) + (odd ? 3 : 8);
    r.bytes = (size_t)n * (size_t)r.stride * dtype_bytes(dt);
    r.p = packed_alloc(r.bytes);
    r.scale = fenced_alloc((size_t)n * sizeof(float));
    memset(r.p, 0xA5, r.bytes);
    return r;
}

static void rows_free(rows *r) {
    fenced_free(r->p), fenced_free(r->scale);
}

static void *row_at(const rows *r, int32_t i) {
    return r->p + (size_t)i * (size_t)r->stride * dtype_bytes(r->dt);
}

/* m as feed.h stores it. */
static rows rows_of(const mat *m, dtype dt, bool odd) {
    rows r = rows_new(m->rows, m->width, dt, odd);
    for (int32_t i = 0; i < m->rows; i++)
        feed_store(dt, m->p + i * m->stride, m->width, row_at(&r, i), &r.scale[i]);
    return r;
}

static mat values_of(const rows *r) {
    mat m = mat_new(r->n, r->width, mat_stride(r->width));
    for (int32_t i = 0; i < r->n; i++)
        feed_load(r->dt, row_at(r, i), r->scale[i], r->width, m.p + i * m.stride);
    return m;
}

static bool same_float(float x, float y) {
    return memcmp(&x, &y, sizeof x) == 0 || (isnan(x) && isnan(y));
}

/* 16-bit NaNs are any; all other bits, padding and guards included, are the same. */
static void check_rows(check_ctx *c, const rows *want, const rows *got, const char *name) {
    char what[120] = "";
    for (size_t i = 0; i < want->bytes && !what[0]; i++) {
        if (want->p[i] == got->p[i]) continue;
        size_t each = dtype_bytes(want->dt), at = i / each;
        float w, g;
        if (each == 2) {
            feed_load(want->dt, want->p + at * 2, 1, 1, &w),
                feed_load(want->dt, got->p + at * 2, 1, 1, &g);
            if (isnan(w) && isnan(g)) continue;
        }
        snprintf(what, sizeof what, "row %d element %d is %02x, expected %02x",
                 (int)(at / (size_t)want->stride), (int)(at % (size_t)want->stride), got->p[i],
                 want->p[i]);
    }
    for (int32_t i = 0; i < want->n && feed_is_codes(want->dt) && !what[0]; i++)
        if (!same_float(want->scale[i], got->scale[i]))
            snprintf(what, sizeof what, "scale %d is %g, expected %g", i, got->scale[i],
                     want->scale[i]);
    check_that(c, !what[0], what, "%s as %s, %d of %d", name, dtype_name(want->dt), want->n,
               want->width);
}

static void spoil(mat *m) {
    m->p[0] = NAN;
    if (m->rows > 1) m->p[m->stride + m->width / 2] = INFINITY;
    if (m->rows > 2) memset(m->p + 2 * m->stride, 0, (size_t)m->width * 4);
}

/* ---- norm and act ---- */

static void check_norm(check_ctx *c, int32_t n, int32_t width, dtype dt, int how) {
    mat x = mat_new(n, width, mat_stride(width)), w = mat_new(2, width, width + 4);
    mat again = mat_new(n, width, x.stride), y = mat_new(n, width, x.stride);
    mat plain = mat_new(n, width, width);
    mat_random(c, &x, 1), mat_random(c, &w, 1), mat_random(c, &y, 1);
    spoil(&x);
    mat_copy(&again, &x);
    rows got = rows_new(n, width, dt, how & 2);
    op_norm a = {.kind = how & 1 ? NORM_LAYER : NORM_RMS,
                 .n_rows = n,
                 .n_groups = 1,
                 .width = width,
                 .x = x.p,
                 .x_stride = x.stride,
                 .add = how & 2 ? y.p : NULL,
                 .add_stride = y.stride,
                 .weight = w.p,
                 .bias = how & 1 ? w.p + w.stride : NULL,
                 .eps = 1e-5f,
                 .out = plain.p,
                 .out_stride = plain.stride};
    CALL(c->be[0], norm, &a);
    a.x = again.p;
    a.out = got.p, a.out_stride = got.stride, a.out_dt = dt, a.out_scale = got.scale;
    CALL(c->be[0], norm, &a);
    rows want = rows_of(&plain, dt, how & 2);
    check_rows(c, &want, &got, how & 1 ? "layer norm" : "norm");
    check_same(c, &x, 0, &again, "norm's sum with rows as %s", dtype_name(dt));
    rows_free(&want), rows_free(&got);
    mat_free(&x), mat_free(&w), mat_free(&again), mat_free(&y), mat_free(&plain);
}

static void check_act(check_ctx *c, int32_t n, int32_t width, dtype dt, int how) {
    bool gated = how & 1;
    mat in = mat_new(n, gated ? 2 * width : width, 2 * width + (how & 2 ? 3 : 8));
    mat plain = mat_new(n, width, width);
    mat_random(c, &in, 2);
    spoil(&in);
    rows got = rows_new(n, width, dt, how & 2);
    op_act a = {gated ? ACT_SILU : ACT_GELU, gated, n, width, in.p, in.stride, plain.p, width};
    CALL(c->be[0], act, &a);
    a.out = got.p, a.out_stride = got.stride, a.out_dt = dt, a.out_scale = got.scale;
    CALL(c->be[0], act, &a);
    rows want = rows_of(&plain, dt, how & 2);
    check_rows(c, &want, &got, "act");
    rows_free(&want), rows_free(&got);
    mat_free(&in), mat_free(&plain);
}

/* ---- attention ---- */

#define PAGE_TOKENS 16
typedef struct keys {
    paging p;
    mat qkv;
    void *k, *v;
    int32_t n_heads, n_kv_heads, d;
    dtype kv_dt;
} keys;

static keys keys_new(check_ctx *c, dtype kv_dt, int32_t d, int32_t n_seqs, const int32_t *len) {
    keys y = {
        .p = paging_new(c, n_seqs, len, PAGE_TOKENS, 2), .n_heads = 6, .n_kv_heads = 2, .d = d};
    int32_t width = 10 * d;
    size_t bytes = (size_t)(y.p.n_pages * 2 * PAGE_TOKENS * d) * dtype_bytes(kv_dt);
    y.kv_dt = kv_dt;
    y.qkv = mat_new(y.p.n_tokens, width, width + 2);
    mat_random(c, &y.qkv, 1);
    y.k = packed_alloc(bytes), y.v = packed_alloc(bytes);
    memset(y.k, 0, bytes), memset(y.v, 0, bytes);
    op_rope_kv a = {y.p.n_tokens, 6,          2,        d,           0,         ROPE_NONE, y.qkv.p,
                    y.qkv.stride, y.p.pos,    y.p.slot, y.p.cosines, y.p.sines, y.k,       y.v,
                    kv_dt,        PAGE_TOKENS};
    CALL(c->be[0], rope_kv, &a);
    return y;
}

static void keys_free(keys *y) {
    paging_free(&y->p);
    mat_free(&y->qkv);
    fenced_free(y->k), fenced_free(y->v);
}

/* Several sequences: prompts whole, long ones of several chunks of keys, and single rows. */
static void check_attn(check_ctx *c, dtype dt, dtype kv_dt, int32_t d) {
    int32_t len[] = {c->small ? 530 : 1200, 33, 1, 600}, n_seqs = c->small ? 3 : 4;
    keys y = keys_new(c, kv_dt, d, n_seqs, len);
    attn_seq seqs[4];
    for (int32_t i = 0; i < n_seqs; i++) {
        int32_t n = i == 0 ? 20 : i == 3 ? 1 : len[i];
        seqs[i] = paging_rows(&y.p, i, len[i] - n, n, 0);
    }
    attn_seq *dev = seqs_dev(n_seqs, seqs);
    int32_t width = y.n_heads * d;
    mat plain = mat_new(y.p.n_tokens, width, width);
    rows got = rows_new(y.p.n_tokens, width, dt, d % 8 != 0);
    op_attention a = {.seqs = {n_seqs, seqs, dev, y.p.pages},
                      .n_heads = y.n_heads,
                      .n_kv_heads = y.n_kv_heads,
                      .head_dim = d,
                      .q = y.qkv.p,
                      .q_stride = y.qkv.stride,
                      .out = plain.p,
                      .out_stride = width,
                      .scale = 1 / sqrtf((float)d),
                      .k_pages = y.k,
                      .v_pages = y.v,
                      .kv_dt = kv_dt,
                      .page_tokens = PAGE_TOKENS};
    CALL(c->be[0], attention, &a);
    a.out = got.p, a.out_stride = got.stride, a.out_dt = dt;
    CALL(c->be[0], attention, &a);
    rows want = rows_new(y.p.n_tokens, width, dt, d % 8 != 0);
    for (int32_t i = 0; i < n_seqs; i++)
        for (int32_t t = seqs[i].row0; t < seqs[i].row0 + seqs[i].n_rows; t++)
            feed_store(dt, plain.p + t * plain.stride, width, row_at(&want, t), NULL);
    check_rows(c, &want, &got, "attention");
    fenced_free(dev);
    rows_free(&want), rows_free(&got);
    mat_free(&plain);
    keys_free(&y);
}

static void check_latent_attn(check_ctx *c, dtype dt, dtype kv_dt) {
    enum { H = 5, L = 64, R = 16, W = L + R };
    int32_t len[] = {530, 19};
    paging p = paging_new(c, 2, len, PAGE_TOKENS, 2);
    size_t bytes = (size_t)(p.n_pages * PAGE_TOKENS * W) * dtype_bytes(kv_dt);
    uint16_t *pages = packed_alloc(bytes);
    mat q = mat_new(p.n_tokens, H * W, H * W + 4), plain = mat_new(p.n_tokens, H * L, H * L);
    mat_random(c, &q, 1);
    for (size_t i = 0; i < bytes / 2; i++)
        pages[i] = f32_to_bf16((float)check_uniform(c) - 0.5f); /* f32: pairs of them */
    attn_seq seqs[] = {paging_rows(&p, 0, len[0] - 9, 9, 0), paging_rows(&p, 1, 0, len[1], 0)};
    attn_seq *dev = seqs_dev(2, seqs);
    rows got = rows_new(p.n_tokens, H * L, dt, false),
         want = rows_new(p.n_tokens, H * L, dt, false);
    op_latent_attention a = {.seqs = {2, seqs, dev, p.pages},
                             .n_heads = H,
                             .latent = L,
                             .rope_dim = R,
                             .q = q.p,
                             .q_stride = q.stride,
                             .out = plain.p,
                             .out_stride = plain.stride,
                             .scale = 0.1f,
                             .pages = pages,
                             .kv_dt = kv_dt,
                             .page_tokens = PAGE_TOKENS};
    CALL(c->be[0], latent_attention, &a);
    a.out = got.p, a.out_stride = got.stride, a.out_dt = dt;
    CALL(c->be[0], latent_attention, &a);
    for (int i = 0; i < 2; i++)
        for (int32_t t = seqs[i].row0; t < seqs[i].row0 + seqs[i].n_rows; t++)
            feed_store(dt, plain.p + t * plain.stride, H * L, row_at(&want, t), NULL);
    check_rows(c, &want, &got, "latent attention");
    fenced_free(dev), fenced_free(pages);
    rows_free(&want), rows_free(&got);
    mat_free(&q), mat_free(&plain);
    paging_free(&p);
}

/* ---- products ---- */

static mat multiply(backend *b, const wmat *w, op_gemm g, const mat *old) {
    mat out = mat_new(g.m, w->n, old->stride);
    for (int32_t r = 0; r < g.m; r++)
        memcpy(out.p + r * out.stride, old->p + r * old->stride, (size_t)w->n * 4);
    g.w = w;
    g.out = out.p, g.out_stride = out.stride, g.accumulate = true;
    CALL(b, gemm, &g);
    return out;
}

static mat of_floats(backend *b, const wmat *w, const mat *a, const mat *old) {
    return multiply(b, w, (op_gemm){.m = a->rows, .a = a->p, .a_stride = a->stride}, old);
}

/* Products of m rows with w, the rows stored in every type. */
static void check_products(check_ctx *c, const wmat *w, int32_t m, const char *name) {
    backend *b = c->be[0];
    mat a = mat_new(m, w->k, mat_stride(w->k)), old = mat_new(m, w->n, w->n + 1);
    mat_random(c, &a, 1), mat_random(c, &old, 1);
    mat plain = of_floats(b, w, &a, &old);
    dtype feed = b->v->feed_dt ? b->v->feed_dt(b, w) : DT_F32;
    wmat as_given = *w;
    /* Products of codes on the CPU round what they are given, which leaves codes as they are. */
    if (c->device || w->layout != WMAT_CODES) as_given.q.act = ACT_ROUND_NONE;
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        for (int odd = 0; odd < 2; odd++) {
            bool is_codes = feed_is_codes(types[i]);
            if (odd && is_codes) continue;
            rows r = rows_of(&a, types[i], odd);
            mat values = values_of(&r);
            op_gemm g = {.m = m, .a = r.p, .a_stride = r.stride, .a_dt = r.dt, .a_scale = r.scale};
            mat got = multiply(b, w, g, &old);
            mat want = of_floats(b, is_codes ? &as_given : w, &values, &old);
            check_same(c, &want, 0, &got, "gemm %s m=%d n=%d k=%d of rows as %s odd=%d", name, m,
                       w->n, w->k, dtype_name(types[i]), odd);
            if (types[i] == feed)
                check_same(c, &plain, 0, &got, "gemm %s m=%d n=%d k=%d of its own rows as %s", name,
                           m, w->n, w->k, dtype_name(types[i]));
            mat_free(&got), mat_free(&want), mat_free(&values);
            rows_free(&r);
        }
    mat_free(&plain), mat_free(&a), mat_free(&old);
}

static void check_gemm_rows(check_ctx *c) {
    static const dtype floats[] = {DT_F32, DT_F16, DT_BF16};
    static const int32_t ks[] = {72, 101, 1096};
    static const int32_t counts[] = {1, 5, 8, 9, 17, 33, 70};
    for (size_t t = 0; t < ARRAY_LEN(floats); t++)
        for (size_t i = 0; i < ARRAY_LEN(ks); i++) {
            mat w = mat_new(i == 2 ? 270 : 37, ks[i], ks[i]);
            mat_random(c, &w, 0.2f);
            wmat packed = wmat_new(c->be[0], &w, floats[t]);
            for (size_t j = 0; j < ARRAY_LEN(counts); j++)
                if (!c->small || i != 2 || j % 2 == 0)
                    check_products(c, &packed, counts[j], dtype_name(floats[t]));
            wmat_free(&packed);
            mat_free(&w);
        }
}

static void check_quant_rows(check_ctx *c) {
    static const struct {
        const char *name;
        dtype dt;
        quant_spec q;
    } kinds[] = {
        {"q8_0", DT_Q8_0, {0}},
        {"int4 in f16",
         DT_INT4,
         {.group = 64, .scale_dt = DT_F16, .has_zeros = true, .math = DT_F16}},
        {"int4 in bf16", DT_INT4, {.group = 128, .scale_dt = DT_BF16, .zero = 8, .math = DT_BF16}},
        {"int8", DT_INT8, {.group = 256, .scale_dt = DT_F32, .act = ACT_ROUND_INT8_TOKEN}},
        {"f8", DT_F8_E4M3, {.group = 256, .scale_dt = DT_F32}},
    };
    static const int32_t counts[] = {1, 4, 12, 20, 70};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        wmat w, values;
        quant_spec q = kinds[i].q;
        q.scale_mul = 1;
        quant_wmats_new(c, c->be[0], kinds[i].dt, q, 130, 256, &w, &values);
        for (size_t j = 0; j < ARRAY_LEN(counts); j++)
            check_products(c, &w, counts[j], kinds[i].name);
        wmat_free(&w), wmat_free(&values);
    }
}

/* ---- experts ---- */

enum { E = 5, TOP_K = 2, C = 72, F = 40 };
typedef struct experts_case {
    mat up[E], down[E];
    wmat up_w[E], down_w[E];
    int32_t *ids;
    mat x, weights;
} experts_case;

static mat run_experts(check_ctx *c, const experts_case *y, op_experts a) {
    mat out = mat_new(y->x.rows, C, C + 3);
    a.n_tokens = y->x.rows, a.n_experts = E, a.top_k = TOP_K, a.width = C, a.ffn = F;
    a.out = out.p, a.out_stride = out.stride;
    a.ids = y->ids, a.weights = y->weights.p;
    a.act = ACT_SILU, a.gated = true;
    a.up = y->up_w, a.down = y->down_w;
    CALL(c->be[0], experts, &a);
    return out;
}

static void check_experts_rows(check_ctx *c, dtype dt, int32_t n) {
    experts_case y = {.x = mat_new(n, C, C + 4), .weights = mat_new(n, TOP_K, TOP_K)};
    y.ids = fenced_alloc((size_t)(n * TOP_K) * sizeof *y.ids);
    mat_random(c, &y.x, 1), mat_random(c, &y.weights, 1);
    for (int32_t i = 0; i < n; i++) {
        y.ids[i * TOP_K] = check_int(c, 0, E - 1);
        y.ids[i * TOP_K + 1] = (y.ids[i * TOP_K] + 1) % E;
    }
    for (int e = 0; e < E; e++) {
        dtype of = e == 3 && n % 2 ? DT_F32 : dt; /* experts of two types */
        y.up[e] = mat_new(2 * F, C, C), y.down[e] = mat_new(C, F, F);
        mat_random(c, &y.up[e], 0.2f), mat_random(c, &y.down[e], 0.2f);
        y.up_w[e] = wmat_new(c->be[0], &y.up[e], of),
        y.down_w[e] = wmat_new(c->be[0], &y.down[e], of);
    }
    mat plain = run_experts(c, &y, (op_experts){.x = y.x.p, .x_stride = y.x.stride});
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        rows r = rows_of(&y.x, types[i], false);
        mat values = values_of(&r);
        mat want = run_experts(c, &y, (op_experts){.x = values.p, .x_stride = values.stride});
        mat got = run_experts(
            c, &y, (op_experts){.x = r.p, .x_stride = r.stride, .x_dt = r.dt, .x_scale = r.scale});
        check_same(c, &want, 0, &got, "experts %s T=%d of rows as %s", dtype_name(dt), n,
                   dtype_name(types[i]));
        if (types[i] == dt && c->device && n % 2 == 0)
            check_same(c, &plain, 0, &got, "experts %s T=%d of their own rows", dtype_name(dt), n);
        mat_free(&values), mat_free(&want), mat_free(&got);
        rows_free(&r);
    }
    for (int e = 0; e < E; e++) {
        wmat_free(&y.up_w[e]), wmat_free(&y.down_w[e]);
        mat_free(&y.up[e]), mat_free(&y.down[e]);
    }
    mat_free(&plain), mat_free(&y.x), mat_free(&y.weights);
    fenced_free(y.ids);
}

void check_feed(check_ctx *c) {
    static const int32_t widths[] = {1, 7, 16, 100, 250, 896, 5001};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t i = 0; i < ARRAY_LEN(widths); i++)
            for (int how = 0; how < 4; how++) {
                check_norm(c, 5, widths[i], types[t], how);
                check_act(c, 5, widths[i], types[t], how);
            }
        if (feed_is_codes(types[t])) continue;
        for (int i = 0; i < 2; i++) {
            check_attn(c, types[t], i ? DT_BF16 : DT_F32, 64);
            check_attn(c, types[t], i ? DT_BF16 : DT_F32, 18);
            check_latent_attn(c, types[t], i ? DT_BF16 : DT_F32);
        }
        check_attn(c, types[t], DT_BF16, 160);
        for (int32_t n = 1; n < 60; n = 3 * n + 1) check_experts_rows(c, types[t], n);
    }
    check_gemm_rows(c);
    check_quant_rows(c);
}
