/* route and experts. route must give the very ids of the reference. experts must give the sum over
 * the chosen networks, computed here in double since all levels share one driver, and the same bits
 * whoever else is in the call: other tokens, an expert's other rows, threads. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/kernels/checkkern.h"

/* ---- route ---- */

typedef struct routing {
    mat weights;  /* [T,k] */
    int32_t *ids; /* [T,k] */
} routing;

static routing run_route(backend *b, const op_route *base, int32_t row0, int32_t n) {
    op_route a = *base;
    routing r = {mat_new(n, a.top_k, a.top_k), fenced_alloc((size_t)(n * a.top_k) * sizeof *r.ids)};
    memset(r.ids, 0xFF, (size_t)(n * a.top_k) * sizeof *r.ids);
    a.n_tokens = n;
    a.logits = base->logits + row0 * a.logits_stride;
    a.ids = r.ids;
    a.weights = r.weights.p;
    CALL(b, route, &a);
    return r;
}

static void routing_free(routing *r) {
    mat_free(&r->weights);
    fenced_free(r->ids);
}

static bool ids_valid(const op_route *a, const int32_t *ids, int32_t n) {
    for (int32_t t = 0; t < n; t++, ids += a->top_k)
        for (int32_t j = 0; j < a->top_k; j++) {
            if (ids[j] < 0 || ids[j] >= a->n_experts) return false;
            for (int32_t i = 0; i < j; i++)
                if (ids[i] == ids[j]) return false;
        }
    return true;
}

static void compare_route(check_ctx *c, op_route a, bool special) {
    enum { T = 33 };
    mat logits = mat_new(T, a.n_experts, a.n_experts + 3), bias = mat_new(1, a.n_experts, 1);
    mat_random(c, &logits, 2);
    mat_random(c, &bias, 0.2f);
    if (special) {
        logits.p[0] = NAN;
        for (int32_t e = 0; e < a.n_experts; e++) {
            logits.p[logits.stride + e] = 1; /* ties */
            logits.p[2 * logits.stride + e] = -INFINITY;
            logits.p[3 * logits.stride + e] = NAN;
        }
        logits.p[4 * logits.stride + a.n_experts - 1] = INFINITY;
        logits.p[5 * logits.stride] = -INFINITY;
    }
    a.logits = logits.p;
    a.logits_stride = logits.stride;
    if (a.select_bias) a.select_bias = bias.p;
    routing want = run_route(c->ref, &a, 0, T);
    for (int t = 0; t < c->n_be; t++)
        for (int i = 0; i < 3; i++) {
            int32_t n = i == 0 ? T : i == 1 ? 1 : 9, row0 = check_int(c, 0, T - n);
            routing got = run_route(c->be[t], &a, row0, n);
            const char *name = "route E=%d k=%d score=%d group=%d rows=%d special=%d threads=%d";
            mat w = mat_rows(&want.weights, row0, n);
            char text[160];
            snprintf(text, sizeof text, name, a.n_experts, a.top_k, a.score, a.group, n, special,
                     t + 1);
            check_that(c, ids_valid(&a, got.ids, n), "an id is out of range or twice", "%s", text);
            check_that(c,
                       memcmp(got.ids, want.ids + row0 * a.top_k,
                              (size_t)(n * a.top_k) * sizeof *got.ids) == 0,
                       "other experts than the reference", "%s", text);
            check_close(c, &w, &got.weights, check_tol("route", false), "%s", text);
            routing_free(&got);
        }
    routing_free(&want);
    mat_free(&logits), mat_free(&bias);
}

static void check_route(check_ctx *c) {
    static const float some; /* stands for a bias */
    static const struct {
        int32_t e, k, groups, top_groups;
    } shapes[] = {{1, 1, 1, 1},     {2, 1, 2, 1},  {5, 5, 1, 1},   {8, 2, 4, 2},
                  {60, 4, 3, 2},    {64, 6, 8, 3}, {160, 6, 8, 3}, {256, 8, 8, 4},
                  {1024, 12, 1, 1}, {6, 3, 6, 3},  {33, 33, 1, 1}};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        for (int v = 0; v < 36; v++) {
            op_route a = {.n_experts = shapes[i].e,
                          .top_k = shapes[i].k,
                          .score = v % 3,
                          .group = v / 3 % 3,
                          .select_bias = v / 9 % 2 ? &some : NULL,
                          .renorm = v / 18 == 1,
                          .n_groups = shapes[i].groups,
                          .top_groups = shapes[i].top_groups,
                          .scale = v % 2 ? 2.5f : 1};
            for (int special = 0; special < 2; special++)
                if (!c->small || special == (v + (int)i) % 2) compare_route(c, a, special);
        }
}

