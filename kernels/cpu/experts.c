/* Experts: the pairs (token, choice) are sorted by expert, each expert runs its two products over
 * the rows that chose it, and the results are added up token by token in the order of the choices.
 * So an expert's weights are read once however many rows chose it, and which other rows there are
 * changes no bit of a row: products do not depend on their number of rows, sums have a fixed order.
 *
 * Experts run one after the other, each product cut among the team by gemm. Giving members whole
 * experts instead would need as many of them as members, which decoding does not have.
 *
 * Results of all pairs are kept until they are added, so a call with many rows is cut into pieces
 * of tokens of at most PIECE_BYTES of results. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

#define PIECE_BYTES ((int64_t)64 << 20)

/* One piece: tokens [t0, t0+n). */
typedef struct piece {
    const op_experts *a;
    int32_t t0, n;
    int32_t *first; /* [E+1]: first place of each expert's pairs */
    int32_t *token; /* [n*k]: token of the pair at a place */
    int32_t *place; /* [n*k]: place of pair (token, choice) */
    float *in;      /* [rows of an expert, C]: gathered */
    float *mid;     /* [rows of an expert, gated ? 2F : F] */
    float *result;  /* [n*k, C], by place */
} piece;

static int32_t mid_width(const op_experts *a) {
    return a->gated ? 2 * a->ffn : a->ffn;
}

/* Counting sort: within an expert in the order of the tokens. */
static void sort_pairs(const piece *p) {
    const op_experts *a = p->a;
    const int32_t *ids = a->ids + (int64_t)p->t0 * a->top_k;
    int32_t n_pairs = p->n * a->top_k;
    for (int32_t e = 0; e <= a->n_experts; e++) p->first[e] = 0;
    for (int32_t i = 0; i < n_pairs; i++) {
        CHECK(ids[i] >= 0 && ids[i] < a->n_experts);
        p->first[ids[i] + 1]++;
    }
    for (int32_t e = 0; e < a->n_experts; e++) p->first[e + 1] += p->first[e];
    for (int32_t i = 0; i < n_pairs; i++) { /* first[e] runs ahead to first[e+1] */
        int32_t at = p->first[ids[i]]++;
        p->place[i] = at;
        p->token[at] = p->t0 + i / a->top_k;
    }
    for (int32_t e = a->n_experts; e > 0; e--) p->first[e] = p->first[e - 1];
    p->first[0] = 0;
}

typedef struct gather_job {
    const piece *p;
    int32_t first;
} gather_job;

static void gather(const void *ctx, int32_t row0, int32_t row1) {
    const gather_job *j = ctx;
    const op_experts *a = j->p->a;
    for (int32_t r = row0; r < row1; r++)
        memcpy(j->p->in + (int64_t)r * a->width,
               (const float *)a->x + (int64_t)j->p->token[j->first + r] * a->x_stride,
               (size_t)a->width * sizeof(float));
}

static void product(backend *b, int32_t m, const float *x, int64_t x_stride, const wmat *w,
                    const float *bias, float *out, int64_t out_stride) {
    op_gemm g = {m, x, x_stride, w, bias, out, out_stride, false};
    b->v->gemm(b, &g);
}

static void run_expert(backend *b, const piece *p, int32_t e) {
    const op_experts *a = p->a;
    gather_job j = {p, p->first[e]};
    int32_t m = p->first[e + 1] - j.first, c = a->width, f = a->ffn, mid = mid_width(a);
    if (m == 0) return;
    CHECK(m <= p->n);
    const float *up_bias = a->up_bias ? a->up_bias[e] : NULL;
    const float *down_bias = a->down_bias ? a->down_bias[e] : NULL;
    cpu_run_rows((cpu_backend *)b, &j, m, c, gather);
    if (a->gate) {
        product(b, m, p->in, c, &a->gate[e], up_bias, p->mid, mid);
        product(b, m, p->in, c, &a->up[e], up_bias ? up_bias + f : NULL, p->mid + f, mid);
    } else
        product(b, m, p->in, c, &a->up[e], up_bias, p->mid, mid);
    op_act act = {a->act, a->gated, m, f, p->mid, mid, p->mid, mid};
    b->v->act(b, &act);
    product(b, m, p->mid, mid, &a->down[e], down_bias, p->result + (int64_t)j.first * c, c);
}

