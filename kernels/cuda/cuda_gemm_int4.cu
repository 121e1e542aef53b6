/* Products with int4 codes in 16-bit arithmetic, where the matrix allows it (quant_spec.math): the
 * codes stay packed until they are in registers.
 *
 * Few rows: cu_splits.h, with units of four slabs. A lane loads 16 bytes of a row, 32 codes, which
 * are a whole slab; four lanes then trade words, so that each has its eight columns of four slabs.
 * Two codes become two values by a mask, a subtraction and a product of pairs (cu_half.h). Many
 * rows of one matrix: the same values are written to scratch as 16-bit weights, and the kernels for
 * those multiply them. Steps, splits and the order of columns are the same in both, and so are the
 * bits.
 *
 * Expected limits, not timed on a GPU: the instructions that unpack, near the time that the bytes
 * take; a pass over 16-bit weights with many rows. */
#include "kernels/cuda/cu_quant.h"
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
    const uint8_t *row[TN][2];
    int32_t group, code_bytes, zeros_at; /* zeros_at: behind the scales; 0: none are stored */
    int32_t zero;
    float scale_mul;
    bool scales_bf16;

    __device__ __forceinline__ void find(const gemm_call &c, const gemm_place &p) {
        const gemm_w *w = c.experts ? &c.experts[p.expert] : &c.w;
        group = w->q.group;
        code_bytes = c.k / 2;
        zeros_at = w->q.has_zeros ? code_bytes + (c.k + group - 1) / group * 2 : 0;
        zero = w->q.zero;
        scale_mul = w->q.scale_mul;
        scales_bf16 = w->q.scale_dt == DT_BF16;
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) {
            int32_t n = p.n0 + i * 8 + threadIdx.x % CU_WARP / 4;
            row[i / 2][i % 2] = p.rows + (n < c.n ? n : c.n - 1) * p.row_bytes;
        }
    }
    __device__ __forceinline__ void load(int32_t unit, part *to) const {
        int32_t at = unit * (UNIT_CODES / 2) + threadIdx.x % 4 * 16;
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) {
            const uint8_t *r = row[i / 2][i % 2];
            to->w[i / 2][i % 2] = cu_load_stream(r + at);
#pragma unroll
            for (int s = 0; s < GROUPS; s++) {
                int32_t g = (unit * UNIT_CODES + s * GEMM_SLAB) / group;
                to->scale[i / 2][i % 2][s] = ((const uint16_t *)(r + code_bytes))[g];
                to->zero[i / 2][i % 2][s] = zeros_at ? r[zeros_at + g] : 0;
            }
        }
    }
    /* Lane q of four has slab q; word q of each slab is what it wants. */
    __device__ __forceinline__ void arrived(part *p) const {
#pragma unroll
        for (int i = 0; i < 2 * TN; i++) {
            cu_words &w = p->w[i / 2][i % 2];
            trade(1, &w.x, &w.y), trade(1, &w.z, &w.w);
            trade(2, &w.x, &w.z), trade(2, &w.y, &w.w);
        }
    }
    /* Lanes d apart: the lower one keeps low and gets the other's low for its high. */
    static __device__ __forceinline__ void trade(int d, uint32_t *low, uint32_t *high) {
        bool upper = threadIdx.x & d;
        uint32_t got = __shfl_xor_sync(CU_FULL, upper ? *low : *high, d);
        *low = upper ? got : *low;
        *high = upper ? *high : got;
    }
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
    if (p->smem > 48 * 1024 &&
        !cuda_note(
            c,
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)p->smem),
            "gemm"))
        return;
    CU_LAUNCH((int4_kernel<H, TN, TM, rounded, GROUPS>), grid, block, p->smem, c->stream, *g);
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

/* A thread makes eight values, 16 bytes, of a word of codes. */
template <class H>
static __global__ void __launch_bounds__(256)
    expand16_kernel(const gemm_w w, int32_t k, int32_t row0, int32_t n_rows, uint16_t *to) {
    int32_t words = k / 8;
    int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= (int64_t)words * n_rows) return;
    int64_t r = i / words;
    int32_t word = (int32_t)(i - r * words);
    const uint8_t *row = w.rows + (row0 + r) * w.row_bytes;
    codes_row view = cu_codes(w.dt, &w.q, k, w.side, row);
    int32_t g = word * 8 / w.q.group;
    ((cu_words *)to)[i] =
        half_codes<H>(((const uint32_t *)row)[word], pair_zero<H>(zero_at(&view, g)),
                      pair_scale<H>(scale_at(&view, g)));
}

void gemm_expand16(cuda_backend *c, const gemm_w *w, int32_t k, int32_t row0, int32_t n_rows,
                   uint16_t *to) {
    int64_t n = (int64_t)(k / 8) * n_rows;
    dim3 grid((unsigned)CEIL_DIV(n, 256)), block(256);
    if (w->kind == GEMM_INT4_BF16)
        CU_LAUNCH((expand16_kernel<cu_bf16>), grid, block, 0, c->stream, *w, k, row0, n_rows, to);
    else
        CU_LAUNCH((expand16_kernel<cu_f16>), grid, block, 0, c->stream, *w, k, row0, n_rows, to);
    cuda_launched(c, "gemm");
}