/* ---- experts ---- */

typedef struct setting {
    int32_t t, e, k, c, f;
    dtype dt;
    act_kind act;
    bool gated, apart, bias, accumulate;
} setting;

typedef struct expert_set {
    wmat *up, *gate, *down; /* [E] */
    int32_t n;
} expert_set;

typedef struct world {
    setting s;
    mat x, old, weights;
    int32_t *ids;
    mat *up, *down;               /* [E]: up [gated ? 2F : F, C] */
    const float **up_b, **down_b; /* [E] */
    mat biases;                   /* row e: up_b, then down_b */
} world;

static world world_new(check_ctx *c, setting s) {
    int32_t mid = s.gated ? 2 * s.f : s.f;
    size_t e_count = (size_t)s.e;
    world w = {.s = s, .x = mat_new(s.t, s.c, mat_stride(s.c)), .old = mat_new(s.t, s.c, s.c + 4)};
    w.weights = mat_new(s.t, s.k, s.k);
    w.biases = mat_new(s.e, mid + s.c, mid + s.c + 1);
    mat_random(c, &w.x, 1), mat_random(c, &w.old, 1), mat_random(c, &w.biases, 0.3f);
    mat_random(c, &w.weights, 0.5f);
    w.ids = fenced_alloc((size_t)(s.t * s.k) * sizeof *w.ids);
    for (int32_t t = 0; t < s.t; t++) /* distinct; expert 0 is popular, the last one rare */
        for (int32_t j = 0; j < s.k; j++) {
            bool again = true;
            while (again) {
                int32_t id = j == 0 && t % 2 ? 0 : check_int(c, 0, MAX(s.k, s.e - 1) - 1);
                w.ids[t * s.k + j] = id;
                again = false;
                for (int32_t i = 0; i < j; i++) again |= w.ids[t * s.k + i] == id;
            }
        }
    w.up = mem_calloc(e_count, sizeof *w.up);
    w.down = mem_calloc(e_count, sizeof *w.down);
    w.up_b = mem_calloc(e_count, sizeof *w.up_b);
    w.down_b = mem_calloc(e_count, sizeof *w.down_b);
    for (int32_t e = 0; e < s.e; e++) {
        w.up[e] = mat_new(mid, s.c, s.c);
        w.down[e] = mat_new(s.c, s.f, s.f);
        mat_random(c, &w.up[e], 0.2f), mat_random(c, &w.down[e], 0.2f);
        w.up_b[e] = w.biases.p + e * w.biases.stride;
        w.down_b[e] = w.up_b[e] + mid;
    }
    return w;
}

static void world_free(world *w) {
    for (int32_t e = 0; e < w->s.e; e++) mat_free(&w->up[e]), mat_free(&w->down[e]);
    mem_free(w->up), mem_free(w->down), mem_free(w->up_b), mem_free(w->down_b);
    fenced_free(w->ids);
    mat_free(&w->x), mat_free(&w->old), mat_free(&w->weights), mat_free(&w->biases);
}

static expert_set experts_new(backend *b, const world *w) {
    const setting *s = &w->s;
    size_t n = (size_t)s->e;
    expert_set x = {.n = s->e, .up = mem_calloc(n, sizeof *x.up)};
    x.down = mem_calloc(n, sizeof *x.down);
    if (s->apart) x.gate = mem_calloc(n, sizeof *x.gate);
    for (int32_t e = 0; e < s->e; e++) {
        mat gate = mat_rows(&w->up[e], 0, s->f), up = w->up[e];
        if (s->apart) up = mat_rows(&up, s->f, s->f);
        if (s->apart) x.gate[e] = wmat_new(b, &gate, s->dt);
        x.up[e] = wmat_new(b, &up, s->dt);
        x.down[e] = wmat_new(b, &w->down[e], s->dt);
    }
    return x;
}

