/* Where the distance of 16-bit checkpoints on a device from f32 activations comes from. A forward
 * pass on the reference rows, whose products round activations to the weights' type, and whose
 * attention, in double, rounds folded queries and probabilities to that of its pages, is as far
 * from f32 activations, and equal to the device but for what the order of a sum moves across a
 * rounding. So nothing else is in that distance.
 *
 * For a device whose products round (PAGODA_TEST_DEVICE); elsewhere it is skipped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "kernels/feed.h"
#include "kernels/ref/rows.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define SKIPPED 77
#define LIMIT   1e-3 /* between device and model */

/* ---- The model: reference rows behind these ---- */

static const backend_vtbl *inner;

/* The rows [n,width] rounded to a type; mem_free. */
static float *rounded(const float *x, int64_t stride, int32_t n, int32_t width, dtype dt) {
    float *to = mem_alloc((size_t)n * (size_t)width * sizeof *to);
    uint16_t *half = mem_alloc((size_t)width * sizeof *half);
    for (int64_t r = 0; r < n; r++) {
        feed_store(dt, x + r * stride, width, half, NULL);
        feed_load(dt, half, 1, width, to + r * width);
    }
    mem_free(half);
    return to;
}

static void gemm(backend *b, const op_gemm *a) {
    op_gemm g = *a;
    bool is_narrow = a->w->dt == DT_BF16 || a->w->dt == DT_F16;
    float *x = is_narrow ? rounded(a->a, a->a_stride, a->m, a->w->k, a->w->dt) : NULL;
    if (x) g.a = x, g.a_stride = a->w->k;
    inner->gemm(b, &g);
    mem_free(x);
}

static double bf16(double x) {
    return bf16_to_f32(f32_to_bf16((float)x));
}

/* Row t of sequence s, one head, over pages of [P][G][S][D] in bf16: folded queries and the
 * probabilities, relative to the largest, are rounded; their sum is of the rounded ones. */
static void attend(const op_attention *a, const attn_seq *s, int32_t t, int32_t head, int32_t dv,
                   float *out) {
    int32_t d = a->head_dim, g = head / (a->n_heads / a->n_kv_heads), pos = s->pos0 + t;
    int32_t first = attn_first_key(a, pos), last = attn_last_key(a, s, pos);
    const double log2e = 1.4426950408889634;
    double fold = a->softcap > 0 ? a->scale / a->softcap : a->scale * log2e, top = -INFINITY;
    const float *q = a->q + (s->row0 + t) * a->q_stride + (int64_t)head * d;
    double *score = mem_alloc((size_t)(last + 1) * sizeof *score), sum = 0, *acc;
    acc = mem_calloc((size_t)dv, sizeof *acc);
    for (int32_t j = first; j <= last; j++) {
        int64_t page = a->seqs.page_table[s->page0 + j / a->page_tokens];
        int64_t at = ((page * a->n_kv_heads + g) * a->page_tokens + j % a->page_tokens) * d;
        double x = 0;
        for (int32_t i = 0; i < d; i++)
            x += bf16((float)(q[i] * (float)fold)) *
                 bf16_to_f32(((const uint16_t *)a->k_pages)[at + i]);
        if (a->softcap > 0) x = a->softcap * log2e * tanh(x);
        if (a->alibi_slopes) x -= a->alibi_slopes[head] * log2e * abs(pos - j);
        score[j] = x;
        top = fmax(top, x);
    }
    for (int32_t j = first; j <= last; j++) {
        int64_t page = a->seqs.page_table[s->page0 + j / a->page_tokens];
        int64_t at = ((page * a->n_kv_heads + g) * a->page_tokens + j % a->page_tokens) * d;
        double w = bf16(exp2(score[j] - top));
        sum += w;
        for (int32_t i = 0; i < dv; i++)
            acc[i] += w * bf16_to_f32(((const uint16_t *)a->v_pages)[at + i]);
    }
    if (a->sinks) sum += exp2(a->sinks[head] * log2e - top);
    for (int32_t i = 0; i < dv; i++) out[i] = (float)(acc[i] / sum);
    mem_free(score), mem_free(acc);
}

static void attend_all(const op_attention *a, int32_t dv) {
    for (int32_t i = 0; i < a->seqs.n; i++)
        for (int32_t t = 0; t < a->seqs.host[i].n_rows; t++)
            for (int32_t h = 0; h < a->n_heads; h++)
                attend(a, &a->seqs.host[i], t, h, dv,
                       (float *)a->out + (a->seqs.host[i].row0 + t) * a->out_stride +
                           (int64_t)h * dv);
}

