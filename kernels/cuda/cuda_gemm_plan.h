/* How a matrix product is laid out on a device: which kernel, which tile, how many warps. Plain
 * arithmetic on sizes, no CUDA types, so that it is tested where there is no device.
 *
 * What changes bits is fixed by K alone (gemm_splits, gemm_split_slab); a plan only says who does
 * which part of that work, so rows keep their bits whatever plan they come under. */
#ifndef KERNELS_CUDA_CUDA_GEMM_PLAN_H
#define KERNELS_CUDA_CUDA_GEMM_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/quant.h"

#ifdef __CUDACC__
#define GEMM_BOTH static __host__ __device__ __forceinline__
#else
#define GEMM_BOTH static inline
#endif

/* Weights by the arithmetic they ask for. */
typedef enum gemm_kind {
    GEMM_F32,
    GEMM_F16,
    GEMM_BF16,
    GEMM_CODES,      /* quantised, by their values in f32 */
    GEMM_VALUES_F16, /* quantised, by their values rounded to 16 bits */
    GEMM_VALUES_BF16,
    GEMM_INT4_F16, /* codes of int4 in 16-bit arithmetic */
    GEMM_INT4_BF16,
    GEMM_S8, /* codes of int8 by activations of int8: sums are exact */
    GEMM_F8, /* E4M3 by activations of E4M3 */
    GEMM_KINDS
} gemm_kind;
/* Kind of a matrix of k columns on a device of compute capability cc (80, 90); q may be NULL for
 * other types than codes. */
gemm_kind gemm_kind_of(dtype dt, int32_t k, const quant_spec *q, int cc);
static inline bool gemm_is_int4(gemm_kind kind) {
    return kind == GEMM_INT4_F16 || kind == GEMM_INT4_BF16;
}
static inline bool gemm_is_values(gemm_kind kind) {
    return kind == GEMM_VALUES_F16 || kind == GEMM_VALUES_BF16;
}
/* Both sides are bytes. Their kernels are those of 16-bit products that see two columns as one: k
 * is then half of the columns everywhere but here. */
static inline bool gemm_is_bytes(gemm_kind kind) {
    return kind == GEMM_S8 || kind == GEMM_F8;
}
static inline int32_t gemm_k_of(gemm_kind kind, int32_t columns) {
    return gemm_is_bytes(kind) ? (columns + 1) / 2 : columns;
}

/* What a product of this kind rounds activations to; of byte kinds the codes. */
dtype gemm_feed_dt(gemm_kind kind);

/* 16-bit products walk K in slabs of 32 columns, two tensor-core steps each. The slabs are cut into
 * at most GEMM_MAX_SPLITS ranges of neighbours; each is summed on its own, then the sums of the
 * ranges are added in ascending order. */
#define GEMM_SLAB       32
#define GEMM_MAX_SPLITS 16
GEMM_BOTH int32_t gemm_slabs(int32_t k) {
    return (k + GEMM_SLAB - 1) / GEMM_SLAB;
}
GEMM_BOTH int32_t gemm_splits(int32_t k) {
    int32_t slabs = gemm_slabs(k), n = 1;
    while (n < GEMM_MAX_SPLITS && slabs >= 8 * n) n *= 2; /* four slabs each at least */
    return n;
}
/* First slab of split s; s = n_splits: the end. */
GEMM_BOTH int32_t gemm_split_slab(int32_t slabs, int32_t n_splits, int32_t s) {
    return (int32_t)((int64_t)slabs * s / n_splits);
}

/* The split of a slab. */
GEMM_BOTH int32_t gemm_split_of(int32_t slabs, int32_t n_splits, int32_t slab) {
    int32_t s = (int32_t)((int64_t)slab * n_splits / slabs);
    return gemm_split_slab(slabs, n_splits, s + 1) <= slab ? s + 1 : s;
}

typedef enum gemm_kernel {
    GEMM_LANES,       /* f32: a warp per few outputs, its lanes along K */
    GEMM_UNPACK,      /* the same, of weights dequantised on the way */
    GEMM_SPLITS,      /* 16 bits, few rows: the splits of K are the warps of a block */
    GEMM_INT4,        /* the same, of packed codes */
    GEMM_VALUES,      /* 16 bits, few rows: a block decodes its features together */
    GEMM_TILES,       /* 16 bits, many rows: tiles in shared memory */
    GEMM_BYTE_SPLITS, /* as SPLITS and TILES, of bytes */
    GEMM_BYTE_TILES
} gemm_kernel;

typedef struct gemm_shape {
    gemm_kind kind;
    int32_t m;         /* rows; of experts: of all of them together */
    int32_t n, k;      /* of one matrix; k as gemm_k_of */
    int32_t n_experts; /* 0: one matrix for all rows */
    int32_t n_sms;
    bool a_aligned; /* rows of a are f32 and may be read by 16 bytes */
    bool a_is16;    /* rows of a are of the type that a 16-bit or byte kind multiplies, and may be
                     * read by 16 bytes */
} gemm_shape;

typedef struct gemm_plan {
    gemm_kernel kernel;
    int32_t features, tokens; /* output features and rows of a block */
    int32_t warps;            /* of a block */
    size_t smem;              /* dynamic shared memory of a block */
    bool round_a;             /* rows of a are rounded to 16 bits by a pass of their own, or, where
                               * they are that already, put in the order of the weights */
    bool expand; /* weights become floats by a pass of their own before the kernel: f32, of an int4
                  * kind 16 bits */
} gemm_plan;

gemm_plan gemm_plan_of(const gemm_shape *s);
/* Most tiles of `tokens` rows that m rows of n_experts can make (0: one matrix). */
int64_t gemm_row_tiles(int32_t m, int32_t n_experts, int32_t tokens);
/* Elements of a rounded row: K to whole slabs, the rest zero. */
static inline int64_t gemm_round_ld(int32_t k) {
    return (int64_t)gemm_slabs(k) * GEMM_SLAB;
}

#endif
