/* The layout of low-rank parts on a device: tiles cover all rows, ranks and columns, scratch stays
 * small, and nothing but sizes decides. */
#include <check.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_lora_plan.h"
#include "tests/unit/suite.h"

START_TEST(tiles_cover) {
    static const int32_t sizes[] = {1, 7, 8, 9, 64, 255, 256, 257, 1000, 8192};
    static const int32_t ks[] = {1, 896, 2048, 2049, 14336}, ranks[] = {1, 16, 17, 192, 1000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        for (size_t j = 0; j < ARRAY_LEN(ks); j++)
            for (size_t l = 0; l < ARRAY_LEN(ranks); l++) {
                int32_t t = sizes[i], n = 6144, k = ks[j], r = ranks[l];
                lora_plan p = lora_plan_of(t, n, k, r);
                for (int32_t m = 1; m <= t; m += 1 + m / 3)
                    ck_assert_uint_le(lora_plan_of(m, n, k, r).low_bytes,
                                      lora_low_bytes_max(t, k, r));
                ck_assert_int_ge((int64_t)p.down_tiles * p.down_rows * p.down_ranks,
                                 (int64_t)t * r);
                ck_assert_int_ge((int64_t)p.up_tiles * p.up_rows * LORA_COLS, (int64_t)t * n);
                ck_assert(p.chunk_parts == 1 || p.chunk_parts == lora_chunks(k));
                ck_assert_int_ge((int64_t)lora_chunks(k) * LORA_CHUNK, k);
                ck_assert_uint_eq(p.low_bytes, (size_t)p.chunk_parts * (size_t)(t * r) * 4);
                ck_assert(p.down_rows <= 32 && p.up_rows <= 32); /* a lane for each */
            }
}
END_TEST

START_TEST(few_rows_spread) {
    lora_plan few = lora_plan_of(16, 4096, 14336, 16), many = lora_plan_of(8192, 4096, 14336, 16);
    ck_assert_int_eq(few.chunk_parts, 7);
    ck_assert_int_gt(few.adapters_apart, 1);
    ck_assert_int_eq(many.chunk_parts, 1);
    ck_assert_int_eq(many.adapters_apart, 1);
    ck_assert_int_gt(many.down_rows, few.down_rows);
}
END_TEST

int main(void) {
    Suite *s = suite_create("cuda_lora_plan");
    TCase *tc = tcase_create("plan");
    tcase_add_test(tc, tiles_cover);
    tcase_add_test(tc, few_rows_spread);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
