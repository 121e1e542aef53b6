/* How products are laid out on a device: splits of K cover it once whatever K is and depend on
 * nothing else; every plan is one that the kernels have and that every GPU can launch. */
#include <check.h>

#include "engine/base/mem.h"
#include "kernels/cuda/cuda_quant_layout.h"
#include "tests/unit/suite.h"

START_TEST(splits_cover_k_once) {
    for (int32_t k = 1; k < 40000; k += k < 2000 ? 1 : 97) {
        int32_t slabs = gemm_slabs(k), n = gemm_splits(k);
        ck_assert_int_ge(slabs * GEMM_SLAB, k);
        ck_assert_int_lt((slabs - 1) * GEMM_SLAB, k);
        ck_assert(n >= 1 && n <= GEMM_MAX_SPLITS && (n & (n - 1)) == 0);
        ck_assert_int_eq(gemm_split_slab(slabs, n, 0), 0);
        ck_assert_int_eq(gemm_split_slab(slabs, n, n), slabs);
        for (int32_t s = 0; s < n; s++) /* none is empty, and more than one are worth a warp each */
            ck_assert_int_ge(gemm_split_slab(slabs, n, s + 1) - gemm_split_slab(slabs, n, s),
                             n == 1 ? 1 : 4);
    }
}
END_TEST

START_TEST(splits_of_known_widths) {
    ck_assert_int_eq(gemm_splits(32), 1);
    ck_assert_int_eq(gemm_splits(224), 1);
    ck_assert_int_eq(gemm_splits(256), 2);
    ck_assert_int_eq(gemm_splits(896), 4);
    ck_assert_int_eq(gemm_splits(2048), 16);
    ck_assert_int_eq(gemm_splits(14336), 16);
    ck_assert_int_eq(gemm_round_ld(100), 128);
}
END_TEST

START_TEST(kinds_of_types) {
    ck_assert_int_eq(gemm_kind_of(DT_F32, 64, NULL, 80), GEMM_F32);
    ck_assert_int_eq(gemm_kind_of(DT_F16, 64, NULL, 80), GEMM_F16);
    ck_assert_int_eq(gemm_kind_of(DT_BF16, 64, NULL, 80), GEMM_BF16);
    ck_assert_int_eq(gemm_kind_of(DT_Q4_K, 256, NULL, 80), GEMM_CODES);
    quant_spec q = {.group = 128, .scale_dt = DT_F16, .zero = 8, .scale_mul = 1, .math = DT_F16};
    ck_assert_int_eq(gemm_kind_of(DT_Q4_K, 256, &q, 80), GEMM_VALUES_F16);
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 1024, &q, 80), GEMM_INT4_F16);
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 1024 + 128, &q, 80), GEMM_INT4_F16);
    ck_assert_int_eq(gemm_kind_of(DT_INT8, 1024, &q, 80), GEMM_VALUES_F16);
    q.math = DT_BF16;
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 1024, &q, 80), GEMM_INT4_BF16);
    q.has_order = true;
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 1024, &q, 80), GEMM_INT4_BF16);
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 1000, &q, 80), GEMM_VALUES_BF16); /* groups not whole */
    q.has_order = false, q.group = 48;
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 960, &q, 80), GEMM_VALUES_BF16);
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 40, &q, 80), GEMM_INT4_BF16); /* one group */
    q.math = DT_F32;
    ck_assert_int_eq(gemm_kind_of(DT_INT4, 1024, &q, 80), GEMM_CODES);
}
END_TEST

