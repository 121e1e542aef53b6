/* mpsc: each cell carries a sequence number that says whose turn it is (Dmitry Vyukov, 2010).
 * spsc: head and tail on their own cache lines; release stores publish, acquire loads receive. */
#include "engine/base/queue.h"

#include <stdatomic.h>
#include <string.h>

#include "engine/base/mem.h"

enum { LINE = 64 };

static size_t pow2_at_least(size_t n) {
    size_t c = 2;
    while (c < n) c *= 2;
    return c;
}

typedef struct cell {
    _Atomic size_t seq;
    void *item;
} cell;

struct mpsc {
    size_t mask;
    cell *cells;
    char pad0[LINE];
    _Atomic size_t tail; /* next to push */
    char pad1[LINE];
    size_t head; /* next to pop: consumer only */
};

mpsc *mpsc_new(size_t cap) {
    size_t n = pow2_at_least(cap);
    mpsc *q = mem_calloc(1, sizeof *q);
    q->mask = n - 1;
    q->cells = mem_calloc(n, sizeof *q->cells);
    for (size_t i = 0; i < n; i++) atomic_init(&q->cells[i].seq, i);
    return q;
}

void mpsc_free(mpsc *q) {
    if (!q) return;
    mem_free(q->cells);
    mem_free(q);
}

bool mpsc_push(mpsc *q, void *item) {
    size_t at = atomic_load_explicit(&q->tail, memory_order_relaxed);
    for (;;) {
        cell *c = &q->cells[at & q->mask];
        size_t seq = atomic_load_explicit(&c->seq, memory_order_acquire);
        if (seq == at) {
            if (!atomic_compare_exchange_weak_explicit(&q->tail, &at, at + 1, memory_order_relaxed,
                                                       memory_order_relaxed))
                continue;
            c->item = item;
            atomic_store_explicit(&c->seq, at + 1, memory_order_release);
            return true;
        }
        if ((ptrdiff_t)(seq - at) < 0) return false;
        at = atomic_load_explicit(&q->tail, memory_order_relaxed);
    }
}

void *mpsc_pop(mpsc *q) {
    cell *c = &q->cells[q->head & q->mask];
    if (atomic_load_explicit(&c->seq, memory_order_acquire) != q->head + 1) return NULL;
    void *item = c->item;
    atomic_store_explicit(&c->seq, q->head + q->mask + 1, memory_order_release);
    q->head++;
    return item;
}

struct spsc {
    size_t mask, elem_bytes;
    unsigned char *data;
    char pad0[LINE];
    _Atomic size_t tail; /* written by the producer */
    char pad1[LINE];
    _Atomic size_t head; /* written by the consumer */
};

spsc *spsc_new(size_t cap, size_t elem_bytes) {
    size_t n = pow2_at_least(cap);
    spsc *q = mem_calloc(1, sizeof *q);
    q->mask = n - 1;
    q->elem_bytes = elem_bytes;
    q->data = mem_alloc(n * elem_bytes);
    return q;
}

void spsc_free(spsc *q) {
    if (!q) return;
    mem_free(q->data);
    mem_free(q);
}

bool spsc_push(spsc *q, const void *elem) {
    size_t tail = atomic_load_explicit(&q->tail, memory_order_relaxed);
    if (tail - atomic_load_explicit(&q->head, memory_order_acquire) > q->mask) return false;
    memcpy(q->data + (tail & q->mask) * q->elem_bytes, elem, q->elem_bytes);
    atomic_store_explicit(&q->tail, tail + 1, memory_order_release);
    return true;
}

bool spsc_pop(spsc *q, void *ret_elem) {
    size_t head = atomic_load_explicit(&q->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&q->tail, memory_order_acquire)) return false;
    memcpy(ret_elem, q->data + (head & q->mask) * q->elem_bytes, q->elem_bytes);
    atomic_store_explicit(&q->head, head + 1, memory_order_release);
    return true;
}

size_t spsc_count(const spsc *q) {
    size_t head = atomic_load_explicit(&q->head, memory_order_acquire);
    return atomic_load_explicit(&q->tail, memory_order_acquire) - head;
}