/* out = (out +) the weighted results, in the order of the choices. */
static void combine(const void *ctx, int32_t row0, int32_t row1) {
    const piece *p = ctx;
    const op_experts *a = p->a;
    int32_t c = a->width;
    for (int32_t r = row0; r < row1; r++) {
        const float *weights = a->weights + (int64_t)(p->t0 + r) * a->top_k;
        float *out = a->out + (int64_t)(p->t0 + r) * a->out_stride;
        if (!a->accumulate) memset(out, 0, (size_t)c * sizeof(float));
        for (int32_t j = 0; j < a->top_k; j++) {
            const float *y = p->result + (int64_t)p->place[r * a->top_k + j] * c;
            float w = weights[j];
            for (int32_t i = 0; i < c; i++) out[i] += w * y[i];
        }
    }
}

static void check_args(const op_experts *a) {
    int32_t f = a->ffn, n_up = a->gated && !a->gate ? 2 * f : f;
    CHECK(a->top_k > 0 && a->n_experts > 0 && a->width > 0 && f > 0);
    CHECK(!a->gate || a->gated);
    for (int32_t e = 0; e < a->n_experts; e++) {
        CHECK(a->up[e].n == n_up && a->up[e].k == a->width);
        CHECK(a->down[e].n == a->width && a->down[e].k == f);
        CHECK(!a->gate || (a->gate[e].n == f && a->gate[e].k == a->width));
    }
}

/* Cut the workspace for pieces of n tokens. */
static void cut(cpu_backend *b, piece *p, int32_t n) {
    const op_experts *a = p->a;
    size_t pairs = (size_t)n * (size_t)a->top_k, c = (size_t)a->width;
    size_t bytes[] = {ALIGN_UP(((size_t)a->n_experts + 1) * sizeof(int32_t), 64),
                      ALIGN_UP(pairs * sizeof(int32_t), 64),
                      ALIGN_UP(pairs * sizeof(int32_t), 64),
                      ALIGN_UP((size_t)n * c * sizeof(float), 64),
                      ALIGN_UP((size_t)n * (size_t)mid_width(a) * sizeof(float), 64),
                      ALIGN_UP(pairs * c * sizeof(float), 64)};
    size_t at[ARRAY_LEN(bytes) + 1] = {0};
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) at[i + 1] = at[i] + bytes[i];
    char *ws = cpu_held_workspace(b, at[ARRAY_LEN(bytes)]);
    p->first = (int32_t *)ws;
    p->token = (int32_t *)(ws + at[1]);
    p->place = (int32_t *)(ws + at[2]);
    p->in = (float *)(ws + at[3]);
    p->mid = (float *)(ws + at[4]);
    p->result = (float *)(ws + at[5]);
}

void cpu_experts(backend *b, const op_experts *a) {
    if (a->n_tokens <= 0) return;
    check_args(a);
    if (a->x_dt != DT_F32) {
        cpu_feed_experts(b, a);
        return;
    }
    piece p = {.a = a};
    int64_t token_bytes = (int64_t)a->top_k * a->width * (int64_t)sizeof(float);
    int32_t most = (int32_t)MIN(a->n_tokens, MAX(1, PIECE_BYTES / token_bytes));
    cut((cpu_backend *)b, &p, most);
    for (p.t0 = 0; p.t0 < a->n_tokens; p.t0 += p.n) {
        p.n = MIN(most, a->n_tokens - p.t0);
        sort_pairs(&p);
        for (int32_t e = 0; e < a->n_experts; e++) run_expert(b, &p, e);
        cpu_run_rows((cpu_backend *)b, &p, p.n, (int64_t)a->top_k * a->width, combine);
    }
}