START_TEST(kinds_of_bytes) {
    quant_spec q = {.group = 1024, .scale_dt = DT_BF16, .zero = 128, .scale_mul = 1};
    q.act = ACT_ROUND_INT8_TOKEN; /* exact whatever the arithmetic asked for */
    ck_assert_int_eq(gemm_kind_of(DT_INT8, 1024, &q, 80), GEMM_S8);
    ck_assert_int_eq(gemm_kind_of(DT_INT8, 2048, &q, 80), GEMM_CODES); /* two groups */
    q.act = ACT_ROUND_FP8_TOKEN;
    ck_assert_int_eq(gemm_kind_of(DT_F8_E4M3, 1024, &q, 90), GEMM_CODES);
    q.math = DT_BF16;
    ck_assert_int_eq(gemm_kind_of(DT_F8_E4M3, 1024, &q, 90), GEMM_F8);
    ck_assert_int_eq(gemm_kind_of(DT_F8_E4M3, 1024, &q, 89), GEMM_F8);
    ck_assert_int_eq(gemm_kind_of(DT_F8_E4M3, 1024, &q, 86), GEMM_VALUES_BF16);
    ck_assert_int_eq(gemm_kind_of(DT_F8_E5M2, 1024, &q, 90), GEMM_VALUES_BF16);
    q.group = 128;
    ck_assert_int_eq(gemm_kind_of(DT_F8_E4M3, 7168, &q, 90), GEMM_F8);
    q.group = 64;
    ck_assert_int_eq(gemm_kind_of(DT_F8_E4M3, 7168, &q, 90), GEMM_VALUES_BF16);
    q.group = 128, q.act = ACT_ROUND_NONE;
    ck_assert_int_eq(gemm_kind_of(DT_F8_E4M3, 7168, &q, 90), GEMM_VALUES_BF16);
}
END_TEST

/* Planes do not overlap, hold what rows bring, and a matrix is also large enough as stored rows. */
START_TEST(planes_of_quantised_matrices) {
    for (int i = 0; i < 48; i++) {
        int32_t n = 1 + i * 7, k = i % 3 ? 32 * (i + 1) : 128 * (i + 1);
        quant_spec q = {.group = i % 2 ? 32 : k, .scale_dt = DT_F16, .has_zeros = i & 2};
        q.has_order = (i & 4) && k % q.group == 0;
        gemm_kind kind = i % 4 == 3 ? GEMM_F8 : GEMM_INT4_F16;
        dtype dt = kind == GEMM_F8 ? DT_F8_E4M3 : DT_INT4;
        if (kind == GEMM_F8) q.has_zeros = q.has_order = false;
        quant_layout l = quant_layout_of(kind, dt, &q, n, k);
        ck_assert(l.codes.row_bytes % 64 == 0 && l.codes.at % 256 == 0);
        ck_assert(l.codes.row_bytes >= dtype_row_bytes(dt, k));
        ck_assert(l.codes.at >= (q.has_order ? (size_t)k * 4 : 0));
        ck_assert(l.scales.at >= l.codes.at + (size_t)n * l.codes.row_bytes);
        ck_assert_uint_eq(l.scales.row_bytes,
                          (size_t)quant_groups(&q, k) * (kind == GEMM_F8 ? 4 : 2));
        ck_assert(!q.has_zeros || l.zeros.at >= l.scales.at + (size_t)n * l.scales.row_bytes);
        ck_assert(l.bytes >= l.scales.at + (size_t)n * l.scales.row_bytes);
        ck_assert(l.bytes >= l.zeros.at + (size_t)n * l.zeros.row_bytes);
        ck_assert(l.bytes >= quant_side_bytes(dt, &q, k) + (size_t)n * quant_row_bytes(dt, &q, k));
    }
}
END_TEST

