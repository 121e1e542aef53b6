/* Pages are structs in one array, linked by index: the free list is a ring through a sentinel, the
 * map is chains through the same structs, so nothing is allocated after init and unlinking from
 * the middle is O(1).
 *
 * Invariant: on the free list exactly when refs == 0; in the map exactly when not blank. */
#include "scheduler/pages.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"

static int32_t *bucket(const pages *ps, hash128 h) {
    return &ps->buckets[h.h[0] & ps->mask];
}

static bool hash_eq(hash128 a, hash128 b) {
    return a.h[0] == b.h[0] && a.h[1] == b.h[1];
}

static void list_unlink(pages *ps, int32_t id) {
    page *p = &ps->p[id];
    ps->p[p->prev].next = p->next;
    ps->p[p->next].prev = p->prev;
    ps->n_free--;
}

/* Put id after `at`; after the sentinel is the head, after the sentinel's prev the tail. */
static void list_link(pages *ps, int32_t id, int32_t at) {
    page *p = &ps->p[id];
    p->prev = at;
    p->next = ps->p[at].next;
    ps->p[p->next].prev = id;
    ps->p[at].next = id;
    ps->n_free++;
}

void pages_init(pages *ps, int32_t n) {
    CHECK(n >= 1);
    uint32_t size = 2;
    while (size < (uint32_t)n) size *= 2;
    *ps = (pages){.n = n, .mask = size - 1};
    ps->p = mem_calloc((size_t)n + 1, sizeof *ps->p);
    ps->buckets = mem_alloc(size * sizeof *ps->buckets);
    for (uint32_t i = 0; i < size; i++) ps->buckets[i] = -1;
    ps->p[n].prev = ps->p[n].next = n;
    for (int32_t i = 0; i < n; i++) list_link(ps, i, ps->p[n].prev);
}

void pages_done(pages *ps) {
    mem_free(ps->p);
    mem_free(ps->buckets);
    *ps = (pages){0};
}

static void map_remove(pages *ps, int32_t id) {
    page *p = &ps->p[id];
    int32_t *at = bucket(ps, p->hash);
    while (*at != id) at = &ps->p[*at].chain;
    *at = p->chain;
    p->state = PAGE_BLANK;
}

int32_t pages_after(const pages *ps, int32_t id) {
    int32_t next = ps->p[id].next;
    return next == ps->n ? -1 : next;
}

int32_t pages_next(const pages *ps) {
    return pages_after(ps, ps->n);
}

int32_t pages_take(pages *ps) {
    int32_t id = pages_next(ps);
    if (id < 0) return -1;
    list_unlink(ps, id);
    if (ps->p[id].state != PAGE_BLANK) {
        ps->n_cached--;
        map_remove(ps, id);
    }
    ps->p[id].refs = 1;
    return id;
}

void pages_ref(pages *ps, int32_t id) {
    page *p = &ps->p[id];
    if (p->refs++ > 0) return;
    CHECK(p->state == PAGE_READY);
    list_unlink(ps, id);
    ps->n_cached--;
}

void pages_unref(pages *ps, int32_t id) {
    page *p = &ps->p[id];
    CHECK(p->refs > 0);
    if (--p->refs > 0) return;
    if (p->state == PAGE_PENDING) map_remove(ps, id);
    bool cached = p->state == PAGE_READY;
    list_link(ps, id, cached ? ps->p[ps->n].prev : ps->n);
    ps->n_cached += cached;
}

int32_t pages_find(const pages *ps, hash128 hash) {
    int32_t id = *bucket(ps, hash);
    while (id >= 0 && !hash_eq(ps->p[id].hash, hash)) id = ps->p[id].chain;
    return id;
}

bool pages_announce(pages *ps, int32_t id, hash128 hash, page_state state) {
    page *p = &ps->p[id];
    CHECK(p->refs > 0 && p->state == PAGE_BLANK && state != PAGE_BLANK);
    if (pages_find(ps, hash) >= 0) return false;
    int32_t *b = bucket(ps, hash);
    p->hash = hash;
    p->state = (uint8_t)state;
    p->chain = *b;
    *b = id;
    return true;
}

void pages_ready(pages *ps, int32_t id) {
    CHECK(ps->p[id].state == PAGE_PENDING);
    ps->p[id].state = PAGE_READY;
}

void pages_forget(pages *ps, int32_t id) {
    page *p = &ps->p[id];
    if (p->state == PAGE_BLANK) return;
    map_remove(ps, id);
    if (p->refs > 0) return;
    ps->n_cached--;
    list_unlink(ps, id);
    list_link(ps, id, ps->n);
}

bool pages_consistent(const pages *ps) {
    int32_t n_free = 0, n_cached = 0, n_hashed = 0, n_mapped = 0;
    for (int32_t id = ps->p[ps->n].next, from = ps->n; id != ps->n; id = ps->p[id].next) {
        const page *p = &ps->p[id];
        if (p->refs != 0 || p->prev != from || p->state == PAGE_PENDING) return false;
        n_cached += p->state == PAGE_READY;
        from = id;
        if (++n_free > ps->n) return false;
    }
    for (int32_t id = 0; id < ps->n; id++) {
        const page *p = &ps->p[id];
        if (p->refs < 0) return false;
        if (p->refs == 0) n_free--;
        if (p->state == PAGE_BLANK) continue;
        n_hashed++;
        if (pages_find(ps, p->hash) != id) return false;
    }
    for (uint32_t b = 0; b <= ps->mask; b++)
        for (int32_t id = ps->buckets[b]; id >= 0; id = ps->p[id].chain)
            if (++n_mapped > ps->n) return false;
    return n_free == 0 && n_hashed == n_mapped && n_cached == ps->n_cached &&
           ps->n_free >= ps->n_cached;
}
