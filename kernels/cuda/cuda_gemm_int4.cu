/* Products with int4 codes in 16-bit arithmetic, where the matrix allows it (quant_spec.math): the
 * codes stay packed until they are in registers.
 *
 * Few rows: cu_splits.h, with units of four slabs. A lane loads 16 bytes of a row, 32 codes: its
 * eight columns of each slab, since packing has put them so (cuda_quant_layout.h). Two codes become
 * two values by a mask, a subtraction and a product of pairs (cu_half.h). Many rows of one matrix:
 * the same values are written to scratch as 16-bit weights, and the kernels for those multiply
 * them. Steps, splits and the order of columns are the same in both, and so are the bits. A matrix
 * with an order of columns (act-order) lies sorted; its activations are gathered when they are
 * rounded.
 *
 * Expected limits, not timed on a GPU: the instructions that unpack, near the time that the bytes
 * take; a pass over 16-bit weights with many rows. */
#include "kernels/cuda/cu_splits.h"

#define MAX_THREADS 256
#define UNIT_CODES  128 /* of four slabs */

/* Pairs for half_codes of group g of a stored row. */
template <class H> static __device__ __forceinline__ uint32_t pair_scale(float scale) {
    return H::pack(scale, scale);
}
template <class H> static __device__ __forceinline__ uint32_t pair_zero(int zero) {
    float v = (float)(H::BASE + zero);
    return H::pack(v, v);
}

/* GROUPS: of a unit: 1 where groups hold whole units, else 4, one for each slab. */
template <class H, int TN, int GROUPS> struct int4_weights {
    enum { SLABS = UNIT_CODES / GEMM_SLAB, INTERLEAVED = 1 };
    struct part {
        cu_words w[TN][2];
        uint16_t scale[TN][2][GROUPS];
        uint8_t zero[TN][2][GROUPS];
    };
    const uint8_t *codes, *scales, *zeros; /* planes; zeros NULL: none are stored */
    int32_t n[TN][2];                      /* features */
    int32_t row_bytes, groups, group, zero;
    float scale_mul;
    bool scales_bf16;

    __device__ __forceinline__ void find(const gemm_call &c, const gemm_place &p) {
        zeros = c.w.zeros, zero = c.w.q.zero, scale_mul = c.w.q.scale_mul;
        scales_bf16 = c.w.q.scale_dt == DT_BF16;
        if (c.experts) {
            const gemm_w *w = &c.experts[p.expert];
            zeros = w->zeros, zero = w->q.zero, scale_mul = w->q.scale_mul;
            scales_bf16 = w->q.scale_dt == DT_BF16;
        }
        codes = p.rows, scales = p.scales;
        row_bytes = (int32_t)p.row_bytes, groups = p.groups, group = p.group;
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) {
            int32_t at = p.n0 + i * 8 + threadIdx.x % CU_WARP / 4;
            n[i / 2][i % 2] = at < c.n ? at : c.n - 1;
        }
    }
    __device__ __forceinline__ void load(int32_t unit, part *to) const {
        int32_t at = unit * (UNIT_CODES / 2) + threadIdx.x % 4 * 16, g[GROUPS];
#pragma unroll
        for (int s = 0; s < GROUPS; s++) {
            g[s] = (unit * UNIT_CODES + s * GEMM_SLAB) / group;
            if (g[s] >= groups) g[s] = groups - 1; /* behind K */
        }
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) {
            int64_t row = n[i / 2][i % 2];
            to->w[i / 2][i % 2] = cu_load_stream(codes + row * row_bytes + at);
#pragma unroll
            for (int s = 0; s < GROUPS; s++) {
                to->scale[i / 2][i % 2][s] = ((const uint16_t *)scales)[row * groups + g[s]];
                to->zero[i / 2][i % 2][s] = zeros ? zeros[row * groups + g[s]] : 0;
            }
        }
    }
    __device__ __forceinline__ void arrived(part *p) const {}
    __device__ __forceinline__ void words(const part &p, int j, cu_words w[TN][2]) const {
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) {
            const cu_words &from = p.w[i / 2][i % 2];
            uint32_t word = j == 0 ? from.x : j == 1 ? from.y : j == 2 ? from.z : from.w;
            int s = GROUPS == 1 ? 0 : j;
            uint16_t raw = p.scale[i / 2][i % 2][s];
            float scale = (scales_bf16 ? cu_from_bf16(raw) : cu_from_f16(raw)) * scale_mul;
            w[i / 2][i % 2] = half_codes<H>(word, pair_zero<H>(zero + p.zero[i / 2][i % 2][s]),
                                            pair_scale<H>(scale));
        }
    }
};

