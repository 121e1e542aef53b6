/* What buffers between ops are stored as, from layers and matrices made by hand: the type of all
 * consumers, f32 where they differ or where something else reads the rows. */
#include <check.h>

#include "engine/base/mem.h"
#include "engine/forward_feed.h"
#include "tests/unit/suite.h"

/* A backend whose products round to the type of 16-bit weights, of int8 ones to codes. */
static dtype feed_dt(backend *b, const wmat *w) {
    return w->dt == DT_INT8 ? DT_I8 : dtype_is_float(w->dt) ? w->dt : DT_F32;
}
static const backend_vtbl rounds = {.feed_dt = feed_dt}, keeps = {0};

typedef struct model {
    backend b;
    arch a;
    arch_layer layer;
    weights w;
    weight list[W_SLOT_COUNT];
    wmat mats[W_SLOT_COUNT][2];
    int32_t first[2 * W_SLOT_COUNT];
} model;

static void put(model *m, weight_slot slot, dtype first, dtype second) {
    m->mats[slot][0].dt = first, m->mats[slot][1].dt = second;
    m->list[slot] = (weight){.m = m->mats[slot], .n_parts = second == DT_COUNT ? 1 : 2};
    m->first[slot] = (int32_t)slot;
}

/* Plain attention and a dense net, weights of one type. */
static void start(model *m, dtype dt) {
    *m = (model){.b = {.v = &rounds}};
    m->a.n_layers = 1;
    m->a.layers = &m->layer;
    m->a.n_heads = 1;
    m->layer.attn_branch.in_norm = m->layer.mlp_branch.in_norm = true;
    m->layer.mlp.kind = MLP_DENSE;
    m->w = (weights){.a = &m->a, .b = &m->b, .list = m->list, .first = m->first};
    for (int i = 0; i < 2 * W_SLOT_COUNT; i++) m->first[i] = -1;
    static const weight_slot slots[] = {W_QKV, W_O, W_UP, W_DOWN};
    for (size_t i = 0; i < ARRAY_LEN(slots); i++) put(m, slots[i], dt, DT_COUNT);
}

static void expect(const model *m, dtype attn_in, dtype mlp_in, dtype att, dtype act) {
    layer_feeds f = layer_feeds_of(&m->a, &m->w, 0);
    ck_assert_int_eq(f.attn_in, attn_in);
    ck_assert_int_eq(f.mlp_in, mlp_in);
    ck_assert_int_eq(f.att, att);
    ck_assert_int_eq(f.act, act);
}

START_TEST(dense_layers_feed_their_products) {
    model m;
    start(&m, DT_BF16);
    expect(&m, DT_BF16, DT_BF16, DT_BF16, DT_BF16);
    start(&m, DT_F32);
    expect(&m, DT_F32, DT_F32, DT_F32, DT_F32);
    start(&m, DT_INT8);
    expect(&m, DT_I8, DT_I8, DT_F32, DT_I8); /* attention stores no codes */
    start(&m, DT_BF16);
    m.b.v = &keeps;
    expect(&m, DT_F32, DT_F32, DT_F32, DT_F32);
}
END_TEST

START_TEST(parts_that_differ_get_f32) {
    model m;
    start(&m, DT_BF16);
    put(&m, W_QKV, DT_BF16, DT_F32);
    put(&m, W_UP, DT_F16, DT_F16);
    expect(&m, DT_F32, DT_F16, DT_BF16, DT_BF16);
}
END_TEST

START_TEST(streams_that_are_read_again_get_f32) {
    model m;
    start(&m, DT_BF16);
    m.layer.attn_branch.in_norm = false; /* reads the stream itself */
    m.layer.mlp_branch.from_norm = true; /* the normed rows go on as the stream */
    expect(&m, DT_F32, DT_F32, DT_BF16, DT_BF16);
}
END_TEST

START_TEST(one_norm_for_two_branches) {
    model m;
    start(&m, DT_BF16);
    m.layer.parallel = m.layer.shared_norm = true;
    m.layer.mlp_branch.in_norm = false;
    ck_assert_int_eq(layer_feeds_of(&m.a, &m.w, 0).attn_in, DT_BF16);
    put(&m, W_UP, DT_F32, DT_COUNT);
    ck_assert_int_eq(layer_feeds_of(&m.a, &m.w, 0).attn_in, DT_F32);
    m.layer.shared_norm = false;
    expect(&m, DT_BF16, DT_F32, DT_BF16, DT_BF16);
}
END_TEST

START_TEST(routers_and_experts_share_rows) {
    model m;
    start(&m, DT_BF16);
    m.layer.mlp = (arch_mlp){.kind = MLP_MOE, .n_experts = 1, .shared_ffn = 8};
    static const weight_slot slots[] = {W_ROUTER, W_EXPERT_UP, W_SHARED_UP, W_SHARED_DOWN};
    for (size_t i = 0; i < ARRAY_LEN(slots); i++) put(&m, slots[i], DT_BF16, DT_COUNT);
    expect(&m, DT_BF16, DT_BF16, DT_BF16, DT_BF16);
    put(&m, W_ROUTER, DT_F32, DT_COUNT);
    m.layer.mlp.shared_gate = true; /* scales the activation in place */
    put(&m, W_SHARED_GATE, DT_BF16, DT_COUNT);
    expect(&m, DT_BF16, DT_F32, DT_BF16, DT_F32);
}
END_TEST

START_TEST(latent_attention) {
    model m;
    start(&m, DT_BF16);
    m.a.attn = ATTN_MLA;
    put(&m, W_Q_B, DT_BF16, DT_COUNT), put(&m, W_KV_A, DT_BF16, DT_COUNT);
    put(&m, W_V_UP, DT_F32, DT_COUNT);
    expect(&m, DT_BF16, DT_BF16, DT_F32, DT_BF16);
    m.a.q_rank = 8;
    put(&m, W_Q_A, DT_F16, DT_COUNT), put(&m, W_V_UP, DT_BF16, DT_COUNT);
    expect(&m, DT_F32, DT_BF16, DT_BF16, DT_BF16);
}
END_TEST

START_TEST(rows_of_codes_are_padded) {
    ck_assert_uint_eq(feed_row_bytes(DT_F32, 10), 40);
    ck_assert_uint_eq(feed_row_bytes(DT_BF16, 10), 20);
    ck_assert_uint_eq(feed_row_bytes(DT_I8, 10), 16);
    ck_assert_uint_eq(feed_row_bytes(DT_F8_E4M3, 32), 32);
}
END_TEST

int main(void) {
    Suite *s = suite_create("forward_feed");
    TCase *tc = tcase_create("forward_feed");
    tcase_add_test(tc, dense_layers_feed_their_products);
    tcase_add_test(tc, parts_that_differ_get_f32);
    tcase_add_test(tc, streams_that_are_read_again_get_f32);
    tcase_add_test(tc, one_norm_for_two_branches);
    tcase_add_test(tc, routers_and_experts_share_rows);
    tcase_add_test(tc, latent_attention);
    tcase_add_test(tc, rows_of_codes_are_padded);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
