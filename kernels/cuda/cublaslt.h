/* cuBLASLt, opened when it is asked for: the ceiling that matrix products are compared with, and
 * the products of --gemm-library cublaslt. No
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

/* out[M,N] = a[M,K] . w[N,K]^T (+ bias[N]) (+ out), a and w of bf16 or f16, out f32. Rows of w, a
 * and out are w_ld, a_ld, out_ld elements apart; all of it begins at 16 bytes, and so do rows. */
typedef struct lt_gemm {
    int32_t m, n, k;
    dtype dt;
    const void *w, *a;
    int64_t w_ld, a_ld, out_ld;
    const float *bias; /* or NULL */
    float *out;
    bool accumulate;
} lt_gemm;

/* How algorithms are compared: us(ctx, launch, arg) is the time of a launch on the device. out is
 * written to meanwhile: [m,n] of the product, without gaps. */
typedef struct lt_clock {
    double (*us)(void *ctx, int (*launch)(void *arg), void *arg);
    void *ctx;
    float *out;
} lt_clock;

/* Is an algorithm chosen for such a product? Rows are put into buckets of powers of two. */
bool cublaslt_knows(const cublaslt *lt, const lt_gemm *g);
/* Choose one: the quickest of those that the library proposes for the bucket's rows, by the clock;
 * its first where clock is NULL. */
void cublaslt_choose(cublaslt *lt, void *stream, const lt_gemm *g, void *workspace,
                     const lt_clock *clock);
/* Begin a product whose algorithm is chosen. False, and nothing is begun, where the library has no
 * such product. */
bool cublaslt_gemm(cublaslt *lt, void *stream, const lt_gemm *g, void *workspace);

#endif
