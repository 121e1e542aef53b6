/* Which sequences of a plan get drafts, and how many.
 *
 * A step computes its R rows in time T(R), which the pace has learned (pace.h). While that time is
 * spent reading weights, rows more cost next to nothing; where arithmetic takes it, each costs its
 * share. A draft that is right with probability p gives, by the d-th, p + .. + p^d tokens. So d is
 * chosen where tokens per time, (R + gains) / T(R + d), are most, sequence after sequence in the
 * order of the plan: drafts go to one stream as many as pay, to a full batch none, whatever model
 * and machine it is. That is asked first, before anything is looked up.
 *
 * p is learned apart for each length of the match that a draft comes from (a long one is often a
 * copy, a short one chance) from this sequence's drafts and, as if they were a few more, from all
 * sequences'. So those that do not pay for a sequence stop after a few, and a copy later in its
 * text is still followed at once. What seems not to pay is tried now and then, one sequence in so
 * many plans, for the text may have changed; that is 2 rows in 32 steps.
 *
 * Drafts come last: they take neither budget nor pages nor room in the ring that a token needs, and
 * leave a free page for everyone who runs. Pages that they needed are given back with the results.
 *
 * Drafts need the last token. Where steps are launched ahead of results it is known only when
 * nothing is in flight: so where drafts can be hoped for the steps in flight are collected before
 * the next is planned, and one with drafts is collected at once. (With half the batch in one step
 * and half in the next, each would read all weights for half the tokens.)
 *
 * Invariant: drafts stand in ids[n_known ..] from the plan to the results of its step, and no other
 * plan is made between. */
#include "scheduler/drafts.h"

#include "engine/base/mem.h"
#include "scheduler/state.h"

enum { TRY_EVERY = 32, TRY_SELDOM = 1024, TRY_MOST = 2 };

/* First guesses at p, as of so many drafts; then how fast old drafts are forgotten. */
static const double FIRST[DRAFT_KINDS] = {0.3, 0.4, 0.5, 0.65, 0.8, 0.7}, FIRST_WEIGHT = 8,
                    FADE_ALL = 0.995, FADE_OWN = 0.9, OTHERS_WEIGHT = 3;
/* Rows past the largest step so far are taken to cost so much of its time each: wrong guesses are
 * put right by trying. */
static const double ROW_COST = 0.05;
/* Steps ahead are given up for drafts behind unknown tokens that are as likely as this. */
static const double HOPE = 0.5;

void drafts_init(core *c, int32_t most, const stepper *model) {
    c->drafting.most = MIN(most, DRAFTS_MOST);
    c->drafting.try_gap = TRY_EVERY;
    for (int32_t k = 0; k < DRAFT_KINDS; k++) {
        c->drafting.odds.tried[k] = FIRST_WEIGHT;
        c->drafting.odds.right[k] = FIRST_WEIGHT * FIRST[k];
    }
    if (model && c->drafting.most > 0) draft_model_init(c, model);
}

void drafts_done(core *c) {
    draft_model_done(c);
}

static int32_t kind_of(int32_t match) {
    return match <= 4 ? match - NGRAM_LEAST : match < NGRAM_MOST ? 3 : 4;
}

double draft_chance(const core *c, const seq *s, int32_t kind) {
    const draft_odds *all = &c->drafting.odds, *own = &s->drafts.odds;
    double others = all->right[kind] / all->tried[kind];
    return (own->right[kind] + OTHERS_WEIGHT * others) / (own->tried[kind] + OTHERS_WEIGHT);
}

static void learn(draft_odds *o, int32_t kind, int32_t n, int32_t n_right, double fade) {
    o->tried[kind] = o->tried[kind] * fade + n_right + (n_right < n);
    o->right[kind] = o->right[kind] * fade + n_right;
}