static void experts_free(expert_set *x) {
    for (int32_t e = 0; e < x->n; e++) {
        wmat_free(&x->up[e]), wmat_free(&x->down[e]);
        if (x->gate) wmat_free(&x->gate[e]);
    }
    mem_free(x->up), mem_free(x->down), mem_free(x->gate);
}

static mat run_experts(backend *b, const world *w, const expert_set *x, int32_t row0, int32_t n) {
    const setting *s = &w->s;
    mat out = mat_new(n, s->c, s->c + 2);
    for (int32_t r = 0; r < n && s->accumulate; r++)
        memcpy(out.p + r * out.stride, w->old.p + (row0 + r) * w->old.stride, (size_t)s->c * 4);
    op_experts a = {.n_tokens = n,
                    .n_experts = s->e,
                    .top_k = s->k,
                    .width = s->c,
                    .ffn = s->f,
                    .x = w->x.p + row0 * w->x.stride,
                    .x_stride = w->x.stride,
                    .out = out.p,
                    .out_stride = out.stride,
                    .accumulate = s->accumulate,
                    .ids = w->ids + row0 * s->k,
                    .weights = w->weights.p + row0 * s->k,
                    .act = s->act,
                    .gated = s->gated,
                    .up = x->up,
                    .gate = x->gate,
                    .down = x->down,
                    .up_bias = s->bias ? w->up_b : NULL,
                    .down_bias = s->bias ? w->down_b : NULL};
    CALL(b, experts, &a);
    return out;
}

static double rounded(float v, dtype dt) {
    return dt == DT_F32   ? v
           : dt == DT_F16 ? f16_to_f32(f32_to_f16(v))
                          : bf16_to_f32(f32_to_bf16(v));
}

/* to[n] = w x (+ bias) */
static void apply(const mat *w, dtype dt, const float *x, const float *bias, float *to) {
    for (int32_t i = 0; i < w->rows; i++) {
        double sum = bias ? bias[i] : 0;
        for (int32_t k = 0; k < w->width; k++) sum += rounded(w->p[i * w->stride + k], dt) * x[k];
        to[i] = (float)sum;
    }
}

static mat expected(const world *w, backend *ref) {
    const setting *s = &w->s;
    mat out = mat_new(s->t, s->c, s->c);
    float *mid = mem_alloc((size_t)s->f * 3 * sizeof *mid), *act = mid + 2 * s->f;
    float *y = mem_alloc((size_t)s->c * sizeof *y);
    double *sum = mem_alloc((size_t)s->c * sizeof *sum);
    for (int32_t t = 0; t < s->t; t++) {
        for (int32_t i = 0; i < s->c; i++)
            sum[i] = s->accumulate ? w->old.p[t * w->old.stride + i] : 0;
        for (int32_t j = 0; j < s->k; j++) {
            int32_t e = w->ids[t * s->k + j];
            apply(&w->up[e], s->dt, w->x.p + t * w->x.stride, s->bias ? w->up_b[e] : NULL, mid);
            op_act a = {s->act, s->gated, 1, s->f, mid, 2 * s->f, act, s->f};
            ref->v->act(ref, &a);
            apply(&w->down[e], s->dt, act, s->bias ? w->down_b[e] : NULL, y);
            for (int32_t i = 0; i < s->c; i++) sum[i] += (double)w->weights.p[t * s->k + j] * y[i];
        }
        for (int32_t i = 0; i < s->c; i++) out.p[t * s->c + i] = (float)sum[i];
    }
    mem_free(mid), mem_free(y), mem_free(sum);
    return out;
}

