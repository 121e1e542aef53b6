/* The thread pushes its job on the reactor's stack and wakes it; the reactor joins the thread. */
#include "server/job.h"

static void *job_main(void *arg) {
    job *j = arg;
    reactor *re = j->x->re;
    j->run(j);
    j->next = atomic_load_explicit(&re->jobs, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&re->jobs, &j->next, j, memory_order_release,
                                                  memory_order_relaxed)) {
    }
    reactor_wake(re);
    return NULL;
}

void job_start(job *j) {
    j->x->phase = PHASE_WAIT;
    j->x->re->n_jobs++;
    j->thread = thread_start("job", job_main, j);
}

void jobs_take(reactor *re) {
    job *j = atomic_exchange_explicit(&re->jobs, NULL, memory_order_acquire);
    for (job *next; j; j = next) {
        exchange *x = j->x;
        next = j->next;
        pthread_join(j->thread, NULL);
        re->n_jobs--;
        j->done(j);
        reactor_resume(x);
    }
}
