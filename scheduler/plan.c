/* The planner: scheduler state -> batch_plan. No clock, no thread, no allocation, no call into the
 * engine: the same state always gives the same plan, which is what the simulator relies on.
 *
 * One budget, no phases. Every sequence has n_known tokens, of which n_computed are in its pages;
 * it wants the difference. Decoding is wanting one, chunked prefill falls out of the budget.
 *
 *   1. Running sequences, most important first. Each may take what it wants, up to the chunk, but
 *      leaves one token for every one behind it: a long prompt never stops the others' decoding.
 *   2. A page is missing: the last of running[] (lowest priority, newest) is thrown back to the
 *      front of the wait queue and its pages are free at once. Since running[] is walked in the
 *      same order, a victim has not been planned yet in this step: there is no budget to refund,
 *      no entry to take back.
 *   3. Nothing was thrown back: waiting sequences, best first, while tokens, slots and pages last.
 *      The first that does not fit ends the walk, so that small ones do not starve a large one.
 *
 * A step may be planned while the one before computes. Then a decoding sequence's last token is not
 * known: its entry names the entry of that step which chooses it (batch_seq.chained). So every kind
 * of request goes on at every step; where a choice needs the ids before it (penalties), waiting for
 * them is the stepper's business, who can compute the rest of the step meanwhile.
 *
 * Last, where a step has room, decoding sequences get drafts (drafts.c): rows that may turn out to
 * be for nothing, so nobody goes without a token for them.
 *
 * A stepper whose prompt tokens see later ones (whole_prompt) gets a prompt in one step: its
 * sequence waits until the budget has room for all of it, past prefill_chunk if need be.
 *
 * A sequence takes the pages of everything that it knows when it is admitted; after that it grows
 * by decoding only. Admission leaves one free page for every running sequence (optimistic) or
 * every page that the running ones may still take (reserve). Tried with tests/bench/bench_admit at
 * 1600 pages: leaving none computes 24 % of all tokens twice, one 4 %, two 1 %, four none; the work
 * is done soonest with one (36.9 s; 38.8, 37.4 and 39.2 s with none, two and four; reserve 48.1 s).
 */
#include "engine/base/check.h"
#include "scheduler/state.h"

enum {
    RETRY_PLANS = 16, /* plans after which one that did not fit is looked at again anyhow */
    DEFER_MAX = 32,   /* steps to let pass for a prefix that does not grow by a page */
    PASS_MAX = 256,   /* sequences to pass over in one step */
    PACE_DECODES = 8, /* tokens up to which a sequence is not one whose prompt is computed */
};

static void plan_add(core *c, seq *s, int32_t n_tokens) {
    group *g = s->g;
    batch_plan *p = &c->last->plan;
    int32_t known = s->n_known + s->n_unseen, to = s->n_launched + n_tokens;
    bool sample = to == known && g->r->max_tokens > 0;
    p->seqs[p->n_seqs] = (batch_seq){
        .ids = s->ids,
        .n_known = known,
        .n_prompt = g->r->n_prompt,
        .pos = s->n_launched,
        .n_tokens = n_tokens,
        .chained = s->n_unseen > 0,
        .chain = s->chosen_at,
        .pages = s->pages,
        .sample = sample,
        .choice = s->choice,
        .max_len = g->rope_len,
        .params = &g->r->params,
        .adapter = g->r->adapter,
        .prompt_out = g->has_prompt ? NULL : g->r->prompt_out,
        .pool_out = g->has_prompt ? NULL : g->r->pool_out,
        .pool = g->r->pool,
    };
    if (sample) {
        s->n_unseen++;
        s->chosen_by = p->step;
        s->chosen_at = p->n_seqs;
    }
    s->n_launched = to;
    s->n_flight++;
    g->n_flight++;
    c->last->planned[p->n_seqs++] = s;
    p->n_tokens += n_tokens;
    g->ring_room -= sample;
    g->ring_promised += sample;
    c->vtime[g->r->tenant] += n_tokens * g->charge;
}

