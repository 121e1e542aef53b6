/* Conversions, exhaustively over the 16-bit side: every value survives a round trip, and rounding
 * is to nearest even against neighbours computed in double. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "kernels/dtype.h"
#include "tests/unit/suite.h"

START_TEST(every_f16_and_bf16_round_trips) {
    for (uint32_t u = 0; u < 65536; u++) {
        uint16_t h = (uint16_t)u;
        float f = f16_to_f32(h), b = bf16_to_f32(h);
        bool f16_nan = (h & 0x7C00) == 0x7C00 && (h & 0x3FF), b16_nan = (h & 0x7FFF) > 0x7F80;
        ck_assert(isnan(f) == f16_nan && isnan(b) == b16_nan);
        if (!f16_nan) ck_assert_uint_eq(f32_to_f16(f), h);
        if (!b16_nan) ck_assert_uint_eq(f32_to_bf16(b), h);
        if (f16_nan) ck_assert(isnan(f16_to_f32(f32_to_f16(f))));
        if (b16_nan) ck_assert(isnan(bf16_to_f32(f32_to_bf16(b))));
    }
}
END_TEST

START_TEST(f16_values_are_the_formula) {
    for (uint32_t u = 0; u < 0x7C00; u++) {
        int exp = (int)(u >> 10), man = (int)(u & 1023);
        double want = exp ? ldexp(1024 + man, exp - 25) : ldexp(man, -24);
        ck_assert_double_eq((double)f16_to_f32((uint16_t)u), want);
        ck_assert_double_eq((double)f16_to_f32((uint16_t)(u | 0x8000)), -want);
    }
}
END_TEST

/* Between every two neighbours: just below, at and just above the midpoint. */
START_TEST(f16_rounds_to_nearest_even) {
    for (uint32_t u = 0; u < 0x7BFF; u++) {
        float lo = f16_to_f32((uint16_t)u), hi = f16_to_f32((uint16_t)(u + 1));
        float mid = (float)(((double)lo + hi) / 2); /* exact in f32 */
        ck_assert_uint_eq(f32_to_f16(mid), (u & 1) ? u + 1 : u);
        ck_assert_uint_eq(f32_to_f16(nextafterf(mid, 0)), u);
        ck_assert_uint_eq(f32_to_f16(nextafterf(mid, INFINITY)), u + 1);
    }
    ck_assert_uint_eq(f32_to_f16(65519.996f), 0x7BFF);
    ck_assert_uint_eq(f32_to_f16(65520.0f), 0x7C00);
    ck_assert_uint_eq(f32_to_f16(-INFINITY), 0xFC00);
}
END_TEST

START_TEST(bf16_rounds_to_nearest_even) {
    for (uint32_t u = 0; u < 0x7F7F; u++) {
        float lo = bf16_to_f32((uint16_t)u), hi = bf16_to_f32((uint16_t)(u + 1));
        float mid = (float)(((double)lo + hi) / 2);
        ck_assert_uint_eq(f32_to_bf16(mid), (u & 1) ? u + 1 : u);
        ck_assert_uint_eq(f32_to_bf16(nextafterf(mid, 0)), u);
        ck_assert_uint_eq(f32_to_bf16(nextafterf(mid, INFINITY)), u + 1);
    }
    ck_assert_uint_eq(f32_to_bf16(3.4e38f), 0x7F80);
}
END_TEST

START_TEST(sizes_and_names) {
    for (int d = 0; d < DT_COUNT; d++) {
        ck_assert(dtype_block(d) >= 1 && dtype_block_bytes(d) >= 1 && dtype_name(d)[0]);
        ck_assert_uint_eq(dtype_bytes(d), dtype_block(d) == 1 ? dtype_block_bytes(d) : 0);
    }
    ck_assert_uint_eq(dtype_bytes(DT_BF16), 2);
}
END_TEST

START_TEST(rows_of_floats_are_their_elements) {
    static uint16_t h[65536];
    static float all[65536];
    for (int i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    for (int d = 0; d < 2; d++) {
        floats_f32(d ? DT_F16 : DT_BF16, h, 65536, all);
        for (int i = 0; i < 65536; i++) {
            float want = d ? f16_to_f32(h[i]) : bf16_to_f32(h[i]);
            ck_assert_msg(isnan(want) ? isnan(all[i]) : memcmp(&want, &all[i], 4) == 0,
                          "%04x: %g, not %g", i, all[i], want);
        }
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("dtype");
    TCase *tc = tcase_create("dtype");
    tcase_add_test(tc, rows_of_floats_are_their_elements);
    tcase_add_test(tc, every_f16_and_bf16_round_trips);
    tcase_add_test(tc, f16_values_are_the_formula);
    tcase_add_test(tc, f16_rounds_to_nearest_even);
    tcase_add_test(tc, bf16_rounds_to_nearest_even);
    tcase_add_test(tc, sizes_and_names);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
