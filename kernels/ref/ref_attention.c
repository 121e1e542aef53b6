/* Attention that defines the op: one query row at a time, keys in order, a running maximum with
 * the sums rescaled when it rises; sums in double. ref_rope.c writes its pages.
 * Latent attention is the case of one kv head whose values are the beginning of its keys. */
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/kv8.h"
#include "kernels/ref/ref.h"

#define LANES 8

/* Number of (page of position pos, kv head g). */
static int64_t kv_head_at(const op_attention *a, const attn_seq *s, int32_t g, int32_t pos) {
    int64_t page = a->seqs.page_table[s->page0 + pos / a->page_tokens];
    return page * a->n_kv_heads + g;
}

static float value_of(dtype dt, uint8_t code) {
    return dt == DT_INT8 ? (float)(int8_t)code : f8_e4m3_values[code];
}

/* A key or value in eight bits; a latent row has a second scale behind its value. */
static void row_of_codes(const op_attention *a, const attn_tile *t, const void *pages, int64_t head,
                         int32_t at, int32_t n, float *buf) {
    int32_t d = a->head_dim, n_scales = t->latent ? KV8_LATENT_SCALES : 1;
    int32_t split = t->latent ? t->value_dim : d;
    const uint8_t *block = (const uint8_t *)pages +
                           head * (int64_t)kv_page_bytes(a->kv_dt, a->page_tokens, d, n_scales);
    const uint8_t *codes = block + (int64_t)at * d;
    const uint16_t *scales =
        (const uint16_t *)(block + (int64_t)a->page_tokens * d) + at * n_scales;
    for (int32_t i = 0; i < n; i++)
        buf[i] = value_of(a->kv_dt, codes[i]) * bf16_to_f32(scales[i >= split]);
}

/* The first n elements of the key or value at pos. */
static const float *kv_row(const op_attention *a, const attn_tile *t, const void *pages,
                           int32_t pos, int32_t n, float *buf) {
    int64_t head = kv_head_at(a, t->seq, t->kv_head, pos);
    int32_t at = pos % a->page_tokens;
    int64_t first = (head * a->page_tokens + at) * a->head_dim;
    if (a->kv_dt == DT_F32) return (const float *)pages + first;
    const uint16_t *h = (const uint16_t *)pages + first;
    if (a->kv_dt == DT_BF16)
        for (int32_t i = 0; i < n; i++) buf[i] = bf16_to_f32(h[i]);
    else
        row_of_codes(a, t, pages, head, at, n, buf);
    return buf;
}

static float dot(const float *x, const float *y, int32_t n) {
    float acc[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) acc[l] += x[i + l] * y[i + l];
    for (int l = 0; i < n; i++, l++) acc[l] += x[i] * y[i];
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

typedef struct running {
    float max;
    double sum, acc[LATENT_MAX_WIDTH];
} running;

/* One more logit, with the value v[d] or none. */
static void add_key(running *r, float score, const float *v, int32_t d) {
    if (score == -INFINITY) return;
    if (score > r->max) {
        double down = exp((double)r->max - score);
        r->sum *= down;
        for (int32_t i = 0; i < d; i++) r->acc[i] *= down;
        r->max = score;
    }
    double p = exp((double)score - r->max);
    r->sum += p;
    for (int32_t i = 0; v && i < d; i++) r->acc[i] += p * v[i];
}

static void attend(const op_attention *a, const attn_tile *t, int32_t query, int32_t head) {
    const attn_seq *s = t->seq;
    int32_t d = a->head_dim, dv = t->value_dim, pos = s->pos0 + query;
    int32_t last = attn_last_key(a, s, pos);
    const float *q = a->q + (int64_t)(s->row0 + query) * a->q_stride + (int64_t)head * d;
    float *out = (float *)a->out + (int64_t)(s->row0 + query) * a->out_stride + (int64_t)head * dv;
    float buf[LATENT_MAX_WIDTH];
    running r;
    r.max = -INFINITY;
    r.sum = 0;
    for (int32_t i = 0; i < dv; i++) r.acc[i] = 0;
    for (int32_t j = attn_first_key(a, pos); j <= last; j++) {
        float score = a->scale * dot(q, kv_row(a, t, a->k_pages, j, d, buf), d);
        if (a->softcap > 0) score = a->softcap * tanhf(score / a->softcap);
        if (a->alibi_slopes) score -= a->alibi_slopes[head] * (float)abs(pos - j);
        add_key(&r, score, kv_row(a, t, a->v_pages, j, dv, buf), dv);
    }
    if (a->sinks) add_key(&r, a->sinks[head], NULL, dv);
    for (int32_t i = 0; i < dv; i++) out[i] = (float)(r.acc[i] / r.sum);
}

static void tile(const op_attention *a, const attn_tile *t, void *scratch) {
    int32_t r = a->n_heads / a->n_kv_heads;
    for (int32_t f = t->f0; f < t->f1; f++) attend(a, t, f / r, t->kv_head * r + f % r);
}

static size_t scratch_bytes(const op_attention *a) {
    return 0;
}

const attention_row ref_attention_f32 = {"ref_attention_f32", 8, scratch_bytes, tile, NULL};
const attention_row ref_attention_bf16 = {"ref_attention_bf16", 8, scratch_bytes, tile, NULL};
const attention_row ref_attention_int8 = {"ref_attention_int8", 8, scratch_bytes, tile, NULL};
const attention_row ref_attention_f8 = {"ref_attention_f8", 8, scratch_bytes, tile, NULL};
const attention_row ref_latent_f32 = {"ref_latent_f32", 8, scratch_bytes, tile, NULL};
const attention_row ref_latent_bf16 = {"ref_latent_bf16", 8, scratch_bytes, tile, NULL};
const attention_row ref_latent_int8 = {"ref_latent_int8", 8, scratch_bytes, tile, NULL};
const attention_row ref_latent_f8 = {"ref_latent_f8", 8, scratch_bytes, tile, NULL};
