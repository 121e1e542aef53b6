/* The definitions of the ops by values that were worked out by hand, on every level that this CPU
 * has. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "kernels/backend.h"
#include "kernels/select.h"
#include "tests/unit/suite.h"

static backend *be; /* NULL: the CPU lacks the level */

static void open_level(int isa) {
    error err;
    cpu_options o = {.n_threads = 2, .isa = isa_name((cpu_isa)isa)};
    be = NULL;
    if (isa_usable((cpu_isa)isa)) ck_assert(backend_cpu_open(&o, &be, &err) == OK);
}
static void teardown(void) {
    backend_close(be);
    be = NULL;
}
#define OPEN_LEVEL()                                                                               \
    open_level(_i);                                                                                \
    if (!be) return

static void is_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-5 * (1 + fabs(want))))
        ck_abort_msg("%.9g, expected %.9g", got, want);
}
#define NEAR(got, ...)                                                                             \
    do {                                                                                           \
        const double want_[] = {__VA_ARGS__};                                                      \
        for (size_t i_ = 0; i_ < ARRAY_LEN(want_); i_++) is_near((got)[i_], want_[i_]);            \
    } while (0)

/* ---- small ops ---- */

START_TEST(embed_adds) {
    OPEN_LEVEL();
    const float table[] = {1, 2, 3, 10, 20, 30};
    const int32_t ids[] = {1, 0};
    float out[] = {0.5f, 0.5f, 0.5f, 1, 1, 1};
    op_embed a = {.ids = ids,
                  .n_tokens = 2,
                  .width = 3,
                  .rows = 2,
                  .table = table,
                  .scale = 2,
                  .table_dt = DT_F32,
                  .out = out,
                  .accumulate = true};
    be->v->embed(be, &a);
    NEAR(out, 20.5, 40.5, 60.5, 3, 5, 7);
    a.accumulate = false;
    be->v->embed(be, &a);
    NEAR(out, 20, 40, 60, 2, 4, 6);
}
END_TEST

/* Two heads {3,4} and {6,8} have mean squares 12.5 and 50. */
START_TEST(norm_has_weights_per_head) {
    OPEN_LEVEL();
    float x[] = {3, 4, 6, 8}, out[4];
    const float weight[] = {1, 2, -9, 10, 20}, bias[] = {0, 0, 0, 1, -1};
    op_norm a = {.kind = NORM_RMS,
                 .n_rows = 1,
                 .n_groups = 2,
                 .width = 2,
                 .x = x,
                 .x_stride = 4,
                 .weight = weight,
                 .bias = bias,
                 .out = out,
                 .out_stride = 4,
                 .weight_stride = 3};
    be->v->norm(be, &a);
    double r = sqrt(12.5);
    NEAR(out, 3 / r, 2 * 4 / r, 10 * 3 / r + 1, 20 * 4 / r - 1);
    a.weight_stride = 0;
    a.bias = NULL;
    be->v->norm(be, &a);
    NEAR(out, 3 / r, 2 * 4 / r, 3 / r, 2 * 4 / r);
}
END_TEST

START_TEST(activations) {
    OPEN_LEVEL();
    static const struct {
        act_kind kind;
        double at[4]; /* of -2, 0, 0.5, 3 */
    } want[] = {
        {ACT_SILU, {-0.238405844, 0, 0.311229666, 2.857722380}},
        {ACT_GELU, {-0.045500264, 0, 0.345731231, 2.995950306}},
        {ACT_GELU_TANH, {-0.045402306, 0, 0.345714010, 2.996362608}},
        {ACT_RELU, {0, 0, 0.5, 3}},
        {ACT_QUICK_GELU, {-0.064341377, 0, 0.350388437, 2.981928690}},
        {ACT_RELU2, {0, 0, 0.25, 9}},
        {ACT_TANH, {-0.964027580, 0, 0.462117157, 0.995054754}},
        {ACT_SIGMOID, {0.119202922, 0.5, 0.622459331, 0.952574127}},
    };
    for (size_t k = 0; k < ARRAY_LEN(want); k++) {
        const float in[] = {-2, 0, 0.5f, 3, 10, 20, 30, 40};
        float out[4];
        op_act a = {want[k].kind, false, 1, 4, in, 8, out, 4};
        be->v->act(be, &a);
        const double *w = want[k].at;
        NEAR(out, w[0], w[1], w[2], w[3]);
        a.gated = true;
        be->v->act(be, &a);
        NEAR(out, 10 * w[0], 20 * w[1], 30 * w[2], 40 * w[3]);
    }
}
END_TEST

