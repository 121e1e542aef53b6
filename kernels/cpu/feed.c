/* Ops whose rows feed a product in another type than f32 (ops.h), on the CPU. No row of any level
 * knows such types: the f32 op runs on memory of its own, and rows are stored or read by feed.h.
 * The engine never asks for them here, since products of the CPU round nothing (no feed_dt); they
 * are what devices are compared with. So memory is taken for each call. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/feed.h"

static float *rows_new(int64_t n_rows, int64_t width) {
    return mem_alloc((size_t)MAX(n_rows * width, 1) * sizeof(float));
}

/* Rows [row0, row0+n) of width. */
static void store_rows(dtype dt, const float *from, int64_t stride, int32_t row0, int32_t n,
                       int32_t width, void *to, int64_t to_stride, float *scale) {
    for (int64_t r = row0; r < row0 + n; r++)
        feed_store(dt, from + r * stride, width,
                   (char *)to + r * to_stride * (int64_t)dtype_bytes(dt), scale ? scale + r : NULL);
}

void cpu_feed_norm(backend *b, const op_norm *a) {
    op_norm f32 = *a;
    int32_t width = a->n_groups * a->width;
    CHECK(!feed_is_codes(a->out_dt) || a->n_groups == 1);
    f32.out = rows_new(a->n_rows, width);
    f32.out_stride = width;
    f32.out_dt = DT_F32;
    b->v->norm(b, &f32);
    store_rows(a->out_dt, f32.out, width, 0, a->n_rows, width, a->out, a->out_stride, a->out_scale);
    mem_free(f32.out);
}

void cpu_feed_act(backend *b, const op_act *a) {
    op_act f32 = *a;
    f32.out = rows_new(a->n_rows, a->width);
    f32.out_stride = a->width;
    f32.out_dt = DT_F32;
    b->v->act(b, &f32);
    store_rows(a->out_dt, f32.out, a->width, 0, a->n_rows, a->width, a->out, a->out_stride,
               a->out_scale);
    mem_free(f32.out);
}

/* Rows that the sequences of a call have. */
static int64_t rows_of(const attn_seqs *s) {
    int64_t n = 0;
    for (int32_t i = 0; i < s->n; i++) n = MAX(n, (int64_t)s->host[i].row0 + s->host[i].n_rows);
    return n;
}

static void store_seqs(const attn_seqs *s, dtype dt, const float *from, int32_t width, void *to,
                       int64_t to_stride) {
    for (int32_t i = 0; i < s->n; i++)
        store_rows(dt, from, width, s->host[i].row0, s->host[i].n_rows, width, to, to_stride, NULL);
}

void cpu_feed_attention(backend *b, const op_attention *a) {
    op_attention f32 = *a;
    int32_t width = a->n_heads * a->head_dim;
    CHECK(!feed_is_codes(a->out_dt));
    f32.out = rows_new(rows_of(&a->seqs), width);
    f32.out_stride = width;
    f32.out_dt = DT_F32;
    b->v->attention(b, &f32);
    store_seqs(&a->seqs, a->out_dt, f32.out, width, a->out, a->out_stride);
    mem_free(f32.out);
}

void cpu_feed_latent_attention(backend *b, const op_latent_attention *a) {
    op_latent_attention f32 = *a;
    int32_t width = a->n_heads * a->latent;
    CHECK(!feed_is_codes(a->out_dt));
    f32.out = rows_new(rows_of(&a->seqs), width);
    f32.out_stride = width;
    f32.out_dt = DT_F32;
    b->v->latent_attention(b, &f32);
    store_seqs(&a->seqs, a->out_dt, f32.out, width, a->out, a->out_stride);
    mem_free(f32.out);
}

/* Values of n rows of width, to be freed. */
static float *load_rows(dtype dt, const void *rows, int64_t stride, const float *scale, int32_t n,
                        int32_t width) {
    float *to = rows_new(n, width);
    CHECK(feed_is_type(dt));
    for (int64_t r = 0; r < n; r++)
        feed_load(dt, (const char *)rows + r * stride * (int64_t)dtype_bytes(dt),
                  feed_is_codes(dt) ? scale[r] : 1, width, to + r * width);
    return to;
}

void cpu_feed_gemm(backend *b, const op_gemm *a) {
    op_gemm f32 = *a;
    wmat w = *a->w;
    float *rows = load_rows(a->a_dt, a->a, a->a_stride, a->a_scale, a->m, w.k);
    /* Products of codes round values of codes to the same codes again. */
    if (feed_is_codes(a->a_dt) && w.layout != WMAT_CODES) w.q.act = ACT_ROUND_NONE;
    f32.a = rows;
    f32.a_stride = w.k;
    f32.a_dt = DT_F32;
    f32.w = &w;
    b->v->gemm(b, &f32);
    mem_free(rows);
}

void cpu_feed_lora(backend *b, const op_lora *a) {
    op_lora f32 = *a;
    float *rows = load_rows(a->x_dt, a->x, a->x_stride, NULL, a->n_rows, a->k);
    f32.x = rows;
    f32.x_stride = a->k;
    f32.x_dt = DT_F32;
    b->v->lora(b, &f32);
    mem_free(rows);
}

/* Rows of matrices that do not round what they are multiplied with; to be freed. */
static wmat *as_given(const wmat *w, int32_t n) {
    wmat *to = mem_alloc((size_t)n * sizeof *to);
    for (int32_t i = 0; i < n; i++) {
        to[i] = w[i];
        if (w[i].layout != WMAT_CODES) to[i].q.act = ACT_ROUND_NONE;
    }
    return to;
}

void cpu_feed_experts(backend *b, const op_experts *a) {
    op_experts f32 = *a;
    bool is_codes = feed_is_codes(a->x_dt);
    float *rows = load_rows(a->x_dt, a->x, a->x_stride, a->x_scale, a->n_tokens, a->width);
    wmat *up = is_codes ? as_given(a->up, a->n_experts) : NULL;
    wmat *gate = is_codes && a->gate ? as_given(a->gate, a->n_experts) : NULL;
    f32.x = rows;
    f32.x_stride = a->width;
    f32.x_dt = DT_F32;
    if (up) f32.up = up;
    if (gate) f32.gate = gate;
    b->v->experts(b, &f32);
    mem_free(up);
    mem_free(gate);
    mem_free(rows);
}
