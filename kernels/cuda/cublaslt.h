/* cuBLASLt, opened when it is asked for: the ceiling that matrix products are compared with. No
 * header of the toolkit is needed; what is used is declared in cublaslt.c after the library's
 * manual, and stays the same from version 11 to 13. */
#ifndef KERNELS_CUDA_CUBLASLT_H
#define KERNELS_CUDA_CUBLASLT_H

#include "engine/base/status.h"
#include "kernels/measure.h"

typedef struct cublaslt cublaslt;

/* The file that PAGODA_CUBLASLT_LIBRARY names, else libcublasLt.so.13 or .12 where the loader finds
 * it. ERR_NOT_FOUND with the loader's sentence. */
NODISCARD status cublaslt_open(cublaslt **ret, error *err);
void cublaslt_close(cublaslt *lt); /* takes NULL */

#define CUBLASLT_WORKSPACE ((size_t)32 << 20)
/* Begin the product of w (PROBE_MATMUL) on a CUDA stream, with CUBLASLT_WORKSPACE bytes of device
 * memory. The algorithm is the first that the library proposes for the shape; it is asked once for
 * shapes that repeat, so that the second call may be captured. */
NODISCARD status cublaslt_matmul(cublaslt *lt, void *stream, const probe_work *w, void *workspace,
                                 error *err);

#endif
