/* The reference rows against the formulas of ops.h written out a second time, through the backend:
 * what everything else is compared with must itself be right. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/rng.h"
#include "kernels/backend.h"
#include "tests/unit/suite.h"

static backend *be;

static void setup(void) {
    error err;
    cpu_options o = {.n_threads = 2, .isa = "ref"};
    ck_assert(backend_cpu_open(&o, &be, &err) == OK);
}
static void teardown(void) {
    backend_close(be);
}

static float *randoms(size_t n, uint64_t seed) {
    float *p = malloc(n * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = (float)(rng_uniform(seed, i, 0) * 2 - 1);
    return p;
}
static double rounded(float v, dtype dt) {
    return dt == DT_F32   ? v
           : dt == DT_F16 ? f16_to_f32(f32_to_f16(v))
                          : bf16_to_f32(f32_to_bf16(v));
}

START_TEST(gemm_is_the_formula) {
    enum { M = 5, N = 37, K = 301 };
    float *a = randoms(M * K, 1), *w = randoms(N * K, 2), *bias = randoms(N, 3);
    float *old = randoms(M * N, 4), out[M * N];
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    for (int t = 0; t < 3; t++) {
        wmat m;
        void *data = calloc(1, be->v->wmat_bytes(be, N, K, types[t]));
        be->v->wmat_init(be, &m, N, K, types[t], data);
        be->v->wmat_pack(be, &m, 0, 11, w, DT_F32, K);
        be->v->wmat_pack(be, &m, 11, N - 11, w + 11 * K, DT_F32, K);
        for (int i = 0; i < M * N; i++) out[i] = old[i];
        op_gemm g = {M, a, K, &m, bias, out, N, true};
        be->v->gemm(be, &g);
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) {
                double want = (double)bias[j] + old[i * N + j];
                for (int k = 0; k < K; k++)
                    want += (double)a[i * K + k] * rounded(w[j * K + k], types[t]);
                ck_assert(fabs(out[i * N + j] - want) < 2e-5);
            }
        free(data);
    }
    free(a), free(w), free(bias), free(old);
}
END_TEST

/* rope_kv writes 40 tokens, attention reads them; pages out of order, GQA 2, window and softcap. */
START_TEST(attention_is_the_formula) {
    enum { T = 40, H = 4, G = 2, D = 8, S = 16, P = 5, W = (H + 2 * G) * D };
    static const int32_t pages[] = {3, 0, 4};
    float *qkv = randoms(T * W, 7), *plain = randoms(T * W, 7), out[T * H * D];
    float cosines[T * D / 2], sines[T * D / 2];
    float kp[P * G * S * D], vp[P * G * S * D];
    int32_t pos[T];
    int64_t slot[T];
    for (int t = 0; t < T; t++) {
        pos[t] = t;
        slot[t] = (int64_t)pages[t / S] * S + t % S;
        for (int j = 0; j < D / 2; j++) {
            cosines[t * D / 2 + j] = cosf((float)t * powf(100, -2.0f * (float)j / D));
            sines[t * D / 2 + j] = sinf((float)t * powf(100, -2.0f * (float)j / D));
        }
    }
    op_rope_kv r = {T, H, G, D, D, ROPE_HALF, qkv, W, pos, slot, cosines, sines, kp, vp, DT_F32, S};
    be->v->rope_kv(be, &r);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H + G; h++)
            for (int j = 0; j < D / 2; j++) {
                double c = cosines[t * D / 2 + j], s = sines[t * D / 2 + j];
                const float *x = plain + t * W + h * D, *y = qkv + t * W + h * D;
                ck_assert(fabs(y[j] - (x[j] * c - x[j + D / 2] * s)) < 1e-6);
                ck_assert(fabs(y[j + D / 2] - (x[j + D / 2] * c + x[j] * s)) < 1e-6);
            }
    attn_seq seqs[] = {{0, 30, 0, 0, 0}, {30, T - 30, 30, 0, 0}};
    op_attention a = {{2, seqs, seqs, pages},
                      H,
                      G,
                      D,
                      qkv,
                      W,
                      out,
                      H * D,
                      0.4f,
                      2.0f,
                      12,
                      NULL,
                      kp,
                      vp,
                      DT_F32,
                      S};
    be->v->attention(be, &a);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < H; h++) {
            double sum = 0, want[D] = {0};
            for (int j = t < 12 ? 0 : t - 11; j <= t; j++) {
                const float *q = qkv + t * W + h * D, *k = qkv + j * W + (H + h / 2) * D;
                double s = 0;
                for (int i = 0; i < D; i++) s += (double)q[i] * k[i];
                double p = exp(2 * tanh(0.4f * s / 2));
                sum += p;
                for (int i = 0; i < D; i++) want[i] += p * k[G * D + i];
            }
            for (int i = 0; i < D; i++)
                ck_assert(fabs(out[(t * H + h) * D + i] - want[i] / sum) < 1e-5);
        }
    free(qkv), free(plain);
}
END_TEST

