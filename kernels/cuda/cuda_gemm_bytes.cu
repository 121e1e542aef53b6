/* Products of bytes by bytes: int8 checkpoints with rounded activations (W8A8), and E4M3 ones.
 *
 * The tensor cores take 32 bytes where they take 16 halves, in fragments that are laid out alike;
 * so the kernels are those of 16-bit products (cu_splits.h, cu_tiles.h) which see two columns as
 * one. What differs is the step, the type of the sums, and what a sum is worth.
 *
 * int8: sums are exact in int32, so bits depend on nothing at all; scales come last. With s the
 * scale of a row, z its zero, w = (c + shift) * scale a weight:
 *     sum (x - z) s (c + shift) scale = s scale (sum x c + shift sum x - z (sum c + K shift))
 *
 * E4M3: tensor cores of bytes may add with fewer bits than f32 has, so a sum leaves them every 128
 * columns (two slabs), which is also where groups of weights and of activations may end; it is
 * multiplied by their scales where those change along a row, else in the end.
 *
 * Activations become codes by a pass of their own. Expected limits, not timed on a GPU: memory
 * bandwidth for few rows; for many the rate of mma.sync, below wgmma's on sm_90. E4M3 gains no rate
 * there at all: mma.sync of it is unpacking and two f16 steps in the code for sm_90 (cu_mma.h),
 * with 80 conversions to 32 steps in the loop of the large tile, so that many rows may well be
 * slower than the same weights in 16 bits. What it saves on sm_90 is bytes; on sm_89 time as well.
 */
#include "kernels/cuda/cu_f8.h"
#include "kernels/cuda/cu_rows.h"
#include "kernels/cuda/cu_splits.h"
#include "kernels/cuda/cu_tiles.h"

#define MAX_THREADS 256

typedef struct cu_s8 {
    typedef int32_t acc;
    enum { FOLDS = 0 };
    static __device__ __forceinline__ void mma(int32_t d[4], const uint32_t a[4],
                                               const uint32_t b[2]) {
        cu_mma_s8(d, a, b);
    }
} cu_s8;

typedef struct cu_e4m3 {
    typedef float acc;
    enum { FOLDS = 1 };
    static __device__ __forceinline__ void mma(float d[4], const uint32_t a[4],
                                               const uint32_t b[2]) {
        cu_mma_e4m3(d, a, b);
    }
} cu_e4m3;

/* Rows that came as codes have no zero. */
static __device__ __forceinline__ bool feed_is_i8(const gemm_call &c) {
    return c.in.dt == DT_I8;
}

template <> struct gemm_worth<cu_s8> {
    static __device__ __forceinline__ float of(const gemm_call &c, const gemm_place &p, int32_t r,
                                               int32_t f, int32_t sum) {
        int64_t row = gemm_a_row(c, p.row0 + r), k = c.columns;
        quant_row8 w = ((const quant_row8 *)p.scales)[p.n0 + f];
        int64_t all = sum;
        if (c.a_sum) all += (int64_t)w.shift * c.a_sum[row];
        if (!feed_is_i8(c)) all -= p.act_zero * (w.sum + k * w.shift);
        return (float)all * (c.a_scale[row] * w.scale);
    }
};

template <> struct gemm_worth<cu_e4m3> {
    static __device__ __forceinline__ float of(const gemm_call &c, const gemm_place &p, int32_t r,
                                               int32_t f, float sum) {
        if (c.by_group) return sum; /* scales are in it */
        float scale = ((const float *)p.scales)[(int64_t)(p.n0 + f) * p.groups];
        return sum * (scale * c.a_scale[gemm_a_row(c, p.row0 + r)]);
    }
};

template <int TN, int TM> struct gemm_folds<cu_e4m3, TN, TM> {
    static __device__ __forceinline__ void fold(const gemm_call &c, const gemm_place &p, int32_t f0,
                                                int32_t r0, int32_t slab, float part[TN][TM][4],
                                                float sum[TN][TM][4]) {
        int g = threadIdx.x % CU_WARP / 4, q = threadIdx.x % 4;
        float ws[TN][2], as[TM][2];
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) ws[i / 2][i % 2] = 1;
#pragma unroll
        for (int j = 0; j < 2 * TM; j++) as[j / 2][j % 2] = 1;
        if (c.by_group) {
            int32_t column = slab * GEMM_SLAB * 2;
            int32_t wg = p.groups > 1 ? column / p.group : 0;
            int32_t ag = c.a_groups > 1 ? column / ACT_GROUP : 0;
#pragma unroll
            for (int i = 0; i < 2 * TN; i++) {
                int32_t n = p.n0 + f0 + i * 8 + g;
                n = n < c.n ? n : c.n - 1;
                ws[i / 2][i % 2] = ((const float *)p.scales)[(int64_t)n * p.groups + wg];
            }
#pragma unroll
            for (int j = 0; j < 2 * TM; j++) {
                int32_t r = r0 + j / 2 * 8 + q * 2 + j % 2;
                r = r < p.n_rows ? r : p.n_rows - 1;
                as[j / 2][j % 2] = c.a_scale[gemm_a_row(c, p.row0 + r) * c.a_groups + ag];
            }
        }
#pragma unroll
        for (int i = 0; i < TN; i++)
#pragma unroll
            for (int j = 0; j < TM; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    sum[i][j][e] += part[i][j][e] * (ws[i][e / 2] * as[j][e % 2]);
                    part[i][j][e] = 0;
                }
    }
};

