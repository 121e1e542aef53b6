/* Values of quantised storage: GGUF blocks against the committed ones (made by another
 * implementation) and against shared test data where it is there; codes against the formula of
 * quant.h over random matrices of every kind. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "kernels/f8_round.h"
#include "kernels/quant.h"
#include "tests/unit/suite.h"

#define FIXTURES "tests/kernels/quant_blocks.json"
#define GOLDEN   "../shared/specs/quant_golden.json"

static dtype by_name(const char *name) {
    for (int d = 0; d < DT_COUNT; d++)
        if (strcmp(dtype_name(d), name) == 0) return (dtype)d;
    ck_abort_msg("no type %s", name);
}

static void from_hex(str hex, uint8_t *ret) {
    for (size_t i = 0; i + 1 < hex.n; i += 2) {
        char two[3] = {hex.p[i], hex.p[i + 1], 0};
        ret[i / 2] = (uint8_t)strtoul(two, NULL, 16);
    }
}

START_TEST(committed_blocks_have_their_values) {
    json_t *root;
    error err;
    ck_assert_msg(js_parse_file(FIXTURES, 1 << 20, &root, &err) == OK, "%s", err.text);
    const char *name;
    json_t *v;
    int n_types = 0;
    json_object_foreach(root, name, v) {
        dtype dt = by_name(name);
        uint8_t block[512];
        float want[256], got[256];
        str hex = js_get_str(v, "block");
        ck_assert_uint_eq(hex.n / 2, dtype_block_bytes(dt));
        ck_assert_uint_eq(js_get_str(v, "f32").n / 8, (size_t)dtype_block(dt));
        from_hex(hex, block);
        from_hex(js_get_str(v, "f32"), (uint8_t *)want);
        quant_blocks_f32(dt, block, dtype_block(dt), got);
        for (int i = 0; i < dtype_block(dt); i++)
            ck_assert_msg(fabsf(got[i] - want[i]) <= 1e-6f * fabsf(want[i]) + 1e-9f,
                          "%s[%d]: %.9g, not %.9g", name, i, got[i], want[i]);
        n_types++;
    }
    for (int d = 0; d < DT_COUNT; d++) n_types -= dtype_kind_of(d) == DTYPE_GGUF;
    ck_assert_int_eq(n_types, 0); /* each type once */
    json_decref(root);
}
END_TEST

/* A table of 256 with null where the type has no number. */
static void check_table(const json_t *want, const float *table) {
    for (size_t i = 0; i < 256; i++) {
        const json_t *w = json_array_get(want, i);
        if (json_is_number(w))
            ck_assert(table[i] == (float)json_number_value(w));
        else
            ck_assert(!isfinite(table[i]));
    }
}

START_TEST(shared_golden_blocks_have_their_values) {
    json_t *root, *v;
    const char *name;
    error err;
    if (!file_exists(GOLDEN)) {
        printf("SKIP: no " GOLDEN "\n");
        return;
    }
    ck_assert_msg(js_parse_file(GOLDEN, 4 << 20, &root, &err) == OK, "%s", err.text);
    int n_blocks = 0;
    json_object_foreach(root, name, v) {
        size_t i;
        json_t *one;
        if (!js_get(json_array_get(v, 0), "hex")) continue;
        dtype dt = by_name(name);
        json_array_foreach(v, i, one) {
            uint8_t block[512];
            float got[256];
            from_hex(js_get_str(one, "hex"), block);
            quant_blocks_f32(dt, block, dtype_block(dt), got);
            for (int j = 0; j < dtype_block(dt); j++) {
                double w = json_number_value(json_array_get(js_get(one, "f32"), (size_t)j));
                ck_assert_msg(fabs(got[j] - w) <= 1e-6 * fabs(w) + 1e-9, "%s[%d]: %.9g, not %.9g",
                              name, j, got[j], w);
            }
            n_blocks++;
        }
    }
    ck_assert_int_ge(n_blocks, 30);
    check_table(js_get(root, "fp8_e4m3fn_table"), f8_e4m3_values);
    check_table(js_get(root, "fp8_e5m2_table"), f8_e5m2_values);
    json_decref(root);
}
END_TEST

