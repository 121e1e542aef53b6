/* Rows of activations as 16-bit floats or as codes with a scale.
 *
 * The scale is the one of quant_round_acts (quant.c), so that codes of a row times its scale are
 * what that function makes of the row. What it leaves as it is, rows with an infinity or a NaN,
 * codes cannot hold: their scale is a NaN, which every product of them shows. */
#include "kernels/feed.h"

#include <math.h>

#include "kernels/f8_round.h"

static void store_codes(dtype dt, const float *x, int32_t n, uint8_t *to, float *ret_scale) {
    float most = 0, scale = 0;
    bool is_nan = false;
    for (int32_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(x[i]));
        is_nan |= isnan(x[i]);
    }
    scale = most / (dt == DT_I8 ? 127.0f : 448.0f);
    bool is_finite = !is_nan && !isinf(scale);
    for (int32_t i = 0; i < n; i++) {
        float v = is_finite && scale > 0 ? x[i] / scale : 0;
        if (dt == DT_I8)
            to[i] = (uint8_t)(int8_t)fminf(fmaxf(nearbyintf(v), -128.0f), 127.0f);
        else
            to[i] = f8_e4m3_code(v);
    }
    for (int32_t i = n; i % FEED_CODES_PAD; i++) to[i] = 0;
    *ret_scale = is_finite ? scale : NAN;
}

void feed_store(dtype dt, const float *x, int32_t n, void *to, float *ret_scale) {
    uint16_t *half = to;
    if (feed_is_codes(dt))
        store_codes(dt, x, n, to, ret_scale);
    else if (dt == DT_F32)
        memcpy(to, x, (size_t)n * sizeof *x);
    else
        for (int32_t i = 0; i < n; i++)
            half[i] = dt == DT_BF16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
}

void feed_load(dtype dt, const void *row, float scale, int32_t n, float *ret) {
    for (int32_t i = 0; i < n; i++) switch (dt) {
        case DT_F16: ret[i] = f16_to_f32(((const uint16_t *)row)[i]); break;
        case DT_BF16: ret[i] = bf16_to_f32(((const uint16_t *)row)[i]); break;
        case DT_I8: ret[i] = (float)((const int8_t *)row)[i] * scale; break;
        case DT_F8_E4M3: ret[i] = f8_e4m3_values[((const uint8_t *)row)[i]] * scale; break;
        default: ret[i] = ((const float *)row)[i];
        }
}