/* ---- Few rows ---- */

template <class H, int TN, int TM>
static __global__ void __launch_bounds__(MAX_THREADS) byte_splits_kernel(const gemm_call c) {
    CU_DYN_SHARED(typename H::acc, sums);
    splits_product<H, row_weights<TN>, TN, TM, true, TM == 4 ? 3 : 4>(c, sums);
}

template <class H, int TN, int TM>
static void launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block((unsigned)p->warps * CU_WARP);
    const void *kernel = (const void *)byte_splits_kernel<H, TN, TM>;
    if (!cuda_allow_shared(c, kernel, p->smem, 0)) return;
    CU_LAUNCH_NEXT(c, (byte_splits_kernel<H, TN, TM>), grid, block, p->smem, *g);
}

template <class H, int TN>
static void launch_rows(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->tokens == 8)
        launch<H, TN, 1>(c, g, p);
    else if (p->tokens == 16)
        launch<H, TN, 2>(c, g, p);
    else
        launch<H, 2, 4>(c, g, p); /* always 32 features */
}

template <class H>
static void launch_features(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->features == 32)
        launch_rows<H, 2>(c, g, p);
    else
        launch_rows<H, 1>(c, g, p);
}

void gemm_byte_splits(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->kind == GEMM_S8)
        launch_features<cu_s8>(c, g, p);
    else
        launch_features<cu_e4m3>(c, g, p);
    cuda_launched(c, "gemm");
}

/* ---- Many rows ---- */

void gemm_byte_tiles(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->kind == GEMM_F8 && p->features == 128)
        tiles_launch<cu_e4m3, tile_shape<4, 2, 2, 4>>(c, g, p);
    else if (g->kind == GEMM_F8)
        tiles_launch<cu_e4m3, tile_shape<2, 4, 2, 2>>(c, g, p);
    else if (p->features == 128)
        tiles_launch<cu_s8, tile_shape<4, 4, 2, 4>>(c, g, p);
    else
        tiles_launch<cu_s8, tile_shape<2, 4, 2, 2>>(c, g, p);
    cuda_launched(c, "gemm");
}

/* ---- Activations ---- */

#define ROUND_THREADS 256

/* The largest value over the block, in every thread. */
static __device__ __forceinline__ float block_max(float v, float *shared) {
    v = cu_warp_max(v);
    if (threadIdx.x % CU_WARP == 0) shared[threadIdx.x / CU_WARP] = v;
    __syncthreads();
    for (int i = 0; i < ROUND_THREADS / CU_WARP; i++) v = fmaxf(v, shared[i]);
    return v;
}
static __device__ __forceinline__ int32_t block_sum(int32_t v, int32_t *shared) {
    for (int d = CU_WARP / 2; d; d /= 2) v += __shfl_xor_sync(CU_FULL, v, d);
    if (threadIdx.x % CU_WARP == 0) shared[threadIdx.x / CU_WARP] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < ROUND_THREADS / CU_WARP; i++) v += shared[i];
    return v;
}

/* How a run of columns is coded: x / scale, or nothing but zeros where there is no scale. */
typedef struct coding {
    float scale, given; /* given: what products multiply by; NaN where x is not finite */
    int zero;
    bool codes, fp8;
} coding;

/* most: the largest |x|; infinite where x has a NaN, or, where it decides the scale, an infinity.
 */
static __device__ __forceinline__ coding coding_of(const quant_spec &q, float most) {
    coding k;
    bool fixed = q.act == ACT_ROUND_INT8_STATIC || q.act == ACT_ROUND_FP8_STATIC;
    k.fp8 = cu_act_is_fp8(q.act);
    k.zero = q.act == ACT_ROUND_INT8_STATIC ? q.act_zero : 0;
    k.scale = fixed ? q.act_scale : most / (k.fp8 ? 448.0f : 127.0f);
    k.codes = k.scale > 0 && !isinf(k.scale) && !isinf(most);
    k.given = isinf(most) ? most - most : k.scale;
    return k;
}

/* What |x| says to the largest. */
static __device__ __forceinline__ float weigh(float x, bool fixed) {
    float most = fabsf(x);
    if (isnan(x)) return cu_bits_f32(0x7f800000u);
    return fixed ? 0 : most;
}

