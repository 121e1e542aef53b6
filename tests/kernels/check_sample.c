/* sample, where a backend has it: the reference's very tokens, ranks and logprobs on random rows of
 * every shape (ties, flat, peaked, masked, -inf, rows without a choice); the same bits whoever else
 * is in the call; logits given back. Then, against distributions computed here in double: each id
 * that may be drawn is drawn by the keys of its part of [0,1), and draws by different keys follow
 * the distribution (chi-square). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/sample_num.h"
#include "tests/kernels/checkkern.h"

enum { ROWS = 24, EDITS = 12 };

/* A call's memory. */
typedef struct rows_case {
    int32_t n, width;
    mat logits, before;
    float *lse;
    int32_t *argmax;
    sample_row *rows;
    sample_edit *edits; /* [n,EDITS] */
    uint32_t *masks;    /* [n,words] */
    int32_t words;
} rows_case;

static bool chance(check_ctx *c, double p) {
    return check_uniform(c) < p;
}

static float between(check_ctx *c, double lo, double hi) {
    return (float)(lo + (hi - lo) * check_uniform(c));
}

static rows_case rows_new(int32_t n, int32_t width) {
    rows_case k = {.n = n, .width = width, .words = CEIL_DIV(width, 32)};
    k.logits = mat_new(n, width, width + 5);
    k.before = mat_new(n, width, width + 5);
    k.lse = fenced_alloc((size_t)n * sizeof *k.lse);
    k.argmax = fenced_alloc((size_t)n * sizeof *k.argmax);
    k.rows = fenced_alloc((size_t)n * sizeof *k.rows);
    k.edits = fenced_alloc((size_t)(n * EDITS) * sizeof *k.edits);
    k.masks = fenced_alloc((size_t)n * (size_t)k.words * sizeof *k.masks);
    return k;
}

static void rows_free(rows_case *k) {
    mat_free(&k->logits);
    mat_free(&k->before);
    fenced_free(k->lse);
    fenced_free(k->argmax);
    fenced_free(k->rows);
    fenced_free(k->edits);
    fenced_free(k->masks);
}

/* Statistics as op_logsumexp gives them. */
static void measure(const float *x, int32_t n, float *lse, int32_t *argmax) {
    double sum = 0;
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    for (int32_t i = 0; i < n; i++) sum += exp((double)x[i] - x[best]);
    *lse = (float)(x[best] + log(sum));
    *argmax = best;
}

/* Steps make ties; a small spread makes more candidates than a chunk lists. */
static void fill_row(check_ctx *c, float *x, int32_t n, int kind) {
    float spread = kind == 1 ? 0.01f : between(c, 0.5, 8), step = kind == 2 ? 0.5f : 0x1p-14f;
    for (int32_t i = 0; i < n; i++) {
        float g = between(c, -1, 1) + between(c, -1, 1) + between(c, -1, 1);
        x[i] = floorf(g * spread / step) * step;
        if (kind == 3 && chance(c, 0.9)) x[i] = -INFINITY;
        if (kind == 4) x[i] = chance(c, 0.5) ? 0.0f : -0.0f;
    }
    if (kind == 5) x[check_int(c, 0, n - 1)] = NAN;
    if (kind == 6) x[check_int(c, 0, n - 1)] = INFINITY;
    for (int32_t i = 0; kind == 7 && i < n; i++) x[i] = -INFINITY;
    if (kind == 8) x[check_int(c, 0, n - 1)] = 200; /* all others weigh 0 */
}

static void fill_edits(check_ctx *c, rows_case *k, sample_row *p, int32_t r) {
    int32_t n = MIN(EDITS, k->width), first = check_int(c, 0, k->width - n);
    p->edit0 = (int64_t)r * EDITS;
    p->n_edits = chance(c, 0.5) ? 0 : check_int(c, 1, n);
    for (int32_t i = 0; i < EDITS; i++) k->edits[p->edit0 + i] = (sample_edit){0, NAN, 0, 0};
    for (int32_t i = 0; i < p->n_edits; i++)
        k->edits[p->edit0 + i] = (sample_edit){.id = first + i,
                                               .bias = chance(c, 0.5) ? 0 : between(c, -9, 9),
                                               .count = chance(c, 0.5) ? 0 : check_int(c, 1, 5),
                                               .flags = (uint32_t)check_int(c, 0, 9) % 4};
}

