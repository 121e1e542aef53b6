/* Choice of experts: a warp per token, its scores and choice values in shared memory. Scores are
 * computed in double and rounded to f32 before they are compared, by the formulas of kernels/ref,
 * so that a GPU chooses as a CPU does; only the sum of a softmax over all experts is added in
 * another (fixed) order, in double. Selection is top_k scans for the highest, equals to the lower
 * index. Not yet timed on a GPU. */
#include <float.h>
#include <math.h>

#include "kernels/cuda/cu_num.h"
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
}

#define WARPS 4           /* tokens of a block */
#define TAKEN (-INFINITY) /* below every rank */

/* A value as it is compared: NaN is the highest, and nothing is as low as TAKEN. */
static __device__ __forceinline__ float rank_of(float x) {
    return x != x ? INFINITY : x > -FLT_MAX ? x : -FLT_MAX;
}

/* Index of the highest of n values, the lowest such; the same in all lanes. */
static __device__ __forceinline__ int32_t highest(const float *v, int32_t n, int lane) {
    float best = -INFINITY;
    int32_t at = INT32_MAX;
    for (int32_t i = lane; i < n; i += CU_WARP)
        if (at == INT32_MAX || v[i] > best) best = v[i], at = i;
    for (int d = CU_WARP / 2; d; d >>= 1) {
        float other = __shfl_xor_sync(CU_FULL, best, d);
        int32_t from = __shfl_xor_sync(CU_FULL, at, d);
        if (from != INT32_MAX && (at == INT32_MAX || other > best || (other == best && from < at)))
            best = other, at = from;
    }
    return at;
}

static __device__ __forceinline__ double warp_sum(double x) {
    for (int d = CU_WARP / 2; d; d >>= 1) x += __shfl_xor_sync(CU_FULL, x, d);
    return x;
}

/* Softmax over x [n], written by the lanes that read. */
static __device__ __forceinline__ void softmax(const float *x, int32_t n, float *ret, int lane) {
    float max = -INFINITY;
    for (int32_t i = lane; i < n; i += CU_WARP) max = fmaxf(max, x[i]);
    max = cu_warp_max(max);
    double sum = 0;
    for (int32_t i = lane; i < n; i += CU_WARP) sum += exp(x[i] - (double)max);
    sum = warp_sum(sum);
    for (int32_t i = lane; i < n; i += CU_WARP) ret[i] = (float)(exp(x[i] - (double)max) / sum);
}

static __device__ __forceinline__ void scores_of(const op_route &a, const float *logits,
                                                 float *score, int lane) {
    if (a.score == SCORE_SOFTMAX) {
        softmax(logits, a.n_experts, score, lane);
        return;
    }
    for (int32_t e = lane; e < a.n_experts; e += CU_WARP)
        score[e] =
            a.score == SCORE_SIGMOID ? (float)(1 / (1 + exp(-(double)logits[e]))) : logits[e];
}

/* The two highest values of a group, the second added where the kind of choice asks for it. */
static __device__ __forceinline__ float group_value(const float *v, int32_t size, group_kind kind) {
    int32_t top = 0;
    for (int32_t i = 1; i < size; i++)
        if (v[i] > v[top]) top = i;
    if (kind == GROUP_MAX || size < 2) return v[top];
    int32_t second = top == 0 ? 1 : 0;
    for (int32_t i = second + 1; i < size; i++)
        if (i != top && v[i] > v[second]) second = i;
    return v[top] + v[second];
}

/* Take away the candidates of all groups but the best. of_group: [n_groups] */
static __device__ __forceinline__ void keep_groups(const op_route &a, float *choice,
                                                   float *of_group, int lane) {
    int32_t size = a.n_experts / a.n_groups;
    for (int32_t g = lane; g < a.n_groups; g += CU_WARP)
        of_group[g] = group_value(choice + g * size, size, a.group);
    __syncwarp();
    for (int32_t i = 0; i < a.top_groups; i++) {
        int32_t best = highest(of_group, a.n_groups, lane);
        __syncwarp();
        if (lane == 0) of_group[best] = TAKEN;
        __syncwarp();
    }
    for (int32_t e = lane; e < a.n_experts; e += CU_WARP)
        if (of_group[e / size] != TAKEN) choice[e] = TAKEN;
    __syncwarp();
}

