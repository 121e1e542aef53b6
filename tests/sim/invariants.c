/* What must hold after every step, checked on the core's own records; and, from before to after,
 * who may be passed over and who must have moved. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "tests/sim/sim.h"

/* --- pages --- */

static void check_seq(sim *s, const seq *q, int32_t *holders) {
    const core *c = s->core;
    int32_t S = c->step.page_tokens;
    bool runs = q->state == SEQ_RUNNING;
    int32_t known = q->n_known + q->n_unseen;
    if (q->n_computed > q->n_known || q->n_computed > q->n_launched || q->n_launched > known ||
        known > q->g->len_max || q->n_hashed * S > q->n_known)
        SIM_FAIL(s, "sequence: computed %d, launched %d, known %d, most %d, hashed %d pages",
                 q->n_computed, q->n_launched, q->n_known, q->g->len_max, q->n_hashed);
    if (runs ? q->n_launched > q->n_pages * S : q->n_pages || q->n_launched)
        SIM_FAIL(s, "state %d: %d tokens in %d pages", q->state, q->n_launched, q->n_pages);
    if (runs && q->n_pages > CEIL_DIV(known, S))
        SIM_FAIL(s, "%d pages for %d tokens", q->n_pages, known);
    if (q->n_stuck > 32) SIM_FAIL(s, "waits %d steps for a page of its prefix", q->n_stuck);
    for (int32_t i = 0; i < q->n_pages; i++) {
        const page *p = &c->pages.p[q->pages[i]];
        holders[q->pages[i]]++;
        bool full = (i + 1) * S <= q->n_computed;
        if (p->refs > 1 && !full) SIM_FAIL(s, "page %d is shared and not full", q->pages[i]);
        if (p->state == PAGE_READY && !full) SIM_FAIL(s, "page %d: ready, not full", q->pages[i]);
        if (p->state == PAGE_PENDING && full) SIM_FAIL(s, "page %d: full, pending", q->pages[i]);
    }
}

static void check_pages(sim *s) {
    const core *c = s->core;
    int32_t holders[1024] = {0}, n_used = 0;
    int64_t reserved = 0;
    for (const group *g = c->groups; g; g = g->next)
        for (int32_t k = 0; k < g->r->n; k++) {
            check_seq(s, &g->seqs[k], holders);
            if (g->seqs[k].state == SEQ_RUNNING) reserved += g->n_pages_max - g->seqs[k].n_pages;
        }
    for (int32_t i = 0; i < c->pages.n; i++) {
        n_used += holders[i] > 0;
        if (c->pages.p[i].refs != holders[i])
            SIM_FAIL(s, "page %d has %d references and %d holders", i, c->pages.p[i].refs,
                     holders[i]);
    }
    if (!pages_consistent(&c->pages)) SIM_FAIL(s, "free list, map and counts disagree");
    if (n_used + c->pages.n_free != c->pages.n)
        SIM_FAIL(s, "%d used + %d free != %d", n_used, c->pages.n_free, c->pages.n);
    if (reserved != c->n_reserved)
        SIM_FAIL(s, "reserved %lld != %lld", (long long)c->n_reserved, (long long)reserved);
    if (c->o.admit == ADMIT_RESERVE && reserved > c->pages.n_free)
        SIM_FAIL(s, "reserved %lld of %d free pages", (long long)reserved, c->pages.n_free);
    if (c->o.admit == ADMIT_RESERVE && c->stats.n_preemptions)
        SIM_FAIL(s, "preempted in reserve mode");
}

/* A page and a slot of one name hold the same: the history hash of the last token tells. */
static void check_slots(sim *s) {
    const core *c = s->core;
    const pages *slots = &c->swap.slots;
    int32_t S = c->step.page_tokens;
    if (!slots->n) return;
    if (!pages_consistent(slots) || slots->n_free != slots->n)
        SIM_FAIL(s, "slots of the host: list, map and counts disagree");
    if (s->device_failed) return;
    if (c->n_flight == 0 && c->last->plan.n_seqs && c->last->plan.n_moves)
        SIM_FAIL(s, "%d moves left after a step", c->last->plan.n_moves);
    for (int32_t k = 0; k < c->step.depth; k++)
        if (c->ring[k].plan.n_moves) return; /* not made yet */
    for (int32_t i = 0; i < slots->n; i++) {
        if (slots->p[i].state != PAGE_READY) continue;
        int32_t id = pages_find(&c->pages, slots->p[i].hash);
        if (id < 0 || c->pages.p[id].state != PAGE_READY) continue;
        if (s->fake.slots[(id + 1) * S - 1] != s->fake.host_slots[(i + 1) * S - 1])
            SIM_FAIL(s, "page %d and slot %d have one name and other contents", id, i);
    }
}

