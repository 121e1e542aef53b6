/* Work that takes too long for a reactor (reading an adapter's directory): a thread of its own for
 * one exchange, which waits meanwhile as it would for a generation. */
#ifndef SERVER_JOB_H
#define SERVER_JOB_H

#include "server/reactor.h"

struct job {
    exchange *x;
    void (*run)(job *j);  /* on its own thread: touches nothing of the exchange */
    void (*done)(job *j); /* on the reactor's thread: leaves an answer and frees the job */
    /* private */
    pthread_t thread;
    job *next;
};

/* Reactor thread. The exchange is in PHASE_WAIT afterwards. */
void job_start(job *j);
/* Reactor thread: answer those that have ended. */
void jobs_take(reactor *re);

#endif
