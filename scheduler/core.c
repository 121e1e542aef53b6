/* The life of the core and of the requests in it.
 *
 * A request is added, is planned and applied for some steps, and ends: by itself (apply.c), by its
 * flags, deadline or stalled reader (core_sweep), by a failed device, or by core_abort. However it
 * ends, its final event is in the ring and its pages are free before on_ready tells of it; then,
 * once no step in flight names it, the core drops its reference.
 *
 * Up to stepper.depth steps are in flight: core_step launches one and collects the oldest. Nothing
 * that it decides depends on when a step is done, only on the order.
 *
 * Sweeping all requests is cheap but not free, so it is done only when someone poked or when the
 * earliest deadline is due (due_us, a lower bound that each sweep makes exact). */
#include "scheduler/core.h"

#include <string.h>

#include "engine/base/check.h"
#include "scheduler/state.h"

enum { STALL_POLL_US = 1000, TENANTS_START = 64 };

static void core_alloc(core *c) {
    size_t n = (size_t)c->o.max_running;
    c->running = mem_calloc(n, sizeof *c->running);
    c->ring = mem_calloc((size_t)c->step.depth, sizeof *c->ring);
    for (int32_t i = 0; i < c->step.depth; i++) {
        c->ring[i].planned = mem_calloc(n, sizeof *c->ring[i].planned);
        c->ring[i].plan.seqs = mem_calloc(n, sizeof(batch_seq));
        c->ring[i].plan.copies = mem_calloc(n, sizeof(page_copy));
    }
    c->last = c->ring;
    c->result.out = mem_calloc(n, sizeof *c->result.out);
    c->result.seq_status = mem_calloc(n, sizeof *c->result.seq_status);
    c->result.n_right = mem_calloc(n, sizeof *c->result.n_right);
    c->result.more = mem_calloc((size_t)c->o.token_budget, sizeof *c->result.more);
    c->ready = mem_calloc(READY_MAX, sizeof *c->ready);
    c->event = mem_calloc(1, token_event_bytes(ARRAY_LEN(c->result.out->top)));
}

core *core_new(const scheduler_options *o, stepper s, hash_key key) {
    CHECK(s.page_tokens >= 1 && s.page_tokens <= PREFIX_PAGE_TOKENS_MAX);
    CHECK(s.depth >= 1 && s.max_tokens >= 1 && s.max_seqs >= 1 && s.max_model_len >= 1);
    core *c = mem_calloc(1, sizeof *c);
    c->o = *o;
    c->o.token_budget = MAX(1, MIN(o->token_budget, s.max_tokens));
    c->o.max_running = MAX(1, MIN(o->max_running, MIN(s.max_seqs, c->o.token_budget)));
    if (c->o.prefill_chunk < 1 || c->o.prefill_chunk > c->o.token_budget)
        c->o.prefill_chunk = c->o.token_budget;
    if (s.whole_prompt) c->o.prefix_cache = false;
    c->pace.target_us = s.whole_prompt ? PACE_OFF : o->target_us;
    c->step = s;
    c->key = key;
    c->due_us = UINT64_MAX;
    c->stats.healthy = true;
    pages_init(&c->pages, s.n_pages);
    waitq_init(&c->wait);
    core_alloc(c);
    swap_init(c);
    drafts_init(c, o->max_drafts, o->draft_model);
    return c;
}

void core_free(core *c) {
    if (!c) return;
    CHECK(!c->groups && c->n_flight == 0);
    pages_done(&c->pages);
    swap_done(c);
    drafts_done(c);
    waitq_done(&c->wait);
    mem_free(c->running);
    for (int32_t i = 0; i < c->step.depth; i++) {
        mem_free(c->ring[i].planned);
        mem_free(c->ring[i].plan.seqs);
        mem_free(c->ring[i].plan.copies);
    }
    mem_free(c->ring);
    mem_free(c->result.out);
    mem_free(c->result.seq_status);
    mem_free(c->result.n_right);
    mem_free(c->result.more);
    mem_free(c->ready);
    mem_free(c->event);
    mem_free(c->vtime);
    mem_free(c->n_active);
    mem_free(c);
}

