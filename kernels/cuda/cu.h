/* What every .cu file includes first: the CUDA runtime. Where PAGODA_SIMT is defined, the compile
 * line has put the stand-in of tests/simt before it (-include simt.h), which runs the same kernels
 * on the host.
 *
 * Kernels are written in CUDA C with what both know: no textures, no dynamic parallelism, no
 * cooperative groups, no <cuda_bf16.h> (16-bit floats are uint16_t, cu_num.h), tensor cores and
 * asynchronous copies only through cu_mma.h. Templates over element types and tile sizes are used
 * where a macro would be worse. */
#ifndef KERNELS_CUDA_CU_H
#define KERNELS_CUDA_CU_H

#include <stdbool.h>
#include <stdint.h>

#ifndef PAGODA_SIMT
#include <cuda_runtime.h>

/* Launch kernel<<<grid, block, smem, stream>>>(...): grid and block dim3 or int; smem bytes of
 * dynamic shared memory. A kernel with template arguments is put in parentheses. */
#define CU_LAUNCH(kernel, grid, block, smem, stream, ...)                                          \
    (kernel)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
/* The block's dynamic shared memory as an array of type, 128-byte aligned. */
#define CU_DYN_SHARED(type, name)                                                                  \
    extern __shared__ __align__(128) unsigned char cu_dyn_shared[];                                \
    type *name = reinterpret_cast<type *>(cu_dyn_shared)
#endif

#define CU_WARP 32
#define CU_FULL 0xffffffffu

#endif