static void compare(check_ctx *c, setting s, bool special) {
    world w = world_new(c, s);
    if (special) {
        w.x.p[0] = NAN;
        w.x.p[(s.t - 1) * w.x.stride + s.c / 2] = INFINITY;
    }
    expert_set fast = experts_new(c->be[0], &w);
    mat want = expected(&w, c->ref), base = run_experts(c->be[0], &w, &fast, 0, s.t);
    double tol = check_tol("experts", s.dt != DT_F32);
    if (s.t * s.c <= 16) tol *= 2; /* the error of so few numbers scatters */
    /* Of a single one it may be that of silu far below 0, which is z times that of its argument. */
    if (s.t * s.c * s.f == 1 && s.dt != DT_F32) tol *= 8;
    check_close(c, &want, &base, tol,
                "experts %s T=%d E=%d k=%d C=%d F=%d act=%d gated=%d apart=%d bias=%d add=%d",
                dtype_name(s.dt), s.t, s.e, s.k, s.c, s.f, s.act, s.gated, s.apart, s.bias,
                s.accumulate);
    for (int t = 0; t < c->n_be; t++)
        for (int i = 0; i < 3; i++) {
            int32_t n = i == 0 ? s.t : i == 1 ? 1 : check_int(c, 1, s.t);
            int32_t row0 = check_int(c, 0, s.t - n);
            mat part = run_experts(c->be[t], &w, &fast, row0, n);
            check_same(c, &base, row0, &part, "experts bits %s T=%d of %d E=%d k=%d threads=%d",
                       dtype_name(s.dt), n, s.t, s.e, s.k, t + 1);
            check_that(c, mat_guards_ok(&part), "wrote outside its rows", "experts T=%d", n);
            mat_free(&part);
        }
    mat_free(&want), mat_free(&base);
    experts_free(&fast);
    world_free(&w);
}

/* Experts of quantised matrices, one of another type than the others, are experts with the same
 * values as f32: the same bits, since each product's are. */
static void compare_quant(check_ctx *c, setting s, dtype dt, quant_spec spec) {
    world w = world_new(c, s);
    backend *b = c->be[0];
    expert_set quant = experts_new(b, &w), values = experts_new(b, &w);
    int32_t up_n = s.apart || !s.gated ? s.f : 2 * s.f;
    for (int32_t e = 0; e < s.e; e++) {
        if (e == 1) continue; /* stays f32 */
        dtype of = e == 2 ? DT_Q8_0 : dt;
        wmat *pairs[][2] = {{&quant.up[e], &values.up[e]},
                            {&quant.down[e], &values.down[e]},
                            {s.apart ? &quant.gate[e] : NULL, s.apart ? &values.gate[e] : NULL}};
        for (int i = 0; i < 3; i++) {
            if (!pairs[i][0]) continue;
            wmat_free(pairs[i][0]), wmat_free(pairs[i][1]);
            quant_wmats_new(c, b, of, spec,
                            i == 1 ? s.c
                            : i    ? s.f
                                   : up_n,
                            i == 1 ? s.f : s.c, pairs[i][0], pairs[i][1]);
        }
    }
    mat want = run_experts(b, &w, &values, 0, s.t), got = run_experts(b, &w, &quant, 0, s.t);
    mat first = run_experts(b, &w, &quant, 0, 1);
    check_same(c, &want, 0, &got, "experts %s as f32 T=%d E=%d k=%d apart=%d", dtype_name(dt), s.t,
               s.e, s.k, s.apart);
    check_same(c, &want, 0, &first, "experts %s as f32 T=1 E=%d k=%d apart=%d", dtype_name(dt), s.e,
               s.k, s.apart);
    mat_free(&want), mat_free(&got), mat_free(&first);
    experts_free(&quant), experts_free(&values);
    world_free(&w);
}

static void check_quant_experts(check_ctx *c) {
    static const dtype types[] = {DT_Q4_0, DT_Q4_K, DT_Q6_K, DT_MXFP4, DT_INT4, DT_F8_E4M3};
    quant_spec spec = {.group = 64, .scale_dt = DT_F16, .has_zeros = true, .scale_mul = 1};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        setting s = {.t = 30,
                     .e = 5,
                     .k = 2,
                     .c = 256,
                     .f = 256,
                     .act = ACT_SILU,
                     .gated = true,
                     .apart = i % 2 == 0,
                     .bias = i % 3 == 0};
        compare_quant(c, s, types[i], spec);
    }
}

/* Experts are products, activations and sums one by one, to the bit: fused or not, divided as the
 * driver likes, activations rounded as matrices ask, columns in an order of each expert's own. On a
 * device, whose products of one row may be others, near it. */
