/* Products with quantised weights, and the passes that dequantise weights or round activations.
 *
 * Few rows, and experts: a warp takes 256 columns of its two features at a time. It fetches their
 * bytes by words, one strip ahead, into shared memory of its own; each lane decodes sixteen values
 * from there, and the values are multiplied as cu_lanes.h does. So no bits differ from a product
 * with the same values as f32, and only __syncwarp orders the warp. Weights are decoded once for
 * each tile of rows. Many rows of one matrix: weights are expanded to f32 in scratch, some rows at
 * a time, and gemm_lanes multiplies.
 *
 * Expected limits, not timed on a GPU: decoding for few rows (some ten instructions a weight), the
 * f32 rate for many. Where 16-bit arithmetic is allowed, cuda_gemm_values.cu takes these values to
 * the tensor cores. */
#include "kernels/cuda/cu_f8.h"
#include "kernels/cuda/cu_lanes.h"
#include "kernels/cuda/cu_strip.h"

#define WARPS     8
#define RUN_PITCH 20 /* floats between runs: stores of 16 bytes by neighbours meet other banks */

/* Decode the strip: lane l does run l % 16 of feature l / 16. */
static __device__ __forceinline__ void decode(const gemm_w &w, const warp_strip &s, int32_t k,
                                              int32_t k0, const uint32_t *raw, cu_floats *strip) {
    float v[CU_RUN];
    strip_decode(w, s, k, k0, raw, v);
    cu_floats *to = strip + threadIdx.x % CU_WARP * (RUN_PITCH / 4);
#pragma unroll
    for (int i = 0; i < CU_RUN / 4; i++) {
        cu_floats four = {v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]};
        to[i] = four;
    }
}

/* Four values of feature f from column k of the strip, k a multiple of 4. */
static __device__ __forceinline__ cu_floats strip_at(const cu_floats *strip, int f, int32_t k) {
    return strip[(f * STRIP_RUNS + k / CU_RUN) * (RUN_PITCH / 4) + k % CU_RUN / 4];
}

/* ---- Products ---- */

template <int TM, bool aligned>
static __global__ void __launch_bounds__(WARPS *CU_WARP) unpack_kernel(const gemm_call c) {
    __shared__ cu_floats strips[WARPS][CU_WARP * RUN_PITCH / 4];
    __shared__ uint32_t raws[WARPS][FEATURES * RAW_WORDS];
    gemm_place p;
    if (!gemm_place_of(c, WARPS * FEATURES, TM, &p)) return;
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    int32_t f0 = warp * FEATURES;
    if (p.n0 + f0 >= c.n) return;
    gemm_w w = c.experts ? c.experts[p.expert] : c.w;
    warp_strip s = {};
#pragma unroll
    for (int f = 0; f < FEATURES; f++)
        s.row[f] = p.rows + (p.n0 + f0 + f < c.n ? p.n0 + f0 + f : c.n - 1) * p.row_bytes;
    const float *a[TM];
#pragma unroll
    for (int t = 0; t < TM; t++)
        a[t] = c.a + gemm_a_row(c, p.row0 + (t < p.n_rows ? t : p.n_rows - 1)) * c.a_stride;
    float sum[TM * FEATURES] = {};
    fetch(w, c.k, 0, &s);
    for (int32_t k0 = 0; k0 < c.k; k0 += STRIP) {
        put_words(s, raws[warp]);
        __syncwarp();
        fetch(w, c.k, k0 + STRIP, &s);
        decode(w, s, c.k, k0, raws[warp], strips[warp]);
        __syncwarp();
#pragma unroll
        for (int32_t at = 0; at < STRIP; at += LANES_STEP) {
            int32_t k = k0 + at + lane * 4;
            if (k >= c.k) continue;
            cu_floats w0 = strip_at(strips[warp], 0, k - k0),
                      w1 = strip_at(strips[warp], 1, k - k0);
#pragma unroll
            for (int t = 0; t < TM; t++) {
                cu_floats ak = lanes_a<aligned>(a[t], k, c.k);
                sum[t * FEATURES] = lanes_fma(ak, w0, sum[t * FEATURES]);
                sum[t * FEATURES + 1] = lanes_fma(ak, w1, sum[t * FEATURES + 1]);
            }
        }
        __syncwarp();
    }
    lanes_put<FEATURES, TM>(c, p, f0, 0, sum);
}

template <bool aligned>
static void launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block(WARPS * CU_WARP);
    if (p->tokens == 1)
        CU_LAUNCH((unpack_kernel<1, aligned>), grid, block, 0, c->stream, *g);
    else if (p->tokens == 4)
        CU_LAUNCH((unpack_kernel<4, aligned>), grid, block, 0, c->stream, *g);
    else
        CU_LAUNCH((unpack_kernel<8, aligned>), grid, block, 0, c->stream, *g);
}

void gemm_unpack(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    bool aligned = (uintptr_t)g->a % 16 == 0 && g->a_stride % 4 == 0;
    if (aligned)
        launch<true>(c, g, p);
    else
        launch<false>(c, g, p);
    cuda_launched(c, "gemm");
}

