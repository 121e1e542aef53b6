/* Rotary embedding, and the writers of KV pages in the reference layouts: [G][S][D], and [S][L+R]
 * for latent rows. In eight bits (kv8.h) the S*D codes of a head are followed by its S scales, the
 * S*(L+R) codes of a latent page by [S][2]. */
#include "kernels/kv8.h"
#include "kernels/ref/ref.h"

static void rotate_pair(float *x0, float *x1, float cosine, float sine) {
    float u = *x0, v = *x1;
    *x0 = u * cosine - v * sine;
    *x1 = v * cosine + u * sine;
}

/* Elements j and j + half, j < half. */
static void rotate_half(float *x, int32_t half, const float *cosines, const float *sines) {
    for (int32_t j = 0; j < half; j++) rotate_pair(x + j, x + j + half, cosines[j], sines[j]);
}

static void rotate(rope_style style, float *x, int32_t rope_dim, const float *cosines,
                   const float *sines) {
    int32_t half = rope_dim / 2;
    switch (style) {
    case ROPE_NONE: break;
    case ROPE_HALF: rotate_half(x, half, cosines, sines); break;
    case ROPE_PAIR:
        for (int32_t j = 0; j < half; j++)
            rotate_pair(x + 2 * j, x + 2 * j + 1, cosines[j], sines[j]);
        break;
    case ROPE_HALVES:
        rotate_half(x, half / 2, cosines, sines);
        rotate_half(x + half, half / 2, cosines + half / 2, sines + half / 2);
        break;
    }
}

/* n elements to place `at` of pages. */
static void write_row(void *pages, dtype dt, int64_t at, const float *from, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if (dt == DT_F32)
            ((float *)pages)[at + i] = from[i];
        else
            ((uint16_t *)pages)[at + i] = f32_to_bf16(from[i]);
}

/* n codes and their scale. */
static void write_run(dtype dt, const float *from, int32_t n, uint8_t *codes, void *scale) {
    uint32_t largest = 0;
    float inverse;
    for (int32_t i = 0; i < n; i++) largest = kv8_largest(largest, from[i]);
    uint16_t s = kv8_scale(dt, largest, &inverse);
    for (int32_t i = 0; i < n; i++) codes[i] = kv8_code(dt, from[i], inverse);
    memcpy(scale, &s, sizeof s);
}

static void write_kv(const op_rope_kv *a, void *pages, int64_t slot, const float *heads) {
    int32_t d = a->head_dim, page_tokens = a->page_tokens, at = (int32_t)(slot % page_tokens);
    for (int32_t g = 0; g < a->n_kv_heads; g++) {
        int64_t head = slot / page_tokens * a->n_kv_heads + g;
        const float *from = heads + (int64_t)g * d;
        if (kv_is_8bit(a->kv_dt)) {
            uint8_t *block =
                (uint8_t *)pages + head * (int64_t)kv_page_bytes(a->kv_dt, page_tokens, d, 1);
            uint8_t *scales = block + (int64_t)page_tokens * d;
            write_run(a->kv_dt, from, d, block + (int64_t)at * d, scales + at * KV8_SCALE_BYTES);
        } else
            write_row(pages, a->kv_dt, (head * page_tokens + at) * d, from, d);
    }
}

static void write_latent(const op_latent_kv *a, int64_t slot, const float *kv) {
    int32_t width = a->latent + a->rope_dim, page_tokens = a->page_tokens;
    int32_t at = (int32_t)(slot % page_tokens);
    if (!kv_is_8bit(a->kv_dt)) {
        write_row(a->pages, a->kv_dt, slot * width, kv, width);
        return;
    }
    uint8_t *page = (uint8_t *)a->pages +
                    slot / page_tokens *
                        (int64_t)kv_page_bytes(a->kv_dt, page_tokens, width, KV8_LATENT_SCALES);
    uint8_t *codes = page + (int64_t)at * width;
    uint8_t *scales =
        page + (int64_t)page_tokens * width + at * KV8_LATENT_SCALES * KV8_SCALE_BYTES;
    write_run(a->kv_dt, kv, a->latent, codes, scales);
    write_run(a->kv_dt, kv + a->latent, a->rope_dim, codes + a->latent, scales + KV8_SCALE_BYTES);
}

static void rope_kv(const op_rope_kv *a, int32_t row0, int32_t row1) {
    int32_t d = a->head_dim, half = a->rope_dim / 2;
    for (int32_t t = row0; t < row1; t++) {
        float *q = a->qkv + t * a->qkv_stride, *k = q + (int64_t)a->n_heads * d;
        if (a->style != ROPE_NONE)
            for (int32_t h = 0; h < a->n_heads + a->n_kv_heads; h++)
                rotate(a->style, q + (int64_t)h * d, a->rope_dim,
                       a->cos + (int64_t)a->pos[t] * half, a->sin + (int64_t)a->pos[t] * half);
        write_kv(a, a->k_pages, a->kv_slot[t], k);
        write_kv(a, a->v_pages, a->kv_slot[t], k + (int64_t)a->n_kv_heads * d);
    }
}

static void latent_kv(const op_latent_kv *a, int32_t row0, int32_t row1) {
    int32_t half = a->rope_dim / 2;
    for (int32_t t = row0; t < row1; t++) {
        float *q = a->q + t * a->q_stride + a->q_off, *kv = a->kv + t * a->kv_stride;
        if (a->style != ROPE_NONE) {
            const float *cosines = a->cos + (int64_t)a->pos[t] * half;
            const float *sines = a->sin + (int64_t)a->pos[t] * half;
            for (int32_t h = 0; h < a->n_heads; h++)
                rotate(a->style, q + h * a->q_head_stride, a->rope_dim, cosines, sines);
            rotate(a->style, kv + a->latent, a->rope_dim, cosines, sines);
        }
        write_latent(a, a->kv_slot[t], kv);
    }
}

const rope_kv_row ref_rope_kv = {"ref_rope_kv", rope_kv};
const latent_kv_row ref_latent_kv = {"ref_latent_kv", latent_kv};
