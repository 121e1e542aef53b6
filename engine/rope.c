/* The library computes base**(2j/d) and position*frequency in f32; so does this, because models
 * were trained with those roundings. cos and sin themselves are taken in double of the f32 angle.
 */
#include "engine/rope.h"

#include <math.h>

#include "engine/base/mem.h"

bool rope_spec_equal(const rope_spec *a, const rope_spec *b) {
    return a->style == b->style && a->dim == b->dim && a->theta == b->theta &&
           a->scaling == b->scaling && a->factor == b->factor && a->ctx == b->ctx &&
           a->ctx_orig == b->ctx_orig && a->low_freq_factor == b->low_freq_factor &&
           a->high_freq_factor == b->high_freq_factor && a->beta_fast == b->beta_fast &&
           a->beta_slow == b->beta_slow && a->truncate == b->truncate &&
           a->attention_factor == b->attention_factor;
}

static float frequency(double base, int32_t j, int32_t dim) {
    float exponent = (float)(2 * j) / (float)dim;
    return 1.0f / (float)pow((double)(float)base, (double)exponent);
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

void rope_inv_freq(const rope_spec *r, int32_t max_len, float *ret) {
    double base = r->theta;
    if (rope_depends_on_len(r, max_len)) {
        double stretch = r->factor * max_len / r->ctx - (r->factor - 1);
        base *= pow(stretch, (double)r->dim / (r->dim - 2));
    }
    for (int32_t j = 0; j < r->dim / 2; j++) {
        float f = frequency(base, j, r->dim);
        if (r->scaling == SCALE_LINEAR) f /= (float)r->factor;
        if (r->scaling == SCALE_LLAMA3) f = llama3_frequency(r, f);
        if (r->scaling == SCALE_YARN) f = yarn_frequency(r, f, j);
        ret[j] = f;
    }
}

void rope_row(const rope_spec *r, const float *inv_freq, int32_t pos, float *ret_cos,
              float *ret_sin) {
    float scale = r->scaling == SCALE_YARN ? (float)r->attention_factor : 1.0f;
    for (int32_t j = 0; j < r->dim / 2; j++) {
        float angle = (float)pos * inv_freq[j];
        ret_cos[j] = (float)cos((double)angle) * scale;
        ret_sin[j] = (float)sin((double)angle) * scale;
    }
}
