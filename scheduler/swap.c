/* Swapping without a state of its own for sequences. Every full page of a sequence has a hash that
 * names its text (prefix.h). A preempted sequence gives its pages back; they stay cached, and each
 * is moved out only when it is about to be overwritten. When the sequence returns, its hashes are
 * looked up here as well as on the device. So shared pages are moved once, pages that survive on
 * the device are not moved at all, what was evicted from the prefix cache comes back by the same
 * way, and a sequence that is cancelled while it waits has nothing to give back. What a preempted
 * sequence loses is its last, partly filled page: fewer tokens than one page.
 *
 * A slot keeps its content after it was moved back: the next eviction of that page then costs
 * nothing. Full, the slot not used for longest is overwritten.
 *
 * Order: moves are done in the order in which they were decided, before the rest of the step. So a
 * slot whose move in is decided may be given to a later move out, and a page whose move out is
 * decided may be taken at once. A plan without sequences is no step: its moves wait for the next
 * one. Until then nobody writes to the pages.
 *
 * A move that the step has to wait for costs all sequences of it. So a sequence that would bring
 * many pages in while others run waits: they come beside the steps, as cached pages. And the pages
 * that the next plans will take, the first of the free list, are moved out ahead: they stay cached,
 * and when they are taken the host has them. Both are decided at the end of planning: nobody takes
 * or shares these pages in this step. How many: what half of the last step's time allows; out,
 * twice what plans took of late.
 *
 * What it brings, on the modelled machine of tests/bench/bench_admit, where no two texts begin
 * alike: of all tokens 0.4 % are computed twice instead of 9.1 % (800 pages), 0.1 % instead of 3.9
 * % (1600), which makes 0.3 and 0.5 % of the time; where nothing is preempted (6400) the moves cost
 * 0.2 %, for pages that nobody wants again. What comes from texts that do return is beside that.
 * Not measured on a GPU yet.
 *
 * Invariant: a slot that has a hash holds that text once all moves so far are done. */
#include "scheduler/swap.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "scheduler/state.h"

/* A change of fewer tokens is mostly noise. The past counts 1/e after so many changes. */
static const double CHANGE_LEAST = 4, KEEP = 1 - 1.0 / 64;
enum { CHANGES_LEAST = 4 };

/* The least squares slope through the origin of (change of tokens, change of time). */
void token_cost_add(token_cost *t, double n_tokens, double us) {
    double dx = n_tokens - t->n_tokens, dy = us - t->step_us;
    bool is_first = t->n_tokens == 0;
    t->n_tokens = n_tokens;
    t->step_us = us;
    if (is_first || (dx < CHANGE_LEAST && dx > -CHANGE_LEAST)) return;
    t->xx = t->xx * KEEP + dx * dx;
    t->xy = t->xy * KEEP + dx * dy;
    if (t->n < CHANGES_LEAST) t->n++;
    if (t->n == CHANGES_LEAST && t->xy > 0) t->us = t->xy / t->xx;
}

bool swap_pays(double page_us, double token_us, int32_t page_tokens) {
    return token_us <= 0 || 2 * page_us < token_us * page_tokens;
}

void swap_init(core *c) {
    if (c->step.n_host_pages <= 0 || !c->o.prefix_cache) return;
    pages_init(&c->swap.slots, c->step.n_host_pages);
    /* until a step is run each page is moved out once at most, and in once */
    for (int32_t i = 0; i < c->step.depth; i++)
        c->ring[i].plan.moves = mem_calloc((size_t)c->step.n_pages * 2, sizeof(page_move));
}

void swap_done(core *c) {
    if (c->swap.slots.n) pages_done(&c->swap.slots);
    for (int32_t i = 0; i < c->step.depth; i++) mem_free(c->ring[i].plan.moves);
}

void swap_plan(core *c) {
    if (!c->swap.slots.n) return;
    /* left by a plan that was no step: this one may take those pages */
    for (int32_t i = 0; i < c->last->plan.n_moves; i++) c->last->plan.moves[i].aside = false;
    c->swap.n_rate = MAX(c->swap.n_taken, c->swap.n_rate - CEIL_DIV(c->swap.n_rate, 8));
    c->swap.n_taken = 0;
    c->swap.fetch = NULL;
    c->swap.is_over = false;
    double page_us = (double)c->step.page_move_us, token_us = c->swap.cost.us;
    c->swap.out = swap_pays(page_us, token_us, c->step.page_tokens);
    c->swap.in = swap_pays(page_us / 2, token_us, c->step.page_tokens);
}

void swap_stepped(core *c, batch_plan *p, uint64_t us) {
    if (!c->swap.slots.n) return;
    int32_t n_waited = 0;
    for (int32_t i = 0; i < p->n_moves; i++) n_waited += !p->moves[i].aside;
    double moved_us = (double)c->step.page_move_us * n_waited;
    token_cost_add(&c->swap.cost, p->n_tokens, MAX((double)us - moved_us, 0));
    p->n_moves = 0;
}