static void fill_mask(check_ctx *c, rows_case *k, sample_row *p, int32_t r) {
    uint32_t *mask = k->masks + (size_t)r * (size_t)k->words;
    double part = chance(c, 0.2) ? 0 : chance(c, 0.5) ? 0.1 : 0.9;
    memset(mask, 0, (size_t)k->words * sizeof *mask);
    for (int32_t i = 0; i < k->width; i++) mask[i / 32] |= (uint32_t)chance(c, part) << i % 32;
    p->mask = chance(c, 0.3) ? mask : NULL;
}

static sample_row random_params(check_ctx *c, int32_t width) {
    return (sample_row){.given = chance(c, 0.15) ? check_int(c, 0, width - 1) : -1,
                        .n_logprobs = check_int(c, -1, 5) * check_int(c, 1, 4),
                        .temperature = chance(c, 0.2) ? 0 : between(c, 0.1, 2),
                        .top_k =
                            chance(c, 0.5) ? 0 : check_int(c, 1, chance(c, 0.5) ? 5 : 2 * width),
                        .top_p = chance(c, 0.4) ? 1 : between(c, 0.001, 1),
                        .min_p = chance(c, 0.6) ? 0 : between(c, 0, 0.5),
                        .repetition_penalty = between(c, 0.5, 2),
                        .frequency_penalty = between(c, -1, 1),
                        .presence_penalty = between(c, -1, 1),
                        .key = (uint64_t)(check_uniform(c) * 0x1p53) << 11 | 5};
}

/* Every third row draws from all weights; some have a weight that is min_p itself, or draw from the
 * last ids. */
static void make_special(check_ctx *c, const float *x, int32_t n, float max, int32_t r,
                         sample_row *p) {
    if (r % 3 == 0) p->given = -1, p->temperature = 1, p->top_k = 0, p->top_p = 1, p->min_p = 0;
    if (r % 8 == 5) p->key = ~(uint64_t)0;
    if (r % 8 != 2 || !isfinite(max)) return;
    p->given = -1;
    p->n_edits = 0;
    p->mask = NULL;
    p->temperature = 1;
    p->min_p = sample_weight(x[check_int(c, 0, n - 1)], max, 1);
    p->top_p = between(c, 0.5, 1);
}

static void fill_rows(check_ctx *c, rows_case *k) {
    for (int32_t r = 0; r < k->n; r++) {
        int32_t row = k->n - 1 - r;
        float *x = k->logits.p + row * k->logits.stride;
        fill_row(c, x, k->width, r < 9 ? r : check_int(c, 0, 4));
        measure(x, k->width, &k->lse[row], &k->argmax[row]);
        sample_row p = random_params(c, k->width);
        p.row = row;
        p.n_logprobs = MAX(p.n_logprobs, -1);
        fill_edits(c, k, &p, r);
        fill_mask(c, k, &p, r);
        make_special(c, x, k->width, x[k->argmax[row]], r, &p);
        k->rows[r] = p;
    }
    mat_copy(&k->before, &k->logits);
}

/* Rows [row0, row0+n) of the call: results in fenced memory. */
static sample_result *run_rows(backend *b, const rows_case *k, int32_t row0, int32_t n) {
    sample_result *out = fenced_alloc((size_t)n * sizeof *out);
    memset(out, 0xA5, (size_t)n * sizeof *out);
    op_sample a = {.n_rows = n,
                   .width = k->width,
                   .logits = k->logits.p,
                   .logits_stride = k->logits.stride,
                   .lse = k->lse,
                   .argmax = k->argmax,
                   .host = k->rows + row0,
                   .rows = k->rows + row0,
                   .edits = k->edits,
                   .n_edits = (int64_t)k->n * EDITS,
                   .out = out};
    CALL(b, sample, &a);
    return out;
}

static bool same_result(const sample_result *x, const sample_result *y) {
    if (x->status != y->status || x->token != y->token) return false;
    if (x->status != SAMPLE_OK) return true;
    if (memcmp(&x->logprob, &y->logprob, 4) != 0 || x->rank != y->rank || x->n_top != y->n_top)
        return false;
    return x->n_top <= SAMPLE_TOP_MAX &&
           memcmp(x->top, y->top, (size_t)x->n_top * sizeof x->top[0]) == 0;
}

