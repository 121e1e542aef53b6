/* The library computes base**(2j/d) and position*frequency in f32; so does this, because models
 * were trained with those roundings. cos and sin themselves are taken in double of the f32 angle.
 */
#include "engine/rope.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"

static bool same_factors(const rope_spec *r, const float *a, const float *b) {
    if (!a || !b) return a == b;
    return memcmp(a, b, (size_t)r->dim / 2 * sizeof *a) == 0;
}

bool rope_spec_equal(const rope_spec *a, const rope_spec *b) {
    return a->style == b->style && a->dim == b->dim && a->theta == b->theta &&
           a->scaling == b->scaling && a->factor == b->factor && a->ctx == b->ctx &&
           a->ctx_orig == b->ctx_orig && a->low_freq_factor == b->low_freq_factor &&
           a->high_freq_factor == b->high_freq_factor && a->beta_fast == b->beta_fast &&
           a->beta_slow == b->beta_slow && a->truncate == b->truncate &&
           a->attention_factor == b->attention_factor && a->fp16_freq == b->fp16_freq &&
           a->weight_factors == b->weight_factors && same_factors(a, a->factors, b->factors) &&
           same_factors(a, a->long_factors, b->long_factors);
}

void rope_spec_done(rope_spec *r) {
    mem_free(r->factors);
    mem_free(r->long_factors);
}

int32_t rope_len(const rope_spec *r, int32_t n_prompt, int32_t max_len) {
    if (r->scaling == SCALE_DYNAMIC && max_len > r->ctx) return max_len;
    if (r->scaling == SCALE_LONGROPE && max_len > r->ctx_orig) return max_len;
    if (r->scaling == SCALE_QWEN_NTK && n_prompt > r->ctx) return n_prompt;
    return 0;
}

bool rope_by_step(const rope_spec *r) {
    return r->scaling == SCALE_DYNAMIC || r->scaling == SCALE_LONGROPE ||
           r->scaling == SCALE_QWEN_NTK || r->style == ROPE_HALVES;
}

/* 2^ceil(log2(n / ctx) + 1) - 1 */
static double qwen_alpha(const rope_spec *r, int32_t len) {
    return len ? pow(2, ceil(log2((double)len / r->ctx) + 1)) - 1 : 1;
}

uint64_t rope_class(const rope_spec *r, int32_t n_prompt, int32_t max_len) {
    int32_t len = rope_len(r, n_prompt, max_len);
    if (r->scaling == SCALE_LONGROPE) return len > 0;
    if (r->scaling == SCALE_QWEN_NTK) return (uint64_t)qwen_alpha(r, len);
    return (uint64_t)len;
}

static float wave(double base, int32_t j, int32_t dim) {
    float exponent = (float)(2 * j) / (float)dim;
    return (float)pow((double)(float)base, (double)exponent);
}

/* Long waves are stretched by factor, short ones kept, those between blended. */
static float llama3_frequency(const rope_spec *r, float f) {
    double low_wave = r->ctx_orig / r->low_freq_factor;
    double high_wave = r->ctx_orig / r->high_freq_factor;
    float wave = (float)(2 * M_PI) / f;
    if (wave < high_wave) return f;
    if (wave > low_wave) return f / (float)r->factor;
    float s = ((float)r->ctx_orig / wave - (float)r->low_freq_factor) /
              (float)(r->high_freq_factor - r->low_freq_factor);
    return (1 - s) * f / (float)r->factor + s * f;
}

/* The dimension whose wave turns `turns` times in the original context. */
static double yarn_dim(const rope_spec *r, double turns) {
    return r->dim * log(r->ctx_orig / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

static float yarn_frequency(const rope_spec *r, float f, int32_t j) {
    double low = yarn_dim(r, r->beta_fast), high = yarn_dim(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = MAX(low, 0.0);
    high = MIN(high, (double)(r->dim - 1));
    if (low == high) high += 0.001;
    float ramp = (float)(((double)j - low) / (high - low));
    ramp = MIN(MAX(ramp, 0.0f), 1.0f);
    float keep = 1 - ramp;
    return f / (float)r->factor * (1 - keep) + f * keep;
}

void rope_inv_freq(const rope_spec *r, int32_t len, float *ret) {
    int32_t dim = r->style == ROPE_HALVES ? r->dim / 2 : r->dim; /* of one rotation */
    const float *factors = len && r->long_factors ? r->long_factors : r->factors;
    double base = r->theta, power = (double)dim / (dim - 2);
    if (r->scaling == SCALE_DYNAMIC && len)
        base *= pow(r->factor * len / r->ctx - (r->factor - 1), power);
    if (r->scaling == SCALE_QWEN_NTK) base *= pow(qwen_alpha(r, len), power);
    for (int32_t j = 0; j < r->dim / 2; j++) {
        float w = wave(base, j % (dim / 2), dim), f = 1.0f / (factors ? factors[j] * w : w);
        if (r->scaling == SCALE_LINEAR) f /= (float)r->factor;
        if (r->scaling == SCALE_LLAMA3) f = llama3_frequency(r, f);
        if (r->scaling == SCALE_YARN) f = yarn_frequency(r, f, j);
        ret[j] = r->fp16_freq ? f16_to_f32(f32_to_f16(f)) : f;
    }
}

void rope_row(const rope_spec *r, const float *inv_freq, int32_t pos, int32_t pos2, float *ret_cos,
              float *ret_sin) {
    float scale = (float)r->attention_factor;
    int32_t first = r->style == ROPE_HALVES ? r->dim / 4 : r->dim / 2;
    for (int32_t j = 0; j < r->dim / 2; j++) {
        float angle = (float)(j < first ? pos : pos2) * inv_freq[j];
        ret_cos[j] = (float)cos((double)angle) * scale;
        ret_sin[j] = (float)sin((double)angle) * scale;
    }
}
