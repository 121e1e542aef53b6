/* The search of scales (quantize.h) over the lanes of a level: each lane is the plain search of its
 * row, bit for bit. */
#include <string.h>

#include "kernels/cpu/quantize_level.h"
#include "tests/kernels/checkkern.h"

static bool lane_is(const quantize_group *wide, int lanes, int l, const quantize_group *one,
                    int32_t n) {
    bool same = wide->scale[l] == one->scale[0] && wide->zero[l] == one->zero[0] &&
                wide->err2[l] == one->err2[0] && wide->sum2[l] == one->sum2[0];
    for (int32_t i = 0; i < n; i++) same &= wide->code[i * lanes + l] == one->code[i];
    return same;
}

/* Rows of normal numbers, of one sign, with a few large ones, tiny ones, zeros. */
static void fill(check_ctx *c, int kind, int32_t n, float *x) {
    for (int32_t i = 0; i < n; i++) {
        float v = (float)(check_uniform(c) + check_uniform(c) - 1);
        if (kind == 1) v = v < 0 ? -v : v;
        if (kind == 2 && check_int(c, 0, 20) == 0) v *= 40;
        x[i] = kind == 3 ? v * 1e-30f : kind == 4 ? 0 : v;
    }
}

static void compare(check_ctx *c, const quantize_level *v, const quantize_search *s) {
    static quantize_group wide, one;
    float x[QUANTIZE_LANES_MAX][QUANTIZE_GROUP_MAX];
    for (int l = 0; l < v->lanes; l++) {
        fill(c, check_int(c, 0, 4), s->n, x[l]);
        for (int32_t i = 0; i < s->n; i++) wide.x[i * v->lanes + l] = x[l][i];
    }
    v->run(s, &wide);
    for (int l = 0; l < v->lanes; l++) {
        memcpy(one.x, x[l], sizeof x[l]);
        plain_quantize.run(s, &one);
        check_that(c, lane_is(&wide, v->lanes, l, &one, s->n), "not the plain search",
                   "quantize n=%d top=%g zeros=%d lane %d", s->n, s->top, s->has_zeros, l);
    }
}

void check_quantize(check_ctx *c) {
    static const float tries[] = {1, 0.8f, 0.95f, 1.1f};
    static const int32_t widths[] = {1, 31, 32, 128};
    if (c->device) return;
    const quantize_level *v = &plain_quantize;
    for (cpu_isa isa = 0; isa < ISA_COUNT; isa++)
        if (strcmp(isa_name(isa), c->isa) == 0) v = quantize_level_of(isa);
    for (int i = 0; i < 32; i++)
        compare(c, v,
                &(quantize_search){.n = widths[i / 8],
                                   .top = i & 1 ? 255 : 15,
                                   .zero = i & 1 ? 128 : 8,
                                   .has_zeros = i & 2,
                                   .scale_dt = i & 4 ? DT_F32 : DT_F16,
                                   .tries = tries,
                                   .n_tries = ARRAY_LEN(tries)});
}