static void compare_apart(check_ctx *c, backend *b, const world *w, const expert_set *x,
                          const char *what) {
    const setting *s = &w->s;
    int32_t mid_n = s->gated ? 2 * s->f : s->f;
    mat got = run_experts(b, w, x, 0, s->t), want = mat_new(s->t, s->c, s->c);
    mat mid = mat_new(1, mid_n, mid_n), y = mat_new(1, s->c, s->c);
    for (int32_t i = 0; i < s->t * s->k; i++) {
        int32_t t = i / s->k, e = w->ids[i];
        const float *row = w->x.p + t * w->x.stride, *bias = s->bias ? w->up_b[e] : NULL;
        float *to = want.p + (int64_t)t * s->c, *up_to = x->gate ? mid.p + s->f : mid.p;
        op_gemm gate = {1,    row,   w->x.stride, x->gate ? &x->gate[e] : NULL,
                        bias, mid.p, mid_n,       false};
        if (x->gate) CALL(b, gemm, &gate);
        if (x->gate && bias) bias += s->f;
        op_gemm up = {1, row, w->x.stride, &x->up[e], bias, up_to, mid_n, false};
        CALL(b, gemm, &up);
        op_act act = {s->act, s->gated, 1, s->f, mid.p, mid_n, mid.p, mid_n};
        CALL(b, act, &act);
        op_gemm down = {1,   mid.p, mid_n, &x->down[e], s->bias ? w->down_b[e] : NULL,
                        y.p, s->c,  false};
        CALL(b, gemm, &down);
        for (int32_t n = 0; n < s->c; n++) {
            float part = w->weights.p[i] * y.p[n];
            to[n] = i % s->k == 0 ? (s->accumulate ? w->old.p[t * w->old.stride + n] + part : part)
                                  : to[n] + part;
        }
    }
    if (c->device)
        check_close(c, &want, &got, 1e-6, "experts apart, %s", what);
    else
        check_same(c, &want, 0, &got, "experts apart, %s, T=%d E=%d k=%d", what, s->t, s->e, s->k);
    mat_free(&got), mat_free(&want), mat_free(&mid), mat_free(&y);
}

static void check_own_arithmetic(check_ctx *c, dtype dt, quant_spec spec, int32_t width,
                                 bool gated) {
    setting s = {.t = 9, .e = 3, .k = 1, .c = width, .f = width, .act = ACT_RELU, .gated = gated};
    world w = world_new(c, s);
    backend *b = c->be[0];
    expert_set x = experts_new(b, &w);
    for (int32_t e = 0; e < s.e; e++) {
        wmat values;
        wmat_free(&x.up[e]), wmat_free(&x.down[e]);
        spec.act_scale = 0.02f * (float)(e + 1);
        quant_wmats_new(c, b, dt, spec, gated ? 2 * s.f : s.f, s.c, &x.up[e], &values);
        wmat_free(&values);
        quant_wmats_new(c, b, dt, spec, s.c, s.f, &x.down[e], &values), wmat_free(&values);
    }
    char what[80];
    snprintf(what, sizeof what, "%s, activations %d, math %s", dtype_name(dt), (int)spec.act,
             dtype_name(spec.math));
    compare_apart(c, b, &w, &x, what);
    experts_free(&x);
    world_free(&w);
}

/* Of floats, by every number of threads: one token, few, and so many that nets are cut; halves of
 * gate and up that begin a panel, and that share one. */
static void check_apart(check_ctx *c, dtype dt) {
    static const setting shapes[] = {
        {1, 12, 6, 96, 64, 0, ACT_SILU, true},
        {1, 12, 6, 96, 64, 0, ACT_SILU, true, true},
        {7, 9, 3, 128, 160, 0, ACT_GELU_TANH, true, false, true},
        {90, 5, 2, 320, 96, 0, ACT_SILU, true, false, false, true},
        {90, 5, 2, 130, 72, 0, ACT_SWIGLU_OAI, true, false, true},
        {90, 5, 2, 130, 72, 0, ACT_SILU, true, true, true},
        {40, 3, 1, 64, 200, 0, ACT_RELU2},
    };
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        setting s = shapes[i];
        s.dt = dt;
        world w = world_new(c, s);
        expert_set x = experts_new(c->be[0], &w);
        for (int t = 0; t < c->n_be; t++) compare_apart(c, c->be[t], &w, &x, dtype_name(dt));
        experts_free(&x);
        world_free(&w);
    }
}

