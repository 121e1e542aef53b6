/* Loads of 16 bytes from global memory that nothing writes while a kernel runs. */
#ifndef KERNELS_CUDA_CU_LOAD_H
#define KERNELS_CUDA_CU_LOAD_H

#include "kernels/cuda/cu.h"

/* 16 bytes in registers. */
typedef struct __align__(16) cu_words {
    uint32_t x, y, z, w;
}
cu_words;
typedef struct __align__(16) cu_floats {
    float x, y, z, w;
}
cu_floats;

/* 16 bytes of weights, which are read once: they do not displace activations from the L1 cache. */
static __device__ __forceinline__ cu_words cu_load_stream(const void *p) {
#ifdef PAGODA_SIMT
    return *(const cu_words *)p;
#else
    cu_words v;
    asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
#endif
}
static __device__ __forceinline__ cu_words cu_load_words(const void *p) {
#ifdef PAGODA_SIMT
    return *(const cu_words *)p;
#else
    cu_words v;
    asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
#endif
}

#endif