static void compare(check_ctx *c, const rows_case *k, const sample_result *want,
                    const sample_result *got, int32_t row0, int32_t n, const char *how) {
    for (int32_t i = 0; i < n; i++) {
        const sample_row *p = &k->rows[row0 + i];
        char what[160];
        snprintf(what, sizeof what, "token %d rank %d top %d status %d, expected %d, %d, %d, %d",
                 got[i].token, got[i].rank, got[i].n_top, got[i].status, want[i].token,
                 want[i].rank, want[i].n_top, want[i].status);
        check_that(c, same_result(&want[i], &got[i]), what,
                   "sample V=%d row %d%s given=%d T=%g top_k=%d top_p=%g min_p=%g edits=%d mask=%d",
                   k->width, row0 + i, how, p->given, p->temperature, p->top_k, p->top_p, p->min_p,
                   p->n_edits, p->mask != NULL);
    }
}

static void compare_rows(check_ctx *c, int32_t width) {
    rows_case k = rows_new(ROWS, width);
    fill_rows(c, &k);
    sample_result *want = run_rows(c->ref, &k, 0, ROWS), *got = run_rows(c->be[0], &k, 0, ROWS);
    compare(c, &k, want, got, 0, ROWS, "");
    for (int32_t r = 0; r < ROWS; r += c->small ? 5 : 1) {
        sample_result *alone = run_rows(c->be[0], &k, r, 1);
        compare(c, &k, got + r, alone, r, 1, " alone");
        fenced_free(alone);
    }
    check_same(c, &k.before, 0, &k.logits, "sample V=%d: logits given back", width);
    check_that(c, mat_guards_ok(&k.logits), "wrote outside its rows", "sample V=%d", width);
    fenced_free(want);
    fenced_free(got);
    rows_free(&k);
}

static uint64_t key_at(double u) {
    return (uint64_t)(u * 0x1p53) << 11;
}

/* One row and keys over all of [0,1). */
static void compare_keys(check_ctx *c, const float *x, int32_t width, const sample_row *p) {
    rows_case k = rows_new(ROWS, width);
    for (int32_t r = 0; r < ROWS; r++) {
        memcpy(k.logits.p + r * k.logits.stride, x, (size_t)width * sizeof *x);
        measure(x, width, &k.lse[r], &k.argmax[r]);
        k.rows[r] = *p;
        k.rows[r].row = r;
        k.rows[r].key = key_at((r + 0.5) / ROWS);
    }
    sample_result *want = run_rows(c->ref, &k, 0, ROWS), *got = run_rows(c->be[0], &k, 0, ROWS);
    compare(c, &k, want, got, 0, ROWS, " by keys");
    fenced_free(want);
    fenced_free(got);
    rows_free(&k);
}

/* Edges with equals on both sides. */
static void compare_edges(check_ctx *c) {
    static const struct {
        float x[5], top_p;
        int32_t top_k;
    } hand[] = {{{0, 0, 0, 0.5f, 0}, 0.4f, 0}, /* of the equals only id 0 is in the nucleus */
                {{1, -0.0f, 0, 2, 0}, 1, 3},   /* all equals of the third */
                {{1, 1, 1, 1, 1}, 0.5f, 2}};   /* top_k leaves all, top_p three */
    sample_row p = {.given = -1, .n_logprobs = 5, .temperature = 1};
    for (size_t i = 0; i < ARRAY_LEN(hand); i++) {
        p.top_k = hand[i].top_k;
        p.top_p = hand[i].top_p;
        compare_keys(c, hand[i].x, 5, &p);
    }
    /* The nucleus ends among the lightest, which come first; min_p then leaves the others. */
    float x[1200];
    for (int32_t i = 0; i < 1200; i++) x[i] = i < 600 ? 0 : i < 1199 ? 2 : 3;
    p.top_k = 0;
    p.top_p = 0.9f;
    p.min_p = sample_weight(2, 3, 1);
    compare_keys(c, x, 1200, &p);
    compare_keys(c, x + 590, 20, &p);
}

