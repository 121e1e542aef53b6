/* Elementwise ops over rows: a thread has four neighbouring columns of a row, read and written at
 * once where alignment allows it. Every element is computed alone, so both ways give the same
 * bits. */
#ifndef KERNELS_CUDA_CU_CELLS_H
#define KERNELS_CUDA_CU_CELLS_H

#include "kernels/cuda/cuda_backend.h"

#define CELLS_BLOCK 256

typedef struct __align__(16) cu_quad {
    float v[4];
}
cu_quad;

/* Rows of 4 columns each may be read as quads: p is NULL or aligned, the stride too. */
static inline bool cells_aligned(const void *p, int64_t stride) {
    return (uintptr_t)p % 16 == 0 && stride % 4 == 0;
}
static inline int64_t cells_blocks(int64_t n_rows, int32_t width) {
    return (n_rows * ((width + 3) / 4) + CELLS_BLOCK - 1) / CELLS_BLOCK;
}

/* A thread's columns [col, col+n) of a row; n is 0 behind the last row. */
typedef struct cu_cell {
    int64_t row;
    int32_t col, n;
} cu_cell;

static __device__ __forceinline__ cu_cell cu_cell_mine(int64_t n_rows, int32_t width) {
    int64_t i = (int64_t)blockIdx.x * CELLS_BLOCK + threadIdx.x;
    uint32_t quads = (uint32_t)((width + 3) / 4);
    cu_cell c;
    if (n_rows * quads <= 0xffffffffll) { /* a division of 32 bits is much shorter */
        uint32_t row = (uint32_t)i / quads;
        c.row = row;
        c.col = (int32_t)((uint32_t)i - row * quads) * 4;
    } else {
        c.row = i / quads;
        c.col = (int32_t)(i % quads) * 4;
    }
    c.n = c.row >= n_rows ? 0 : width - c.col < 4 ? width - c.col : 4;
    return c;
}

template <bool quads> static __device__ __forceinline__ cu_quad cu_load(const float *p, int32_t n) {
    cu_quad q;
    if constexpr (quads)
        q = *(const cu_quad *)p;
    else
#pragma unroll
        for (int i = 0; i < 4; i++) q.v[i] = i < n ? p[i] : 0.0f;
    return q;
}
template <bool quads>
static __device__ __forceinline__ void cu_store(float *p, int32_t n, const cu_quad &q) {
    if constexpr (quads)
        *(cu_quad *)p = q;
    else
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < n) p[i] = q.v[i];
}

/* Launch kernel<quads>(a) over rows of width; it calls cu_next_begin (cu_pdl.h). */
#define CELLS_LAUNCH(c, kernel, quads, n_rows, width, a)                                           \
    do {                                                                                           \
        int64_t blocks_ = cells_blocks(n_rows, width);                                             \
        if (quads)                                                                                 \
            CU_LAUNCH_NEXT(c, (kernel<true>), dim3((unsigned)blocks_), dim3(CELLS_BLOCK), 0, a);   \
        else                                                                                       \
            CU_LAUNCH_NEXT(c, (kernel<false>), dim3((unsigned)blocks_), dim3(CELLS_BLOCK), 0, a);  \
    } while (0)

#endif
