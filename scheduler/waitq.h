/* Who is next: sequences that wait, in lanes of one (priority, tenant) each, first come first
 * served within a lane. Between lanes: lower priority number first; within a priority the lane of
 * returning (preempted) sequences first, then the tenant with the least virtual time (tokens
 * served / weight), then arrival. Virtual counters: Sheng et al., "Fairness in Serving Large
 * Language Models", OSDI 2024.
 *
 * One thread. Links are in the sequences; lanes are a small sorted array. */
#ifndef SCHEDULER_WAITQ_H
#define SCHEDULER_WAITQ_H

#include <stdbool.h>

#include "engine/base/vec.h"

struct seq;

typedef struct wait_lane {
    int32_t priority;
    int32_t tenant; /* -1: returning sequences of all tenants, by arrival */
    struct seq *head, *tail;
    struct seq *at; /* the walk's place: those before it were passed over */
} wait_lane;

typedef struct waitq {
    VEC(wait_lane) lanes; /* sorted by (priority, tenant); none is empty */
    int32_t n;            /* sequences */
} waitq;

void waitq_init(waitq *q);
void waitq_done(waitq *q);
/* A lane is in order of arrival, the choices of one request in their order: so a fork of a request
 * that began goes before what came later, and a choice that takes over for another keeps its place.
 */
void waitq_add(waitq *q, struct seq *s);
void waitq_remove(waitq *q, struct seq *s);

/* A walk in order: rewind, then next() shows the best (NULL: none left) until it is removed or
 * passed over. vtime[tenant]. O(lanes of one priority). */
void waitq_rewind(waitq *q);
struct seq *waitq_next(waitq *q, const double *vtime);
void waitq_pass(waitq *q, struct seq *s);

#endif
