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
 * f32 rate for many. Tensor cores would need 16-bit values, which are not those of quant.h. */
#include "kernels/cuda/cu_lanes.h"
#include "kernels/cuda/cu_quant.h"

#define WARPS      8
#define FEATURES   2  /* of a warp */
#define RUN_PITCH  20 /* floats between runs: stores of 16 bytes by neighbours meet other banks */
#define STRIP      QUANT_STRIP
#define STRIP_RUNS (STRIP / CU_RUN)
/* Bytes that 256 columns take: 292 of q8_K at most; words that hold them from any address. */
#define RAW_WORDS 74
#define RAW_EACH  ((FEATURES * RAW_WORDS + CU_WARP - 1) / CU_WARP)

/* ---- Sixteen values ---- */

/* Codes of one word or several to values, where one group holds the run. */
static __device__ __forceinline__ void codes_run(const codes_row &r, const uint8_t *codes,
                                                 int32_t k0, float v[CU_RUN]) {
    int32_t g = k0 / r.q->group;
    float scale = scale_at(&r, g);
    int zero = zero_at(&r, g);
#pragma unroll
    for (int i = 0; i < CU_RUN; i++) {
        int code = r.bits == 8 ? codes[i] : codes[i / 2] >> i % 2 * 4 & 15;
        v[i] = (r.table ? r.table[code] : (float)(code - zero)) * scale;
    }
}

/* Where column k0's bytes begin in a stored row, k0 a multiple of 16 (of a block for GGUF types:
 * the block that holds it). */
static __device__ __forceinline__ int64_t quant_at(dtype dt, int32_t k0) {
    int32_t values = cu_dtypes[dt].values;
    return (int64_t)(k0 / values) * cu_dtypes[dt].bytes;
}

/* Columns k0 .. k0+15 of a stored row of k, zeros from column k on; `bytes` holds what quant_at
 * names, which may be a copy. */
static __device__ __forceinline__ void quant_run(const gemm_w &w, const uint8_t *row,
                                                 const uint8_t *bytes, int32_t k, int32_t k0,
                                                 float v[CU_RUN]) {
    if (!w.is_codes) {
        cu_block_run(w.dt, bytes, k0 % cu_dtypes[w.dt].values / CU_RUN, v);
        return;
    }
    codes_row r = cu_codes(w.dt, &w.q, k, w.side, row);
    bool whole = k0 + CU_RUN <= k && !r.order && r.bits >= 4;
    if (whole && k0 / w.q.group == (k0 + CU_RUN - 1) / w.q.group) {
        codes_run(r, bytes, k0, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < CU_RUN; i++) v[i] = 0;
    codes_f32(&r, k0, k - k0 < CU_RUN ? k - k0 : CU_RUN, v);
}

/* ---- A strip of a warp's features ---- */

typedef struct warp_strip {
    const uint8_t *row[FEATURES];
    uint32_t words[RAW_EACH]; /* of the strip to come, on their way */
} warp_strip;

/* The bytes of columns [k0, k0+STRIP) of a row. */
static __device__ __forceinline__ const uint8_t *
strip_bytes(const gemm_w &w, const uint8_t *row, int32_t k, int32_t k0, int32_t *ret_n) {
    int32_t k1 = k0 + STRIP < k ? k0 + STRIP : k, values = cu_dtypes[w.dt].values;
    int64_t from = quant_at(w.dt, k0);
    *ret_n = (int32_t)((int64_t)((k1 + values - 1) / values) * cu_dtypes[w.dt].bytes - from);
    return row + from;
}

/* Words from the one that holds the first byte to the one that holds the last: rows begin at any
 * byte, memory ends at a word. */
static __device__ __forceinline__ void fetch(const gemm_w &w, int32_t k, int32_t k0,
                                             warp_strip *s) {
#pragma unroll
    for (int i = 0; i < RAW_EACH; i++) {
        int at = threadIdx.x % CU_WARP + i * CU_WARP, f = at / RAW_WORDS, n;
        if (f >= FEATURES || k0 >= k) continue;
        const uint8_t *p = strip_bytes(w, f ? s->row[1] : s->row[0], k, k0, &n);
        int skip = (int)((uintptr_t)p % 4), word = at % RAW_WORDS;
        if (word * 4 < skip + n) s->words[i] = ((const uint32_t *)(p - skip))[word];
    }
}

static __device__ __forceinline__ void put_words(const warp_strip &s, uint32_t *raw) {
#pragma unroll
    for (int i = 0; i < RAW_EACH; i++) {
        int at = threadIdx.x % CU_WARP + i * CU_WARP;
        if (at < FEATURES * RAW_WORDS) raw[at] = s.words[i];
    }
}

/* Decode the strip: lane l does run l % 16 of feature l / 16. */
static __device__ __forceinline__ void decode(const gemm_w &w, const warp_strip &s, int32_t k,
                                              int32_t k0, const uint32_t *raw, cu_floats *strip) {
    int lane = threadIdx.x % CU_WARP, f = lane / STRIP_RUNS, n;
    int32_t at = k0 + lane % STRIP_RUNS * CU_RUN;
    float v[CU_RUN] = {};
    const uint8_t *row = f ? s.row[1] : s.row[0], *p = strip_bytes(w, row, k, k0, &n);
    const uint8_t *copy = (const uint8_t *)(raw + f * RAW_WORDS) + (uintptr_t)p % 4;
    if (at < k) quant_run(w, row, copy + (quant_at(w.dt, at) - quant_at(w.dt, k0)), k, at, v);
    cu_floats *to = strip + lane * (RUN_PITCH / 4);
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

static __device__ __forceinline__ float round_code(float x, float zero) {
    float code = nearbyintf(x) + zero;
    return fminf(fmaxf(code, -128.0f), 127.0f) - zero;
}

#define ROUND_THREADS 256

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

/* A block a row: quant_round_acts of quant.h. */
static __global__ void __launch_bounds__(ROUND_THREADS)
    round_acts_kernel(const gemm_call c, const int32_t *row_expert, float *to) {
    __shared__ float shared[ROUND_THREADS / CU_WARP];
    int64_t r = blockIdx.x;
    const float *x = (const float *)c.in.p + gemm_a_row(c, (int32_t)r) * c.in.stride;
    const gemm_w *w = c.experts ? &c.experts[row_expert[r]] : &c.w;
    act_round act = w->q.act;
    float s = w->q.act_scale, zero = act == ACT_ROUND_INT8_STATIC ? (float)w->q.act_zero : 0;
    if (act == ACT_ROUND_INT8_TOKEN) s = row_max(x, c.k, shared) / 127.0f;
    bool rounds = act != ACT_ROUND_NONE && s > 0 && !isinf(s);
    for (int32_t i = threadIdx.x; i < c.k; i += ROUND_THREADS) {
        float v = x[i];
        to[r * c.k + i] = rounds && !isnan(v) ? round_code(v / s, zero) * s : v;
    }
}

void gemm_round_acts(cuda_backend *c, const gemm_call *g, int32_t n_rows, const int32_t *row_expert,
                     float *to) {
    CU_LAUNCH(round_acts_kernel, dim3((unsigned)n_rows), dim3(ROUND_THREADS), 0, c->stream, *g,
              row_expert, to);
    cuda_launched(c, "gemm");
}
