/* The functions of kernels/cuda/cu_mma.h with their plain meaning (simt_mma.cpp). What the hardware
 * leaves open is as unfriendly here as it may be: the destination of an asynchronous copy holds
 * poison until the thread that issued it has waited. Sums of a product are made in f32, in
 * ascending order of k; hardware adds in an order of its own. */
#ifndef TESTS_SIMT_SIMT_MMA_H
#define TESTS_SIMT_SIMT_MMA_H

#include "tests/simt/simt.h"

struct simt_mma_op : simt_op {
    void *d;
    const uint32_t *a, *b;
};
void simt_mma_bf16(simt_op *const lanes[32], uint32_t mask);
void simt_mma_f16(simt_op *const lanes[32], uint32_t mask);
void simt_mma_s8(simt_op *const lanes[32], uint32_t mask);
void simt_mma_e4m3(simt_op *const lanes[32], uint32_t mask);

static inline void simt_mma_of(const char *name,
                               void (*run)(simt_op *const lanes[32], uint32_t mask), void *d,
                               const uint32_t *a, const uint32_t *b) {
    simt_mma_op op;
    op.run = run, op.name = name, op.mask = 0xffffffffu;
    op.d = d, op.a = a, op.b = b;
    simt_warp_op(&op);
}
static inline void cu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    simt_mma_of("cu_mma_bf16", simt_mma_bf16, d, a, b);
}
static inline void cu_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    simt_mma_of("cu_mma_f16", simt_mma_f16, d, a, b);
}
static inline void cu_mma_s8(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) {
    simt_mma_of("cu_mma_s8", simt_mma_s8, d, a, b);
}
static inline void cu_mma_e4m3(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    simt_mma_of("cu_mma_e4m3", simt_mma_e4m3, d, a, b);
}

struct simt_matrix_op : simt_op {
    uint32_t *r;
    const void *row;
};
void simt_ldmatrix(simt_op *const lanes[32], uint32_t mask);
void simt_ldmatrix_trans(simt_op *const lanes[32], uint32_t mask);
/* Ends the program where row is not 16-byte aligned shared memory. */
void simt_check_row(const void *row);

static inline void cu_ldmatrix_x4(uint32_t r[4], const void *row) {
    simt_matrix_op op;
    op.run = simt_ldmatrix, op.name = "cu_ldmatrix_x4", op.mask = 0xffffffffu;
    op.r = r, op.row = row;
    simt_check_row(row);
    simt_warp_op(&op);
}
static inline void cu_ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    simt_matrix_op op;
    op.run = simt_ldmatrix_trans, op.name = "cu_ldmatrix_x4_trans", op.mask = 0xffffffffu;
    op.r = r, op.row = row;
    simt_check_row(row);
    simt_warp_op(&op);
}

void cu_copy16_async(void *shared, const void *src, bool valid);
void cu_copy_commit(void);
void simt_copy_wait(int n);
template <int n> static inline void cu_copy_wait(void) {
    simt_copy_wait(n);
}

#endif