void drafts_learn(core *c, seq *s, int32_t n, int32_t n_right) {
    learn(&c->drafting.odds, s->drafts.kind, n, n_right, FADE_ALL);
    learn(&s->drafts.odds, s->drafts.kind, n, n_right, FADE_OWN);
    s->g->r->times.n_drafted += n;
    s->g->r->times.n_accepted += n_right;
    c->stats.n_drafts++;
    c->stats.draft_tokens += (uint64_t)n;
    c->stats.draft_tokens_right += (uint64_t)n_right;
    if (c->drafting.model)
        draft_model_learn(c, s, n, n_right);
    else if (n_right == n)
        c->drafting.try_gap = TRY_EVERY;
}

/* Where the text stood before; 0: nowhere. */
static int32_t look_up(seq *s, int32_t *ret_kind) {
    int32_t match;
    ngram_enter(&s->drafts.index, s->ids, s->n_known);
    int32_t from = ngram_find(&s->drafts.index, s->ids, s->n_known, &match);
    *ret_kind = from ? kind_of(match) : 0;
    return from;
}

/* --- what it costs --- */

/* The plan as it is: the tokens that it gives, and its time with d drafts more, which is asked for
 * every sequence of every plan: so the curve is looked at once for a number of tokens. */
typedef struct load {
    pace_step step;
    double n_gained;
    int32_t n_priced;             /* step.n_tokens that the two are of */
    double us[DRAFTS_MOST + 1];   /* apart from what is read */
    double past[DRAFTS_MOST + 1]; /* factor of all of it for rows past the largest step so far */
} load;

/* The largest step so far. */
static double most_seen(const core *c) {
    return c->pace.curve[c->pace.n_curve - 1].to;
}

/* What steps of more than that take: factor for so many rows more. */
static double factor_past(double past, double most) {
    return 1 + past * MIN(ROW_COST, 1 / most);
}

double draft_step_us(const core *c, pace_step step) {
    double most = most_seen(c), past = MAX(step.n_tokens - most, 0);
    step.n_tokens -= (int32_t)past;
    return pace_us(&c->pace, step) * factor_past(past, most);
}

static void price(const core *c, load *l) {
    const pace *p = &c->pace;
    double most = most_seen(c);
    if (l->n_priced == l->step.n_tokens) return;
    l->n_priced = l->step.n_tokens;
    for (int32_t d = 0; d <= c->drafting.most; d++) {
        double n = l->step.n_tokens + d, past = MAX(n - most, 0);
        l->us[d] = pace_us(p, (pace_step){.n_tokens = (int32_t)(n - past)});
        l->past[d] = factor_past(past, most);
    }
}

/* Tokens per time with d drafts at position pos, which are right `gain` times. */
static double rate(const core *c, const load *l, int32_t pos, int32_t d, double gain) {
    double reads = l->step.n_reads + pace_reads(pos, d);
    return (l->n_gained + gain) / ((l->us[d] + c->pace.read_us * reads) * l->past[d]);
}

/* How many of `most` drafts, each right with probability p, are best; 0: none. */
static int32_t best_of(const core *c, load *l, int32_t pos, int32_t most, double p) {
    if (c->o.drafts_forced) return most;
    price(c, l);
    double bar = rate(c, l, pos, 0, 0) * DRAFT_GAIN, gain = 0, each = 1;
    int32_t best = 0;
    for (int32_t d = 1; d <= most; d++) {
        gain += each *= p;
        double r = rate(c, l, pos, d, gain);
        if (r < bar) continue;
        bar = r;
        best = d;
    }
    return best;
}

pace_step draft_load(const batch_plan *plan) {
    pace_step step = {.n_tokens = plan->n_tokens};
    for (int32_t i = 0; i < plan->n_seqs; i++)
        step.n_reads += pace_reads(plan->seqs[i].pos, plan->seqs[i].n_tokens);
    return step;
}

static load load_of(const batch_plan *plan) {
    return (load){.step = draft_load(plan), .n_gained = plan->n_tokens, .n_priced = -1};
}

/* --- the plan --- */

int32_t draft_room(const core *c, const seq *s) {
    group *g = s->g;
    int32_t budget = c->budget - c->last->plan.n_tokens;
    int32_t n = MIN(MIN(c->drafting.most, budget), g->len_max - s->n_known - 1);
    return MIN(n, group_room(g, g->n_open + MAX(n, 0)) - g->n_open);
}