status core_prepare(const core *c, request *r, error *err) {
    group *g;
    return group_new(c, r, &g, err);
}

/* Grown when a tenant is first seen; a tenant that was idle starts level with the others, so that
 * no one saves up credit. */
static void tenant_enter(core *c, int32_t tenant) {
    if (tenant >= c->n_tenants) {
        int32_t n = MAX(TENANTS_START, MAX(tenant + 1, c->n_tenants * 2));
        c->vtime = mem_realloc(c->vtime, (size_t)n * sizeof *c->vtime);
        c->n_active = mem_realloc(c->n_active, (size_t)n * sizeof *c->n_active);
        for (int32_t i = c->n_tenants; i < n; i++) c->vtime[i] = 0, c->n_active[i] = 0;
        c->n_tenants = n;
    }
    if (c->n_active[tenant]++ == 0) c->vtime[tenant] = MAX(c->vtime[tenant], c->vclock);
}

void core_add(core *c, request *r) {
    group *g = r->sched;
    g->order = c->n_order++;
    g->next = c->groups;
    if (g->next) g->next->prev = g;
    c->groups = g;
    c->n_groups++;
    tenant_enter(c, r->tenant);
    adapter_count(c, g, false, 1);
    if (r->deadline_us) c->due_us = MIN(c->due_us, r->deadline_us);
    g->seqs[0].state = SEQ_WAITING;
    waitq_add(&c->wait, &g->seqs[0]);
}

/* --- ends from outside --- */

static void sweep_choices(core *c, group *g) {
    for (int32_t i = 0; i < g->r->n && !g->is_ended; i++)
        if (g->seqs[i].state != SEQ_DONE &&
            atomic_load_explicit(&g->r->choice_done[i], memory_order_acquire))
            seq_end(c, &g->seqs[i], FINISH_STOP, NULL);
}

static bool is_past(uint64_t now, uint64_t since, uint64_t by) {
    return now >= since && now - since >= by;
}

static void sweep_group(core *c, group *g) {
    request *r = g->r;
    if (atomic_load_explicit(&r->cancel, memory_order_acquire)) {
        group_error(g, ERR_CANCELLED, "the client left");
        group_end(c, g, FINISH_CANCEL);
        return;
    }
    if (r->deadline_us && c->now_us >= r->deadline_us) {
        group_error(g, ERR_TIMEOUT, "the deadline passed %s",
                    g->is_started ? "before the answer was complete" : "while waiting to start");
        group_end(c, g, FINISH_CANCEL);
        return;
    }
    if (g->stalled_us && is_past(c->now_us, g->stalled_us, c->o.stall_us) && !group_has_room(g)) {
        group_error(g, ERR_TIMEOUT, "the reader did not take its tokens in time");
        group_end(c, g, FINISH_CANCEL);
        return;
    }
    sweep_choices(c, g);
}

static void core_sweep(core *c) {
    uint64_t due = UINT64_MAX, up;
    for (group *g = c->groups; g; g = g->next) {
        if (g->is_ended) continue;
        sweep_group(c, g);
        if (g->is_ended) continue;
        if (g->r->deadline_us) due = MIN(due, g->r->deadline_us);
        if (g->stalled_us && !__builtin_add_overflow(g->stalled_us, c->o.stall_us, &up))
            due = MIN(due, MAX(up, c->now_us + 1));
    }
    c->due_us = due;
}

static void end_all(core *c, finish_reason why, const error *e) {
    for (group *g = c->groups; g; g = g->next) {
        if (g->is_ended) continue;
        group_error(g, e->code, "%s", e->text);
        group_end(c, g, why);
    }
}

/* --- telling the front ends --- */

