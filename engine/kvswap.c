/* The buffers of the cache are equal and follow one another, so the pieces of a page are a constant
 * stride apart: a move is one strided copy, which a GPU's copy engine does without a kernel.
 *
 * Moves go to the backend's queue: a page that is moved out may be written by the same step, a slot
 * that is moved in may be overwritten by the next move; the step begins when they are done. Those
 * that may be done beside the step come last. They begin after all that was queued before, so after
 * every write to their pages and every read of their slots, and the next step begins after them:
 * its first act is rejoin. In between nobody touches either (page_move.aside). */
#include "engine/kvswap.h"

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

enum { MEASURED_PAGES = 16, MEASURED_TIMES = 3 };

static size_t slot_bytes(const kvcache *c) {
    return kvcache_page_bytes(&c->shape);
}

status kvswap_alloc(kvcache *c, int32_t n, error *err) {
    size_t bytes;
    if (!mul_ok((size_t)n, slot_bytes(c), &bytes))
        return error_set(err, ERR_NOMEM, "%d pages of the host are too large", n);
    TRY(c->b->v->host_alloc(c->b, bytes, &c->slots, err));
    c->n_slots = n;
    return OK;
}

void kvswap_done(kvcache *c) {
    if (!c->slots) return;
    c->b->v->rejoin(c->b);
    (void)c->b->v->sync(c->b, NULL); /* a copy may be under way */
    c->b->v->host_free(c->b, c->slots, (size_t)c->n_slots * slot_bytes(c));
    c->slots = NULL;
    c->n_slots = 0;
}

static void move(kvcache *c, page_move m) {
    int32_t n = c->shape.n_layers * c->shape.n_buffers;
    char *page = (char *)c->block + (size_t)m.page * c->page_bytes;
    char *slot = (char *)c->slots + (size_t)m.slot * slot_bytes(c);
    CHECK(m.page >= 0 && m.page < c->n_pages && m.slot >= 0 && m.slot < c->n_slots);
    if (m.out)
        c->b->v->copy_pieces(c->b, slot, c->page_bytes, page, c->stride, c->page_bytes, n);
    else
        c->b->v->copy_pieces(c->b, page, c->stride, slot, c->page_bytes, c->page_bytes, n);
}

void kvswap_run(kvcache *c, const page_move *moves, int32_t n) {
    if (!c->slots) return;
    c->b->v->rejoin(c->b);
    for (int32_t i = 0; i < n; i++) {
        if (moves[i].aside) c->b->v->aside(c->b);
        move(c, moves[i]);
    }
}

/* The quickest of a few rounds: the first one warms up. What copies beside ops need is made here,
 * too: a step allocates nothing. */
status kvswap_measure(kvcache *c, error *err) {
    int32_t n = MIN(MEASURED_PAGES, MIN(c->n_pages, c->n_slots));
    uint64_t least = UINT64_MAX;
    c->b->v->aside(c->b);
    c->b->v->rejoin(c->b);
    for (int k = 0; k < MEASURED_TIMES && n > 0; k++) {
        TRY(c->b->v->sync(c->b, err));
        uint64_t start = clock_us();
        for (int32_t i = 0; i < n; i++) move(c, (page_move){i, i, true});
        for (int32_t i = 0; i < n; i++) move(c, (page_move){i, i, false});
        TRY(c->b->v->sync(c->b, err));
        least = MIN(least, clock_us() - start);
    }
    c->move_us = n > 0 ? (float)least / (float)(2 * n) : 0;
    return OK;
}