/* Distributions, by their definition and in double. */

typedef struct one_id {
    int32_t id;
    double p;
    bool kept;
} one_id;

static int by_p(const void *a, const void *b) {
    const one_id *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->id - y->id;
}

static int by_id(const void *a, const void *b) {
    return ((const one_id *)a)->id - ((const one_id *)b)->id;
}

static double kept_sum(const one_id *d, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += d[i].kept ? d[i].p : 0;
    return sum;
}

/* d[n] by id; p is 0 where an id is filtered out. */
static void distribution(const float *x, int32_t n, const sample_row *p, one_id *d) {
    double best = -INFINITY;
    for (int32_t i = 0; i < n; i++) best = MAX(best, x[i]);
    for (int32_t i = 0; i < n; i++)
        d[i] = (one_id){i, exp(((double)x[i] - best) / p->temperature), true};
    qsort(d, (size_t)n, sizeof *d, by_p);
    for (int32_t i = 0; p->top_k > 0 && p->top_k < n && i < n; i++)
        d[i].kept = d[i].p >= d[p->top_k - 1].p;
    double need = p->top_p * kept_sum(d, n), sum = 0;
    for (int32_t i = 0; i < n; i++) {
        d[i].kept &= (p->top_p >= 1 || sum < need) && d[i].p >= p->min_p;
        sum += d[i].p;
    }
    double total = kept_sum(d, n);
    for (int32_t i = 0; i < n; i++) d[i].p = d[i].kept ? d[i].p / total : 0;
    qsort(d, (size_t)n, sizeof *d, by_id);
}

/* The same row and parameters n times, with keys[n]. */
static void draw_keys(check_ctx *c, const float *x, int32_t width, const sample_row *p,
                      const uint64_t *keys, int32_t n, int32_t *ret_tokens) {
    int32_t at_once = MIN(n, c->n_draws > 100000 ? 1024 : ROWS);
    rows_case k = rows_new(MAX(at_once, 1), width);
    for (int32_t r = 0; r < k.n; r++) {
        memcpy(k.logits.p + r * k.logits.stride, x, (size_t)width * sizeof *x);
        if (r == 0) measure(x, width, &k.lse[r], &k.argmax[r]);
        k.lse[r] = k.lse[0];
        k.argmax[r] = k.argmax[0];
        k.rows[r] = *p;
        k.rows[r].row = r;
    }
    for (int32_t at = 0; at < n; at += k.n) {
        int32_t m = MIN(k.n, n - at);
        for (int32_t r = 0; r < m; r++) k.rows[r].key = keys[at + r];
        sample_result *out = run_rows(c->be[0], &k, 0, m);
        for (int32_t r = 0; r < m; r++) ret_tokens[at + r] = out[r].token;
        fenced_free(out);
    }
    rows_free(&k);
}

/* The key in the middle of an id's part draws it; parts too small for f32 sums are left out. */
static void check_support(check_ctx *c, const float *x, int32_t width, const sample_row *p,
                          const one_id *d, const char *name) {
    uint64_t *keys = mem_alloc((size_t)width * sizeof *keys);
    int32_t *want = mem_alloc((size_t)width * sizeof *want), n = 0, n_wrong = 0;
    int32_t *got = mem_alloc((size_t)width * sizeof *got);
    double sum = 0;
    for (int32_t i = 0; i < width; sum += d[i++].p) {
        if (d[i].p < 1e-5) continue;
        want[n] = d[i].id;
        keys[n++] = key_at(sum + d[i].p / 2);
    }
    draw_keys(c, x, width, p, keys, n, got);
    for (int32_t i = 0; i < n; i++) n_wrong += got[i] != want[i];
    check_that(c, n_wrong == 0, "ids were not drawn by their keys", "sample support, %s: %d of %d",
               name, n_wrong, n);
    mem_free(keys);
    mem_free(want);
    mem_free(got);
}

/* Upper 1e-3 quantile of chi-square with n degrees of freedom (Wilson and Hilferty). */
static double chi_square_limit(int n) {
    double a = 2.0 / (9.0 * n), z = 3.09;
    return n * pow(1 - a + z * sqrt(a), 3);
}

