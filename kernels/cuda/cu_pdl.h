/* Programmatic dependent launch: a kernel's blocks may be put on the device while those of the
 * kernel before it are still running, so that its launch, its arguments and its first weights are
 * there when the other ends. From compute capability 9.0 on; elsewhere CU_LAUNCH_NEXT is CU_LAUNCH
 * and cu_next_begin does nothing. PAGODA_CUDA_PDL=0 in the environment turns it off.
 *
 * Why it is right. A kernel launched with CU_LAUNCH_NEXT calls cu_next_begin in every thread,
 * before it ends and before it reads or writes anything but its arguments, its own shared memory
 * and memory that no kernel writes (weights). cu_next_begin returns when all of the kernel before
 * is done and its writes are seen. So
 *   - what earlier kernels wrote is read after they are done, and what they read is overwritten
 *     after: by induction, since the kernel before has itself waited for the one before it;
 *   - a kernel that ends has waited, so whoever waits for it, by cu_next_begin or as a plain
 * launch, copy or event does, has waited for all before. A thread that returned without waiting
 * would break this for its successors; the emulation of tests/simt reports it;
 *   - weights are written by copies that a wait separates from the first step.
 * Sorted rows of experts and rows of the step's block are not of that kind: they are read after
 * cu_next_begin. Nor are weights that are expanded to scratch on the way: loads of weights may go
 * around the wait (cu_load.h), so a product of such weights is launched plainly (gemm_call.made_w).
 *
 * The next kernel is let in right after the wait, not before it: at most two kernels then share the
 * device, and a waiting one never holds places that the one before still needs, because it comes
 * when all blocks of that have begun. Not yet timed on a GPU. */
#ifndef KERNELS_CUDA_CU_PDL_H
#define KERNELS_CUDA_CU_PDL_H

#include "kernels/cuda/cu.h"

/* CU_LAUNCH on the stream of backend c, beside the kernel before. */
#define CU_LAUNCH_NEXT(c, kernel, grid, block, smem, ...)                                          \
    do {                                                                                           \
        if ((c)->early)                                                                            \
            CU_LAUNCH_EARLY(kernel, grid, block, smem, (c)->stream, __VA_ARGS__);                  \
        else                                                                                       \
            CU_LAUNCH(kernel, grid, block, smem, (c)->stream, __VA_ARGS__);                        \
    } while (0)

#ifndef PAGODA_SIMT
static __device__ __forceinline__ void cu_next_begin(void) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <class... P, class... A>
static inline void cu_launch_early(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem,
                                   cudaStream_t stream, A &&...args) {
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = &attr;
    config.numAttrs = 1;
    cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}
#define CU_LAUNCH_EARLY(kernel, grid, block, smem, stream, ...)                                    \
    cu_launch_early(kernel, (grid), (block), (smem), (stream), __VA_ARGS__)
#endif

#endif