/* --- queues --- */

static void check_queues(sim *s) {
    const core *c = s->core;
    int32_t n_run = 0, n_wait = 0, n_open_groups = 0;
    for (const group *g = c->groups; g; g = g->next) {
        int32_t n_open = 0;
        for (int32_t k = 0; k < g->r->n; k++) {
            n_run += g->seqs[k].state == SEQ_RUNNING;
            n_wait += g->seqs[k].state == SEQ_WAITING;
            n_open += g->seqs[k].state != SEQ_DONE;
        }
        n_open_groups++;
        if (n_open != g->n_open || (n_open == 0) != g->is_ended || (n_open == 0 && !g->n_flight))
            SIM_FAIL(s, "group with %d open choices counts %d", n_open, g->n_open);
        if (n_open == 0) continue;
        int32_t room = g->ring_cap - (int32_t)spsc_count(g->r->events);
        if (room < g->n_open + g->ring_promised || g->ring_room > room - g->ring_promised)
            SIM_FAIL(s, "ring has %d slots, %d thought, %d choices open", room, g->ring_room,
                     g->n_open);
    }
    if (n_run != c->n_running || n_wait != c->wait.n || n_open_groups != c->n_groups)
        SIM_FAIL(s, "%d running (%d), %d waiting (%d)", n_run, c->n_running, n_wait, c->wait.n);
    for (int32_t i = 1; i < c->n_running; i++)
        if (seq_cmp(c->running[i - 1], c->running[i]) >= 0) SIM_FAIL(s, "running out of order");
    int32_t listed = 0;
    for (size_t l = 0; l < c->wait.lanes.n; l++)
        for (const seq *q = c->wait.lanes.p[l].head; q; q = q->next) {
            listed++;
            if (q->prev && seq_cmp(q->prev, q) >= 0) SIM_FAIL(s, "lane out of order");
        }
    if (listed != n_wait) SIM_FAIL(s, "%d in lanes, %d waiting", listed, n_wait);
}

/* Entries in flight of one sequence. */
static void count_entries(const core *c, const seq *q, int32_t *ret_n, int32_t *ret_chosen) {
    *ret_n = *ret_chosen = 0;
    for (int32_t k = 1; k <= c->n_flight; k++) {
        const flight *f = &c->ring[(c->n_launch - (uint64_t)k) % (uint64_t)c->step.depth];
        for (int32_t i = 0; i < f->plan.n_seqs; i++) {
            *ret_n += f->planned[i] == q;
            if (f->planned[i] == q) *ret_chosen += f->plan.seqs[i].sample + f->plan.seqs[i].n_draft;
        }
    }
}

static void check_flight(sim *s) {
    const core *c = s->core;
    if (c->n_flight >= c->step.depth) SIM_FAIL(s, "%d steps in flight", c->n_flight);
    for (const group *g = c->groups; g; g = g->next) {
        int32_t n = 0, n_chosen = 0, n_all = 0, n_promised = 0;
        for (int32_t k = 0; k < g->r->n; k++) {
            const seq *q = &g->seqs[k];
            count_entries(c, q, &n, &n_chosen);
            if (n != q->n_flight || n_chosen != q->n_unseen)
                SIM_FAIL(s, "%d entries in flight (%d), %d tokens (%d)", n, q->n_flight, n_chosen,
                         q->n_unseen);
            n_all += n;
            n_promised += n_chosen;
        }
        if (n_all != g->n_flight || n_promised != g->ring_promised)
            SIM_FAIL(s, "group: %d entries in flight (%d), %d ring slots promised (%d)", n_all,
                     g->n_flight, n_promised, g->ring_promised);
    }
}

static void check_plan(sim *s) {
    const core *c = s->core;
    if (c->last->plan.n_tokens > c->budget || c->budget > c->o.token_budget)
        SIM_FAIL(s, "%d tokens in a step, the budget is %d of %d", c->last->plan.n_tokens,
                 c->budget, c->o.token_budget);
    if (c->last->plan.n_seqs > c->o.max_running)
        SIM_FAIL(s, "%d sequences in a step", c->last->plan.n_seqs);
    for (int32_t i = 0; i < c->last->plan.n_seqs; i++) {
        const batch_seq *b = &c->last->plan.seqs[i];
        int32_t most = c->o.prefill_chunk;
        if (c->step.whole_prompt) most = MAX(most, b->n_prompt - b->pos);
        if (b->n_tokens - b->n_draft > most) SIM_FAIL(s, "a chunk of %d tokens", b->n_tokens);
    }
}

/* --- from one step to the next --- */