START_TEST(norms_are_the_formula) {
    enum { N = 3, W = 33 };
    float *x = randoms(N * W, 5), *y = randoms(N * W, 6), *w = randoms(W, 8), *b = randoms(W, 9);
    float *x0 = randoms(N * W, 5), out[N * W];
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < N * W; i++) x[i] = x0[i];
        op_norm a = {kind, N, 1, W, x, W, y, W, w, kind ? b : NULL, 1e-5f, out, W};
        be->v->norm(be, &a);
        for (int r = 0; r < N; r++) {
            double mean = 0, var = 0;
            for (int i = 0; i < W; i++) {
                ck_assert_float_eq(x[r * W + i], x0[r * W + i] + y[r * W + i]);
                mean += kind ? x[r * W + i] / W : 0;
            }
            for (int i = 0; i < W; i++) var += pow(x[r * W + i] - mean, 2) / W;
            for (int i = 0; i < W; i++) {
                double want = (x[r * W + i] - mean) / sqrt(var + 1e-5) * w[i] + (kind ? b[i] : 0);
                ck_assert(fabs(out[r * W + i] - want) < 1e-5);
            }
        }
    }
    free(x), free(y), free(w), free(b), free(x0);
}
END_TEST

START_TEST(logsumexp_of_long_rows) {
    enum { W = 20001 };
    float *x = randoms(2 * W, 11), max[2], lse[2];
    int32_t arg[2];
    x[W + 20000] = x[W + 17] = 5;
    op_logsumexp a = {2, W, x, W, max, lse, arg};
    be->v->logsumexp(be, &a);
    double sum = 0;
    for (int i = 0; i < W; i++) sum += exp(x[W + i]);
    ck_assert(fabs(lse[1] - log(sum)) < 1e-5);
    ck_assert_int_eq(arg[1], 17);
    ck_assert_float_eq(max[1], 5);
    x[20] = NAN;
    be->v->logsumexp(be, &a);
    ck_assert(isnan(max[0]) && isnan(lse[0]) && arg[1] == 17);
    free(x);
}
END_TEST

START_TEST(unknown_isa_is_a_sentence) {
    error err;
    backend *b = NULL;
    cpu_options o = {.isa = "sse9"};
    ck_assert(backend_cpu_open(&o, &b, &err) == ERR_INVALID && !b);
    ck_assert(strstr(err.text, "sse9") && strstr(err.text, "ref"));
    strbuf out = {0};
    backend_print_kernels(be, &out);
    ck_assert(strstr(out.p, "ref_gemm_bf16"));
    strbuf_done(&out);
}
END_TEST

int main(void) {
    Suite *s = suite_create("ref");
    TCase *tc = tcase_create("ref");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, gemm_is_the_formula);
    tcase_add_test(tc, attention_is_the_formula);
    tcase_add_test(tc, norms_are_the_formula);
    tcase_add_test(tc, logsumexp_of_long_rows);
    tcase_add_test(tc, unknown_isa_is_a_sentence);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