/* At most READY_MAX per call of on_ready: the array is fixed. */
static void deliver(core *c) {
    while (c->ready_head) {
        int32_t n = 0;
        group *first = c->ready_head, *next;
        for (; c->ready_head && n < READY_MAX; c->ready_head = c->ready_head->ready_next)
            c->ready[n++] = c->ready_head->r;
        if (!c->ready_head) c->ready_tail = NULL;
        if (c->o.on_ready) c->o.on_ready(c->o.ctx, c->ready, n);
        for (group *g = first; g != c->ready_head; g = next) {
            next = g->ready_next;
            g->is_ready = false;
            group_retire(c, g);
        }
    }
}

/* --- the step --- */

static flight *oldest(core *c) {
    return &c->ring[(c->n_launch - (uint64_t)c->n_flight) % (uint64_t)c->step.depth];
}

static int32_t hist_bucket(int32_t n_tokens) {
    if (n_tokens <= 1) return 0;
    int32_t b = 1;
    for (int32_t le = 8; n_tokens > le && le <= 16384; le *= 2) b++;
    return b;
}

/* Rows that are described (prompt_out) cost what nothing here knows: such a step is no example. */
static void learn_pace(core *c, const batch_plan *p, uint64_t us) {
    pace_step step = {.n_tokens = p->n_tokens};
    for (int32_t i = 0; i < p->n_seqs; i++) {
        const batch_seq *b = &p->seqs[i];
        if (b->prompt_out) return;
        step.n_reads += pace_reads(b->pos, b->n_tokens);
    }
    pace_add(&c->pace, step, (double)us);
}

/* Time with a step in flight, each moment once. */
static void count_step(core *c, flight *f) {
    uint64_t from = MAX(f->launch_us, c->collect_us), us = c->now_us - MIN(from, c->now_us);
    c->collect_us = c->now_us;
    c->stats.step_us_total += us;
    if (c->pace.target_us != PACE_OFF || c->drafting.most) learn_pace(c, &f->plan, us);
    swap_stepped(c, &f->plan, us);
    c->stats.n_steps++;
    c->stats.step_tokens_total += (uint64_t)f->plan.n_tokens;
    c->stats.step_tokens_hist[hist_bucket(f->plan.n_tokens)]++;
}

/* The oldest step in flight: wait for it, and its results. */
static status collect(core *c, error *err) {
    flight *f = oldest(c);
    uint64_t start = clock_now_us(c->o.clock);
    for (int32_t i = 0; i < f->plan.n_seqs; i++) c->result.seq_status[i] = OK;
    status st = c->step.collect(c->step.self, &c->result, err);
    c->n_flight--;
    c->now_us = clock_now_us(c->o.clock);
    c->stats.wait_us_total += c->now_us - MIN(start, c->now_us);
    count_step(c, f);
    if (st == OK)
        apply_results(c, f);
    else
        apply_nothing(c, f);
    return st;
}

/* Everything has ended: nothing comes of what is still in flight. */
static void drop_flights(core *c) {
    error unused;
    while (c->n_flight > 0) (void)collect(c, &unused);
}

static void fail_device(core *c, const error *e) {
    c->stats.healthy = false;
    c->failure = *e;
    if (c->failure.code == OK) (void)error_set(&c->failure, ERR_DEVICE, "the device failed");
    end_all(c, FINISH_ERROR, &c->failure);
    drop_flights(c);
}

static void launch(core *c) {
    error e = {0};
    c->last->launch_us = c->now_us;
    if (c->step.launch(c->step.self, &c->last->plan, &e) == OK) {
        c->n_launch++;
        c->n_flight++;
        return;
    }
    apply_nothing(c, c->last);
    fail_device(c, &e);
}

/* Progress rule: nothing runs, nothing was admitted, nothing is being waited for. It cannot happen
 * while prepare refuses what does not fit; if it does, the first one fails rather than all hang. */
static bool fail_first(core *c) {
    if (c->n_flight || c->n_running || c->plan_stalled || c->plan_deferred) return false;
    waitq_rewind(&c->wait);
    seq *s = waitq_next(&c->wait, c->vtime);
    if (!s) return false;
    group_error(s->g, ERR_INTERNAL,
                "the request cannot be scheduled: %d tokens do not fit %d pages", s->n_known,
                c->pages.n);
    group_end(c, s->g, FINISH_ERROR);
    return true;
}

