/* Floats to codes: against rows that NumPy made of the header's words (tests/kernels/
 * make_quantize.py), and against the least error that a search of all scales finds. Levels are
 * compared by checkkern. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "kernels/quantize.h"
#include "tests/unit/suite.h"

#define FIXTURES "tests/kernels/quantize.json"

static quant_spec spec_of(int bits, int32_t group, bool zeros, dtype scale_dt) {
    return (quant_spec){.group = group,
                        .scale_dt = scale_dt,
                        .has_zeros = zeros,
                        .zero = (int16_t)(zeros ? 0 : 1 << (bits - 1)),
                        .scale_mul = 1};
}

static size_t from_hex(str hex, void *ret) {
    for (size_t i = 0; i + 1 < hex.n; i += 2) {
        char two[3] = {hex.p[i], hex.p[i + 1], 0};
        ((uint8_t *)ret)[i / 2] = (uint8_t)strtoul(two, NULL, 16);
    }
    return hex.n / 2;
}

START_TEST(rows_are_those_of_numpy) {
    json_t *root, *v;
    error err;
    size_t i;
    ck_assert_msg(js_parse_file(FIXTURES, 1 << 20, &root, &err) == OK, "%s", err.text);
    ck_assert_uint_gt(json_array_size(root), 20);
    json_array_foreach(root, i, v) {
        float x[256];
        uint8_t want[2048], got[2048];
        int bits = (int)json_integer_value(json_object_get(v, "bits"));
        dtype scale = str_eq(js_get_str(v, "scale"), STR("f16")) ? DT_F16 : DT_F32;
        quant_spec q = spec_of(bits, (int32_t)json_integer_value(json_object_get(v, "group")),
                               json_is_true(json_object_get(v, "zeros")), scale);
        dtype dt = bits == 4 ? DT_INT4 : DT_INT8;
        int32_t k = (int32_t)(from_hex(js_get_str(v, "x"), x) / sizeof *x);
        size_t bytes = from_hex(js_get_str(v, "row"), want);
        quantize_error e = {0};
        ck_assert_uint_eq(bytes, quant_row_bytes(dt, &q, k));
        quantize_rows(dt, &q, k, x, 1, got, &e);
        for (size_t b = 0; b < bytes; b++)
            ck_assert_msg(got[b] == want[b], "case %zu (%s), %d bits, byte %zu: %d, not %d", i,
                          js_get_str(v, "name").p, bits, b, got[b], want[b]);
    }
    json_decref(root);
}
END_TEST

/* Numbers as weights have them, and as they should not. */
static void fill(uint64_t seed, int kind, int32_t n, float *x) {
    for (int32_t i = 0; i < n; i++) {
        double u = -6; /* nearly normal */
        for (uint32_t k = 0; k < 12; k++) u += rng_uniform(seed, (uint64_t)i, k);
        if (kind == 1) u = u * u * u;           /* long tails */
        if (kind == 2) u = 3 + u * 0.5;         /* one sign */
        if (kind == 3) u = i % 7 ? 0 : u;       /* mostly zeros */
        if (kind == 4) u = i == n / 2 ? 40 : u; /* one outlier */
        x[i] = (float)(u * 0.02);
    }
}

static double error_of(const float *x, int32_t n, double s, int zero, int top) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        double q = fmin(fmax(nearbyint(x[i] / s), -zero), top - zero), d = x[i] - q * s;
        sum += d * d;
    }
    return sum;
}

/* The least error over scales a thousandth apart, and zeros where there are such. */
static double least_error(const float *x, int32_t n, int bits, bool zeros) {
    int top = (1 << bits) - 1, mid = 1 << (bits - 1);
    double most = 0, best = INFINITY;
    for (int32_t i = 0; i < n; i++) most = fmax(most, fabs((double)x[i]));
    for (int z = zeros ? 0 : mid; z <= (zeros ? top : mid); z++)
        for (int t = 150; t <= 2100; t++) {
            double s = most / mid * t / 1000;
            best = fmin(best, fmin(error_of(x, n, s, z, top), error_of(x, n, -s, z, top)));
        }
    return best;
}