static void add_move(core *c, page_move m) {
    CHECK(c->last->plan.n_moves < 2 * c->pages.n);
    c->last->plan.moves[c->last->plan.n_moves++] = m;
    *(m.out ? &c->swap.n_out : &c->swap.n_in) += 1;
    c->swap.n_aside += m.out && m.aside;
}

/* To a slot, if there is one. */
static void move_out(core *c, int32_t id) {
    pages *slots = &c->swap.slots;
    int32_t slot = pages_take(slots);
    if (slot < 0) return;
    CHECK(pages_announce(slots, slot, c->pages.p[id].hash, PAGE_READY));
    pages_unref(slots, slot);
    add_move(c, (page_move){.page = id, .slot = slot, .out = true, .aside = c->swap.is_over});
}

/* Used just now: dropped last. */
static void touch(pages *slots, int32_t slot) {
    pages_ref(slots, slot);
    pages_unref(slots, slot);
}

/* The page goes to another holder: keep what it holds, if it is worth it. */
static void evict(core *c, int32_t id) {
    int32_t slot = pages_find(&c->swap.slots, c->pages.p[id].hash);
    if (slot >= 0)
        touch(&c->swap.slots, slot);
    else if (c->swap.out)
        move_out(c, id);
}

int32_t swap_take(core *c) {
    int32_t id = pages_next(&c->pages);
    if (id >= 0 && c->swap.slots.n && c->pages.p[id].state == PAGE_READY) evict(c, id);
    c->swap.n_taken++;
    draft_model_page_taken(c, id);
    return pages_take(&c->pages);
}

/* Slots that will be read are held until all pages are taken: taking one may move another page
 * out, and that must not drop them. In the meantime the table holds -1 - slot. */
void swap_share(core *c, seq *s, int32_t n) {
    pages *slots = &c->swap.slots;
    for (int32_t i = 0; i < n; i++) {
        int32_t id = pages_find(&c->pages, s->hashes[i]);
        if (id < 0) {
            int32_t slot = pages_find(slots, s->hashes[i]);
            pages_ref(slots, slot);
            id = -1 - slot;
        } else
            pages_ref(&c->pages, id);
        s->pages[s->n_pages++] = id;
    }
    for (int32_t i = n - 1; i >= 0; i--) {
        if (s->pages[i] >= 0) continue;
        int32_t slot = -1 - s->pages[i], id = swap_take(c);
        CHECK(id >= 0 && pages_announce(&c->pages, id, s->hashes[i], PAGE_READY));
        add_move(c, (page_move){.page = id, .slot = slot, .aside = c->swap.is_over});
        s->pages[i] = id;
        pages_unref(slots, slot);
    }
}

/* Pages that can be moved in a part of the time that the last step took. */
static int32_t pages_within(const core *c, double part) {
    double n = c->swap.cost.step_us * part / MAX((double)c->step.page_move_us, 1e-3);
    return (int32_t)MIN(n, 1e6);
}

bool swap_fetch(core *c, seq *s, int32_t n, int32_t n_host) {
    if (c->swap.fetch || c->last->plan.n_seqs == 0 || n_host <= pages_within(c, 0.125))
        return false;
    c->swap.fetch = s;
    c->swap.n_fetch = n;
    return true;
}

/* As many of the pages that a sequence waits for as there is time for; then nobody holds them. */
static void fetch(core *c, seq *s) {
    int32_t n = 0, left = MAX(1, pages_within(c, 0.5));
    prefix_match m = prefix_find(&c->pages, &c->swap.slots, s->hashes, c->swap.n_fetch);
    left = MIN(left, c->pages.n_free - m.n_free);
    for (; n < m.n; n++)
        if (pages_find(&c->pages, s->hashes[n]) < 0 && left-- <= 0) break;
    swap_share(c, s, n);
    while (s->n_pages > 0) pages_unref(&c->pages, s->pages[--s->n_pages]);
}

static void move_ahead(core *c) {
    const pages *ps = &c->pages;
    int32_t n = MIN(2 * MAX(c->swap.n_rate, c->swap.n_taken), pages_within(c, 0.5));
    n = MIN(n, c->swap.slots.n / 2); /* a small host is not filled with what may never come back */
    for (int32_t id = pages_next(ps); n > 0 && id >= 0; n--, id = pages_after(ps, id))
        if (ps->p[id].state == PAGE_READY && pages_find(&c->swap.slots, ps->p[id].hash) < 0)
            move_out(c, id);
}

void swap_ahead(core *c) {
    if (!c->swap.slots.n || c->last->plan.n_seqs == 0) return;
    c->swap.is_over = true;
    if (c->swap.fetch) fetch(c, c->swap.fetch);
    if (c->swap.out) move_ahead(c);
}

void swap_forget(core *c, const hash128 *hashes, int32_t n) {
    if (!c->swap.slots.n) return;
    for (int32_t i = 0; i < n; i++) {
        int32_t slot = pages_find(&c->swap.slots, hashes[i]);
        if (slot >= 0) pages_forget(&c->swap.slots, slot);
    }
}