static bool collect_all(core *c) {
    error e = {0};
    while (c->n_flight > 0)
        if (collect(c, &e) != OK) {
            fail_device(c, &e);
            return false;
        }
    return true;
}

/* The next step is launched before the oldest in flight is waited for, so the device has work while
 * results are dealt with, and while the step after that is planned; but for drafts (drafts.c). */
static bool turn(core *c, bool look) {
    if (drafts_hoped(c) && !collect_all(c)) return true;
    uint64_t start = c->now_us;
    if (!c->stats.healthy) end_all(c, FINISH_ERROR, &c->failure);
    if (look || start >= c->due_us) core_sweep(c);
    plan_build(c);
    c->now_us = clock_now_us(c->o.clock);
    c->stats.plan_us_total += c->now_us - MIN(start, c->now_us);
    bool has_plan = c->last->plan.n_seqs > 0;
    error e = {0};
    if (draft_model_run(c, &e) != OK) {
        apply_nothing(c, c->last);
        fail_device(c, &e);
        return true;
    }
    if (has_plan) launch(c);
    if (c->n_flight == 0) return has_plan || fail_first(c);
    bool wait = !has_plan || c->n_flight == c->step.depth || c->last->plan.n_drafts > 0;
    if (wait && collect(c, &e) != OK) fail_device(c, &e);
    return true;
}

/* What the thread did not compute itself. */
static uint64_t waited_us(const core *c) {
    return c->stats.wait_us_total + c->stats.draft_us_total;
}

bool core_step(core *c, bool look) {
    uint64_t start = clock_now_us(c->o.clock), waited = waited_us(c);
    c->now_us = start;
    bool worked = turn(c, look);
    deliver(c);
    if (!worked) return false;
    uint64_t us = clock_now_us(c->o.clock);
    us -= MIN(start, us);
    waited = waited_us(c) - waited;
    c->stats.host_us_total += us - MIN(waited, us);
    return true;
}

uint64_t core_wait_us(const core *c) {
    uint64_t now = clock_now_us(c->o.clock);
    uint64_t wait = c->due_us == UINT64_MAX ? UINT64_MAX : c->due_us - MIN(now, c->due_us);
    return c->plan_stalled ? MIN(wait, (uint64_t)STALL_POLL_US) : wait;
}

void core_enter(core *c) {
    if (c->step.enter) c->step.enter(c->step.self);
    draft_model_enter(c);
}

void core_abort(core *c) {
    error e;
    (void)error_set(&e, ERR_UNAVAILABLE, "the server is shutting down");
    c->now_us = clock_now_us(c->o.clock);
    end_all(c, FINISH_CANCEL, &e);
    deliver(c);
    drop_flights(c);
}

int32_t core_n_requests(const core *c) {
    return c->n_groups;
}

uint64_t core_n_unqueued(const core *c) {
    return c->n_unqueued;
}

uint64_t core_n_ended(const core *c) {
    return c->n_ended;
}

const error *core_failure(const core *c) {
    return c->stats.healthy ? NULL : &c->failure;
}

void core_stats(const core *c, scheduler_stats *ret) {
    *ret = c->stats;
    ret->n_running = c->n_running;
    ret->n_waiting = c->wait.n;
    ret->pages_total = c->pages.n;
    ret->pages_cached = c->pages.n_cached;
    ret->pages_used = c->pages.n - c->pages.n_free;
    ret->host_pages_total = c->swap.slots.n;
    ret->host_pages_used = c->swap.slots.n_cached;
    ret->pages_out = c->swap.n_out;
    ret->pages_in = c->swap.n_in;
    ret->pages_out_aside = c->swap.n_aside;
    ret->budget = c->budget;
    for (int32_t i = 0; i < PACE_SIZES; i++)
        ret->pace_us[i] =
            c->pace.sizes[i].weight > 0
                ? (float)pace_us(&c->pace, (pace_step){.n_tokens = pace_size_tokens(i)})
                : 0;
    ret->pace_read_us = (float)(c->pace.read_us * 1e6);
}
