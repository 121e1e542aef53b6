/* Page ids: who holds each, which are free and in what order they are given away, and which hold
 * tokens that another sequence may share. Physical memory is the engine's; this is bookkeeping.
 *
 * A page is  used    refs > 0
 *            cached  refs == 0, with a hash: still in the map, on the free list, can be revived
 *            free    refs == 0, without a hash
 * n_used + n_cached + n_blank == n at all times; n_free counts the last two.
 *
 * One thread. Everything is allocated in pages_init; every call is O(1) (map chains aside). */
#ifndef SCHEDULER_PAGES_H
#define SCHEDULER_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/hash.h"

typedef enum page_state {
    PAGE_BLANK,   /* no hash: private to its holder */
    PAGE_PENDING, /* hash announced, tokens not yet computed: may be waited for, not shared */
    PAGE_READY,   /* hash and content valid: may be shared */
} page_state;

typedef struct page {
    hash128 hash;
    int32_t refs;
    int32_t prev, next; /* free list, valid when refs == 0 */
    int32_t chain;      /* next in the hash bucket, -1: last; valid unless blank */
    uint8_t state;      /* page_state */
} page;

typedef struct pages {
    page *p;          /* [n + 1]; p[n] is the free list's sentinel */
    int32_t n;        /* ids 0 .. n-1 */
    int32_t n_free;   /* on the free list: blank and cached */
    int32_t n_cached; /* of them: with a hash */
    int32_t *buckets; /* [mask + 1] */
    uint32_t mask;
} pages;

void pages_init(pages *ps, int32_t n); /* n >= 1; all blank and free */
void pages_done(pages *ps);

/* The head of the free list, with one reference and no hash (a cached page is evicted by this);
 * -1 when every page is used. */
int32_t pages_take(pages *ps);
/* The page that pages_take would give: a cached one would be evicted. -1: none. */
int32_t pages_next(const pages *ps);
/* The one that would come after `id`, which is free; -1: none. */
int32_t pages_after(const pages *ps, int32_t id);
/* One more holder; revives a cached page. */
void pages_ref(pages *ps, int32_t id);
/* One holder less. The last puts it on the free list: a shareable page at the tail (evicted last),
 * a blank one at the head. So a holder that unrefs from its last page to its first keeps prefixes
 * longer than what follows them. A pending page becomes blank: nobody will compute it. */
void pages_unref(pages *ps, int32_t id);

/* The page with this hash (pending or ready), or -1. */
int32_t pages_find(const pages *ps, hash128 hash);
/* Give a used, blank page its hash. False, and nothing changes, if another page has it already. */
bool pages_announce(pages *ps, int32_t id, hash128 hash, page_state state);
/* The content of a pending page is now computed. */
void pages_ready(pages *ps, int32_t id);
/* Nobody else may find this page any more (its content is suspect): it is used, or cached and then
 * blank and the next to be taken. */
void pages_forget(pages *ps, int32_t id);

/* True if counts, list, map and states agree with one another. O(n): tests and the simulator. */
bool pages_consistent(const pages *ps);

#endif
