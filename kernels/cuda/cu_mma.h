/* Tensor cores and asynchronous copies: one function per instruction, as PTX on the device (sm_80
 * and later) and with its plain meaning under PAGODA_SIMT (tests/simt). Fragments are laid out over
 * the lanes as the PTX manual says ("Matrix Fragments for mma.m16n8k16"). */
#ifndef KERNELS_CUDA_CU_MMA_H
#define KERNELS_CUDA_CU_MMA_H

#include "kernels/cuda/cu.h"

#ifndef PAGODA_SIMT

/* d[16,8] += a[16,16] . b[16,8]; a row, b column fragments; f32 accumulators. All lanes call. */
static __device__ __forceinline__ void cu_mma_bf16(float d[4], const uint32_t a[4],
                                                   const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
static __device__ __forceinline__ void cu_mma_f16(float d[4], const uint32_t a[4],
                                                  const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* d[16,8] += a[16,32] . b[32,8] of signed bytes, exact in int32. */
static __device__ __forceinline__ void cu_mma_s8(int32_t d[4], const uint32_t a[4],
                                                 const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* d[16,8] += a[16,32] . b[32,8] of E4M3 bytes, laid out as signed bytes are; f32 accumulators.
 * sm_89 and later. On sm_89 it is one instruction (QMMA), whose sum may have fewer bits than f32
 * while it is under way; for sm_90 nvcc 13 unpacks the bytes to f16, exactly, and takes two HMMA:
 * its tensor cores have bytes of floats under wgmma alone. */
static __device__ __forceinline__ void cu_mma_e4m3(float d[4], const uint32_t a[4],
                                                   const uint32_t b[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    __trap(); /* no plan comes here */
#endif
}

/* Four (two) 8x8 matrices of 16-bit elements from shared memory; lane i gives the address of row
 * i % 8 of matrix i / 8; rows are 16-byte aligned. trans: each matrix transposed. */
static __device__ __forceinline__ void cu_ldmatrix_x4(uint32_t r[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}
static __device__ __forceinline__ void cu_ldmatrix_x4_trans(uint32_t r[4], const void *row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

/* 16 bytes (both addresses 16-byte aligned) from global to shared memory, without waiting; with
 * !valid the destination is filled with zeros and src is not read. */
static __device__ __forceinline__ void cu_copy16_async(void *shared, const void *src, bool valid) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(src),
                 "r"(valid ? 16 : 0));
}
/* Close this thread's group of copies; wait until at most n of its latest groups are under way. */
static __device__ __forceinline__ void cu_copy_commit(void) {
    asm volatile("cp.async.commit_group;");
}
template <int n> static __device__ __forceinline__ void cu_copy_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(n)
                 : "memory"); /* what was copied is read behind */
}

#endif
#endif
