/* Eight-bit keys and values: scales, codes of every value, what is not a number, bytes of a page;
 * and attention over them by hand, on every level. */
#include <check.h>
#include <math.h>

#include "engine/base/mem.h"
#include "kernels/backend.h"
#include "kernels/kv8.h"
#include "kernels/select.h"
#include "tests/unit/suite.h"

static const dtype types[] = {DT_INT8, DT_F8_E4M3};

static float value_of(dtype dt, uint8_t code) {
    return dt == DT_INT8 ? (float)(int8_t)code : f8_e4m3_values[code];
}

START_TEST(scales) {
    float inverse;
    ck_assert_uint_eq(kv8_scale(DT_INT8, kv8_bits(127), &inverse), 0x3F80);
    ck_assert_float_eq(inverse, 1);
    ck_assert_uint_eq(kv8_scale(DT_F8_E4M3, kv8_bits(896), &inverse), 0x4000);
    ck_assert_float_eq(inverse, 0.5f);
    for (float x = 1e-30f; x < 1e38f; x *= 1.37f) /* up, by less than a step of bf16 */
        for (size_t t = 0; t < ARRAY_LEN(types); t++) {
            float most = types[t] == DT_INT8 ? 127.0f : 448.0f;
            float s = bf16_to_f32(kv8_scale(types[t], kv8_bits(x), &inverse)), exact = x / most;
            ck_assert_msg(s >= exact && s <= exact * 1.0079f, "%g: %g", x, s);
            ck_assert_float_eq(inverse, 1 / s);
        }
    ck_assert_uint_eq(kv8_scale(DT_INT8, kv8_bits(1e-31f), &inverse), 0);
    ck_assert_float_eq(inverse, 0);
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint32_t largest = kv8_largest(kv8_largest(0, bad[i]), 5);
        ck_assert(isnan(bf16_to_f32(kv8_scale(DT_F8_E4M3, largest, &inverse))));
        ck_assert_uint_eq(kv8_int8(bad[i], inverse), 0);
        ck_assert_uint_eq(kv8_e4m3(bad[i], inverse), 0);
    }
}
END_TEST

/* Every number falls to the nearest value, at a tie to the even code. */
static void check_nearest(dtype dt, float x) {
    uint8_t got = kv8_code(dt, x, 1);
    float miss = fabsf(value_of(dt, got) - x);
    for (int c = 0; c < 256; c++) {
        float other = fabsf(value_of(dt, (uint8_t)c) - x);
        if (isnan(other) || (dt == DT_INT8 && c == 0x80)) continue;
        ck_assert_msg(miss <= other, "%s: %g becomes %g", dtype_name(dt), x, value_of(dt, got));
        if (other == miss && value_of(dt, (uint8_t)c) != value_of(dt, got))
            ck_assert_msg((got & 1) == 0, "%s: tie of %g", dtype_name(dt), x);
    }
}

START_TEST(codes) {
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        dtype dt = types[t];
        for (int c = 0; c < 255; c++) {
            float a = value_of(dt, (uint8_t)c), b = value_of(dt, (uint8_t)(c + 1));
            if (isnan(a) || isnan(b) || a == -128 || b == -128) continue;
            check_nearest(dt, a);
            check_nearest(dt, (a + b) / 2);
            check_nearest(dt, nextafterf((a + b) / 2, 1e9f));
            check_nearest(dt, nextafterf((a + b) / 2, -1e9f));
        }
    }
    ck_assert_uint_eq(kv8_e4m3(448.0001f, 1), 0x7E);
    ck_assert_uint_eq(kv8_e4m3(-1e9f, 1), 0xFE);
    ck_assert_uint_eq(kv8_int8(-127, 1), 0x81);
}
END_TEST