static __device__ __forceinline__ int code_of(const coding &k, float x) {
    if (!k.codes) return 0;
    if (k.fp8) return f8_e4m3_code(x / k.scale);
    float code = nearbyintf(x / k.scale) + (float)k.zero;
    return (int)fminf(fmaxf(code, -128.0f), 127.0f);
}

/* A row to code: of g->in, or codes already. */
typedef struct code_row {
    gemm_rows in;
    int64_t r;
    int32_t k;
    bool given; /* in holds the very codes */
} code_row;

static __device__ __forceinline__ int given_code(const code_row &x, int32_t i) {
    int64_t at = x.r * x.in.stride + i;
    return x.in.dt == DT_I8 ? ((const int8_t *)x.in.p)[at] : ((const uint8_t *)x.in.p)[at];
}

/* Four codes from column i, zeros from K on; returns the sum of signed ones. */
static __device__ __forceinline__ int32_t put_codes(const coding &c, const code_row &x, int32_t i,
                                                    uint8_t *to) {
    uint32_t word = 0;
    int32_t sum = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (i + j >= x.k) continue;
        int code = x.given ? given_code(x, i + j) : code_of(c, row_value(x.in, x.r, i + j));
        word |= (uint32_t)(code & 255) << 8 * j;
        sum += code;
    }
    *(uint32_t *)(to + i) = word;
    return sum;
}

/* A warp a group of columns. */
static __device__ __forceinline__ void code_groups(const quant_spec &q, const code_row &x,
                                                   int32_t ld, float *scale, uint8_t *to) {
    int lane = threadIdx.x % CU_WARP;
    for (int32_t k0 = threadIdx.x / CU_WARP * ACT_GROUP; k0 < ld;
         k0 += ROUND_THREADS / CU_WARP * ACT_GROUP) {
        int32_t i = k0 + lane * 4;
        float most = 0;
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (i + j < x.k) most = fmaxf(most, weigh(row_value(x.in, x.r, i + j), false));
        coding c = coding_of(q, cu_warp_max(most));
        if (i < ld) put_codes(c, x, i, to);
        if (lane == 0 && k0 < x.k) scale[k0 / ACT_GROUP] = c.given;
    }
}

/* One scale for the row; given ones bring it. */
static __device__ __forceinline__ coding row_coding(const quant_spec &q, const code_row &x,
                                                    float *shared) {
    coding c = {};
    if (x.given) {
        c.given = x.in.scale[x.r];
        return c;
    }
    bool fixed = q.act == ACT_ROUND_INT8_STATIC || q.act == ACT_ROUND_FP8_STATIC;
    float most = 0;
    for (int32_t i = threadIdx.x; i < x.k; i += ROUND_THREADS)
        most = fmaxf(most, weigh(row_value(x.in, x.r, i), fixed));
    return coding_of(q, block_max(most, shared));
}

/* A block a row. */
static __global__ void __launch_bounds__(ROUND_THREADS)
    codes8_kernel(const gemm_call c, const gemm_codes all) {
    __shared__ float most_of[ROUND_THREADS / CU_WARP];
    __shared__ int32_t sum_of[ROUND_THREADS / CU_WARP];
    int64_t r = blockIdx.x;
    int32_t ld = gemm_slabs(c.k) * GEMM_SLAB * 2;
    code_row x = {c.in, r, c.columns, false};
    cu_next_begin();
    quant_spec q = c.w.q;
    if (c.row_expert) {
        x.r = gemm_a_row(c, (int32_t)r);
        q = c.experts[c.row_expert[r]].q;
    }
    x.given = c.in.dt == (c.kind == GEMM_S8 ? DT_I8 : DT_F8_E4M3);
    uint8_t *to = all.codes + r * ld;
    float *scale = all.scale + r * all.groups;
    if (q.act == ACT_ROUND_FP8_GROUP && !x.given) {
        code_groups(q, x, ld, scale, to);
        return;
    }
    coding coded = row_coding(q, x, most_of);
    int32_t sum = 0;
    for (int32_t i = threadIdx.x * 4; i < ld; i += ROUND_THREADS * 4)
        sum += put_codes(coded, x, i, to);
    sum = block_sum(sum, sum_of);
    for (int32_t i = threadIdx.x; i < all.groups; i += ROUND_THREADS) scale[i] = coded.given;
    if (threadIdx.x == 0) all.sum[r] = sum;
}

void gemm_codes8(cuda_backend *c, const gemm_call *g, int32_t n_rows, const gemm_codes *to) {
    CU_LAUNCH_NEXT(c, codes8_kernel, dim3((unsigned)n_rows), dim3(ROUND_THREADS), 0, *g, *to);
    cuda_launched(c, "gemm");
}
