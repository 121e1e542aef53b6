/* A step's time is a curve over its number of tokens plus a cost for each position that a token
 * attends to. On a CPU the curve is flat as long as the weights have to come from memory anyway,
 * and then rises by what a token's arithmetic takes; where that happens depends on the model, its
 * types, the machine and its neighbours. So it is not derived but learned, step by step: nothing is
 * measured at the start, which would delay it, and what other programs take from the machine is
 * followed.
 *
 * The curve: a mean for each size, made monotone by pooling neighbours that are not
 * (pool-adjacent-violators), with straight lines between. Between two sizes far apart a line lies
 * above the true, convex curve: budgets begin too small and grow as the sizes between are seen.
 *
 * The cost of a position: how time changes with positions among steps of one size (differences from
 * that size's means, so the curve drops out). A long prompt in equal chunks shows it at once.
 *
 * What makes one size slower or faster, a neighbour or a clock, makes all: where a size that is
 * well known surprises, larger ones move by an eighth of that, and so follow one that stays
 * different in full, while the eighths of its own mean close the gap; smaller ones by a quarter of
 * it. Without that a size that was once too slow to be used would never be seen again.
 *
 * A step that took longer than thought by a fifth or more, alone among others, tells of a moment
 * (another program, an interrupt) and not of its size: it counts as a fifth longer. If the next one
 * is late as well, the machine may have changed: that one counts, but never as more than a few
 * times as long. Tried without: one such step of 67 ms among those of 55 (0.5B model) took an
 * eighth of the budget away from the next ten. */
#include "scheduler/pace.h"

#include <stdbool.h>

#include "engine/base/mem.h"

enum {
    ALL_TO = 8,    /* sizes up to here each for itself */
    FOURS_TO = 64, /* and up to here four by four */
    FOURS = ALL_TO + (FOURS_TO - ALL_TO) / 4,
    RUSH_STEPS = 3,
    LEAST = 8, /* tokens of prompts in a step, whatever the target: they must come to an end */
};
static const double WEIGHT_MAX = 8, KNOWN = 3, DRIFT = 1 / 8.0, DRIFT_DOWN = 1 / 32.0, FADE = 0.998,
                    LATE = 1.2, OUTLIER = 4, ONE = 1.9, SHARE = 0.8, RUSH = 6;
/* What a step of few tokens takes at least, of one of many: weights are read for each. */
static const double FLOOR = 0.125;

int32_t pace_size_tokens(int32_t i) {
    if (i < ALL_TO) return i + 1;
    if (i < FOURS) return ALL_TO + (i - ALL_TO + 1) * 4;
    int32_t octave = (i - FOURS) / 4, quarter = (i - FOURS) % 4 + 1;
    return (FOURS_TO << octave) + (FOURS_TO << octave) / 4 * quarter;
}

static int32_t size_of(int32_t n_tokens) {
    int32_t i = 0;
    while (i < PACE_SIZES - 1 && pace_size_tokens(i) < n_tokens) i++;
    return i;
}

static double curve_us(const pace *p, double n) {
    const pace_point *c = p->curve, *last = c + p->n_curve - 1;
    if (p->n_curve == 0) return 0;
    if (n < c->from) return c->us * MAX(n / c->from, FLOOR);
    if (n > last->to) return last->us * n / last->to;
    while (c < last && c[1].from <= n) c++;
    if (n <= c->to) return c->us;
    return c->us + (c[1].us - c->us) * (n - c->to) / (c[1].from - c->to);
}

double pace_us(const pace *p, pace_step s) {
    double us = curve_us(p, s.n_tokens);
    return us > 0 ? us + p->read_us * s.n_reads : 0;
}

/* Means of sizes without what their reads took, pooled where a larger one took less. */
static void draw(pace *p) {
    p->n_curve = 0;
    for (int32_t i = 0; i < PACE_SIZES; i++) {
        const pace_size *s = &p->sizes[i];
        if (s->weight == 0) continue;
        double us = MAX(s->us - p->read_us * s->reads, s->us * FLOOR);
        pace_point x = {s->tokens, s->tokens, us, s->weight};
        while (p->n_curve > 0 && p->curve[p->n_curve - 1].us >= x.us) {
            const pace_point *y = &p->curve[--p->n_curve];
            double w = x.weight + y->weight;
            x = (pace_point){y->from, x.to, (x.us * x.weight + y->us * y->weight) / w, w};
        }
        p->curve[p->n_curve++] = x;
    }
}

/* A size that is well known took by * as long as thought: so will the others. Smaller ones move
 * less: what decoding alone takes must not be talked up by the steps that it is the measure of. */
static void drift(pace *p, const pace_size *but, double by) {
    for (int32_t i = 0; i < PACE_SIZES; i++) {
        pace_size *s = &p->sizes[i];
        s->weight *= FADE;
        if (s != but) s->us *= 1 + (by - 1) * (s > but ? DRIFT : DRIFT_DOWN);
    }
}

void pace_add(pace *p, pace_step step, double us) {
    pace_size *s = &p->sizes[size_of(step.n_tokens)];
    double thought = pace_us(p, step);
    if (s->weight >= 1) {
        bool late = us > LATE * thought;
        us = MIN(us, (p->was_late ? OUTLIER : LATE) * thought);
        p->was_late = late;
    }
    double dx = step.n_reads - s->reads, dy = us - s->us;
    if (s->weight > 0) {
        p->xx = p->xx * FADE + dx * dx;
        /* a few tokens more take longer by themselves, and read more */
        double by_tokens = curve_us(p, step.n_tokens) - curve_us(p, s->tokens);
        p->xy = p->xy * FADE + dx * (dy - by_tokens);
        p->read_us = p->xy > 0 ? p->xy / p->xx : 0;
    }
    drift(p, s, s->weight >= KNOWN && thought > 0 ? us / thought : 1);
    s->weight = MIN(s->weight + 1, WEIGHT_MAX);
    s->tokens += (step.n_tokens - s->tokens) / s->weight;
    s->reads += dx / s->weight;
    s->us += dy / s->weight;
    draw(p);
}

/* The step with n tokens of the first prompt beside what decodes. */
static pace_step with_prompt(const pace_load *l, int32_t n) {
    return (pace_step){l->decoding.n_tokens + n, l->decoding.n_reads + pace_reads(l->at, n)};
}

/* The most tokens of a step that takes us microseconds. */
static int32_t within(const pace *p, const pace_load *l, double us) {
    int32_t must = l->decoding.n_tokens, lo = must, hi = l->most;
    if (pace_us(p, with_prompt(l, hi - must)) <= us) return hi;
    while (hi - lo > 1) { /* hi are too many */
        int32_t n = lo + (hi - lo) / 2;
        *(pace_us(p, with_prompt(l, n - must)) <= us ? &lo : &hi) = n;
    }
    return MIN(MAX(lo, must + LEAST), l->most);
}

int32_t pace_budget(const pace *p, const pace_load *l) {
    int32_t must = l->decoding.n_tokens;
    if (must == 0 || must >= l->most || p->n_curve == 0) return l->most;
    if (p->target_us != PACE_AUTO) return within(p, l, (double)p->target_us);
    double us = pace_us(p, l->decoding);
    int32_t n = within(p, l, us * RUSH);
    if (l->fresh <= RUSH_STEPS * (n - must)) return n;
    return within(p, l, us * MIN(ONE + SHARE * (l->n_prompts - 1), RUSH));
}