START_TEST(eight_bit_floats_are_their_formula) {
    for (int i = 0; i < 256; i++) {
        double sign = i & 128 ? -1 : 1;
        int e = i >> 3 & 15, m = i & 7;
        double v = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
        ck_assert((i & 127) == 127 ? isnan(f8_e4m3_values[i]) : f8_e4m3_values[i] == sign * v);
        e = i >> 2 & 31, m = i & 3;
        v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(4 + m, e - 17) : ldexp(m, -16);
        ck_assert(isnan(v) ? isnan(f8_e5m2_values[i]) : f8_e5m2_values[i] == sign * v);
        ck_assert(i == 255 ? isnan(f8_e8m0_to_f32(255))
                           : (double)f8_e8m0_to_f32((uint8_t)i) == ldexp(1, i - 127));
    }
}
END_TEST

typedef struct code_matrix {
    dtype dt;
    quant_spec q;
    int32_t n, k, n_groups;
    uint8_t *codes, *zeros;
    void *scales;
    int32_t *order;
    float table[16];
    char *mem;
} code_matrix;

static uint64_t draw(uint64_t *at) {
    return (uint64_t)(rng_uniform(77, (*at)++, 0) * 0x1p53);
}

static void fill_scales(code_matrix *m, uint64_t *at) {
    size_t n = (size_t)(m->n * m->n_groups);
    m->scales = mem_alloc(n * 4);
    for (size_t i = 0; i < n; i++) {
        float s = (float)(draw(at) % 1000 + 1) / 4096;
        uint16_t h = m->q.scale_dt == DT_F16 ? f32_to_f16(s) : f32_to_bf16(s);
        uint8_t b = (uint8_t)(m->q.scale_dt == DT_F8_E8M0 ? 100 + draw(at) % 30 : draw(at) % 127);
        if (m->q.scale_dt == DT_F32)
            ((float *)m->scales)[i] = s;
        else if (dtype_bytes(m->q.scale_dt) == 2)
            ((uint16_t *)m->scales)[i] = h;
        else
            ((uint8_t *)m->scales)[i] = b;
    }
}

static code_matrix matrix_new(dtype dt, quant_spec q, int32_t n, int32_t k, uint64_t *at) {
    code_matrix m = {.dt = dt, .q = q, .n = n, .k = k, .n_groups = quant_groups(&q, k)};
    m.codes = mem_alloc((size_t)(n * k));
    m.zeros = mem_alloc((size_t)(n * m.n_groups));
    m.order = mem_alloc((size_t)k * 4);
    for (int32_t i = 0; i < n * k; i++)
        m.codes[i] = (uint8_t)(draw(at) & ((1u << quant_bits(dt)) - 1));
    for (int32_t i = 0; i < n * m.n_groups; i++)
        m.zeros[i] = (uint8_t)(draw(at) & ((1u << quant_bits(dt)) - 1));
    for (int32_t i = 0; i < k; i++) m.order[i] = (int32_t)(draw(at) % (uint64_t)m.n_groups);
    for (int i = 0; i < 16; i++) m.table[i] = (float)draw(at) * 0x1p-53f - 0.5f;
    fill_scales(&m, at);
    size_t side = quant_side_bytes(dt, &q, k);
    m.mem = mem_alloc(side + (size_t)n * quant_row_bytes(dt, &q, k));
    quant_rows rows = {.codes = m.codes, .scales = m.scales, .zeros = m.zeros};
    quant_pack_side(dt, &q, k, m.order, m.table, m.mem);
    quant_pack_rows(dt, &q, k, &rows, n, m.mem + side);
    return m;
}

static void matrix_free(code_matrix *m) {
    mem_free(m->codes), mem_free(m->zeros), mem_free(m->scales), mem_free(m->order);
    mem_free(m->mem);
}

/* Element (r, c) by the sentence of quant.h. */
static float element(const code_matrix *m, int32_t r, int32_t c) {
    static const float e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    int code = m->codes[r * m->k + c];
    int32_t g = m->q.has_order ? m->order[c] : c / m->q.group;
    int32_t at = r * m->n_groups + g;
    float scale =
        dtype_to_f32(m->q.scale_dt, (char *)m->scales + (size_t)at * dtype_bytes(m->q.scale_dt)) *
        m->q.scale_mul;
    if (m->dt == DT_E2M1) return (code & 8 ? -1.0f : 1.0f) * e2m1[code & 7] * scale;
    if (m->dt == DT_TABLE4) return m->table[code] * scale;
    if (m->dt == DT_F8_E4M3) return f8_e4m3_values[code] * scale;
    if (m->dt == DT_F8_E5M2) return f8_e5m2_values[code] * scale;
    return (float)(code - m->q.zero - (m->q.has_zeros ? m->zeros[at] : 0)) * scale;
}