START_TEST(bytes) {
    ck_assert_uint_eq(kv_page_bytes(DT_F32, 16, 128, 2), 16 * 128 * 4);
    ck_assert_uint_eq(kv_page_bytes(DT_BF16, 16, 128, 2), 16 * 128 * 2);
    ck_assert_uint_eq(kv_page_bytes(DT_INT8, 16, 128, 2), 16 * (128 + 2 * 2));
    ck_assert_uint_eq(kv_page_bytes(DT_F8_E4M3, 32, 576, KV8_LATENT_SCALES), 32 * (576 + 4));
}
END_TEST

/* Two keys of width 2: scores 0 and ln 3 as far as codes say so, values that codes hold exactly. */
static void attend(backend *be, dtype dt) {
    const int32_t pos[] = {0, 1}, pages[] = {0};
    const int64_t slot[] = {0, 1};
    const float ln3 = logf(3);
    float qkv[] = {1, 0, 0,   0, 64, -16, /* q, k, v of token 0 */
                   1, 0, ln3, 0, 0,  32};
    _Alignas(64) uint8_t k[16 * 4] = {0}, v[16 * 4] = {0};
    float out[4];
    op_rope_kv w = {.n_tokens = 2,
                    .n_heads = 1,
                    .n_kv_heads = 1,
                    .head_dim = 2,
                    .qkv = qkv,
                    .qkv_stride = 6,
                    .pos = pos,
                    .kv_slot = slot,
                    .k_pages = k,
                    .v_pages = v,
                    .kv_dt = dt,
                    .page_tokens = 16};
    be->v->rope_kv(be, &w);
    attn_seq s = {0, 2, 0, 0, 0};
    op_attention a = {.seqs = {1, &s, &s, pages},
                      .n_heads = 1,
                      .n_kv_heads = 1,
                      .head_dim = 2,
                      .q = qkv,
                      .q_stride = 6,
                      .out = out,
                      .out_stride = 2,
                      .scale = 1,
                      .k_pages = k,
                      .v_pages = v,
                      .kv_dt = dt,
                      .page_tokens = 16};
    be->v->attention(be, &a);
    float most = dt == DT_INT8 ? 127.0f : 448.0f, inverse;
    float ks = bf16_to_f32(kv8_scale(dt, kv8_bits(ln3), &inverse));
    double odds = exp((double)value_of(dt, kv8_code(dt, ln3, inverse)) * ks);
    ck_assert_double_eq_tol(odds, 3, 3 * 1.1 * (dt == DT_INT8 ? 0.5 / most : 1.0 / 16));
    /* 64 and 32 are the largest of their rows: their codes are scaled back within half a step */
    float v0 = bf16_to_f32(kv8_scale(dt, kv8_bits(64), &inverse));
    double x0 = (double)v0 * value_of(dt, kv8_code(dt, 64, inverse));
    double y0 = (double)v0 * value_of(dt, kv8_code(dt, -16, inverse));
    float v1 = bf16_to_f32(kv8_scale(dt, kv8_bits(32), &inverse));
    double y1 = (double)v1 * value_of(dt, kv8_code(dt, 32, inverse));
    const float tol = 64 * 0x1p-17f; /* rows of dot products round weights to 16 bits */
    ck_assert_float_eq_tol(out[0], (float)x0, tol);
    ck_assert_float_eq_tol(out[1], (float)y0, tol);
    ck_assert_float_eq_tol(out[2], (float)(x0 / (1 + odds)), tol);
    ck_assert_float_eq_tol(out[3], (float)((y0 + odds * y1) / (1 + odds)), tol);
}

START_TEST(attention) {
    for (cpu_isa isa = 0; isa < ISA_COUNT; isa++) {
        cpu_options o = {1, isa_name(isa)};
        backend *be;
        if (!isa_usable(isa)) continue;
        ck_assert_int_eq(backend_cpu_open(&o, &be, NULL), OK);
        for (size_t t = 0; t < ARRAY_LEN(types); t++) attend(be, types[t]);
        backend_close(be);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("kv8");
    TCase *t = tcase_create("all");
    tcase_add_test(t, scales);
    tcase_add_test(t, codes);
    tcase_add_test(t, bytes);
    tcase_add_test(t, attention);
    suite_add_tcase(s, t);
    return suite_run(s);
}