/* A lane's 16 bytes of a unit of 128 codes are its eight columns of each of four slabs. */
START_TEST(int4_codes_lie_by_lanes) {
    enum { K = 200 };
    quant_spec q = {.group = K, .scale_dt = DT_F16, .scale_mul = 1};
    quant_layout l = quant_layout_of(GEMM_INT4_F16, DT_INT4, &q, 1, K);
    uint8_t codes[K], scales[2] = {7, 9}, stored[K / 2 + 2], to[256];
    int32_t columns[K];
    for (int i = 0; i < K; i++) codes[i] = (uint8_t)(i * 7 % 16), columns[i] = (i * 3 + 5) % K;
    quant_rows rows = {codes, scales, NULL};
    quant_pack_rows(DT_INT4, &q, K, &rows, 1, stored);
    for (int sorted = 0; sorted < 2; sorted++) {
        quant_layout_codes(&l, DT_INT4, sorted ? columns : NULL, stored, to);
        for (int32_t i = 0; i < 256; i++) {
            int32_t slab = i % 128 / 32, lane = i % 32 / 8,
                    at = i / 128 * 64 + lane * 16 + slab * 4;
            uint8_t code = to[at + i % 8 / 2] >> i % 2 * 4 & 15;
            ck_assert_int_eq(code, i < K ? codes[sorted ? columns[i] : i] : 0);
        }
    }
    quant_layout_scales(&l, DT_INT4, &q, stored, to);
    ck_assert(to[0] == 7 && to[1] == 9);
}
END_TEST

START_TEST(rows_of_int8_bring_sum_and_shift) {
    enum { K = 70 };
    quant_spec q = {.group = K, .scale_dt = DT_F32, .has_zeros = true, .zero = 1, .scale_mul = 2};
    quant_layout l = quant_layout_of(GEMM_S8, DT_INT8, &q, 1, K);
    uint8_t codes[K], zero = 100, stored[K + 5], to[128];
    float scale = 0.25f;
    int32_t sum = 0;
    for (int i = 0; i < K; i++) codes[i] = (uint8_t)(i * 37), sum += codes[i] - 128;
    quant_rows rows = {codes, &scale, &zero};
    quant_pack_rows(DT_INT8, &q, K, &rows, 1, stored);
    quant_layout_codes(&l, DT_INT8, NULL, stored, to);
    for (int i = 0; i < 128; i++) ck_assert_int_eq((int8_t)to[i], i < K ? codes[i] - 128 : 0);
    quant_row8 r;
    quant_layout_scales(&l, DT_INT8, &q, stored, to);
    memcpy(&r, to, sizeof r);
    ck_assert(r.scale == 0.5f && r.sum == sum && r.shift == 128 - 101);
}
END_TEST

START_TEST(columns_are_sorted_by_whole_groups) {
    quant_spec q = {.group = 3, .has_order = true};
    int32_t whole[6] = {1, 0, 1, 1, 0, 0}, other[6] = {1, 1, 1, 1, 0, 0}, got[6];
    static const int32_t want[6] = {1, 4, 5, 0, 2, 3};
    ck_assert(quant_sort_columns(&q, 6, whole, got));
    ck_assert_mem_eq(got, want, sizeof want);
    ck_assert(!quant_sort_columns(&q, 6, other, got));
}
END_TEST

START_TEST(slabs_are_of_their_splits) {
    for (int32_t slabs = 1; slabs < 700; slabs++)
        for (int32_t n = gemm_splits(slabs * GEMM_SLAB), s = 0; s < n; s++) {
            int32_t end = gemm_split_slab(slabs, n, s + 1);
            for (int32_t i = gemm_split_slab(slabs, n, s); i < end; i++)
                ck_assert_int_eq(gemm_split_of(slabs, n, i), s);
        }
}
END_TEST