template <class H, int TN, int TM, bool rounded, int GROUPS>
static __global__ void __launch_bounds__(MAX_THREADS) int4_kernel(const gemm_call c) {
    CU_DYN_SHARED(float, sums);
    splits_product<H, int4_weights<H, TN, GROUPS>, TN, TM, rounded, TM == 1 ? 2 : 1>(c, sums);
}

template <class H, int TN, int TM, bool rounded, int GROUPS>
static void launch(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    dim3 grid((unsigned)gemm_blocks(g, p)), block((unsigned)p->warps * CU_WARP);
    const void *kernel = (const void *)int4_kernel<H, TN, TM, rounded, GROUPS>;
    if (!cuda_allow_shared(c, kernel, p->smem, 0)) return;
    CU_LAUNCH_NEXT(c, (int4_kernel<H, TN, TM, rounded, GROUPS>), grid, block, p->smem, *g);
}

template <class H, int TN, int GROUPS>
static void launch_rows(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->tokens == 8 && g->a16)
        launch<H, TN, 1, true, GROUPS>(c, g, p);
    else if (p->tokens == 8)
        launch<H, TN, 1, false, GROUPS>(c, g, p);
    else if (p->tokens == 16)
        launch<H, TN, 2, true, GROUPS>(c, g, p);
    else
        launch<H, 2, 4, true, GROUPS>(c, g, p); /* always 32 features */
}

template <class H, int GROUPS>
static void launch_features(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->features == 32)
        launch_rows<H, 2, GROUPS>(c, g, p);
    else
        launch_rows<H, 1, GROUPS>(c, g, p);
}

template <class H>
static void launch_groups(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->whole_groups)
        launch_features<H, 1>(c, g, p);
    else
        launch_features<H, 4>(c, g, p);
}

void gemm_int4(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->kind == GEMM_INT4_BF16)
        launch_groups<cu_bf16>(c, g, p);
    else
        launch_groups<cu_f16>(c, g, p);
    cuda_launched(c, "gemm");
}

/* A thread makes eight values, 16 bytes, of a word of codes: word q of slab s lies at 4q + s. */
template <class H>
static __global__ void __launch_bounds__(256)
    expand16_kernel(const gemm_w w, int32_t k, int32_t row0, int32_t n_rows, uint16_t *to) {
    int32_t words = (int32_t)gemm_slabs(k) * (GEMM_SLAB / 8), groups = w.groups;
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= (int64_t)words * n_rows) return;
    int64_t r = i / words, row = row0 + r;
    int32_t word = (int32_t)(i - r * words), in_unit = word % 16;
    int32_t g = word * 8 / w.q.group;
    if (g >= groups) g = groups - 1; /* behind K */
    int64_t at = row * groups + g;
    uint32_t raw = ((const uint16_t *)w.scales)[at];
    float scale =
        (w.q.scale_dt == DT_BF16 ? cu_from_bf16((uint16_t)raw) : cu_from_f16((uint16_t)raw)) *
        w.q.scale_mul;
    int zero = w.q.zero + (w.zeros ? w.zeros[at] : 0);
    const uint32_t *codes = (const uint32_t *)(w.rows + row * w.row_bytes) + word / 16 * 16;
    ((cu_words *)to)[i] = half_codes<H>(codes[in_unit % 4 * 4 + in_unit / 4], pair_zero<H>(zero),
                                        pair_scale<H>(scale));
}

void gemm_expand16(cuda_backend *c, const gemm_w *w, int32_t k, int32_t row0, int32_t n_rows,
                   uint16_t *to) {
    int64_t n = gemm_round_ld(k) / 8 * n_rows;
    dim3 grid((unsigned)CEIL_DIV(n, 256)), block(256);
    if (w->kind == GEMM_INT4_BF16)
        CU_LAUNCH((expand16_kernel<cu_bf16>), grid, block, 0, c->stream, *w, k, row0, n_rows, to);
    else
        CU_LAUNCH((expand16_kernel<cu_f16>), grid, block, 0, c->stream, *w, k, row0, n_rows, to);
    cuda_launched(c, "gemm");
}