static void attention(backend *b, const op_attention *a) {
    if (a->kv_dt == DT_BF16)
        attend_all(a, a->head_dim);
    else
        inner->attention(b, a);
}

static void latent_attention(backend *b, const op_latent_attention *l) {
    op_attention a = {.seqs = l->seqs,
                      .n_heads = l->n_heads,
                      .n_kv_heads = 1,
                      .head_dim = l->latent + l->rope_dim,
                      .q = l->q,
                      .q_stride = l->q_stride,
                      .out = l->out,
                      .out_stride = l->out_stride,
                      .scale = l->scale,
                      .k_pages = l->pages,
                      .v_pages = l->pages,
                      .kv_dt = l->kv_dt,
                      .page_tokens = l->page_tokens};
    if (a.kv_dt == DT_BF16)
        attend_all(&a, l->latent);
    else
        inner->latent_attention(b, l);
}

/* ---- Comparing ---- */

static status open_on(const char *dir, const char *device, const char *isa, engine **ret,
                      error *err) {
    engine_options o = {.model_dir = dir,
                        .device = device,
                        .isa = isa,
                        .n_threads = 1,
                        .max_seqs = 2,
                        .max_batched_tokens = 128,
                        .kv_bytes = (size_t)8 << 20};
    return engine_open(&o, ret, err);
}

typedef struct rows {
    float *p; /* [n,V], mem_free */
    int32_t n;
    size_t vocab;
} rows;

static rows logits_of(engine *e, const char *name, const int32_t *ids, int32_t n) {
    rows r = {.n = n, .vocab = (size_t)engine_info(e)->vocab};
    error err;
    r.p = mem_calloc((size_t)n * r.vocab, sizeof *r.p);
    status st = engine_logits(e, ids, n, true, 0, r.p, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    return r;
}

/* The worst position. */
static double distance(const rows *a, const rows *b) {
    double worst = 0;
    for (int32_t i = 0; i < a->n; i++)
        worst = fmax(worst, relative_error(a->p + (size_t)i * a->vocab, b->p + (size_t)i * a->vocab,
                                           a->vocab));
    return worst;
}

/* The engine's logits with products and attention as above. */
static rows model_of(engine *e, const char *name, const int32_t *ids, int32_t n) {
    backend_vtbl rounding = *e->b->v;
    inner = e->b->v;
    rounding.gemm = gemm, rounding.attention = attention;
    rounding.latent_attention = latent_attention;
    e->b->v = &rounding;
    rows r = logits_of(e, name, ids, n);
    e->b->v = inner;
    return r;
}

/* False where the device's products round nothing. */
static bool check_model(const char *name) {
    int32_t ids[40], n = ARRAY_LEN(ids);
    char *dir = path_join("tests/archs", name);
    engine *dev = NULL, *ref = NULL;
    error err;
    status st = open_on(dir, test_device(), NULL, &dev, &err);
    if (st == OK) st = open_on(dir, "cpu", "ref", &ref, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    bool rounds = st == OK && dev->b->v->feed_dt;
    if (rounds) {
        for (int32_t i = 0; i < n; i++) ids[i] = (5 + 11 * i) % engine_info(ref)->vocab;
        rows exact = logits_of(ref, name, ids, n), got = logits_of(dev, name, ids, n);
        rows model = model_of(ref, name, ids, n);
        double off = distance(&got, &exact), modelled = distance(&model, &exact),
               left = distance(&got, &model);
        printf("%-18s device %.1e, model %.1e from f32 activations; device %.1e from the model\n",
               name, off, modelled, left);
        EXPECT(left <= LIMIT, "%s: the device is %g from its own roundings", name, left);
        mem_free(exact.p), mem_free(got.p), mem_free(model.p);
    }
    engine_free(dev), engine_free(ref);
    mem_free(dir);
    return rounds;
}

int main(int argc, char **argv) {
    static const char *const names[] = {"llama-gqa", "gguf-gemma2", "olmo2", "deepseek-moe-norm"};
    if (argc > 1) {
        for (int i = 1; i < argc; i++) check_model(argv[i]);
        return n_failed ? 1 : 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!check_model(names[i])) {
            printf("skipped: products of device %s round nothing (PAGODA_TEST_DEVICE)\n",
                   test_device());
            return SKIPPED;
        }
    if (n_failed) fprintf(stderr, "%d checks failed\n", n_failed);
    return n_failed ? 1 : 0;
}
