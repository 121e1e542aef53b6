/* Products of 16-bit weights with few rows: bound by reading every weight once.
 *
 * A block owns 16 or 32 output features and up to 32 rows. Its warps take neighbouring splits of K
 * (cuda_gemm_plan.h); each streams its part of the weight rows from global memory into registers, a
 * few slabs ahead of the tensor cores, without shared memory or barriers: with 16 warps on a
 * multiprocessor and 4 kB each under way, 64 kB are in flight there, about twice what the product
 * of bandwidth and latency asks for on an H200. The sums of the splits meet in shared memory and
 * are added in ascending order, once.
 *
 * Up to 8 rows of f32 activations are rounded in registers, so that decoding needs no launch before
 * this one; more rows are rounded by a pass before. Expected limits, not timed on a GPU: memory
 * bandwidth, less the ramp of a block's first loads and its last sum; from 16 rows on, activations
 * that come from the L2 cache once per block.
 *
 * Features past the last repeat it and are not written; rows past the last are zeros. */
#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cuda_gemm.h"

/* Threads of a block: with 32 features a lane holds too much for more than 8 warps. */
#define MAX_THREADS(tn) ((tn) == 1 ? 512 : 256)

/* Sums of the splits: [split][row][features + 4]. */
template <int TN> static __device__ __forceinline__ int sums_at(int split, int rows, int row) {
    return (split * rows + row) * (16 * TN + 4);
}

/* What a lane holds of one slab: its 16 bytes of two rows of each feature tile, and of its row of
 * each tile of 8 rows, as 16-bit words or as the f32 values they are made of. */
template <int TN, int TM, bool rounded> struct slab_part {
    cu_words w[TN][2];
    cu_words a[TM][rounded ? 1 : 2];
};

/* Where a lane reads. */
template <int TN, int TM> struct lane_rows {
    const uint16_t *w[TN][2];
    const void *a[TM]; /* NULL: no such row */
    int32_t k, ld;     /* columns of a, of the weights' rows */
};

static __device__ __forceinline__ cu_words no_words(void) {
    cu_words zero = {0, 0, 0, 0};
    return zero;
}

/* f32 columns k .. k+7 of a row; zeros behind its end. */
static __device__ __forceinline__ void load_f32(const float *row, int32_t k, int32_t k_end,
                                                cu_words to[2]) {
    if (k + 8 <= k_end) {
        to[0] = *(const cu_words *)(row + k);
        to[1] = *(const cu_words *)(row + k + 4);
        return;
    }
    uint32_t v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = k + i < k_end ? __float_as_uint(row[k + i]) : 0;
    cu_words low = {v[0], v[1], v[2], v[3]}, high = {v[4], v[5], v[6], v[7]};
    to[0] = low, to[1] = high;
}

template <int TN, int TM, bool rounded>
static __device__ __forceinline__ void load_slab(const lane_rows<TN, TM> &in, int32_t slab,
                                                 slab_part<TN, TM, rounded> *to) {
    int32_t k = slab * GEMM_SLAB + threadIdx.x % 4 * 8;
#pragma unroll
    for (int i = 0; i < TN; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            to->w[i][h] = k < in.ld ? cu_load_stream(in.w[i][h] + k) : no_words();
#pragma unroll
    for (int j = 0; j < TM; j++) {
        if (!in.a[j]) {
            to->a[j][0] = no_words();
            if (!rounded) to->a[j][1] = no_words();
        } else if (rounded)
            to->a[j][0] = *(const cu_words *)((const uint16_t *)in.a[j] + k);
        else
            load_f32((const float *)in.a[j], k, in.k, to->a[j]);
    }
}

template <class H>
static __device__ __forceinline__ uint32_t pack_words(uint32_t low, uint32_t high) {
    return H::pack(__uint_as_float(low), __uint_as_float(high));
}

template <class H, int TN, int TM, bool rounded>
static __device__ __forceinline__ void multiply(const slab_part<TN, TM, rounded> &s,
                                                float sum[TN][TM][4]) {
    cu_words a[TM];
#pragma unroll
    for (int j = 0; j < TM; j++) {
        a[j] = s.a[j][0];
        if (!rounded) {
            const cu_words &low = s.a[j][0], &high = s.a[j][rounded ? 0 : 1];
            a[j].x = pack_words<H>(low.x, low.y), a[j].y = pack_words<H>(low.z, low.w);
            a[j].z = pack_words<H>(high.x, high.y), a[j].w = pack_words<H>(high.z, high.w);
        }
    }
#pragma unroll
    for (int i = 0; i < TN; i++)
#pragma unroll
        for (int j = 0; j < TM; j++) half_step0<H>(sum[i][j], s.w[i], a[j]);
#pragma unroll
    for (int i = 0; i < TN; i++)
#pragma unroll
        for (int j = 0; j < TM; j++) half_step1<H>(sum[i][j], s.w[i], a[j]);
}

/* The sum of a split is done: to shared memory, and on with zeros. */
template <int TN, int TM>
static __device__ __forceinline__ void put_split(float *sums, int split, float sum[TN][TM][4]) {
    int g = threadIdx.x % CU_WARP / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < TN; i++)
#pragma unroll
        for (int j = 0; j < TM; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = j * 8 + q * 2 + e % 2, f = i * 16 + g + e / 2 * 8;
                sums[sums_at<TN>(split, 8 * TM, row) + f] = sum[i][j][e];
                sum[i][j][e] = 0;
            }
}

