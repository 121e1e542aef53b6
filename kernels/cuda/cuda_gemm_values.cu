/* Products in 16-bit arithmetic of weights that have no kernel of their own: any quantised type, by
 * its values rounded to f16 or bf16 once.
 *
 * Few rows, and experts: a block of 8 warps owns 16 features. Strip by strip of 256 columns each
 * warp decodes two features (cu_strip.h) into a tile of 16-bit values; the tensor cores then take
 * its slabs from there, by the warp that owns the split which a slab is of, while the others decode
 * the next strip into a second tile. Many rows of one matrix: the same values go to scratch, and
 * the kernels for 16-bit weights multiply them; steps and splits are theirs in both cases, and so
 * are the bits.
 *
 * Expected limit for few rows: decoding, some ten instructions a weight; not timed on a GPU. */
#include "kernels/cuda/cu_splits.h"
#include "kernels/cuda/cu_strip.h"

#define WARPS      8
#define TILE_PITCH (STRIP + 8) /* 16-bit values of a feature: rows meet other banks */
#define SLABS      (STRIP / GEMM_SLAB)

typedef uint16_t values_tile[WARPS * FEATURES][TILE_PITCH];

template <class H>
static __device__ __forceinline__ void put_values(const float v[CU_RUN], cu_words *to) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float *x = v + 8 * i;
        cu_words w = {H::pack(x[0], x[1]), H::pack(x[2], x[3]), H::pack(x[4], x[5]),
                      H::pack(x[6], x[7])};
        to[i] = w;
    }
}

/* Slabs of the strip that are of this warp's splits; every split that ends in it goes to sums. */
template <class H, int TM, bool rounded>
static __device__ __forceinline__ void strip_product(const lane_acts<TM> &acts, int32_t strip,
                                                     int n_splits, const values_tile &tile,
                                                     float part[1][TM][4], float *sums) {
    int32_t slabs = gemm_slabs(acts.k);
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    for (int s = 0; s < SLABS; s++) {
        int32_t slab = strip * SLABS + s;
        if (slab >= slabs) return;
        int split = gemm_split_of(slabs, n_splits, slab);
        if (split % WARPS != warp) continue;
        acts_part<TM, rounded> loaded;
        load_acts<TM, rounded>(acts, slab, &loaded);
        cu_words w[1][2], a[TM];
#pragma unroll
        for (int i = 0; i < 2; i++)
            w[0][i] = *(const cu_words *)&tile[i * 8 + lane / 4][s * GEMM_SLAB + lane % 4 * 8];
#pragma unroll
        for (int t = 0; t < TM; t++) a[t] = pack_acts<H, false, rounded>(loaded.a[t]);
        multiply<H, 1, TM>(w, a, part);
        if (slab + 1 == gemm_split_slab(slabs, n_splits, split + 1))
            put_split<float, 1, TM>(sums, split, part);
    }
}

