/* The functions of cuBLASLt that are used, as its manual has them, and what is kept of it: for
 * cublaslt.c and cublaslt_gemm.c. */
#ifndef KERNELS_CUDA_CUBLASLT_CALLS_H
#define KERNELS_CUDA_CUBLASLT_CALLS_H

#include "kernels/cuda/cublaslt.h"

/* Numbers of the library's enumerations. */
enum { TYPE_F32 = 0, TYPE_F16 = 2, TYPE_BF16 = 14, TYPE_E4M3 = 28 };
enum { COMPUTE_F32 = 68, TRANSPOSED = 1 };
enum { DESC_TRANSPOSE_A = 3, DESC_EPILOGUE = 7, DESC_BIAS = 8, DESC_FAST_SUMS = 25 };
enum { EPILOGUE_BIAS = 4, PREFER_WORKSPACE = 1, PREFER_ALIGN_A = 5, PREFER_ALIGN_D = 8 };

typedef struct lt_algo {
    uint64_t data[8];
} lt_algo;
typedef struct lt_proposal {
    lt_algo algo;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
} lt_proposal;

typedef struct lt_calls {
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*desc_create)(void **desc, int compute, int scale_type);
    int (*desc_destroy)(void *desc);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_destroy)(void *layout);
    int (*prefer_create)(void **preference);
    int (*prefer_destroy)(void *preference);
    int (*prefer_set)(void *preference, int attribute, const void *value, size_t bytes);
    int (*propose)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *preference,
                   int wanted, lt_proposal *ret, int *ret_n);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout,
                  const void *b, void *b_layout, const void *beta, const void *c, void *c_layout,
                  void *d, void *d_layout, const lt_algo *algo, void *workspace, size_t bytes,
                  void *stream);
} lt_calls;

/* The product of one shape. */
typedef struct lt_product {
    int32_t m, n, k;
    dtype dt;
    void *desc, *w, *a, *out;
    lt_algo algo;
} lt_product;

/* The algorithm for products [m,k] x [k,n] with m of one bucket. */
typedef struct lt_choice {
    int32_t bucket, n, k;
    dtype dt;
    bool bias, none; /* none: the library has no good one */
    lt_algo algo;
} lt_choice;

struct cublaslt {
    void *library, *handle;
    lt_calls call;
    lt_product last;   /* desc is NULL: none */
    lt_choice *chosen; /* [n_chosen] by cublaslt_gemm */
    int32_t n_chosen;
};

#endif