/* What the kernels are compiled for, and what every GPU from sm_80 on can launch. */
static void check_plan(const gemm_shape *s, const gemm_plan *p) {
    static const int32_t lanes_tokens[] = {1, 4, 16}, unpack_tokens[] = {1, 4, 8};
    bool known = false;
    for (int i = 0; i < 3 && p->kernel == GEMM_LANES; i++) known |= p->tokens == lanes_tokens[i];
    for (int i = 0; i < 3 && p->kernel == GEMM_UNPACK; i++) known |= p->tokens == unpack_tokens[i];
    if (p->kernel == GEMM_LANES) known &= p->features == 32 && p->warps == 8;
    if (p->kernel == GEMM_UNPACK) known &= p->features == 16 && p->warps == 8;
    if (p->kernel == GEMM_SPLITS || p->kernel == GEMM_INT4) {
        known = p->tokens == 8 || p->tokens == 16 || (p->tokens == 32 && p->features == 32);
        known &= p->features == 16 || (p->features == 32 && p->warps <= 8);
        known &= p->warps >= 1 && p->warps <= (p->kernel == GEMM_INT4 ? 8 : 16) &&
                 p->warps <= gemm_splits(s->k);
        known &= p->round_a ? p->tokens > 8 : s->a_is16 || (p->tokens == 8 && s->a_aligned);
    }
    bool bytes = gemm_is_bytes(s->kind), values = gemm_is_values(s->kind);
    if (p->kernel == GEMM_VALUES) {
        known = (p->tokens == 8 || p->tokens == 16 || p->tokens == 32) && p->features == 16;
        known &= p->warps == 8 && (p->round_a ? p->tokens > 8 : s->a_is16 || s->a_aligned);
    }
    if (p->kernel == GEMM_TILES || p->kernel == GEMM_BYTE_TILES) {
        known = p->features == p->tokens && (p->tokens == 64 || p->tokens == 128);
        if (s->kind == GEMM_F8 && p->features == 128) known = p->tokens == 64;
        known &= (p->round_a || s->a_is16) && p->warps == (p->features == 64 ? 4 : 8);
    }
    if (p->kernel == GEMM_BYTE_SPLITS) {
        known = p->tokens == 8 || p->tokens == 16 || (p->tokens == 32 && p->features == 32);
        known &= (p->features == 16 || p->features == 32) && p->round_a == !s->a_is16;
        known &= p->warps >= 1 && p->warps <= 8 && p->warps <= gemm_splits(s->k);
    }
    ck_assert_msg(known, "kind=%d m=%d n=%d k=%d experts=%d: kernel %d of %dx%d, %d warps", s->kind,
                  s->m, s->n, s->k, s->n_experts, p->kernel, p->features, p->tokens, p->warps);
    ck_assert(p->smem <= (p->kernel == GEMM_VALUES ? 75 : 99) * 1024);
    bool is_int4 = gemm_is_int4(s->kind), is_codes = s->kind == GEMM_CODES;
    ck_assert(!p->expand || ((is_codes || is_int4 || values) && s->n_experts == 0));
    ck_assert((s->kind == GEMM_F32 || (is_codes && p->expand)) == (p->kernel == GEMM_LANES));
    ck_assert((is_codes && !p->expand) == (p->kernel == GEMM_UNPACK));
    ck_assert((is_int4 && !p->expand) == (p->kernel == GEMM_INT4));
    ck_assert((values && !p->expand) == (p->kernel == GEMM_VALUES));
    ck_assert(bytes == (p->kernel == GEMM_BYTE_SPLITS || p->kernel == GEMM_BYTE_TILES));
    ck_assert(!(is_int4 && p->expand) || p->round_a);               /* the pass that interleaves */
    ck_assert(!s->a_is16 || !p->round_a || (is_int4 && p->expand)); /* no other pass over rows */
    ck_assert(p->tokens <= 16 || (s->kind != GEMM_F32 && !is_codes));
}

START_TEST(every_plan_can_be_launched) {
    static const int32_t sizes[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64, 97, 130, 1000, 5000};
    static const int32_t widths[] = {1, 40, 896, 4096, 14336, 128256}, experts[] = {0, 1, 8, 256};
    for (int kind = 0; kind < GEMM_KINDS; kind++)
        for (size_t m = 0; m < ARRAY_LEN(sizes); m++)
            for (size_t n = 0; n < ARRAY_LEN(widths); n++)
                for (size_t k = 0; k < ARRAY_LEN(widths); k++)
                    for (size_t e = 0; e < ARRAY_LEN(experts); e++)
                        for (int v = 0; v < 6; v++) {
                            gemm_shape s = {.kind = (gemm_kind)kind,
                                            .m = sizes[m],
                                            .n = widths[n],
                                            .k = widths[k],
                                            .n_experts = experts[e],
                                            .n_sms = v & 1 ? 132 : 8,
                                            .a_aligned = v & 2,
                                            .a_is16 = v >= 4};
                            gemm_plan p = gemm_plan_of(&s);
                            check_plan(&s, &p);
                        }
}
END_TEST