static void check_matrix(dtype dt, quant_spec q, int32_t n, int32_t k, uint64_t *at) {
    code_matrix m = matrix_new(dt, q, n, k, at);
    float *row = mem_alloc((size_t)k * 4);
    for (int32_t r = 0; r < n; r++) {
        const char *stored =
            m.mem + quant_side_bytes(dt, &q, k) + (size_t)r * quant_row_bytes(dt, &q, k);
        /* the row in one piece and in two */
        int32_t cut = k > QUANT_STRIP && r % 2 ? k / 2 / QUANT_STRIP * QUANT_STRIP : 0;
        quant_row_f32(dt, &q, k, m.mem, stored, 0, cut, row);
        quant_row_f32(dt, &q, k, m.mem, stored, cut, k - cut, row + cut);
        for (int32_t c = 0; c < k; c++) {
            float want = element(&m, r, c);
            ck_assert_msg(row[c] == want || (isnan(want) && isnan(row[c])),
                          "%s k=%d group=%d row %d col %d: %g, not %g", dtype_name(dt), k, q.group,
                          r, c, row[c], want);
        }
    }
    mem_free(row);
    matrix_free(&m);
}

START_TEST(codes_are_their_formula) {
    static const dtype types[] = {DT_INT2, DT_INT3,   DT_INT4,    DT_INT8,
                                  DT_E2M1, DT_TABLE4, DT_F8_E4M3, DT_F8_E5M2};
    static const dtype scales[] = {DT_F32, DT_F16, DT_BF16, DT_F8_E8M0, DT_F8_E4M3};
    static const int32_t ks[] = {1, 7, 64, 96, 255, 256, 257, 640, 1000};
    uint64_t at = 0;
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        for (size_t i = 0; i < ARRAY_LEN(ks); i++)
            for (int how = 0; how < 4; how++) {
                quant_spec q = {.group = (int32_t)(how == 1 ? ks[i] : 16 << draw(&at) % 5),
                                .scale_dt = scales[draw(&at) % ARRAY_LEN(scales)],
                                .has_zeros = how & 1,
                                .has_order = how & 2,
                                .zero = (int16_t)(draw(&at) % 9),
                                .scale_mul = how == 3 ? 0.37f : 1};
                check_matrix(types[t], q, 3, ks[i], &at);
            }
}
END_TEST

START_TEST(activations_are_rounded_as_the_spec_says) {
    quant_spec none = {0}, token = {.act = ACT_ROUND_INT8_TOKEN};
    quant_spec fixed = {.act = ACT_ROUND_INT8_STATIC, .act_scale = 0.5f, .act_zero = 3};
    float x[4] = {1.27f, -0.5f, 0.014f, 0}, y[4] = {10.2f, -80, 200, 0.25f}, z[2] = {0, 0};
    quant_round_acts(&none, 4, NULL, x);
    ck_assert(x[2] == 0.014f);
    quant_round_acts(&token, 4, NULL, x); /* steps of 0.01 */
    ck_assert(fabsf(x[0] - 1.27f) < 1e-6f && fabsf(x[1] + 0.5f) < 1e-6f);
    ck_assert(fabsf(x[2] - 0.01f) < 1e-6f && x[3] == 0);
    quant_round_acts(&fixed, 4, NULL,
                     y); /* 20 units; -131 - 3 and 124 + 3 are the ends; ties to even */
    ck_assert(y[0] == 10 && y[1] == -65.5f && y[2] == 62 && y[3] == 0);
    quant_round_acts(&token, 2, NULL, z);
    ck_assert(z[0] == 0 && z[1] == 0);
}
END_TEST