/* One thread a run; ld is k rounded up to 4. */
static __global__ void __launch_bounds__(256)
    expand_kernel(const gemm_w w, int32_t k, int32_t ld, int32_t row0, int32_t n_rows, float *to) {
    int32_t runs = (k + CU_RUN - 1) / CU_RUN;
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= (int64_t)runs * n_rows) return;
    int64_t r = i / runs;
    int32_t k0 = (int32_t)(i - r * runs) * CU_RUN;
    float v[CU_RUN];
    const uint8_t *row = w.rows + (row0 + r) * w.row_bytes;
    quant_run(w, row, row + quant_at(w.dt, k0), k, k0, v);
    cu_floats *at = (cu_floats *)(to + r * ld + k0);
#pragma unroll
    for (int j = 0; j < CU_RUN / 4; j++) {
        cu_floats four = {v[4 * j], v[4 * j + 1], v[4 * j + 2], v[4 * j + 3]};
        if (k0 + 4 * j < ld) at[j] = four;
    }
}

void gemm_expand(cuda_backend *c, const gemm_w *w, int32_t k, int32_t row0, int32_t n_rows,
                 float *to) {
    int64_t n = (int64_t)CEIL_DIV(k, CU_RUN) * n_rows;
    CU_LAUNCH(expand_kernel, dim3((unsigned)CEIL_DIV(n, 256)), dim3(256), 0, c->stream, *w, k,
              (int32_t)cuda_ld(DT_F32, k), row0, n_rows, to);
    cuda_launched(c, "gemm");
}

/* ---- Activations ---- */

#define ROUND_THREADS 256

static __device__ __forceinline__ float round_code(float x, float zero) {
    float code = nearbyintf(x) + zero;
    return fminf(fmaxf(code, -128.0f), 127.0f) - zero;
}

/* Columns [k0, k1) of a row by one scale, by the threads [0, n) of which this is number `at`. */
static __device__ __forceinline__ void round_columns(const quant_spec &q, const float *x,
                                                     int32_t k0, int32_t k1, float most, int at,
                                                     int n, float *to) {
    bool fp8 = cu_act_is_fp8(q.act);
    float zero = q.act == ACT_ROUND_INT8_STATIC ? (float)q.act_zero : 0;
    bool fixed = q.act == ACT_ROUND_INT8_STATIC || q.act == ACT_ROUND_FP8_STATIC;
    float s = fixed ? q.act_scale : most / (fp8 ? 448.0f : 127.0f);
    bool rounds = q.act != ACT_ROUND_NONE && s > 0 && !isinf(s);
    for (int32_t i = k0 + at; i < k1; i += n) {
        float v = x[i];
        if (rounds && !isnan(v)) v = (fp8 ? f8_e4m3_round(v / s) : round_code(v / s, zero)) * s;
        to[i] = v;
    }
}

/* The largest |x| of a row, in every thread. */
static __device__ __forceinline__ float row_max(const float *x, int32_t k, float *shared) {
    float most = 0;
    for (int32_t i = threadIdx.x; i < k; i += ROUND_THREADS) most = fmaxf(most, fabsf(x[i]));
    most = cu_warp_max(most);
    if (threadIdx.x % CU_WARP == 0) shared[threadIdx.x / CU_WARP] = most;
    __syncthreads();
    for (int i = 0; i < ROUND_THREADS / CU_WARP; i++) most = fmaxf(most, shared[i]);
    return most;
}

/* A warp a group of columns. */
static __device__ __forceinline__ void round_groups(const quant_spec &q, const float *x, int32_t k,
                                                    float *to) {
    int lane = threadIdx.x % CU_WARP;
    for (int32_t k0 = threadIdx.x / CU_WARP * ACT_GROUP; k0 < k;
         k0 += ROUND_THREADS / CU_WARP * ACT_GROUP) {
        int32_t k1 = k0 + ACT_GROUP < k ? k0 + ACT_GROUP : k;
        float most = 0;
        for (int32_t i = k0 + lane; i < k1; i += CU_WARP) most = fmaxf(most, fabsf(x[i]));
        round_columns(q, x, k0, k1, cu_warp_max(most), lane, CU_WARP, to);
    }
}

/* A block a row: quant_round_acts of quant.h. */
static __global__ void __launch_bounds__(ROUND_THREADS)
    round_acts_kernel(const gemm_call c, const int32_t *row_expert, float *to) {
    __shared__ float shared[ROUND_THREADS / CU_WARP];
    int64_t r = blockIdx.x;
    const float *x = (const float *)c.in.p + gemm_a_row(c, (int32_t)r) * c.in.stride;
    quant_spec q = c.w.q;
    if (c.experts) q = c.experts[row_expert[r]].q;
    to += r * c.k;
    if (q.act == ACT_ROUND_FP8_GROUP)
        round_groups(q, x, c.k, to);
    else
        round_columns(q, x, 0, c.k, row_max(x, c.k, shared), threadIdx.x, ROUND_THREADS, to);
}

void gemm_round_acts(cuda_backend *c, const gemm_call *g, int32_t n_rows, const int32_t *row_expert,
                     float *to) {
    CU_LAUNCH(round_acts_kernel, dim3((unsigned)n_rows), dim3(ROUND_THREADS), 0, c->stream, *g,
              row_expert, to);
    cuda_launched(c, "gemm");
}