template <class H, int TM, bool rounded>
static __global__ void __launch_bounds__(WARPS *CU_WARP) values_kernel(const gemm_call c) {
    CU_DYN_SHARED(float, sums);
    __shared__ __align__(16) values_tile tiles[2];
    __shared__ uint32_t raws[WARPS][FEATURES * RAW_WORDS];
    gemm_place p;
    if (c.experts) cu_next_begin(); /* tiles are of a kernel before */
    if (!gemm_place_of(c, WARPS * FEATURES, 8 * TM, &p)) {
        cu_next_begin();
        return;
    }
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP, n_splits = gemm_splits(c.k);
    gemm_w w = c.w;
    if (c.experts) w = c.experts[p.expert];
    warp_strip s = {};
#pragma unroll
    for (int f = 0; f < FEATURES; f++) {
        int32_t n = p.n0 + warp * FEATURES + f;
        s.row[f] = p.rows + (n < c.n ? n : c.n - 1) * p.row_bytes;
    }
    lane_acts<TM> acts;
    find_acts<TM, rounded>(c, p, &acts);
    float part[1][TM][4] = {};
    fetch(w, c.k, 0, &s);
    cu_next_begin(); /* rows are of the kernel before */
    for (int32_t k0 = 0; k0 < c.k; k0 += STRIP) {
        values_tile &tile = tiles[k0 / STRIP % 2];
        float v[CU_RUN];
        put_words(s, raws[warp]);
        __syncwarp();
        fetch(w, c.k, k0 + STRIP, &s);
        strip_decode(w, s, c.k, k0, raws[warp], v);
        put_values<H>(
            v, (cu_words *)&tile[warp * FEATURES + lane / STRIP_RUNS][lane % STRIP_RUNS * CU_RUN]);
        __syncthreads(); /* and all are done with the tile before the last one */
        strip_product<H, TM, rounded>(acts, k0 / STRIP, n_splits, tile, part, sums);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < WARPS * FEATURES * p.n_rows; i += blockDim.x) {
        int row = i / (WARPS * FEATURES), f = i % (WARPS * FEATURES);
        float v = 0;
        for (int split = 0; split < n_splits; split++)
            v += sums[sums_at<1>(split, 8 * TM, row) + f];
        gemm_put(c, p, row, f, v);
    }
}

template <class H, int TM, bool rounded>
static void launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block(WARPS * CU_WARP);
    const void *kernel = (const void *)values_kernel<H, TM, rounded>;
    size_t fixed = 2 * sizeof(values_tile) + WARPS * FEATURES * RAW_WORDS * sizeof(uint32_t);
    if (!cuda_allow_shared(c, kernel, p->smem, fixed)) return;
    CU_LAUNCH_NEXT(c, (values_kernel<H, TM, rounded>), grid, block, p->smem, *g);
}

template <class H>
static void launch_rows(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->tokens == 8 && g->a16)
        launch<H, 1, true>(c, g, p);
    else if (p->tokens == 8)
        launch<H, 1, false>(c, g, p);
    else if (p->tokens == 16)
        launch<H, 2, true>(c, g, p);
    else
        launch<H, 4, true>(c, g, p);
}

void gemm_values(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->kind == GEMM_VALUES_BF16)
        launch_rows<cu_bf16>(c, g, p);
    else
        launch_rows<cu_f16>(c, g, p);
    cuda_launched(c, "gemm");
}

/* A thread a run of 16 values. */
template <class H>
static __global__ void __launch_bounds__(256)
    expand_values_kernel(const gemm_w w, int32_t k, int32_t row0, int32_t n_rows, uint16_t *to) {
    int32_t runs = (int32_t)gemm_slabs(k) * (GEMM_SLAB / CU_RUN);
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= (int64_t)runs * n_rows) return;
    int64_t r = i / runs;
    int32_t k0 = (int32_t)(i - r * runs) * CU_RUN;
    float v[CU_RUN] = {};
    const uint8_t *row = w.rows + (row0 + r) * w.row_bytes;
    if (k0 < k) quant_run(w, row, row + quant_at(w.dt, k0), k, k0, v);
    put_values<H>(v, (cu_words *)to + 2 * i);
}

void gemm_expand_values(cuda_backend *c, const gemm_w *w, int32_t k, int32_t row0, int32_t n_rows,
                        uint16_t *to) {
    int64_t n = gemm_round_ld(k) / CU_RUN * n_rows;
    dim3 grid((unsigned)CEIL_DIV(n, 256)), block(256);
    if (w->kind == GEMM_VALUES_BF16)
        CU_LAUNCH((expand_values_kernel<cu_bf16>), grid, block, 0, c->stream, *w, k, row0, n_rows,
                  to);
    else
        CU_LAUNCH((expand_values_kernel<cu_f16>), grid, block, 0, c->stream, *w, k, row0, n_rows,
                  to);
    cuda_launched(c, "gemm");
}
