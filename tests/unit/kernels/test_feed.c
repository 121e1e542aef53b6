/* Stored rows of activations (feed.h): codes times their scale are what quant_round_acts makes of a
 * row, and rows that codes cannot hold show it. */
#include <check.h>
#include <math.h>

#include "engine/base/rng.h"
#include "kernels/feed.h"
#include "kernels/quant.h"
#include "tests/unit/suite.h"

#define N 37

static void random_row(uint64_t seed, float *x) {
    for (int i = 0; i < N; i++) x[i] = (float)(rng_uniform(7, seed, (uint32_t)i) * 6 - 3);
}

START_TEST(sixteen_bits_are_the_nearest) {
    float x[N], y[N];
    uint16_t stored[N];
    random_row(1, x);
    x[3] = NAN, x[4] = INFINITY, x[5] = 1e30f;
    feed_store(DT_BF16, x, N, stored, NULL);
    feed_load(DT_BF16, stored, 1, N, y);
    for (int i = 0; i < N; i++)
        ck_assert(isnan(x[i]) ? isnan(y[i]) : y[i] == bf16_to_f32(f32_to_bf16(x[i])));
    feed_store(DT_F16, x, N, stored, NULL);
    feed_load(DT_F16, stored, 1, N, y);
    ck_assert(isinf(y[5]) && isnan(y[3])); /* as f16 inference does */
    ck_assert_float_eq(y[7], f16_to_f32(f32_to_f16(x[7])));
}
END_TEST

START_TEST(codes_are_what_products_round_to) {
    static const struct {
        dtype dt;
        act_round act;
    } kinds[] = {{DT_I8, ACT_ROUND_INT8_TOKEN}, {DT_F8_E4M3, ACT_ROUND_FP8_TOKEN}};
    for (uint64_t seed = 0; seed < 50; seed++)
        for (int k = 0; k < 2; k++) {
            quant_spec q = {.act = kinds[k].act};
            float x[N], y[N], scale;
            uint8_t codes[48];
            random_row(seed, x);
            memset(codes, 0xA5, sizeof codes);
            feed_store(kinds[k].dt, x, N, codes, &scale);
            feed_load(kinds[k].dt, codes, scale, N, y);
            quant_round_acts(&q, N, NULL, x);
            for (int i = 0; i < N; i++) ck_assert_float_eq(x[i], y[i]);
            for (int i = N; i < 48; i++) ck_assert_uint_eq(codes[i], 0);
        }
}
END_TEST

START_TEST(rows_that_codes_cannot_hold) {
    static const dtype types[] = {DT_I8, DT_F8_E4M3};
    for (int k = 0; k < 2; k++) {
        float x[N] = {0}, y[N], scale;
        uint8_t codes[48];
        feed_store(types[k], x, N, codes, &scale);
        ck_assert(scale == 0);
        for (int i = 0; i < 48; i++) ck_assert_uint_eq(codes[i], 0);
        x[5] = k ? NAN : -INFINITY;
        feed_store(types[k], x, N, codes, &scale);
        feed_load(types[k], codes, scale, N, y);
        for (int i = 0; i < N; i++) ck_assert(codes[i] == 0 && isnan(y[i]));
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("feed");
    TCase *tc = tcase_create("feed");
    tcase_add_test(tc, sixteen_bits_are_the_nearest);
    tcase_add_test(tc, codes_are_what_products_round_to);
    tcase_add_test(tc, rows_that_codes_cannot_hold);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
