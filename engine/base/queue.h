/* Bounded queues between threads; each slot is a pointer, capacity a power of two fixed at start.
 * A full queue answers false at once: it never waits.
 *
 * mpsc: many producers, one consumer (the scheduler's inbox). Vyukov's bounded array queue.
 * spsc: one producer, one consumer (a request's output ring), elements of any size. */
#ifndef ENGINE_BASE_QUEUE_H
#define ENGINE_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mpsc mpsc;
mpsc *mpsc_new(size_t cap); /* rounded up to a power of two */
void mpsc_free(mpsc *q);
bool mpsc_push(mpsc *q, void *item); /* any thread; false: full */
void *mpsc_pop(mpsc *q);             /* the consumer; NULL: empty */

typedef struct spsc spsc;
spsc *spsc_new(size_t cap, size_t elem_bytes);
void spsc_free(spsc *q);
bool spsc_push(spsc *q, const void *elem); /* the producer; false: full */
bool spsc_pop(spsc *q, void *ret_elem);    /* the consumer; false: empty */
size_t spsc_count(const spsc *q);          /* a moment's view, from either side */

#endif
