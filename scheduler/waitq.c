/* Lanes are few (tenants with something waiting), so a sorted array and a scan beat a heap whose
 * keys (virtual times) change at every step.
 *
 * Invariant: a sequence is in exactly the lane of lane_of(); lanes[i] < lanes[i+1]; within a lane
 * seq_cmp ascends. */
#include "scheduler/waitq.h"

#include <string.h>

#include "engine/base/check.h"
#include "scheduler/state.h"

enum { LANES_START = 64 };

static int32_t tenant_of(const seq *s) {
    return s->is_returning ? -1 : s->g->r->tenant;
}

/* Index of the first lane that is not before (priority, tenant). */
static size_t lane_lower(const waitq *q, int32_t priority, int32_t tenant) {
    size_t lo = 0, hi = q->lanes.n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const wait_lane *l = &q->lanes.p[mid];
        if (l->priority < priority || (l->priority == priority && l->tenant < tenant))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static wait_lane *lane_of(const waitq *q, const seq *s) {
    size_t i = lane_lower(q, s->g->r->priority, tenant_of(s));
    if (i == q->lanes.n) return NULL;
    wait_lane *l = &q->lanes.p[i];
    return l->priority == s->g->r->priority && l->tenant == tenant_of(s) ? l : NULL;
}

static wait_lane *lane_make(waitq *q, const seq *s) {
    wait_lane *l = lane_of(q, s);
    if (l) return l;
    size_t i = lane_lower(q, s->g->r->priority, tenant_of(s));
    vec_reserve(&q->lanes, q->lanes.n + 1);
    l = &q->lanes.p[i];
    memmove(l + 1, l, (q->lanes.n - i) * sizeof *l);
    q->lanes.n++;
    *l = (wait_lane){.priority = s->g->r->priority, .tenant = tenant_of(s)};
    return l;
}

void waitq_init(waitq *q) {
    *q = (waitq){0};
    vec_reserve(&q->lanes, LANES_START);
}

void waitq_done(waitq *q) {
    vec_done(&q->lanes);
}

/* Put s before `at` (NULL: at the end). */
static void lane_insert(wait_lane *l, seq *s, seq *at) {
    s->next = at;
    s->prev = at ? at->prev : l->tail;
    *(s->prev ? &s->prev->next : &l->head) = s;
    *(at ? &at->prev : &l->tail) = s;
}

/* New arrivals belong at the end, what already began near the head: look from there. */
void waitq_add(waitq *q, seq *s) {
    wait_lane *l = lane_make(q, s);
    seq *at = NULL;
    if (s->g->is_started) {
        at = l->head;
        while (at && seq_cmp(at, s) < 0) at = at->next;
    } else {
        for (seq *before = l->tail; before && seq_cmp(before, s) > 0; before = before->prev)
            at = before;
    }
    lane_insert(l, s, at);
    q->n++;
}

void waitq_remove(waitq *q, seq *s) {
    wait_lane *l = lane_of(q, s);
    CHECK(l);
    if (l->at == s) l->at = s->next;
    *(s->prev ? &s->prev->next : &l->head) = s->next;
    *(s->next ? &s->next->prev : &l->tail) = s->prev;
    s->prev = s->next = NULL;
    q->n--;
    if (l->head) return;
    size_t i = (size_t)(l - q->lanes.p);
    memmove(l, l + 1, (q->lanes.n - i - 1) * sizeof *l);
    q->lanes.n--;
}

void waitq_rewind(waitq *q) {
    for (size_t i = 0; i < q->lanes.n; i++) q->lanes.p[i].at = q->lanes.p[i].head;
}

/* True if lane a's turn is before lane b's; both of one priority with someone to offer. */
static bool lane_before(const wait_lane *a, const wait_lane *b, const double *vtime) {
    if (b->tenant < 0 || a->tenant < 0) return a->tenant < 0;
    double va = vtime[a->tenant], vb = vtime[b->tenant];
    return va != vb ? va < vb : a->at->g->order < b->at->g->order;
}

seq *waitq_next(waitq *q, const double *vtime) {
    const wait_lane *best = NULL;
    for (size_t i = 0; i < q->lanes.n; i++) {
        const wait_lane *l = &q->lanes.p[i];
        if (best && l->priority != best->priority) break;
        if (!l->at) continue;
        if (!best || lane_before(l, best, vtime)) best = l;
    }
    return best ? best->at : NULL;
}

void waitq_pass(waitq *q, seq *s) {
    wait_lane *l = lane_of(q, s);
    CHECK(l && l->at == s);
    l->at = s->next;
}