template <int TN, int TM, bool rounded>
static __device__ __forceinline__ void find_rows(const gemm_call &c, const gemm_place &p,
                                                 lane_rows<TN, TM> *in) {
    int g = threadIdx.x % CU_WARP / 4;
    in->k = c.k, in->ld = p.ld;
#pragma unroll
    for (int i = 0; i < 2 * TN; i++) {
        int32_t n = p.n0 + i * 8 + g;
        n = n < c.n ? n : c.n - 1;
        in->w[i / 2][i % 2] = (const uint16_t *)(p.rows + n * p.row_bytes);
    }
    int64_t a16_stride = (int64_t)gemm_slabs(c.k) * GEMM_SLAB;
#pragma unroll
    for (int j = 0; j < TM; j++) {
        int32_t r = j * 8 + g;
        in->a[j] = NULL;
        if (r >= p.n_rows) continue;
        int64_t row = gemm_a_row(c, p.row0 + r);
        if (rounded)
            in->a[j] = c.a16 + row * a16_stride;
        else
            in->a[j] = c.a + row * c.a_stride;
    }
}

/* This warp's splits, one after the other, loads running ahead across them. */
template <class H, int TN, int TM, bool rounded>
static __device__ __forceinline__ void run_splits(const lane_rows<TN, TM> &in, int n_splits,
                                                  float *sums) {
    enum { AHEAD = TM == 4 ? 3 : 4 };
    int warp = threadIdx.x / CU_WARP, n_warps = blockDim.x / CU_WARP;
    int split = n_splits * warp / n_warps, last_split = n_splits * (warp + 1) / n_warps;
    if (split == last_split) return;
    int32_t slabs = gemm_slabs(in.k), slab = gemm_split_slab(slabs, n_splits, split);
    int32_t end = gemm_split_slab(slabs, n_splits, split + 1);
    int32_t last = gemm_split_slab(slabs, n_splits, last_split);
    slab_part<TN, TM, rounded> part[AHEAD];
    float sum[TN][TM][4] = {};
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (slab + i < last) load_slab<TN, TM, rounded>(in, slab + i, &part[i]);
    while (slab < last) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++, slab++) {
            if (slab >= last) break;
            multiply<H, TN, TM, rounded>(part[i], sum);
            if (slab + AHEAD < last) load_slab<TN, TM, rounded>(in, slab + AHEAD, &part[i]);
            if (slab + 1 == end) {
                put_split<TN, TM>(sums, split++, sum);
                end = gemm_split_slab(slabs, n_splits, split + 1);
            }
        }
    }
}

template <class H, int TN, int TM, bool rounded>
static __global__ void __launch_bounds__(MAX_THREADS(TN)) splits_kernel(const gemm_call c) {
    enum { FEATURES = 16 * TN, ROWS = 8 * TM };
    CU_DYN_SHARED(float, sums);
    gemm_place p;
    if (!gemm_place_of(c, FEATURES, ROWS, &p)) return;
    int n_splits = gemm_splits(c.k);
    lane_rows<TN, TM> in;
    find_rows<TN, TM, rounded>(c, p, &in);
    run_splits<H, TN, TM, rounded>(in, n_splits, sums);
    __syncthreads();
    for (int i = threadIdx.x; i < FEATURES * p.n_rows; i += blockDim.x) {
        int row = i / FEATURES, f = i % FEATURES;
        float v = 0;
        for (int s = 0; s < n_splits; s++) v += sums[sums_at<TN>(s, ROWS, row) + f];
        gemm_put(c, p, row, f, v);
    }
}

template <class H, int TN, int TM, bool rounded>
static void launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block((unsigned)p->warps * CU_WARP);
    if (p->smem > 48 * 1024 &&
        !cuda_note(c,
                   cudaFuncSetAttribute((const void *)splits_kernel<H, TN, TM, rounded>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, (int)p->smem),
                   "gemm"))
        return;
    CU_LAUNCH((splits_kernel<H, TN, TM, rounded>), grid, block, p->smem, c->stream, *g);
}

template <class H, int TN>
static void launch_rows(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->tokens == 8 && !p->round_a)
        launch<H, TN, 1, false>(c, g, p);
    else if (p->tokens == 8)
        launch<H, TN, 1, true>(c, g, p);
    else if (p->tokens == 16)
        launch<H, TN, 2, true>(c, g, p);
    else
        launch<H, 2, 4, true>(c, g, p); /* always 32 features */
}

template <class H>
static void launch_features(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->features == 32)
        launch_rows<H, 2>(c, g, p);
    else
        launch_rows<H, 1>(c, g, p);
}

void gemm_splits_run(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->kind == GEMM_BF16)
        launch_features<cu_bf16>(c, g, p);
    else
        launch_features<cu_f16>(c, g, p);
    cuda_launched(c, "gemm");
}
