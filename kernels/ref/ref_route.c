/* Choice of experts. Scores are computed in double and rounded to f32 before they are compared, as
 * a model in f32 would see them. Selection is top_k scans for the highest: k and E are small, and
 * an ascending scan gives equals to the lower index. All levels share this row, so that all choose
 * the same experts; next to the products of the chosen its time does not show. */
#include <float.h>
#include <math.h>

#include "engine/base/mem.h"
#include "kernels/ref/ref.h"

#define TAKEN (-INFINITY) /* below every rank */

/* A value as it is compared: NaN is the highest, and nothing is as low as TAKEN. */
static float rank(float x) {
    return isnan(x) ? INFINITY : MAX(x, -FLT_MAX);
}

static int32_t highest(const float *v, int32_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (v[i] > v[best]) best = i;
    return best;
}

static void softmax(const float *x, int32_t n, float *ret) {
    double max = x[0], sum = 0;
    for (int32_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int32_t i = 0; i < n; i++) sum += exp(x[i] - max);
    for (int32_t i = 0; i < n; i++) ret[i] = (float)(exp(x[i] - max) / sum);
}

static void scores_of(const op_route *a, const float *logits, float *score) {
    for (int32_t e = 0; e < a->n_experts; e++)
        score[e] =
            a->score == SCORE_SIGMOID ? (float)(1 / (1 + exp(-(double)logits[e]))) : logits[e];
    if (a->score == SCORE_SOFTMAX) softmax(logits, a->n_experts, score);
}

/* Take away the candidates of all groups but the best. */
static void keep_groups(const op_route *a, float *choice) {
    int32_t size = a->n_experts / a->n_groups;
    float of_group[ROUTE_MAX_EXPERTS];
    for (int32_t g = 0; g < a->n_groups; g++) {
        const float *v = choice + g * size;
        int32_t top = highest(v, size), second = top == 0 ? 1 : 0;
        of_group[g] = v[top];
        if (a->group == GROUP_MAX || size < 2) continue;
        for (int32_t i = second + 1; i < size; i++)
            if (i != top && v[i] > v[second]) second = i;
        of_group[g] += v[second];
    }
    for (int32_t i = 0; i < a->top_groups; i++) of_group[highest(of_group, a->n_groups)] = TAKEN;
    for (int32_t e = 0; e < a->n_experts; e++)
        if (of_group[e / size] != TAKEN) choice[e] = TAKEN;
}

static void weigh(const op_route *a, float *weights) {
    double sum = 0;
    if (a->score == SCORE_SOFTMAX_TOPK) softmax(weights, a->top_k, weights);
    for (int32_t j = 0; j < a->top_k; j++) sum += weights[j];
    double factor = a->renorm ? a->scale / (sum + 1e-20) : a->scale;
    for (int32_t j = 0; j < a->top_k; j++) weights[j] = (float)(weights[j] * factor);
}

static void route(const op_route *a, int32_t row0, int32_t row1) {
    float score[ROUTE_MAX_EXPERTS], choice[ROUTE_MAX_EXPERTS];
    for (int32_t t = row0; t < row1; t++) {
        int32_t *ids = a->ids + (int64_t)t * a->top_k;
        float *weights = a->weights + (int64_t)t * a->top_k;
        scores_of(a, a->logits + t * a->logits_stride, score);
        for (int32_t e = 0; e < a->n_experts; e++)
            choice[e] = rank(a->select_bias ? score[e] + a->select_bias[e] : score[e]);
        if (a->group != GROUP_NONE) keep_groups(a, choice);
        for (int32_t j = 0; j < a->top_k; j++) {
            ids[j] = highest(choice, a->n_experts);
            weights[j] = score[ids[j]];
            choice[ids[j]] = TAKEN;
        }
        weigh(a, weights);
    }
}

const route_row ref_route = {"ref_route", route};
