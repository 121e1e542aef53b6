/* The matrix product that defines gemm, and the one that any CPU can run.
 *
 * Weights stay row-major. Four weight rows are expanded to f32 once, then meet every row of `a`.
 * A dot product runs in LANES f32 chains over blocks of BLOCK_K elements; block sums are added in
 * double. That is the same sequence for every element whatever M and N are, more accurate than one
 * chain, and plain enough for compilers to vectorise on every CPU. */
#include "engine/base/mem.h"
#include "kernels/ref/ref.h"

#define W_ROWS  4
#define LANES   8
#define BLOCK_K 256

static const float *expand(const wmat *w, int32_t row, float *buf) {
    const char *src = (const char *)w->data + (size_t)row * (size_t)w->k * dtype_bytes(w->dt);
    if (w->dt == DT_F32) return (const float *)src;
    const uint16_t *h = (const uint16_t *)src;
    if (w->dt == DT_BF16)
        for (int32_t k = 0; k < w->k; k++) buf[k] = bf16_to_f32(h[k]);
    else
        for (int32_t k = 0; k < w->k; k++) buf[k] = f16_to_f32(h[k]);
    return buf;
}

static double lanes_sum(const float *v) {
    return (((double)v[0] + v[4]) + ((double)v[2] + v[6])) +
           (((double)v[1] + v[5]) + ((double)v[3] + v[7]));
}

/* sum[i] += a . w[i] over n elements, n at most BLOCK_K. */
static void dot4(const float *a, const float *const *w, int32_t n, double *sum) {
    float acc[W_ROWS][LANES] = {0};
    int32_t k = 0;
    for (; k + LANES <= n; k += LANES)
        for (int i = 0; i < W_ROWS; i++)
            for (int l = 0; l < LANES; l++) acc[i][l] += a[k + l] * w[i][k + l];
    for (int l = 0; k < n; k++, l++)
        for (int i = 0; i < W_ROWS; i++) acc[i][l] += a[k] * w[i][k];
    for (int i = 0; i < W_ROWS; i++) sum[i] += lanes_sum(acc[i]);
}

static void gemm_cols(const op_gemm *g, int32_t m0, int32_t m1, int32_t n0, int32_t n, float *buf) {
    const float *w[W_ROWS];
    for (int32_t i = 0; i < W_ROWS; i++) /* past the end: the last row again, not stored */
        w[i] = expand(g->w, n0 + MIN(i, n - 1), buf + (int64_t)i * g->w->k);
    for (int32_t m = m0; m < m1; m++) {
        const float *a = (const float *)g->a + m * g->a_stride;
        float *out = g->out + m * g->out_stride + n0;
        double sum[W_ROWS] = {0};
        for (int32_t k = 0; k < g->w->k; k += BLOCK_K) {
            const float *wk[W_ROWS] = {w[0] + k, w[1] + k, w[2] + k, w[3] + k};
            dot4(a + k, wk, MIN(BLOCK_K, g->w->k - k), sum);
        }
        for (int32_t i = 0; i < n; i++) {
            double v = sum[i] + (g->bias ? g->bias[n0 + i] : 0.0f);
            out[i] = (float)(g->accumulate ? v + out[i] : v);
        }
    }
}

static void run(const gemm_job *j) {
    const op_gemm *g = j->g;
    int32_t m0 = gemm_tile_row(g->m, j->n_tiles, j->tile0);
    int32_t m1 = gemm_tile_row(g->m, j->n_tiles, j->tile1);
    int32_t n1 = MIN(g->w->n, j->panel1 * W_ROWS);
    for (int32_t n = j->panel0 * W_ROWS; n < n1; n += W_ROWS)
        gemm_cols(g, m0, m1, n, MIN(W_ROWS, n1 - n), j->scratch);
}

static size_t scratch_bytes(int32_t m, int32_t n, int32_t k) {
    return (size_t)W_ROWS * (size_t)k * sizeof(float);
}

#define GEMM_ROW(row_name)                                                                         \
    {                                                                                              \
        .name = row_name, .layout = WMAT_ROWS, .pack_rows = W_ROWS, .tile_rows = 16,               \
        .scratch_bytes = scratch_bytes, .run = run                                                 \
    }
const gemm_row ref_gemm_f32 = GEMM_ROW("ref_gemm_f32");
const gemm_row ref_gemm_f16 = GEMM_ROW("ref_gemm_f16");
const gemm_row ref_gemm_bf16 = GEMM_ROW("ref_gemm_bf16");