/* False when the reader is so far behind that a token might not fit its ring. */
static bool may_emit(core *c, group *g) {
    if (group_has_room(g)) {
        g->stalled_us = 0;
        return true;
    }
    /* The room may be promised to a step in flight; what its reader does shows after that. */
    if (g->ring_promised > 0) return false;
    if (!g->stalled_us) g->stalled_us = MAX(c->now_us, 1);
    uint64_t due;
    if (!__builtin_add_overflow(g->stalled_us, c->o.stall_us, &due))
        c->due_us = MIN(c->due_us, due);
    c->plan_stalled = true;
    return false;
}

/* Pages for s's first n tokens, at the price of the last running ones; false: s went itself. */
static bool take_pages(core *c, seq *s, int32_t n_tokens) {
    int32_t want = pages_for(c, n_tokens);
    while (s->n_pages < want) {
        if (seq_grow(c, s)) continue;
        CHECK(c->o.admit != ADMIT_RESERVE);
        seq *victim = c->running[c->n_running - 1];
        seq_preempt(c, victim);
        if (victim == s) return false;
    }
    return true;
}

/* Tokens that s could compute. 0 while a step in flight has its last: the one that ends it for sure
 * or, where that step is not the last one launched, one that nothing could bring into this step. */
static int32_t wanted(const core *c, const seq *s) {
    int32_t known = s->n_known + s->n_unseen;
    if (s->n_unseen > 0 && (known == s->g->len_max || s->chosen_by + 1 != c->n_launch)) return 0;
    return known - s->n_launched;
}

/* Those that wait count as prompts as far as there is room: the first tells. */
static void add_waiting(core *c, pace_load *load) {
    waitq_rewind(&c->wait);
    const seq *first = waitq_next(&c->wait, c->vtime);
    if (!first || pages_for(c, first->n_known) > c->pages.n_free - c->n_running) return;
    if (load->n_prompts == 0) load->fresh = first->n_known;
    load->n_prompts += MIN(c->wait.n, c->o.max_running - c->n_running);
}

/* The budget of this plan: what the pace allows (pace.h), and a token for everyone who runs. */
static void choose_budget(core *c) {
    pace_load load = {.most = c->o.token_budget};
    c->budget = c->o.token_budget;
    if (c->pace.target_us == PACE_OFF) return;
    for (int32_t i = 0; i < c->n_running; i++) {
        const seq *s = c->running[i];
        int32_t want = wanted(c, s);
        if (want > PACE_DECODES) {
            if (load.n_prompts++ == 0) load.at = s->n_launched, load.fresh = s->n_fresh;
        } else if (want > 0) {
            load.decoding.n_tokens += want;
            load.decoding.n_reads += pace_reads(s->n_launched, want);
        }
    }
    add_waiting(c, &load);
    if (load.n_prompts > 0) c->budget = MAX(pace_budget(&c->pace, &load), c->n_running);
}

static void plan_running(core *c) {
    int32_t left = c->budget;
    for (int32_t i = 0; i < c->n_running; i++) {
        seq *s = c->running[i];
        int32_t want = wanted(c, s), n_behind = c->n_running - 1 - i;
        CHECK(want >= 1 || s->n_flight > 0);
        if (want == 0) continue;
        int32_t n = MIN(want, MIN(c->o.prefill_chunk, left - n_behind));
        if (n == want && !may_emit(c, s->g)) continue;
        if (!take_pages(c, s, s->n_launched + n)) return;
        plan_add(c, s, n);
        left -= n;
    }
}

/* What a waiting sequence need not compute: pages from the cache, or the prompt of another choice
 * of the same request, whose last, partly filled page is copied. */
