/* Attention that defines the op: one query row at a time, keys in order, a running maximum with
 * the sums rescaled when it rises; sums in double.
 * Also the writer of its pages: rope and the [G][S][D] layout. */
#include <math.h>

#include "engine/base/mem.h"
#include "kernels/ref/ref.h"

#define LANES 8

/* Element index of (page of position pos, kv head g, position, 0). */
static int64_t kv_index(const op_attention *a, const attn_seq *s, int32_t g, int32_t pos) {
    int64_t page = s->pages[pos / a->page_tokens];
    return ((page * a->n_kv_heads + g) * a->page_tokens + pos % a->page_tokens) * a->head_dim;
}

static const float *kv_row(const void *pages, dtype dt, int64_t at, int32_t d, float *buf) {
    if (dt == DT_F32) return (const float *)pages + at;
    const uint16_t *h = (const uint16_t *)pages + at;
    for (int32_t i = 0; i < d; i++) buf[i] = bf16_to_f32(h[i]);
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

static void attend(const op_attention *a, const attn_seq *s, int32_t g, int32_t query,
                   int32_t head) {
    int32_t d = a->head_dim, pos = s->pos0 + query;
    int32_t first = a->window > 0 ? MAX(0, pos - a->window + 1) : 0;
    const float *q = a->q + (int64_t)(s->row0 + query) * a->q_stride + (int64_t)head * d;
    float *out = a->out + (int64_t)(s->row0 + query) * a->out_stride + (int64_t)head * d;
    float buf[ATTN_MAX_WIDTH];
    double acc[ATTN_MAX_WIDTH] = {0}, sum = 0;
    float max = -INFINITY;
    for (int32_t j = first; j <= pos; j++) {
        int64_t at = kv_index(a, s, g, j);
        float score = a->scale * dot(q, kv_row(a->k_pages, a->kv_dt, at, d, buf), d);
        if (a->softcap > 0) score = a->softcap * tanhf(score / a->softcap);
        if (a->alibi_slopes) score -= a->alibi_slopes[head] * (float)(pos - j);
        if (score == -INFINITY) continue;
        if (score > max) {
            double down = exp((double)max - score);
            sum *= down;
            for (int32_t i = 0; i < d; i++) acc[i] *= down;
            max = score;
        }
        double p = exp((double)score - max);
        sum += p;
        const float *v = kv_row(a->v_pages, a->kv_dt, at, d, buf);
        for (int32_t i = 0; i < d; i++) acc[i] += p * v[i];
    }
    for (int32_t i = 0; i < d; i++) out[i] = (float)(acc[i] / sum);
}

static void tile(const op_attention *a, const attn_tile *t, void *scratch) {
    int32_t r = a->n_heads / a->n_kv_heads;
    for (int32_t f = t->f0; f < t->f1; f++)
        attend(a, t->seq, t->kv_head, f / r, t->kv_head * r + f % r);
}

static size_t scratch_bytes(const op_attention *a) {
    return 0;
}

const attention_row ref_attention_f32 = {"ref_attention_f32", 8, scratch_bytes, tile, NULL};
const attention_row ref_attention_bf16 = {"ref_attention_bf16", 8, scratch_bytes, tile, NULL};

static void rotate(const op_rope_kv *a, float *x, const float *cosines, const float *sines) {
    int32_t half = a->rope_dim / 2;
    for (int32_t j = 0; j < half; j++) {
        float *x0 = a->style == ROPE_HALF ? x + j : x + 2 * j;
        float *x1 = a->style == ROPE_HALF ? x + j + half : x + 2 * j + 1;
        float u = *x0, v = *x1;
        *x0 = u * cosines[j] - v * sines[j];
        *x1 = v * cosines[j] + u * sines[j];
    }
}

static void write_kv(const op_rope_kv *a, void *pages, int64_t slot, const float *heads) {
    int32_t d = a->head_dim, page_tokens = a->page_tokens;
    for (int32_t g = 0; g < a->n_kv_heads; g++) {
        int64_t at =
            ((slot / page_tokens * a->n_kv_heads + g) * page_tokens + slot % page_tokens) * d;
        for (int32_t i = 0; i < d; i++)
            if (a->kv_dt == DT_F32)
                ((float *)pages)[at + i] = heads[g * d + i];
            else
                ((uint16_t *)pages)[at + i] = f32_to_bf16(heads[g * d + i]);
    }
}

static void rope_kv(const op_rope_kv *a, int32_t row0, int32_t row1) {
    int32_t d = a->head_dim, half = a->rope_dim / 2;
    for (int32_t t = row0; t < row1; t++) {
        float *q = a->qkv + t * a->qkv_stride, *k = q + (int64_t)a->n_heads * d;
        if (a->style != ROPE_NONE)
            for (int32_t h = 0; h < a->n_heads + a->n_kv_heads; h++)
                rotate(a, q + (int64_t)h * d, a->cos + (int64_t)a->pos[t] * half,
                       a->sin + (int64_t)a->pos[t] * half);
        write_kv(a, a->k_pages, a->kv_slot[t], k);
        write_kv(a, a->v_pages, a->kv_slot[t], k + (int64_t)a->n_kv_heads * d);
    }
}

const rope_kv_row ref_rope_kv = {"ref_rope_kv", rope_kv};