/* (clamp(up) + 1) * g * sigmoid(1.702 g): 7*sigmoid(11.914) = 6.999953. */
START_TEST(swiglu_with_limits) {
    OPEN_LEVEL();
    const float in[] = {0.5f, 9, -2, 3, NAN, 1, /* gate */
                        1,    1, -9, 9, 1,   NAN};
    float out[6];
    op_act a = {ACT_SWIGLU_OAI, true, 1, 6, in, 12, out, 6};
    be->v->act(be, &a);
    NEAR(out, 2 * 0.350388437, 2 * 6.999953128, -6 * -0.064341377, 8 * 2.981928690);
    ck_assert(isnan(out[4]) && isnan(out[5]));
}
END_TEST

START_TEST(add_has_factors) {
    OPEN_LEVEL();
    float x[] = {1, 2, 3};
    const float y[] = {10, 20, 30};
    op_add a = {1, 3, x, 3, y, 3, 2, 0.5f};
    be->v->add(be, &a);
    NEAR(x, 7, 14, 21);
    x[0] = NAN, x[1] = INFINITY;
    a.x_scale = 0; /* what x held does not matter */
    be->v->add(be, &a);
    NEAR(x, 5, 10, 15);
}
END_TEST

START_TEST(scale_has_three_factors) {
    OPEN_LEVEL();
    const float row[] = {2, -1, 0}, col[] = {1, 10};
    float x[] = {1, 2, 3, 4};
    op_scale a = {2, 2, x, 2, 0.5f, NULL, 0, false, NULL};
    be->v->scale(be, &a);
    NEAR(x, 0.5, 1, 1.5, 2);
    a = (op_scale){2, 2, x, 2, 2, row, 2, false, col}; /* rows take row[0] and row[2] */
    be->v->scale(be, &a);
    NEAR(x, 2, 40, 0, 0);
    x[2] = 3;
    a = (op_scale){2, 2, x, 2, 1, row, 2, true, NULL};
    be->v->scale(be, &a);
    NEAR(x, 2 * 0.880797078, 40 * 0.880797078, 1.5, 0);
}
END_TEST

START_TEST(limits) {
    OPEN_LEVEL();
    float x[] = {-5, 1, 2, 7, NAN, INFINITY}, y[] = {-30, 0.001f, 30, NAN, -INFINITY};
    op_limit a = {LIMIT_CLAMP, 1, 6, x, 6, 2};
    be->v->limit(be, &a);
    NEAR(x, -2, 1, 2, 2);
    ck_assert(isnan(x[4]) && x[5] == 2);
    a = (op_limit){LIMIT_TANH, 1, 5, y, 5, 30};
    be->v->limit(be, &a);
    NEAR(y, -30 * 0.761594156, 0.001, 30 * 0.761594156);
    ck_assert_float_eq_tol(y[1], 0.001f, 1e-9f);
    ck_assert(isnan(y[3]) && y[4] == -30);
}
END_TEST

/* ---- rope, prefix, sinks ---- */

/* Head width 8: pairs (0,2), (1,3) by angles 0 and 1 of the row, pairs (4,6), (5,7) by 2 and 3. */
START_TEST(rope_of_two_halves) {
    OPEN_LEVEL();
    float qkv[24] = {1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 0, 0, 0, 0, 0, 1}, k[16 * 8], v[16 * 8];
    const float cosines[] = {9, 9, 9, 9, 0, 1, -1, 0.6f}, sines[] = {9, 9, 9, 9, 1, 0, 0, 0.8f};
    const int32_t pos[] = {1};
    const int64_t slot[] = {3};
    op_rope_kv a = {1,   1,    1,       8,     8, ROPE_HALVES, qkv,    24,
                    pos, slot, cosines, sines, k, v,           DT_F32, 16};
    be->v->rope_kv(be, &a);
    NEAR(qkv, -3, 2, 1, 4, -5, 6 * 0.6 - 8 * 0.8, -7, 8 * 0.6 + 6 * 0.8);
    NEAR(qkv + 8, 0, 0, 1, 0, 0, -0.8, 0, 0.6);
}
END_TEST

