/* Products with few rows whose K is cut into splits: the warps of a block take neighbouring splits
 * (cuda_gemm_plan.h); each streams its part of the weight rows from global memory into registers, a
 * few units ahead of the tensor cores, without shared memory or barriers. The sums of the splits
 * meet in shared memory and are added in ascending order, once.
 *
 * How weights are stored is a type W: a unit of W::SLABS slabs is what a lane loads at once.
 *   W::part                       a unit in registers
 *   find(c, p)                    where this lane reads
 *   load(unit, part)              start the loads of a unit; zeros behind the row's end
 *   arrived(part)                 before the first use of its slabs
 *   words(part, j, w)             slab j of the unit as fragments (cu_half.h)
 *   W::INTERLEAVED                the order of columns within eight: 0 4 1 5 2 6 3 7, else
 * ascending
 *
 * Features past the last repeat it and are not written; rows past the last are zeros. */
#ifndef KERNELS_CUDA_CU_SPLITS_H
#define KERNELS_CUDA_CU_SPLITS_H

#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cuda_gemm.h"

static __device__ __forceinline__ cu_words no_words(void) {
    cu_words zero = {0, 0, 0, 0};
    return zero;
}

/* Sums of the splits: [split][row][features + 4]. */
template <int TN> static __device__ __forceinline__ int sums_at(int split, int rows, int row) {
    return (split * rows + row) * (16 * TN + 4);
}

/* ---- Weights ---- */

/* Rows of 16-bit weights or pairs of bytes: 16 bytes of a row are a lane's part of one slab. */
template <int TN> struct row_weights {
    enum { SLABS = 1, INTERLEAVED = 0 };
    struct part {
        cu_words w[TN][2];
    };
    const uint16_t *row[TN][2];
    int32_t ld;

    __device__ __forceinline__ void find(const gemm_call &c, const gemm_place &p) {
        ld = p.ld;
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) {
            int32_t n = p.n0 + i * 8 + threadIdx.x % CU_WARP / 4;
            row[i / 2][i % 2] = (const uint16_t *)(p.rows + (n < c.n ? n : c.n - 1) * p.row_bytes);
        }
    }
    __device__ __forceinline__ void load(int32_t unit, part *to) const {
        int32_t k = unit * GEMM_SLAB + threadIdx.x % 4 * 8;
#pragma unroll
        for (int i = 0; i < 2 * TN; i++)
            to->w[i / 2][i % 2] = k < ld ? cu_load_stream(row[i / 2][i % 2] + k) : no_words();
    }
    __device__ __forceinline__ void arrived(part *p) const {}
    __device__ __forceinline__ void words(const part &p, int j, cu_words w[TN][2]) const {
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) w[i / 2][i % 2] = p.w[i / 2][i % 2];
    }
};

/* ---- Activations ---- */

/* Where a lane reads: its row of each tile of 8 rows; NULL: no such row. */
template <int TM> struct lane_acts {
    const void *row[TM];
    int32_t k;
};

/* Its 8 columns of a slab of each, as 16-bit words or as the f32 values they are made of. */
template <int TM, bool rounded> struct acts_part { cu_words a[TM][rounded ? 1 : 2]; };

