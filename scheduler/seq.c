/* What can happen to one sequence, each transition in one place, so that pages, the running array,
 * the wait queue, the reservation and the counters change together.
 *
 * Invariant: RUNNING exactly when in c->running, WAITING exactly when in c->wait, pages only while
 * RUNNING. running[] is sorted by seq_cmp: the last one is the one to preempt. */
#include <string.h>

#include "engine/base/check.h"
#include "scheduler/state.h"

int32_t seq_cmp(const seq *a, const seq *b) {
    const group *x = a->g, *y = b->g;
    if (x->r->priority != y->r->priority) return x->r->priority < y->r->priority ? -1 : 1;
    if (x->order != y->order) return x->order < y->order ? -1 : 1;
    return a->choice - b->choice;
}

/* Index of s in running[], or where it belongs. */
static int32_t running_idx(const core *c, const seq *s) {
    int32_t lo = 0, hi = c->n_running;
    while (lo < hi) {
        int32_t mid = (lo + hi) / 2;
        if (seq_cmp(c->running[mid], s) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void adapter_count(core *c, const group *g, bool started, int32_t by) {
    int32_t i = g->r->adapter - 1;
    if (i < 0) return;
    int32_t *n = started ? &c->adapter_runs[i] : &c->adapter_waits[i];
    uint64_t *bits = started ? c->stats.adapters_running : c->stats.adapters_waiting;
    uint64_t bit = 1ULL << (i % 64);
    *n += by;
    CHECK(*n >= 0);
    bits[i / 64] = *n ? bits[i / 64] | bit : bits[i / 64] & ~bit;
}

static void mark_started(core *c, group *g) {
    if (g->is_started) return;
    adapter_count(c, g, false, -1);
    adapter_count(c, g, true, 1);
    g->is_started = true;
    g->r->times.scheduled_us = c->now_us;
    c->n_unqueued++;
    c->stats.prompt_tokens += (uint64_t)(g->r->n_prompt - g->r->n_virtual);
}

void seq_run(core *c, seq *s) {
    CHECK(s->state == SEQ_WAITING && c->n_running < c->o.max_running);
    waitq_remove(&c->wait, s);
    int32_t i = running_idx(c, s);
    memmove(&c->running[i + 1], &c->running[i], (size_t)(c->n_running - i) * sizeof(seq *));
    c->running[i] = s;
    c->n_running++;
    c->n_reserved += s->g->n_pages_max - s->n_pages;
    s->state = SEQ_RUNNING;
    s->n_deferred = s->n_stuck = s->n_wait = 0;
    s->blocked_free = -1;
    mark_started(c, s->g);
}

/* Take s out of running[] and give its pages back, last page first, so that a prefix outlives what
 * follows it. */
static void seq_halt(core *c, seq *s) {
    int32_t i = running_idx(c, s);
    CHECK(c->running[i] == s);
    c->n_running--;
    memmove(&c->running[i], &c->running[i + 1], (size_t)(c->n_running - i) * sizeof(seq *));
    c->n_reserved -= s->g->n_pages_max - s->n_pages;
    while (s->n_pages > 0) pages_unref(&c->pages, s->pages[--s->n_pages]);
    s->n_computed = s->n_launched = 0;
    s->drafts.n_read = 0;
}

void seq_preempt(core *c, seq *s) {
    CHECK(s->state == SEQ_RUNNING);
    seq_halt(c, s);
    s->state = SEQ_WAITING;
    s->is_returning = true;
    waitq_add(&c->wait, s);
    s->g->r->times.n_preempted++;
    c->stats.n_preemptions++;
}

bool seq_grow(core *c, seq *s) {
    int32_t id = swap_take(c);
    if (id < 0) return false;
    CHECK(s->n_pages < s->g->n_pages_max);
    s->pages[s->n_pages++] = id;
    if (s->state == SEQ_RUNNING) c->n_reserved--;
    return true;
}

void seq_shrink(core *c, seq *s) {
    for (; s->n_pages > pages_for(c, s->n_known); c->n_reserved++)
        pages_unref(&c->pages, s->pages[--s->n_pages]);
}

static void push_event(core *c, seq *s, finish_reason why, const sample_out *out) {
    group *g = s->g;
    token_event *e = c->event;
    *e = (token_event){.choice = s->choice, .token = -1, .finish = why};
    if (out) {
        e->token = out->token;
        e->logprob = out->logprob;
        e->n_top = MIN(out->n_top, MAX(g->r->params.n_logprobs, 0));
        memcpy(e->top, out->top, (size_t)e->n_top * sizeof *e->top);
    }
    CHECK(spsc_push(g->r->events, e));
}

void seq_emit(core *c, seq *s, const sample_out *out) {
    group *g = s->g;
    push_event(c, s, FINISH_NONE, out);
    if (g->r->stream || (group_room(g, g->ring_cap / 2) <= g->ring_cap / 2)) group_news(c, g);
}

static void group_ended(core *c, group *g) {
    g->is_ended = true;
    g->r->times.finished_us = c->now_us;
    c->n_active[g->r->tenant]--;
    adapter_count(c, g, g->is_started, -1);
    if (!g->is_started) c->n_unqueued++;
    group_news(c, g);
}

void seq_end(core *c, seq *s, finish_reason why, const sample_out *out) {
    group *g = s->g;
    CHECK(s->state != SEQ_DONE && why != FINISH_NONE);
    if (s->state == SEQ_RUNNING) seq_halt(c, s);
    if (s->state == SEQ_WAITING) waitq_remove(&c->wait, s);
    s->state = SEQ_DONE;
    c->stats.finished[why]++;
    g->n_open--;
    if (g->n_open == 0) group_ended(c, g); /* the times are valid before the last event shows */
    push_event(c, s, why, out);
    g->ring_room--;
    if (g->n_open == 0) return;
    if (g->r->stream) group_news(c, g);
    if (s->choice == g->lead && !g->has_prompt) group_release(c, g);
}

void group_end(core *c, group *g, finish_reason why) {
    for (int32_t i = g->r->n - 1; i >= 0; i--)
        if (g->seqs[i].state != SEQ_DONE) seq_end(c, &g->seqs[i], why, NULL);
}

/* HELD -> WAITING, with the prompt and its hashes. */
static void seq_wait(core *c, seq *s) {
    group *g = s->g;
    const seq *lead = &g->seqs[g->lead];
    if (s != lead) {
        s->n_hashed = MIN(lead->n_hashed, g->r->n_prompt / c->step.page_tokens);
        memcpy(s->ids, lead->ids, (size_t)g->r->n_prompt * sizeof *s->ids);
        memcpy(s->hashes, lead->hashes, (size_t)s->n_hashed * sizeof *s->hashes);
    }
    s->state = SEQ_WAITING;
    waitq_add(&c->wait, s);
}

/* Ends go from the last choice to the first and leads advance from the first to the last, so the
 * choices before the lead are done. */
void group_release(core *c, group *g) {
    if (g->has_prompt) {
        for (int32_t i = g->r->n - 1; i > g->lead; i--)
            if (g->seqs[i].state == SEQ_HELD) seq_wait(c, &g->seqs[i]);
        return;
    }
    for (int32_t i = g->lead + 1; i < g->r->n; i++) {
        if (g->seqs[i].state != SEQ_HELD) continue;
        seq_wait(c, &g->seqs[i]);
        g->lead = i;
        return;
    }
}

void seq_forget(core *c, seq *s) {
    for (int32_t i = 0; i < s->n_hashed && s->state != SEQ_RUNNING; i++) { /* it was thrown back */
        int32_t id = pages_find(&c->pages, s->hashes[i]);
        if (id >= 0) pages_forget(&c->pages, id);
    }
    for (int32_t i = 0; i < s->n_pages; i++) pages_forget(&c->pages, s->pages[i]);
    swap_forget(c, s->hashes, s->n_hashed);
}

static void share_page(core *c, seq *s, int32_t i) {
    int32_t S = c->step.page_tokens, id = s->pages[i];
    if (i == s->n_hashed) {
        hash128 parent = i ? s->hashes[i - 1] : s->g->root;
        s->hashes[i] = prefix_next(c->key, parent, s->ids + (size_t)i * S, S);
        s->n_hashed++;
    }
    if (c->pages.p[id].state == PAGE_PENDING)
        pages_ready(&c->pages, id);
    else
        (void)pages_announce(&c->pages, id, s->hashes[i], PAGE_READY);
}

void seq_computed(core *c, seq *s, int32_t n) {
    int32_t S = c->step.page_tokens, old = s->n_computed;
    s->n_computed = n;
    c->stats.prompt_tokens_recomputed += (uint64_t)MAX(0, MIN(n, s->n_computed_max) - old);
    s->n_computed_max = MAX(s->n_computed_max, n);
    if (!c->o.prefix_cache) return;
    for (int32_t i = old / S; i < n / S; i++) share_page(c, s, i);
}