int32_t draft_pages(core *c, seq *s, int32_t n) {
    int32_t want = pages_for(c, s->n_known + n);
    while (s->n_pages < want && c->pages.n_free > c->n_running && seq_grow(c, s)) {
    }
    return MIN(n, s->n_pages * c->step.page_tokens - s->n_known);
}

void draft_add(core *c, seq *s, batch_seq *b, int32_t n, int32_t kind) {
    batch_plan *p = &c->last->plan;
    b->n_draft = n;
    b->more0 = p->n_drafts;
    b->n_tokens += n;
    p->n_tokens += n;
    p->n_drafts += n;
    s->n_launched += n;
    s->n_unseen += n;
    s->g->ring_room -= n;
    s->g->ring_promised += n;
    s->drafts.kind = kind;
}

/* --- looked up --- */

/* Drafts that pay, or some to learn whether they do. */
static int32_t choose(core *c, const seq *s, load *l, int32_t room, double p, bool *may_try) {
    int32_t n = best_of(c, l, s->n_known, room, p);
    if (n > 0 || !*may_try) return n;
    *may_try = false;
    c->drafting.try_plan = c->n_plans + (uint64_t)c->drafting.try_gap;
    c->drafting.try_gap = MIN(2 * c->drafting.try_gap, TRY_SELDOM);
    return MIN(room, TRY_MOST);
}

static void draft(core *c, seq *s, batch_seq *b, load *l, bool *may_try) {
    int32_t kind, room = draft_room(c, s), from = room > 0 ? look_up(s, &kind) : 0;
    if (!from) return;
    double p = draft_chance(c, s, kind), each = 1;
    int32_t n = draft_pages(c, s, choose(c, s, l, room, p, may_try));
    if (n <= 0) return;
    for (int32_t j = 0; j < n; j++) s->ids[s->n_known + j] = s->ids[from + j]; /* may overlap */
    draft_add(c, s, b, n, kind);
    l->step.n_tokens += n;
    l->step.n_reads += pace_reads(s->n_known, n);
    for (int32_t i = 0; i < n; i++) l->n_gained += each *= p;
}

static void look_up_all(core *c) {
    batch_plan *p = &c->last->plan;
    bool may_try = c->n_plans >= c->drafting.try_plan;
    load l = load_of(p);
    int32_t n_asked = -1;
    bool pays = false;
    for (int32_t i = 0; i < p->n_seqs; i++) {
        batch_seq *b = &p->seqs[i];
        if (!b->sample || b->n_tokens != 1) continue;
        if (l.step.n_tokens != n_asked) { /* would certain ones pay? */
            n_asked = l.step.n_tokens;
            pays = best_of(c, &l, b->pos, c->drafting.most, 1) > 0;
        }
        if (!may_try && !pays) return;
        draft(c, c->last->planned[i], b, &l, &may_try);
    }
}

void drafts_plan(core *c) {
    if (c->drafting.most == 0 || c->n_flight > 0 || c->pace.n_curve == 0) return;
    if (c->drafting.model)
        draft_model_plan(c);
    else
        look_up_all(c);
}

bool drafts_hoped(core *c) {
    if (c->drafting.most == 0 || c->n_flight == 0 || c->pace.n_curve == 0) return false;
    if (c->drafting.model) return draft_model_hoped(c);
    load l = load_of(&c->last->plan);
    if (!best_of(c, &l, 0, c->drafting.most, HOPE)) return false;
    for (int32_t i = 0; i < c->n_running; i++) {
        seq *s = c->running[i];
        int32_t kind, ahead = s->n_unseen;
        if (ahead == 0 || s->n_known + ahead + 1 >= s->g->len_max || !look_up(s, &kind)) continue;
        double p = draft_chance(c, s, kind), all = p;
        while (ahead-- > 0) all *= p;
        if (all >= HOPE) return true;
    }
    return false;
}