/* Its ring may have no room but what is promised, to steps in flight or to its other choices. */
static bool is_tight(const group *g) {
    int32_t room = g->ring_cap - (int32_t)spsc_count(g->r->events) - g->ring_promised;
    return (g->ring_promised > 0 || g->r->n > 1) && room <= 2 * g->r->n - 1;
}

/* Only a step in flight can bring it on. */
static bool is_over(const core *c, const seq *q) {
    int32_t known = q->n_known + q->n_unseen;
    bool late = q->chosen_by + 1 != c->n_launch;
    return q->n_flight &&
           (q->n_launched == known || (q->n_unseen && (known == q->g->len_max || late)));
}

void invariants_before(sim *s) {
    s->n_was = 0;
    s->n_preemptions_was = s->core->stats.n_preemptions;
    s->n_ended_was = core_n_ended(s->core);
    for (int32_t i = 0; i < CLIENTS_MAX; i++) {
        client *cl = &s->clients[i];
        const group *g = cl->r ? cl->r->sched : NULL;
        bool tight = g && is_tight(g);
        for (int32_t k = 0; g && k < g->r->n; k++) {
            const seq *q = &g->seqs[k];
            cl->c[k].done_due = cl->c[k].done_set;
            if (q->state == SEQ_WAITING || q->state == SEQ_RUNNING)
                s->was[s->n_was++] = (before){.cl = cl,
                                              .id = cl->id,
                                              .choice = k,
                                              .n_launched = q->n_launched,
                                              .n_deferred = q->n_deferred,
                                              .state = q->state,
                                              .is_returning = q->is_returning,
                                              .is_over = is_over(s->core, q),
                                              .is_promised = tight};
        }
    }
}

/* Its group if the request is still there. */
static const group *still(const before *b) {
    return b->cl->r && b->cl->id == b->id ? b->cl->r->sched : NULL;
}

/* Runs on: it must have computed something, unless its reader is behind. */
static void check_moved(sim *s) {
    for (int32_t i = 0; i < s->n_was; i++) {
        const before *b = &s->was[i];
        const group *g = still(b);
        if (!g || b->state != SEQ_RUNNING || g->stalled_us || b->is_promised || b->is_over)
            continue;
        const seq *q = &g->seqs[b->choice];
        if (q->state == SEQ_RUNNING && q->n_launched <= b->n_launched)
            SIM_FAIL(s, "request %llu choice %d runs, but computed nothing",
                     (unsigned long long)b->id, b->choice);
    }
}

/* Of one lane, who came first goes first; only a wait for a prefix or for the reader lets a later
 * one pass. */
static void check_passed(sim *s) {
    for (int32_t i = 0; i < s->n_was; i++) {
        const before *b = &s->was[i];
        const group *g = still(b);
        if (!g || b->state != SEQ_WAITING || g->seqs[b->choice].state != SEQ_WAITING) continue;
        if (g->stalled_us || b->is_promised) continue;
        if (g->seqs[b->choice].n_deferred > b->n_deferred) continue;
        for (int32_t j = 0; j < s->n_was; j++) {
            const before *o = &s->was[j];
            const group *og = still(o);
            if (!og || o->state != SEQ_WAITING || og->seqs[o->choice].state != SEQ_RUNNING)
                continue;
            bool lane = o->is_returning == b->is_returning && og->r->priority == g->r->priority &&
                        (b->is_returning || og->r->tenant == g->r->tenant);
            if ((lane && og->order > g->order) || og->r->priority > g->r->priority)
                SIM_FAIL(s, "request %llu was admitted before %llu", (unsigned long long)o->id,
                         (unsigned long long)b->id);
        }
    }
}

/* A flag that was set before the step is obeyed after it; so is a deadline. */
static void check_obeyed(sim *s) {
    for (int32_t i = 0; i < CLIENTS_MAX; i++) {
        const client *cl = &s->clients[i];
        const group *g = cl->r ? cl->r->sched : NULL;
        if (!g || g->is_ended) continue;
        if (cl->cancel_set)
            SIM_FAIL(s, "request %llu goes on after its cancel", (unsigned long long)cl->id);
        if (cl->r->deadline_us && s->core->due_us > cl->r->deadline_us)
            SIM_FAIL(s, "request %llu: its deadline is forgotten", (unsigned long long)cl->id);
        for (int32_t k = 0; k < cl->r->n; k++)
            if (cl->c[k].done_due && g->seqs[k].state != SEQ_DONE)
                SIM_FAIL(s, "request %llu choice %d goes on after it was done",
                         (unsigned long long)cl->id, k);
    }
}