/* One head of width 2 whose scores are all ln(w) of the key: keys 0..3 weigh 1, 2, 3, 4 and have
 * values 1, 10, 100, 1000. q = (1,0) throughout, k = (ln w, 0). */
enum { SEQ = 4 };
static void four_keys(float *ret_k, float *ret_v, float *ret_q) {
    static const int32_t pos[SEQ] = {0, 1, 2, 3};
    static const int64_t slot[SEQ] = {0, 1, 2, 3};
    float qkv[SEQ * 6];
    for (int t = 0; t < SEQ; t++) {
        const float row[] = {1, 0, logf((float)t + 1), 0, powf(10, (float)t), 0};
        for (int i = 0; i < 6; i++) qkv[t * 6 + i] = row[i];
        ret_q[t * 2] = 1;
        ret_q[t * 2 + 1] = 0;
    }
    op_rope_kv a = {.n_tokens = SEQ,
                    .n_heads = 1,
                    .n_kv_heads = 1,
                    .head_dim = 2,
                    .style = ROPE_NONE,
                    .qkv = qkv,
                    .qkv_stride = 6,
                    .pos = pos,
                    .kv_slot = slot,
                    .k_pages = ret_k,
                    .v_pages = ret_v,
                    .kv_dt = DT_F32,
                    .page_tokens = 16};
    be->v->rope_kv(be, &a);
}

static op_attention attention_of(const attn_seq *s, const float *q, float *out, const float *k,
                                 const float *v) {
    static const int32_t pages[] = {0};
    return (op_attention){.seqs = {1, s, s, pages},
                          .n_heads = 1,
                          .n_kv_heads = 1,
                          .head_dim = 2,
                          .q = q,
                          .q_stride = 2,
                          .out = out,
                          .out_stride = 2,
                          .scale = 1,
                          .k_pages = k,
                          .v_pages = v,
                          .kv_dt = DT_F32,
                          .page_tokens = 16};
}

START_TEST(prefix_sees_ahead) {
    OPEN_LEVEL();
    float k[32], v[32], q[SEQ * 2], out[SEQ * 2];
    four_keys(k, v, q);
    attn_seq s = {0, SEQ, 0, 3, 0};
    op_attention a = attention_of(&s, q, out, k, v);
    be->v->attention(be, &a);
    double three = (1 + 20 + 300) / 6.0;
    NEAR(out, three, 0, three, 0, three, 0, (1 + 20 + 300 + 4000) / 10.0, 0);
    a.window = 2; /* |i-j| < 2 on both sides */
    be->v->attention(be, &a);
    NEAR(out, 21 / 3.0, 0, three, 0, 320 / 5.0, 0, 4300 / 7.0, 0);
    s.prefix = 0;
    be->v->attention(be, &a);
    NEAR(out, 1, 0, 21 / 3.0, 0, 320 / 5.0, 0, 4300 / 7.0, 0);
}
END_TEST

START_TEST(alibi_is_symmetric) {
    OPEN_LEVEL();
    float k[32], v[32], q[SEQ * 2], out[SEQ * 2];
    const float slope = logf(2); /* halves the weight per step away */
    four_keys(k, v, q);
    attn_seq s = {0, SEQ, 0, SEQ, 0};
    op_attention a = attention_of(&s, q, out, k, v);
    a.alibi_slopes = &slope;
    be->v->attention(be, &a);
    NEAR(out, (1 + 10 + 75 + 500) / (1 + 1 + 0.75 + 0.5), 0,
         (0.5 + 20 + 150 + 1000) / (0.5 + 2 + 1.5 + 1));
}
END_TEST

START_TEST(sink_joins_the_denominator) {
    OPEN_LEVEL();
    float k[32], v[32], q[SEQ * 2], out[SEQ * 2];
    four_keys(k, v, q);
    attn_seq s = {0, SEQ, 0, 0, 0};
    op_attention a = attention_of(&s, q, out, k, v);
    const float sinks[] = {logf(7), 200, -INFINITY};
    a.sinks = sinks;
    be->v->attention(be, &a);
    NEAR(out, 1 / 8.0, 0, 21 / 10.0, 0, 321 / 13.0, 0, 4321 / 17.0, 0);
    a.sinks = sinks + 1;
    be->v->attention(be, &a);
    NEAR(out, 0, 0, 0, 0, 0, 0, 0, 0);
    a.sinks = sinks + 2;
    be->v->attention(be, &a);
    NEAR(out, 1, 0, 7, 0, 321 / 6.0, 0, 432.1, 0);
}
END_TEST

