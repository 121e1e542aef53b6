/* The small ops, one row at a time, sums in double. */
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"

static void embed(const op_embed *a, int32_t row0, int32_t row1) {
    for (int32_t t = row0; t < row1; t++) {
        int64_t from = (int64_t)a->ids[t] * a->width;
        float *out = a->out + (int64_t)t * a->width;
        for (int32_t i = 0; i < a->width; i++) {
            float v = a->table_dt == DT_F32   ? ((const float *)a->table)[from + i]
                      : a->table_dt == DT_F16 ? f16_to_f32(((const uint16_t *)a->table)[from + i])
                                              : bf16_to_f32(((const uint16_t *)a->table)[from + i]);
            out[i] = a->accumulate ? out[i] + a->scale * v : a->scale * v;
        }
    }
}

static void norm_one(const op_norm *a, int32_t group, const float *x, float *out) {
    int32_t n = a->width;
    int64_t at = group * a->weight_stride;
    double mean = 0, square = 0;
    if (a->kind == NORM_LAYER) {
        for (int32_t i = 0; i < n; i++) mean += x[i];
        mean /= n;
    }
    for (int32_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(square / n + a->eps);
    for (int32_t i = 0; i < n; i++) {
        double v = (x[i] - mean) * scale * (a->weight ? a->weight[at + i] : 1.0f);
        out[i] = (float)(v + (a->bias ? a->bias[at + i] : 0.0f));
    }
}

static void norm(const op_norm *a, int32_t row0, int32_t row1) {
    for (int32_t r = row0; r < row1; r++) {
        float *x = a->x + r * a->x_stride;
        if (a->add)
            for (int32_t i = 0; i < a->width; i++) x[i] += a->add[r * a->add_stride + i];
        for (int32_t g = 0; g < a->n_groups; g++)
            norm_one(a, g, x + (int64_t)g * a->width,
                     (float *)a->out + r * a->out_stride + (int64_t)g * a->width);
    }
}

static double times_sigmoid(double x, double y) {
    return x / (1 + exp(-y));
}

/* NaN stays. */
static double clamp(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

static double activate(act_kind kind, double x) {
    switch (kind) {
    case ACT_SILU: return times_sigmoid(x, x);
    case ACT_GELU: return 0.5 * x * erfc(-x * M_SQRT1_2);
    case ACT_GELU_TANH:
        return times_sigmoid(x, 2 * 0.7978845608028654 * (x + 0.044715 * x * x * x));
    case ACT_RELU: return x < 0 ? 0 : x;
    case ACT_QUICK_GELU: return times_sigmoid(x, 1.702 * x);
    case ACT_RELU2: return x < 0 ? 0 : x * x;
    case ACT_TANH: return tanh(x);
    case ACT_SIGMOID: return times_sigmoid(1, x);
    case ACT_SWIGLU_OAI:
    case ACT_COUNT: break;
    }
    return x;
}

static double activate_gated(act_kind kind, double gate, double up) {
    if (kind != ACT_SWIGLU_OAI) return activate(kind, gate) * up;
    double g = gate > 7 ? 7 : gate;
    return (clamp(up, -7, 7) + 1) * activate(ACT_QUICK_GELU, g);
}

static void act(const op_act *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1) {
    for (int32_t r = row0; r < row1; r++) {
        const float *in = a->in + r * a->in_stride;
        float *out = (float *)a->out + r * a->out_stride;
        for (int32_t c = col0; c < col1; c++) {
            out[c] = (float)(a->gated ? activate_gated(a->kind, in[c], in[a->width + c])
                                      : activate(a->kind, in[c]));
        }
    }
}

static void add(const op_add *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1) {
    for (int32_t r = row0; r < row1; r++) {
        float *x = a->x + r * a->x_stride;
        const float *y = a->y + r * a->y_stride;
        for (int32_t c = col0; c < col1; c++) {
            float scaled = a->y_scale * y[c];
            x[c] = a->x_scale == 0 ? scaled : a->x_scale * x[c] + scaled;
        }
    }
}

static void scale(const op_scale *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1) {
    for (int32_t r = row0; r < row1; r++) {
        float *x = a->x + r * a->x_stride;
        double factor = a->scale;
        if (a->row) {
            double f = a->row[r * a->row_stride];
            factor *= a->row_sigmoid ? times_sigmoid(1, f) : f;
        }
        for (int32_t c = col0; c < col1; c++)
            x[c] = (float)(x[c] * factor * (a->col ? a->col[c] : 1.0f));
    }
}

static void limit(const op_limit *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1) {
    double top = a->limit;
    for (int32_t r = row0; r < row1; r++) {
        float *x = a->x + r * a->x_stride;
        for (int32_t c = col0; c < col1; c++)
            x[c] =
                (float)(a->kind == LIMIT_CLAMP ? clamp(x[c], -top, top) : top * tanh(x[c] / top));
    }
}

static void copy_pages(const op_copy_pages *a, int32_t buffer0, int32_t buffer1) {
    for (int32_t b = buffer0; b < buffer1; b++)
        for (int32_t i = 0; i < a->n_copies; i++)
            if (a->src[i] != a->dst[i])
                memcpy((char *)a->buffers[b] + (size_t)a->dst[i] * a->page_bytes,
                       (char *)a->buffers[b] + (size_t)a->src[i] * a->page_bytes, a->page_bytes);
}

static void logsumexp(const float *x, int32_t n, float *ret_max, double *ret_sum,
                      int32_t *ret_argmax) {
    int32_t arg = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[arg] || (isnan(x[i]) && !isnan(x[arg]))) arg = i;
    double sum = 0;
    if (x[arg] != -INFINITY)
        for (int32_t i = 0; i < n; i++) sum += exp((double)x[i] - x[arg]);
    *ret_max = x[arg];
    *ret_sum = sum;
    *ret_argmax = arg;
}

const embed_row ref_embed = {"ref_embed", embed};
const norm_row ref_norm = {"ref_norm", norm};
const act_row ref_act = {"ref_act", act};
const add_row ref_add = {"ref_add", add};
const scale_row ref_scale = {"ref_scale", scale};
const limit_row ref_limit = {"ref_limit", limit};
const copy_pages_row ref_copy_pages = {"ref_copy_pages", copy_pages};
const logsumexp_row ref_logsumexp = {"ref_logsumexp", logsumexp};