/* Decoding reads activations as they are; prompts fill the device with the largest tiles. */
START_TEST(plans_of_known_products) {
    gemm_shape s = {
        .kind = GEMM_BF16, .m = 1, .n = 4096, .k = 4096, .n_sms = 132, .a_aligned = true};
    gemm_plan p = gemm_plan_of(&s);
    ck_assert(p.kernel == GEMM_SPLITS && p.features == 16 && p.warps == 16 && !p.round_a);
    s.n = 128256;
    p = gemm_plan_of(&s);
    ck_assert(p.kernel == GEMM_SPLITS && p.features == 32 && p.warps == 8 && !p.round_a);
    s.n = 4096, s.m = 32;
    p = gemm_plan_of(&s);
    ck_assert(p.kernel == GEMM_SPLITS && p.tokens == 32 && p.round_a);
    s.a_aligned = false, s.a_is16 = true; /* stored by their producer */
    p = gemm_plan_of(&s);
    ck_assert(p.kernel == GEMM_SPLITS && p.tokens == 32 && !p.round_a);
    s.m = 512;
    p = gemm_plan_of(&s);
    ck_assert(p.kernel == GEMM_TILES && p.tokens == 64 &&
              !p.round_a); /* 128 wide: 128 tiles for 132 */
    s.m = 2048;
    p = gemm_plan_of(&s);
    ck_assert(p.kernel == GEMM_TILES && p.tokens == 128);
    s = (gemm_shape){.kind = GEMM_CODES, .m = 1, .n = 4096, .k = 4096, .n_sms = 132};
    p = gemm_plan_of(&s);
    ck_assert(p.kernel == GEMM_UNPACK && p.tokens == 1);
    s.m = 512;
    p = gemm_plan_of(&s);
    ck_assert(p.expand && p.tokens == 16);
}
END_TEST

/* However rows fall to experts, their tiles are no more than said. */
START_TEST(row_tiles_are_enough) {
    ck_assert_int_eq(gemm_row_tiles(100, 0, 16), 7);
    uint32_t seed = 1;
    for (int round = 0; round < 2000; round++) {
        int32_t rows[12], n = 1 + round % 12, m = 0, tokens = 1 << round % 8, tiles = 0;
        for (int32_t e = 0; e < n; e++) {
            seed = seed * 1664525u + 1013904223u;
            rows[e] = seed >> 31 ? 0 : (int32_t)(seed >> 20 & 255);
            m += rows[e], tiles += CEIL_DIV(rows[e], tokens);
        }
        ck_assert_int_le(tiles, gemm_row_tiles(m, n, tokens));
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("cuda_plan");
    TCase *tc = tcase_create("cuda_plan");
    tcase_add_test(tc, splits_cover_k_once);
    tcase_add_test(tc, splits_of_known_widths);
    tcase_add_test(tc, kinds_of_types);
    tcase_add_test(tc, kinds_of_bytes);
    tcase_add_test(tc, planes_of_quantised_matrices);
    tcase_add_test(tc, int4_codes_lie_by_lanes);
    tcase_add_test(tc, rows_of_int8_bring_sum_and_shift);
    tcase_add_test(tc, columns_are_sorted_by_whole_groups);
    tcase_add_test(tc, slabs_are_of_their_splits);
    tcase_add_test(tc, every_plan_can_be_launched);
    tcase_add_test(tc, plans_of_known_products);
    tcase_add_test(tc, row_tiles_are_enough);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