/* ---- latent attention ---- */

/* L = 1, R = 2, two heads. Rotation by 90 degrees at position 1 turns (x,y) into (-y,x). */
START_TEST(latent_rows_are_written_and_read) {
    OPEN_LEVEL();
    enum { W = 3 };
    const float cosines[] = {1, 0}, sines[] = {0, 1};
    const int32_t pos[] = {0, 1}, pages[] = {1};
    const int64_t slot[] = {16, 17};
    /* rows of q: [head][latent, rope] */
    float q[] = {1, 0, 0, 0, 1, 0,                /* token 0 */
                 1, 0, 0, 0, 0, 1};               /* token 1: head 1's rope (0,1) becomes (-1,0) */
    float kv[] = {logf(2), 5, 6, logf(3), 7, -1}; /* token 1: (7,-1) becomes (1,7) */
    float cache[2 * 16 * W], out[4];
    op_latent_kv w = {.n_tokens = 2,
                      .n_heads = 2,
                      .latent = 1,
                      .rope_dim = 2,
                      .style = ROPE_PAIR,
                      .q = q,
                      .q_stride = 2 * W,
                      .q_head_stride = W,
                      .q_off = 1,
                      .kv = kv,
                      .kv_stride = W,
                      .pos = pos,
                      .kv_slot = slot,
                      .cos = cosines,
                      .sin = sines,
                      .pages = cache,
                      .kv_dt = DT_F32,
                      .page_tokens = 16};
    be->v->latent_kv(be, &w);
    NEAR(q, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, -1, 0);
    NEAR(kv, log(2), 5, 6, log(3), 1, 7);
    attn_seq s = {0, 2, 0, 0, 0};
    op_latent_attention a = {.seqs = {1, &s, &s, pages},
                             .n_heads = 2,
                             .latent = 1,
                             .rope_dim = 2,
                             .q = q,
                             .q_stride = 2 * W,
                             .out = out,
                             .out_stride = 2,
                             .scale = 1,
                             .pages = cache,
                             .kv_dt = DT_F32,
                             .page_tokens = 16};
    be->v->latent_attention(be, &a);
    /* token 1, head 0: weights 2 and 3; head 1: weights e^-5 and e^-1 */
    double h1 = (exp(-5) * log(2) + exp(-1) * log(3)) / (exp(-5) + exp(-1));
    NEAR(out, log(2), log(2), (2 * log(2) + 3 * log(3)) / 5, h1);
}
END_TEST

/* ---- experts ---- */

static op_route route_of(int32_t e, int32_t k, const float *logits, int32_t *ids, float *weights) {
    return (op_route){.n_tokens = 1,
                      .n_experts = e,
                      .top_k = k,
                      .logits = logits,
                      .logits_stride = e,
                      .scale = 1,
                      .ids = ids,
                      .weights = weights};
}
static void ids_are(const int32_t *ids, int32_t a, int32_t b) {
    ck_assert_int_eq(ids[0], a);
    ck_assert_int_eq(ids[1], b);
}

START_TEST(route_scores) {
    OPEN_LEVEL();
    const float logits[] = {logf(1), logf(4), logf(2), logf(4), logf(9)};
    int32_t ids[2];
    float w[2];
    op_route a = route_of(5, 2, logits, ids, w);
    be->v->route(be, &a); /* softmax: 9/20, then the first of the two 4/20 */
    ids_are(ids, 4, 1);
    NEAR(w, 0.45, 0.2);
    a.renorm = true;
    a.scale = 13;
    be->v->route(be, &a);
    NEAR(w, 9, 4);
    a = route_of(5, 2, logits, ids, w);
    a.score = SCORE_SOFTMAX_TOPK;
    be->v->route(be, &a);
    NEAR(w, 9 / 13.0, 4 / 13.0);
    a.score = SCORE_SIGMOID;
    a.scale = 2.5f;
    be->v->route(be, &a);
    NEAR(w, 2.5 * 0.9, 2.5 * 0.8);
    a.select_bias = (const float[]){0.5f, 0, 0, 0.2f, 0}; /* choice 1, .8, 2/3, 1, .9 */
    be->v->route(be, &a);
    ids_are(ids, 0, 3);
    NEAR(w, 2.5 * 0.5, 2.5 * 0.8);
}
END_TEST

