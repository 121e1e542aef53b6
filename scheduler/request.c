/* Requests: two references, an arena, an event ring.
 *
 * The ring is bounded whatever max_tokens is. The scheduler never pushes a token unless a slot per
 * unfinished choice stays free after it, so an end always fits; a request whose reader is too slow
 * for that is not scheduled until it catches up (scheduler/plan.c). */
#include "scheduler/request.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"

enum { RING_EVENTS_MAX = 4096 };

request *request_new(size_t arena_bytes_max) {
    request *r = mem_calloc(1, sizeof *r);
    r->mem = arena_new(arena_bytes_max);
    r->n = 1;
    r->tenant_weight = 1;
    r->params =
        (sample_params){.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
    atomic_init(&r->refs, 1);
    return r;
}

int32_t request_ring_cap(const request *r) {
    int64_t all = (int64_t)r->n * ((int64_t)r->max_tokens + 1);
    int64_t bound = r->ring_max > 0 ? r->ring_max : RING_EVENTS_MAX;
    return (int32_t)MAX(MIN(all, bound), 2 * (int64_t)r->n);
}

void request_arm(request *r) {
    CHECK(!r->events && r->n >= 1 && r->max_tokens >= 0);
    r->events = spsc_new((size_t)request_ring_cap(r), token_event_bytes(r->params.n_logprobs));
    r->choice_done = mem_calloc((size_t)r->n, sizeof *r->choice_done);
}

request *request_ref(request *r) {
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

void request_unref(request *r) {
    if (!r) return;
    int32_t before = atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel);
    CHECK(before >= 1);
    if (before > 1) return;
    CHECK(!r->sched);
    spsc_free(r->events);
    mem_free((void *)r->choice_done);
    if (r->on_free) r->on_free(r->on_free_ctx);
    arena_free(r->mem);
    mem_free(r);
}