/* The weights of the chosen, by one lane: few values, in the order of kernels/ref. */
static __device__ __forceinline__ void weigh(const op_route &a, float *weights) {
    double sum = 0;
    if (a.score == SCORE_SOFTMAX_TOPK) {
        double max = weights[0];
        for (int32_t j = 1; j < a.top_k; j++) max = weights[j] > max ? weights[j] : max;
        for (int32_t j = 0; j < a.top_k; j++) sum += exp(weights[j] - max);
        for (int32_t j = 0; j < a.top_k; j++) weights[j] = (float)(exp(weights[j] - max) / sum);
    }
    sum = 0;
    for (int32_t j = 0; j < a.top_k; j++) sum += weights[j];
    double factor = a.renorm ? a.scale / (sum + 1e-20) : a.scale;
    for (int32_t j = 0; j < a.top_k; j++) weights[j] = (float)(weights[j] * factor);
}

/* Shared memory of a warp: scores, choice values, values of groups. */
static __host__ __device__ __forceinline__ int32_t warp_floats(const op_route &a) {
    return 2 * a.n_experts + (a.group == GROUP_NONE ? 0 : a.n_groups);
}

static __global__ void route_kernel(op_route a) {
    CU_DYN_SHARED(float, shared);
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    int64_t t = (int64_t)blockIdx.x * WARPS + warp;
    if (t >= a.n_tokens) return;
    float *score = shared + warp * warp_floats(a), *choice = score + a.n_experts;
    scores_of(a, a.logits + t * a.logits_stride, score, lane);
    for (int32_t e = lane; e < a.n_experts; e += CU_WARP)
        choice[e] = rank_of(a.select_bias ? score[e] + a.select_bias[e] : score[e]);
    __syncwarp();
    if (a.group != GROUP_NONE) keep_groups(a, choice, choice + a.n_experts, lane);
    int32_t *ids = a.ids + t * a.top_k;
    float *weights = a.weights + t * a.top_k;
    for (int32_t j = 0; j < a.top_k; j++) {
        int32_t best = highest(choice, a.n_experts, lane);
        __syncwarp();
        if (lane == 0) {
            ids[j] = best;
            weights[j] = score[best];
            choice[best] = TAKEN;
        }
        __syncwarp();
    }
    if (lane == 0) weigh(a, weights);
}

static void check(const op_route *a) {
    CHECK(a->n_experts > 0 && a->n_experts <= ROUTE_MAX_EXPERTS && a->top_k > 0);
    if (a->group != GROUP_NONE) {
        CHECK(a->n_groups > 0 && a->n_experts % a->n_groups == 0);
        CHECK(a->top_groups > 0 && a->top_groups <= a->n_groups);
        CHECK(a->top_k <= a->n_experts / a->n_groups * a->top_groups);
    }
    CHECK(a->top_k <= a->n_experts);
}

void cuda_route(backend *b, const op_route *a) {
    cuda_backend *c = cuda_of(b);
    check(a);
    if (!cuda_ready(c) || a->n_tokens <= 0) return;
    size_t smem = WARPS * (size_t)warp_floats(*a) * sizeof(float);
    if (smem > 48 * 1024) /* 1024 experts in nearly as many groups */
        cuda_note(c,
                  cudaFuncSetAttribute((const void *)route_kernel,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem),
                  "route");
    CU_LAUNCH(route_kernel, dim3((unsigned)CEIL_DIV(a->n_tokens, WARPS)), dim3(WARPS * CU_WARP),
              smem, c->stream, *a);
    cuda_launched(c, "route");
}