START_TEST(route_groups) {
    OPEN_LEVEL();
    /* groups {9,1} {6,5} {7,0}: highest 9 6 7, two highest 10 11 7 */
    const float logits[] = {9, 1, 6, 5, 7, 0};
    int32_t ids[2];
    float w[2];
    op_route a = route_of(6, 2, logits, ids, w);
    a.score = SCORE_SOFTMAX_TOPK;
    a.n_groups = 3;
    a.top_groups = 1;
    a.group = GROUP_MAX;
    be->v->route(be, &a);
    ids_are(ids, 0, 1);
    a.group = GROUP_TOP2_SUM;
    be->v->route(be, &a);
    ids_are(ids, 2, 3);
    NEAR(w, 1 / (1 + exp(-1)), 1 / (1 + exp(1)));
    a.top_groups = 2;
    be->v->route(be, &a);
    ids_are(ids, 0, 2);
    a.group = GROUP_NONE;
    be->v->route(be, &a);
    ids_are(ids, 0, 4);
    const float threes[] = {0, 6, 0, 5, 0, 5}; /* two highest 6 and 10 */
    a.logits = threes;
    a.n_groups = 2;
    a.top_groups = 1;
    a.group = GROUP_TOP2_SUM;
    be->v->route(be, &a);
    ids_are(ids, 3, 5);
    a.group = GROUP_MAX;
    be->v->route(be, &a);
    ids_are(ids, 1, 0);
}
END_TEST

START_TEST(route_keeps_ids_valid) {
    OPEN_LEVEL();
    const float logits[] = {1, NAN, 3, -INFINITY, -INFINITY, -INFINITY, NAN, NAN, NAN};
    int32_t ids[9];
    float w[9];
    op_route a = route_of(3, 3, logits, ids, w);
    a.n_tokens = 3;
    a.score = SCORE_SIGMOID;
    be->v->route(be, &a);
    ids_are(ids, 1, 2);
    ck_assert(isnan(w[0]) && ids[2] == 0);
    ids_are(ids + 3, 0, 1);
    ids_are(ids + 6, 0, 1);
    a.score = SCORE_SOFTMAX;
    be->v->route(be, &a);
    for (int i = 0; i < 9; i++) ck_assert(ids[i] == i % 3 && isnan(w[i]));
}
END_TEST

static wmat packed(int32_t n, int32_t k, const float *rows) {
    wmat w;
    be->v->wmat_init(be, &w, n, k, DT_F32, calloc(1, be->v->wmat_bytes(be, n, k, DT_F32)));
    be->v->wmat_pack(be, &w, 0, n, rows, DT_F32, k);
    return w;
}

/* Expert e computes (e+1) * relu(x0) * (x1 + bias) in both outputs, the second negated; expert 2 is
 * chosen by nobody and has no memory. */