static double found_error(const float *x, int32_t n, int bits, bool zeros) {
    uint8_t row[1024];
    float back[QUANT_STRIP];
    dtype dt = bits == 4 ? DT_INT4 : DT_INT8;
    quant_spec q = spec_of(bits, n, zeros, DT_F32);
    quantize_error e = {0};
    double sum = 0;
    quantize_rows(dt, &q, n, x, 1, row, &e);
    quant_row_f32(dt, &q, n, NULL, row, 0, n, back);
    for (int32_t i = 0; i < n; i++) sum += pow((double)x[i] - back[i], 2);
    ck_assert_double_eq_tol(sum, e.err2, 1e-4 * sum + 1e-12);
    return sum;
}

START_TEST(the_error_is_nearly_the_least) {
    static const struct {
        int bits;
        int32_t n;
        bool zeros;
        double most; /* over the least, summed over groups */
    } cases[] = {{4, 32, false, 1.03}, {4, 32, true, 1.03}, {8, 128, false, 1.12}};
    for (size_t c = 0; c < ARRAY_LEN(cases); c++)
        for (int kind = 0; kind < 5; kind++) {
            float x[128];
            double found = 0, least = 0;
            for (int i = 0; i < 12; i++) {
                fill((uint64_t)i, kind, cases[c].n, x);
                found += found_error(x, cases[c].n, cases[c].bits, cases[c].zeros);
                least += least_error(x, cases[c].n, cases[c].bits, cases[c].zeros);
            }
            /* of one sign; a few numbers, which some scale far from the tries fits by chance */
            double most = cases[c].most + (kind == 2 ? 0.07 : kind == 3 ? 0.8 : 0);
            ck_assert_msg(found <= least * most, "%d bits, numbers of kind %d: %g, %g",
                          cases[c].bits, kind, found, least);
        }
}
END_TEST

/* Rows in one call or in several, groups that the row's end cuts, rows behind the last. */
START_TEST(rows_do_not_depend_on_their_number) {
    enum { K = 75, N = 37 };
    static float x[N * K];
    static uint8_t all[N * 256], one[256];
    for (int bits = 4; bits <= 8; bits += 4) {
        quant_spec q = spec_of(bits, 32, false, DT_F16);
        dtype dt = bits == 4 ? DT_INT4 : DT_INT8;
        size_t bytes = quant_row_bytes(dt, &q, K);
        quantize_error sum = {0}, each = {0};
        for (int i = 0; i < N; i++) fill((uint64_t)i, i % 5, K, x + i * K);
        memset(all, 0xEE, sizeof all);
        quantize_rows(dt, &q, K, x, N, all, &sum);
        for (size_t b = N * bytes; b < sizeof all; b++) ck_assert_int_eq(all[b], 0xEE);
        for (int i = 0; i < N; i++) {
            quantize_rows(dt, &q, K, x + i * K, 1, one, &each);
            ck_assert_mem_eq(one, all + (size_t)i * bytes, bytes);
        }
        ck_assert_double_eq_tol(sum.err2, each.err2, 1e-9 * sum.err2);
        ck_assert(sum.sum2 > 0 && sum.err2 < sum.sum2 * (bits == 4 ? 0.03 : 1e-4));
    }
}
END_TEST

START_TEST(what_is_no_number_is_told) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        float x[64] = {0.5f, -0.25f};
        uint8_t row[128];
        quant_spec q = spec_of(4, 32, i % 2, DT_F16);
        quantize_error e = {0};
        x[40] = bad[i];
        quantize_rows(DT_INT4, &q, 64, x, 1, row, &e);
        ck_assert(!isfinite(e.err2));
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("quantize");
    TCase *tc = tcase_create("quantize");
    tcase_add_test(tc, rows_are_those_of_numpy);
    tcase_add_test(tc, the_error_is_nearly_the_least);
    tcase_add_test(tc, rows_do_not_depend_on_their_number);
    tcase_add_test(tc, what_is_no_number_is_told);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