static void check_arithmetics(check_ctx *c) {
    static const struct {
        dtype dt;
        int32_t width;
        quant_spec q;
    } cases[] = {
        {DT_INT8, 128, {.group = 64, .scale_dt = DT_F32, .zero = 8, .act = ACT_ROUND_INT8_TOKEN}},
        {DT_INT8, 72, {.group = 72, .scale_dt = DT_F32, .zero = 128, .act = ACT_ROUND_INT8_TOKEN}},
        {DT_INT8,
         72,
         {.group = 72,
          .scale_dt = DT_F32,
          .has_zeros = true,
          .act = ACT_ROUND_INT8_STATIC,
          .act_zero = -3}},
        {DT_F8_E4M3,
         136,
         {.group = 128, .scale_dt = DT_F32, .act = ACT_ROUND_FP8_GROUP, .math = DT_BF16}},
        {DT_F8_E4M3,
         136,
         {.group = 136, .scale_dt = DT_F32, .act = ACT_ROUND_FP8_STATIC, .math = DT_BF16}},
        {DT_F8_E4M3,
         136,
         {.group = 64, .scale_dt = DT_F32, .act = ACT_ROUND_FP8_TOKEN, .math = DT_F16}},
        {DT_INT4, 160, {.group = 32, .scale_dt = DT_F16, .zero = 8, .math = DT_F16}},
        {DT_INT4,
         160,
         {.group = 32, .scale_dt = DT_BF16, .zero = 8, .has_order = true, .math = DT_BF16}},
        {DT_INT3, 160, {.group = 32, .scale_dt = DT_F16, .zero = 4, .math = DT_BF16}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        quant_spec spec = cases[i].q;
        spec.scale_mul = 1;
        check_own_arithmetic(c, cases[i].dt, spec, cases[i].width, false);
        if (!c->device) check_own_arithmetic(c, cases[i].dt, spec, cases[i].width, true);
    }
}

/* So many results that the call is cut into pieces of tokens. A device does it in 16 bits: in f32
 * an emulated one takes minutes. */
static void check_pieces(check_ctx *c) {
    compare(c,
            (setting){.t = 600,
                      .e = 64,
                      .k = 64,
                      .c = 512,
                      .f = 2,
                      .dt = c->device ? DT_BF16 : DT_F32,
                      .act = ACT_RELU,
                      .bias = true},
            false);
}

void check_experts(check_ctx *c) {
    static const dtype types[] = {DT_F32, DT_F16, DT_BF16};
    if (check_wanted(c, "route")) check_route(c);
    if (!check_wanted(c, "experts")) return;
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        static const setting shapes[] = {
            {1, 1, 1, 1, 1, 0, ACT_SILU, true},
            {1, 4, 2, 16, 8, 0, ACT_SILU, true},
            {40, 4, 4, 33, 17, 0, ACT_GELU, true, true},
            {40, 7, 2, 64, 48, 0, ACT_SWIGLU_OAI, true, false, true},
            {25, 16, 3, 100, 31, 0, ACT_RELU2, false, false, true, true},
            {64, 60, 6, 48, 40, 0, ACT_SILU, true, true, true, true},
            {100, 3, 1, 70, 130, 0, ACT_GELU_TANH, false},
        };
        for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
            setting s = shapes[i];
            s.dt = types[t];
            compare(c, s, false);
            compare(c, s, true);
        }
        if (!c->device) check_apart(c, types[t]);
        for (int i = 0; i < (c->full ? 60 : 6); i++) {
            int32_t e = check_int(c, 1, 20);
            setting s = {.t = check_int(c, 1, 60),
                         .e = e,
                         .k = check_int(c, 1, MIN(e, 5)),
                         .c = check_int(c, 1, 200),
                         .f = check_int(c, 1, 150),
                         .dt = types[t],
                         .act = check_int(c, 0, ACT_SIGMOID),
                         .gated = check_int(c, 0, 1) == 1,
                         .bias = check_int(c, 0, 1) == 1,
                         .accumulate = check_int(c, 0, 1) == 1};
            s.apart = s.gated && check_int(c, 0, 1) == 1;
            compare(c, s, false);
        }
    }
    check_quant_experts(c);
    check_arithmetics(c);
    if (!c->small) check_pieces(c);
}