START_TEST(experts_are_summed) {
    OPEN_LEVEL();
    const float eye[] = {1, 0, 0, 1}, down0[] = {1, -1}, down1[] = {2, -2};
    wmat up[] = {packed(2, 2, eye), packed(2, 2, eye), {.n = 2, .k = 2}};
    wmat down[] = {packed(2, 1, down0), packed(2, 1, down1), {.n = 2, .k = 1}};
    const float up_b[] = {0, 1}, down_b[] = {100, 0};
    const float *up_bias[] = {up_b, up_b, NULL}, *down_bias[] = {down_b, NULL, NULL};
    const float x[] = {2, 3, -1, 3, 1, 1}, weights[] = {0.5f, 2, 1, 10, 1, 0};
    const int32_t ids[] = {0, 1, 1, 0, 1, 0};
    float out[] = {7, 7, 7, 7, 7, 7};
    op_experts a = {.n_tokens = 3,
                    .n_experts = 3,
                    .top_k = 2,
                    .width = 2,
                    .ffn = 1,
                    .x = x,
                    .x_stride = 2,
                    .out = out,
                    .out_stride = 2,
                    .ids = ids,
                    .weights = weights,
                    .act = ACT_RELU,
                    .gated = true,
                    .up = up,
                    .down = down};
    be->v->experts(be, &a); /* 2*3 = 6, 0, 1 of expert 0 */
    NEAR(out, 0.5 * 6 + 2 * 12, -27, 0, 0, 2, -2);
    a.accumulate = true;
    be->v->experts(be, &a);
    NEAR(out, 54, -54, 0, 0, 4, -4);
    a.accumulate = false;
    a.up_bias = up_bias;
    a.down_bias = down_bias; /* 2*4 = 8, 0, 1*2 = 2 */
    be->v->experts(be, &a);
    NEAR(out, 0.5 * 108 + 2 * 16, 0.5 * -8 + 2 * -16, 10 * 100, 0, 4, -4);
    const float first[] = {1, 0}, second[] = {0, 1};
    wmat gates[] = {packed(1, 2, first), packed(1, 2, first), {.n = 1, .k = 2}};
    wmat ups[] = {packed(1, 2, second), packed(1, 2, second), {.n = 1, .k = 2}};
    a.gate = gates;
    a.up = ups;
    be->v->experts(be, &a); /* the same in two matrices */
    NEAR(out, 0.5 * 108 + 2 * 16, 0.5 * -8 + 2 * -16, 10 * 100, 0, 4, -4);
    for (int e = 0; e < 2; e++)
        free(up[e].data), free(down[e].data), free(gates[e].data), free(ups[e].data);
}
END_TEST

/* Rank 2, of which the parts take one each: row 0 has x.(1,2) = 5 and x.(0,1) = 2. */
START_TEST(lora_adds_to_its_rows) {
    OPEN_LEVEL();
    const float a[] = {1, 2, 0, 1}, b0[] = {1, -1}, b1[] = {10}, s[] = {2, 0.5f};
    const lora_part parts[] = {{2, 1, packed(1, 1, b1)}, {0, 0, packed(2, 1, b0)}};
    const lora_slot slots[] = {{{0}, NULL, 0, NULL}, {packed(2, 2, a), s, 2, parts}};
    const lora_slot none[2] = {{{0}, NULL, 0, NULL}};
    const lora_slot *const table[] = {NULL, slots, NULL, none};
    const float x[] = {1, 2, 1, 2, 1, 2, 3, 0, 1, 2};
    const int32_t of_row[] = {1, 0, 2, 1, 3}, pick[] = {1, 0};
    float out[20] = {0};
    for (int i = 0; i < 20; i++) out[i] = 100;
    op_lora op = {.n_rows = 5,
                  .n = 3,
                  .k = 2,
                  .rank = 2,
                  .slot = 1,
                  .x = x,
                  .x_stride = 2,
                  .out = out,
                  .out_stride = 4,
                  .n_adapters = 4,
                  .table = table,
                  .of_row = of_row};
    be->v->lora(be, &op);
    NEAR(out, 110, 90, 110, 100, 100, 100, 100, 100, 100, 100, 100, 100, 106, 94, 100, 100, 100,
         100, 100, 100);
    op.n_rows = 2;
    op.pick = pick;
    be->v->lora(be, &op);
    NEAR(out, 110, 90, 110, 100, 110, 90, 110, 100);
    op.slot = 0;
    op.pick = NULL;
    be->v->lora(be, &op);
    NEAR(out, 110, 90, 110, 100, 110, 90, 110, 100);
    free(parts[0].b.data), free(parts[1].b.data), free(slots[1].a.data);
}
END_TEST

int main(void) {
    Suite *s = suite_create("ops");
    TCase *tc = tcase_create("ops");
    const TTest *const tests[] = {embed_adds,
                                  norm_has_weights_per_head,
                                  activations,
                                  swiglu_with_limits,
                                  add_has_factors,
                                  scale_has_three_factors,
                                  limits,
                                  rope_of_two_halves,
                                  prefix_sees_ahead,
                                  alibi_is_symmetric,
                                  sink_joins_the_denominator,
                                  latent_rows_are_written_and_read,
                                  route_scores,
                                  route_groups,
                                  route_keeps_ids_valid,
                                  experts_are_summed,
                                  lora_adds_to_its_rows};
    tcase_add_checked_fixture(tc, NULL, teardown);
    for (size_t i = 0; i < ARRAY_LEN(tests); i++) tcase_add_loop_test(tc, tests[i], 0, ISA_COUNT);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