/* The last plan entry of a tenant that was waiting and never ran before; NULL: none. */
static const batch_seq *last_admitted(const sim *s, int32_t tenant, int32_t priority) {
    const batch_plan *p = &s->core->last->plan;
    for (int32_t i = p->n_seqs - 1; i >= 0; i--)
        for (int32_t j = 0; j < s->n_was; j++) {
            const before *o = &s->was[j];
            if (!still(o) || o->state != SEQ_WAITING || o->is_returning) continue;
            const request *r = o->cl->r;
            if (r->tenant == tenant && r->priority == priority && o->choice == p->seqs[i].choice &&
                p->seqs[i].params == &r->params)
                return &p->seqs[i];
        }
    return NULL;
}

/* Tokens of the tenant from entry o of the plan on: choices that could not be known to wait before
 * the step may have been admitted behind it. */
static int32_t n_from(const sim *s, const batch_seq *o, int32_t tenant) {
    const flight *f = s->core->last;
    int32_t n = 0;
    for (int32_t i = (int32_t)(o - f->plan.seqs); i < f->plan.n_seqs; i++)
        if (f->planned[i]->g->r->tenant == tenant) n += f->plan.seqs[i].n_tokens;
    return n;
}

/* What right drafts gave is charged when they are known to be right: at most so much. */
static int32_t n_drafts(const sim *s, int32_t tenant) {
    const flight *f = s->core->last;
    int32_t n = 0;
    for (int32_t i = 0; i < f->plan.n_seqs; i++)
        if (f->plan.seqs[i].n_draft && f->planned[i]->g->r->tenant == tenant)
            n += f->plan.seqs[i].n_draft;
    return n;
}

/* Of one priority, the tenant that got less goes first: when another's last one was admitted, its
 * virtual time was not ahead of that of anyone who still waits for room. (Requests that ended in
 * the step cannot be told apart any more: such steps are left out.) */
static void check_fair(sim *s) {
    const core *c = s->core;
    if (core_n_ended(c) != s->n_ended_was) return;
    for (int32_t i = 0; i < s->n_was; i++) {
        const before *b = &s->was[i];
        const group *g = still(b);
        if (!g || b->state != SEQ_WAITING || g->seqs[b->choice].state != SEQ_WAITING) continue;
        if (g->stalled_us || b->is_promised) continue;
        if (g->seqs[b->choice].n_deferred > b->n_deferred) continue;
        for (int32_t t = 0; t < s->n_tenants; t++) {
            const batch_seq *o = last_admitted(s, t, g->r->priority);
            if (!o || t == g->r->tenant) continue;
            double then = c->vtime[t] - (double)(n_from(s, o, t) + n_drafts(s, t)) / (1 + t);
            if (then > c->vtime[g->r->tenant] + 1e-6)
                SIM_FAIL(s, "tenant %d, at %.2f, was served before tenant %d, at %.2f", t, then,
                         g->r->tenant, c->vtime[g->r->tenant]);
        }
    }
}

/* A step that threw someone back admits nobody. */
static void check_admitted(sim *s) {
    if (s->core->stats.n_preemptions == s->n_preemptions_was) return;
    for (int32_t i = 0; i < s->n_was; i++) {
        const before *b = &s->was[i];
        const group *g = still(b);
        if (g && b->state == SEQ_WAITING && g->seqs[b->choice].state == SEQ_RUNNING)
            SIM_FAIL(s, "request %llu was admitted while another was thrown back",
                     (unsigned long long)b->id);
    }
}

void invariants_after(sim *s) {
    if (s->fake.problem[0]) SIM_FAIL(s, "%s", s->fake.problem);
    if (s->model.problem[0]) SIM_FAIL(s, "the draft model: %s", s->model.problem);
    check_pages(s);
    check_slots(s);
    check_queues(s);
    check_flight(s);
    check_plan(s);
    check_obeyed(s);
    if (s->device_failed) return;
    check_moved(s);
    check_passed(s);
    check_admitted(s);
    if (s->n_tenants > 1) check_fair(s);
}

void invariants_end(sim *s) {
    const core *c = s->core;
    scheduler_stats st;
    core_stats(c, &st);
    if (c->groups || c->n_running || c->wait.n || c->n_reserved || c->wait.lanes.n)
        SIM_FAIL(s, "drained, but %d run and %d wait", c->n_running, c->wait.n);
    if (st.pages_used || c->pages.n_free != c->pages.n)
        SIM_FAIL(s, "drained, but %d pages are used", st.pages_used);
    for (int32_t t = 0; t < c->n_tenants; t++)
        if (c->n_active[t]) SIM_FAIL(s, "tenant %d has %d requests left", t, c->n_active[t]);
    if (core_n_ended(c) != core_n_unqueued(c) || core_n_ended(c) != c->n_order)
        SIM_FAIL(s, "%llu came, %llu left the queue, %llu ended", (unsigned long long)c->n_order,
                 (unsigned long long)core_n_unqueued(c), (unsigned long long)core_n_ended(c));
}