typedef struct share {
    int32_t n_tokens;
    int32_t n_pages;  /* whole pages to share */
    int32_t n_free;   /* of them: on the free list now */
    int32_t n_host;   /* of them: to be moved in from the host */
    const seq *donor; /* NULL: from the cache */
    bool is_pending;  /* more is being computed by another sequence right now */
} share;

/* Pages that may come from the cache. Never all: the last token is computed for its logits, and
 * prompt logprobs need every row, as do means and first tokens. */
static int32_t n_cacheable(const core *c, const seq *s) {
    const request *r = s->g->r;
    if (!s->g->has_prompt && (r->prompt_out || (r->pool_out && r->pool != POOL_LAST))) return 0;
    return MIN(s->n_hashed, (s->n_known - 1) / c->step.page_tokens);
}

/* Where else to look for a prefix. */
static const pages *slots_of(const core *c) {
    return c->swap.in ? &c->swap.slots : NULL;
}

static share find_share(const core *c, const seq *s) {
    const group *g = s->g;
    int32_t S = c->step.page_tokens, limit = n_cacheable(c, s);
    share sh = {0};
    if (limit > 0) {
        prefix_match m = prefix_find(&c->pages, slots_of(c), s->hashes, limit);
        sh = (share){m.n * S, m.n, m.n_free, m.n_host, NULL, m.is_pending};
    }
    int32_t common = MIN(g->r->n_prompt, s->n_known - 1);
    if (!g->has_prompt || common <= sh.n_tokens) return sh;
    for (int32_t i = g->lead; i < g->r->n; i++) {
        const seq *d = &g->seqs[i];
        if (d->state == SEQ_RUNNING && d->n_computed >= common)
            return (share){common, common / S, 0, 0, d, false};
    }
    return sh;
}

static bool fits(const core *c, const seq *s, const share *sh) {
    int32_t n_free = c->pages.n_free - sh->n_free, n_there = sh->n_pages - sh->n_host;
    if (c->o.admit == ADMIT_RESERVE) return s->g->n_pages_max - n_there <= n_free - c->n_reserved;
    return pages_for(c, s->n_known) - n_there <= n_free - c->n_running;
}

/* Tokens that s computes in its first step or not at all. */
static int32_t n_at_once(const core *c, const seq *s, int32_t n_shared) {
    return c->step.whole_prompt ? MAX(s->g->r->n_prompt - n_shared, 0) : 0;
}

/* Looking up a long prefix costs a cache miss a page: not again for a sequence that did not fit, as
 * long as no more pages are free than then. (More of its prefix may have come; rarely, so later.)
 */
static bool still_blocked(const core *c, const seq *s) {
    return c->n_running > 0 && c->pages.n_free <= s->blocked_free && c->n_plans < s->retry_plan;
}

static void take_shared(core *c, seq *s, const share *sh) {
    if (!sh->donor) swap_share(c, s, sh->n_pages);
    for (int32_t i = s->n_pages; i < sh->n_pages; i++) {
        pages_ref(&c->pages, sh->donor->pages[i]);
        s->pages[s->n_pages++] = sh->donor->pages[i];
    }
    while (s->n_pages < pages_for(c, s->n_known)) CHECK(seq_grow(c, s));
    if (sh->n_tokens % c->step.page_tokens)
        c->last->plan.copies[c->last->plan.n_copies++] =
            (page_copy){sh->donor->pages[sh->n_pages], s->pages[sh->n_pages]};
    for (int32_t i = sh->n_pages; i < MIN(s->n_hashed, s->n_known / c->step.page_tokens); i++)
        (void)pages_announce(&c->pages, s->pages[i], s->hashes[i], PAGE_PENDING);
}

static void count_share(core *c, seq *s, const share *sh) {
    if (c->o.prefix_cache && !sh->donor) {
        c->stats.prefix_queries += (uint64_t)s->n_known;
        c->stats.prefix_hits += (uint64_t)sh->n_tokens;
    }
    if (s->g->is_started) return;
    s->g->r->times.n_cached = sh->n_tokens;
    c->stats.prompt_tokens_cached += (uint64_t)sh->n_tokens;
}

