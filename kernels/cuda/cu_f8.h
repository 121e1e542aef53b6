/* f8_round.h as device code, and what it rounds. */
#ifndef KERNELS_CUDA_CU_F8_H
#define KERNELS_CUDA_CU_F8_H

#include "kernels/cuda/cu.h"

extern "C" {
#include "kernels/quant.h"
}

#define F8_FN static __device__ __forceinline__
#include "kernels/f8_round.h"

static __device__ __forceinline__ bool cu_act_is_fp8(act_round a) {
    return a >= ACT_ROUND_FP8_TOKEN;
}

#endif
