/* A product with a matrix of parts: the one place where weights are multiplied. */
#include "engine/forward_parts.h"

void forward_product(forward *f, const wmat *m, int32_t n_parts, const float *bias, feed_rows a,
                     int32_t n, float *out, int64_t out_stride, bool accumulate) {
    int32_t row = 0;
    for (int32_t k = 0; k < n_parts; k++) {
        op_gemm op = {.m = n,
                      .a = a.p,
                      .a_stride = a.stride,
                      .a_dt = a.dt,
                      .a_scale = a.scale,
                      .w = &m[k],
                      .bias = bias ? bias + row : NULL,
                      .out = out + row,
                      .out_stride = out_stride,
                      .accumulate = accumulate};
        f->b->v->gemm(f->b, &op);
        row += m[k].n;
    }
}