typedef enum admission { ADMITTED, PASSED, NO_ROOM } admission;

/* Let this step pass: n_ready pages of the prefix are there, the next is being computed. False if
 * that has not led anywhere for too long. */
static bool defer(core *c, seq *s, int32_t n_ready) {
    if (n_ready > s->n_wait) {
        s->n_wait = n_ready;
        s->n_stuck = 0;
    }
    if (s->n_stuck >= DEFER_MAX) return false;
    s->n_stuck++;
    s->n_deferred++;
    return c->plan_deferred = true;
}

/* The same for one that let a step pass before, looking only at what came since: a crowd that waits
 * for one long prompt must not walk all of it at every step. */
static bool still_pending(core *c, seq *s) {
    if (s->n_deferred == 0) return false;
    prefix_match m =
        prefix_find(&c->pages, slots_of(c), s->hashes + s->n_wait, n_cacheable(c, s) - s->n_wait);
    return m.is_pending && defer(c, s, s->n_wait + m.n);
}

static admission admit(core *c, seq *s) {
    if (s->n_flight > 0) return NO_ROOM; /* thrown back: soon its last token is known */
    if (!may_emit(c, s->g)) return PASSED;
    if (still_blocked(c, s)) return NO_ROOM;
    if (still_pending(c, s)) return PASSED;
    share sh = find_share(c, s);
    if (sh.is_pending && defer(c, s, sh.n_pages)) return PASSED;
    if (n_at_once(c, s, sh.n_tokens) > c->budget - c->last->plan.n_tokens) return NO_ROOM;
    if (!fits(c, s, &sh)) {
        s->blocked_free = c->pages.n_free;
        s->retry_plan = c->n_plans + RETRY_PLANS;
        return NO_ROOM;
    }
    if (!sh.donor && swap_fetch(c, s, sh.n_pages, sh.n_host)) {
        if (defer(c, s, sh.n_pages - sh.n_host)) return PASSED;
        c->swap.fetch = NULL;
    }
    if (!s->is_returning) c->vclock = MAX(c->vclock, c->vtime[s->g->r->tenant]);
    count_share(c, s, &sh);
    take_shared(c, s, &sh);
    s->n_computed = s->n_launched = sh.n_tokens;
    s->n_fresh = s->n_known - sh.n_tokens;
    seq_run(c, s);
    return ADMITTED;
}

static void plan_waiting(core *c) {
    int32_t n_passed = 0;
    waitq_rewind(&c->wait);
    while (c->last->plan.n_tokens < c->budget && c->n_running < c->o.max_running &&
           n_passed < PASS_MAX) {
        seq *s = waitq_next(&c->wait, c->vtime);
        if (!s) return;
        switch (admit(c, s)) {
        case NO_ROOM: return;
        case PASSED:
            waitq_pass(&c->wait, s);
            n_passed++;
            break;
        case ADMITTED: {
            int32_t left = c->budget - c->last->plan.n_tokens;
            int32_t n = MIN(s->n_known - s->n_computed, MIN(c->o.prefill_chunk, left));
            plan_add(c, s, MAX(n, n_at_once(c, s, s->n_computed)));
            break;
        }
        }
    }
}

void plan_build(core *c) {
    c->n_plans++;
    c->last = &c->ring[c->n_launch % (uint64_t)c->step.depth];
    c->last->plan.step = c->n_launch;
    c->last->plan.n_seqs = c->last->plan.n_tokens = c->last->plan.n_copies = 0;
    c->last->plan.n_drafts = 0;
    choose_budget(c);
    c->plan_stalled = c->plan_deferred = false;
    swap_plan(c);
    uint64_t n_preemptions = c->stats.n_preemptions;
    plan_running(c);
    if (c->stats.n_preemptions == n_preemptions) plan_waiting(c);
    drafts_plan(c);
    swap_ahead(c);
}