/* What n draws by fresh keys say. */
typedef struct draws {
    double chi;
    int32_t n_cells, n_out; /* cells of the chi-square; draws from outside the distribution */
} draws;

static draws draw_many(check_ctx *c, const float *x, int32_t width, const sample_row *p,
                       const one_id *d) {
    int32_t n = c->n_draws, *got = mem_alloc((size_t)n * sizeof *got);
    int32_t *seen = mem_calloc((size_t)width, sizeof *seen);
    uint64_t *keys = mem_alloc((size_t)n * sizeof *keys);
    draws r = {0};
    for (int32_t i = 0; i < n; i++) keys[i] = key_at(check_uniform(c));
    draw_keys(c, x, width, p, keys, n, got);
    for (int32_t i = 0; i < n; i++) {
        bool inside = got[i] >= 0 && got[i] < width && d[got[i]].kept;
        r.n_out += !inside;
        if (inside) seen[got[i]]++;
    }
    double rest_want = 0, rest_seen = 0;
    for (int32_t i = 0; i < width; i++) { /* cells of fewer than 5 are one */
        double want = d[i].p * n;
        if (want < 5) {
            rest_want += want;
            rest_seen += seen[i];
            continue;
        }
        r.chi += (seen[i] - want) * (seen[i] - want) / want;
        r.n_cells++;
    }
    if (rest_want >= 5) r.chi += pow(rest_seen - rest_want, 2) / rest_want, r.n_cells++;
    mem_free(got);
    mem_free(seen);
    mem_free(keys);
    return r;
}

/* One right distribution in a thousand exceeds the limit by chance, so what exceeds it is drawn a
 * second time: a wrong one does so again. */
static void check_draws(check_ctx *c, const float *x, int32_t width, const sample_row *p,
                        const one_id *d, const char *name) {
    draws r = {0};
    bool follows = false;
    for (int i = 0; i < 2 && !follows; i++) {
        r = draw_many(c, x, width, p, d);
        follows = r.n_cells < 2 || r.chi <= chi_square_limit(r.n_cells - 1);
        check_that(c, r.n_out == 0, "drawn from outside the distribution", "sample draws, %s: %d",
                   name, r.n_out);
    }
    check_that(c, follows, "draws do not follow it, twice",
               "sample draws, %s: chi-square %.1f of %d cells", name, r.chi, r.n_cells);
}

static void check_distributions(check_ctx *c, int32_t width) {
    static const struct {
        const char *name;
        float temperature, top_p, min_p;
        int32_t top_k;
    } sets[] = {{"all", 1, 1, 0, 0},           {"top_k", 0.8f, 1, 0, 17},
                {"top_p", 1.2f, 0.7f, 0, 0},   {"min_p", 1, 1, 0.2f, 0},
                {"three", 1, 0.9f, 0.05f, 40}, {"ties", 1, 0.5f, 0, 9}};
    float *x = mem_alloc((size_t)width * sizeof *x);
    one_id *d = mem_alloc((size_t)width * sizeof *d);
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        sample_row p = {.given = -1,
                        .n_logprobs = -1,
                        .temperature = sets[i].temperature,
                        .top_p = sets[i].top_p,
                        .min_p = sets[i].min_p,
                        .top_k = sets[i].top_k};
        fill_row(c, x, width, strcmp(sets[i].name, "ties") == 0 ? 2 : 0);
        for (int32_t k = 0; k < width; k++) x[k] *= 0.5f;
        distribution(x, width, &p, d);
        check_support(c, x, width, &p, d, sets[i].name);
        check_draws(c, x, width, &p, d, sets[i].name);
    }
    mem_free(x);
    mem_free(d);
}

void check_sample(check_ctx *c) {
    static const int32_t widths[] = {1, 2, 7, 31, 33, 100, 1000, 4095, 4097, 8500, 20011};
    if (!c->be[0]->v->sample) return; /* the host samples */
    for (size_t i = 0; i < ARRAY_LEN(widths); i++)
        if (!c->small || widths[i] < 10000) compare_rows(c, widths[i]);
    compare_edges(c);
    if (c->full) {
        compare_rows(c, 151936);
        compare_rows(c, 262144);
    }
    check_distributions(c, 150);
    if (c->full) check_distributions(c, 9000);
}