/* Groups of activations are those of the sorted columns: here the even columns, then the odd. */
START_TEST(activations_are_rounded_by_the_groups_of_an_order) {
    enum { K = 128 };
    quant_spec q = {.group = 64,
                    .has_order = true,
                    .whole_order = true,
                    .act = ACT_ROUND_INT8_GROUP,
                    .act_group = 64};
    int32_t order[K];
    float x[K], got[K], half[2][K / 2], *at[2] = {half[0], half[1]};
    for (int i = 0; i < K; i++) {
        order[i] = i % 2;
        x[i] = got[i] = sinf((float)i) * (i % 2 ? 100 : 1);
        *at[i % 2]++ = x[i];
    }
    quant_round_acts(&q, K, order, got);
    q.has_order = q.whole_order = false;
    quant_round_acts(&q, K / 2, NULL, half[0]);
    quant_round_acts(&q, K / 2, NULL, half[1]);
    for (int i = 0; i < K; i++) ck_assert(got[i] == half[i % 2][i / 2]);
}
END_TEST

/* Every code's value is its own code; between two neighbours the nearer one, the even code of a
 * tie; 448 is the largest. */
START_TEST(e4m3_rounds_to_the_nearest_value) {
    for (uint32_t c = 0; c < 0x7f; c++) {
        float v = f8_e4m3_values[c], next = f8_e4m3_values[c + 1], tie = (v + next) / 2;
        ck_assert_uint_eq(f8_e4m3_code(v), c);
        ck_assert_uint_eq(f8_e4m3_code(-v), c | 0x80);
        ck_assert(f8_e4m3_round(v) == v && f8_e4m3_round(-v) == -v);
        if (c == 0x7e) break;
        ck_assert_uint_eq(f8_e4m3_code(tie), c % 2 ? c + 1 : c);
        ck_assert_uint_eq(f8_e4m3_code(nextafterf(tie, 0)), c);
        ck_assert_uint_eq(f8_e4m3_code(nextafterf(tie, 1000)), c + 1);
        ck_assert(f8_e4m3_round(tie) == (c % 2 ? next : v));
    }
    ck_assert(f8_e4m3_round(1e9f) == 448 && f8_e4m3_round(-INFINITY) == -448);
    ck_assert(isnan(f8_e4m3_round(NAN)) && f8_e4m3_code(NAN) == 0x7f);
}
END_TEST

START_TEST(activations_are_rounded_to_e4m3) {
    enum { K = 200 };
    quant_spec token = {.act = ACT_ROUND_FP8_TOKEN}, group = {.act = ACT_ROUND_FP8_GROUP};
    quant_spec fixed = {.act = ACT_ROUND_FP8_STATIC, .act_scale = 0.5f};
    float x[K], t[K], g[K], f[3] = {0.55f, 1000, -0.001f};
    for (int i = 0; i < K; i++) t[i] = g[i] = x[i] = sinf((float)i) * (i < 128 ? 1 : 20);
    quant_round_acts(&token, K, NULL, t);
    quant_round_acts(&group, K, NULL, g);
    float most[2] = {0, 0};
    for (int i = 0; i < K; i++) most[i / 128] = fmaxf(most[i / 128], fabsf(x[i]));
    for (int i = 0; i < K; i++) {
        float st = most[1] / 448, sg = most[i / 128] / 448;
        ck_assert(t[i] == f8_e4m3_round(x[i] / st) * st);
        ck_assert(g[i] == f8_e4m3_round(x[i] / sg) * sg);
        ck_assert(fabsf(g[i] - x[i]) <= fabsf(x[i]) / 16 + sg / 1024);
    }
    quant_round_acts(&fixed, 3, NULL, f);
    ck_assert(f[0] == 0.5625f && f[1] == 224 && f[2] == -0.001953125f / 2);
}
END_TEST

int main(void) {
    Suite *s = suite_create("quant");
    TCase *tc = tcase_create("quant");
    tcase_add_test(tc, e4m3_rounds_to_the_nearest_value);
    tcase_add_test(tc, activations_are_rounded_by_the_groups_of_an_order);
    tcase_add_test(tc, activations_are_rounded_to_e4m3);
    tcase_add_test(tc, committed_blocks_have_their_values);
    tcase_add_test(tc, shared_golden_blocks_have_their_values);
    tcase_add_test(tc, eight_bit_floats_are_their_formula);
    tcase_add_test(tc, codes_are_their_formula);
    tcase_add_test(tc, activations_are_rounded_as_the_spec_says);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