template <int TM, bool rounded>
static __device__ __forceinline__ void find_acts(const gemm_call &c, const gemm_place &p,
                                                 lane_acts<TM> *in) {
    in->k = c.k;
#pragma unroll
    for (int j = 0; j < TM; j++) {
        int32_t r = j * 8 + threadIdx.x % CU_WARP / 4;
        in->row[j] = NULL;
        if (r >= p.n_rows) continue;
        int64_t row = gemm_a_row(c, p.row0 + r);
        if (rounded)
            in->row[j] = c.a16 + row * c.a16_stride;
        else
            in->row[j] = c.a + row * c.a_stride;
    }
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

template <int TM, bool rounded>
static __device__ __forceinline__ void load_acts(const lane_acts<TM> &in, int32_t slab,
                                                 acts_part<TM, rounded> *to) {
    int32_t k = slab * GEMM_SLAB + threadIdx.x % 4 * 8;
#pragma unroll
    for (int j = 0; j < TM; j++) {
        if (!in.row[j] || (rounded && k >= in.k)) {
            to->a[j][0] = no_words();
            if (!rounded) to->a[j][1] = no_words();
        } else if (rounded)
            to->a[j][0] = *(const cu_words *)((const uint16_t *)in.row[j] + k);
        else
            load_f32((const float *)in.row[j], k, in.k, to->a[j]);
    }
}

/* Eight columns as 16-bit words. */
template <class H, bool interleaved, bool rounded>
static __device__ __forceinline__ cu_words pack_acts(const cu_words a[]) {
    const cu_words &l = a[0];
    cu_words v = l;
    if constexpr (rounded && interleaved) {
        v.x = (l.x & 0xffff) | l.z << 16, v.y = l.x >> 16 | (l.z & 0xffff0000);
        v.z = (l.y & 0xffff) | l.w << 16, v.w = l.y >> 16 | (l.w & 0xffff0000);
    } else if constexpr (!rounded) {
        const cu_words &h = a[1];
        if (interleaved) {
            v.x = H::pack_bits(l.x, h.x), v.y = H::pack_bits(l.y, h.y);
            v.z = H::pack_bits(l.z, h.z), v.w = H::pack_bits(l.w, h.w);
        } else {
            v.x = H::pack_bits(l.x, l.y), v.y = H::pack_bits(l.z, l.w);
            v.z = H::pack_bits(h.x, h.y), v.w = H::pack_bits(h.z, h.w);
        }
    }
    return v;
}

/* ---- Sums ---- */

template <class H, int TN, int TM>
static __device__ __forceinline__ void multiply(const cu_words w[TN][2], const cu_words a[TM],
                                                typename H::acc sum[TN][TM][4]) {
#pragma unroll
    for (int i = 0; i < TN; i++)
#pragma unroll
        for (int j = 0; j < TM; j++) half_step0<H>(sum[i][j], w[i], a[j]);
#pragma unroll
    for (int i = 0; i < TN; i++)
#pragma unroll
        for (int j = 0; j < TM; j++) half_step1<H>(sum[i][j], w[i], a[j]);
}

/* The sum of a split is done: to shared memory, and on with zeros. */
template <class A, int TN, int TM>
static __device__ __forceinline__ void put_split(A *sums, int split, A sum[TN][TM][4]) {
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

template <class W, int TM, bool rounded> struct unit_part {
    typename W::part w;
    acts_part<TM, rounded> a[W::SLABS];
};

/* This warp's splits, one after the other, loads running AHEAD units before. */
template <class H, class W, int TN, int TM, bool rounded, int AHEAD>
static __device__ __forceinline__ void run_splits(const W &weights, const lane_acts<TM> &acts,
                                                  const gemm_call &c, const gemm_place &p,
                                                  int n_splits, typename H::acc *sums) {
    typedef typename H::acc acc;
    int warp = threadIdx.x / CU_WARP, n_warps = blockDim.x / CU_WARP;
    int split = n_splits * warp / n_warps, last_split = n_splits * (warp + 1) / n_warps;
    if (split == last_split) {
        cu_next_begin();
        return;
    }
    int32_t slabs = gemm_slabs(acts.k), first = gemm_split_slab(slabs, n_splits, split);
    int32_t end = gemm_split_slab(slabs, n_splits, split + 1);
    int32_t last = gemm_split_slab(slabs, n_splits, last_split);
    int32_t unit = first / W::SLABS, last_unit = (last + W::SLABS - 1) / W::SLABS;
    unit_part<W, TM, rounded> part[AHEAD];
    acc sum[TN][TM][4] = {}, folded[H::FOLDS ? TN : 1][H::FOLDS ? TM : 1][4] = {};
    auto load_rows = [&](int32_t u, unit_part<W, TM, rounded> *to) {
#pragma unroll
        for (int j = 0; j < W::SLABS; j++)
            load_acts<TM, rounded>(acts, u * W::SLABS + j, &to->a[j]);
    };
    auto load = [&](int32_t u, unit_part<W, TM, rounded> *to) {
        weights.load(u, &to->w);
        load_rows(u, to);
    };
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (unit + i < last_unit) weights.load(unit + i, &part[i].w);
    cu_next_begin(); /* the first weights are on their way; rows are of the kernel before */
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (unit + i < last_unit) load_rows(unit + i, &part[i]);
    while (unit < last_unit) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++, unit++) {
            if (unit >= last_unit) break;
            weights.arrived(&part[i].w);
#pragma unroll
            for (int j = 0; j < W::SLABS; j++) {
                int32_t slab = unit * W::SLABS + j;
                bool is_mine = W::SLABS == 1 || (slab >= first && slab < last);
                if (is_mine) {
                    cu_words w[TN][2], a[TM];
                    weights.words(part[i].w, j, w);
#pragma unroll
                    for (int t = 0; t < TM; t++)
                        a[t] = pack_acts<H, W::INTERLEAVED, rounded>(part[i].a[j].a[t]);
                    multiply<H, TN, TM>(w, a, sum);
                }
                if (j == W::SLABS - 1 && unit + AHEAD < last_unit) load(unit + AHEAD, &part[i]);
                if constexpr (H::FOLDS)
                    if (is_mine && (slab % 2 || slab + 1 == end))
                        gemm_folds<H, TN, TM>::fold(c, p, 0, 0, slab, sum, folded);
                if (is_mine && slab + 1 == end) {
                    if constexpr (H::FOLDS)
                        put_split<acc, TN, TM>(sums, split++, folded);
                    else
                        put_split<acc, TN, TM>(sums, split++, sum);
                    end = gemm_split_slab(slabs, n_splits, split + 1);
                }
            }
        }
    }
}

/* A block's product. */
template <class H, class W, int TN, int TM, bool rounded, int AHEAD>
static __device__ __forceinline__ void splits_product(const gemm_call &c, typename H::acc *sums) {
    enum { FEATURES = 16 * TN, ROWS = 8 * TM };
    gemm_place p;
    if (c.experts) cu_next_begin(); /* tiles are of a kernel before */
    if (!gemm_place_of(c, FEATURES, ROWS, &p)) {
        cu_next_begin();
        return;
    }
    int n_splits = gemm_splits(c.k);
    lane_acts<TM> acts;
    W weights;
    find_acts<TM, rounded>(c, p, &acts);
    weights.find(c, p);
    run_splits<H, W, TN, TM, rounded, AHEAD>(weights, acts, c, p, n_splits, sums);
    __syncthreads();
    for (int i = threadIdx.x; i < FEATURES * p.n_rows; i += blockDim.x) {
        int row = i / FEATURES, f = i % FEATURES;
        typename H::acc v = 0;
        for (int s = 0; s < n_splits; s++) v += sums[sums_at<TN>(s, ROWS, row) + f];
        if (p.n0 + f < c.n) gemm_put(c, p, row, f, gemm_worth<H>::of(c, p, row, f, v));
    }
}

#endif
