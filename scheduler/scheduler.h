/* The scheduler: continuous batching over a stepper, on a thread of its own. Front ends submit
 * requests and read their event rings. */
#ifndef SCHEDULER_SCHEDULER_H
#define SCHEDULER_SCHEDULER_H

#include "conf/limits.h"
#include "engine/base/clock.h"
#include "scheduler/pace.h"
#include "scheduler/request.h"

typedef enum admit_mode {
    ADMIT_OPTIMISTIC, /* admit while pages for the prompt are there; preempt when they run out */
    ADMIT_RESERVE,    /* admit only if prompt + max_tokens fits: never preempts */
} admit_mode;

typedef struct scheduler_options {
    int32_t max_running;   /* most sequences at once; cut to stepper.max_seqs and token_budget */
    int32_t max_waiting;   /* queue bound: past it submit answers ERR_BUSY */
    int32_t token_budget;  /* tokens per step; cut to stepper.max_tokens */
    int32_t prefill_chunk; /* most prompt tokens of one request per step; 0: the budget */
    /* How long a step may take while somebody decodes: fewer tokens of prompts are put into it than
     * the budget allows, by what earlier steps took (pace.h). Microseconds, PACE_OFF, or PACE_AUTO.
     * Never with whole_prompt. */
    uint64_t target_us;
    int32_t
        max_drafts; /* most guesses at tokens that a sequence gets in a step (drafts.c); 0: none */
    /* NULL: guesses are looked up in a sequence's own text. Else they come from this model, whose
     * pages are as many and as large as the stepper's (draft_model.c). Copied. */
    const stepper *draft_model;
    bool drafts_forced; /* for tests: as many as may be, whether they pay or not */
    admit_mode admit;
    bool prefix_cache;
    uint64_t stall_us; /* a reader whose ring stays full so long is cut */
    clock_src clock;
    /* Called from the engine thread once per step with all requests that have news (for a request
     * that does not stream: at its end, or when its ring is half full). Must not block. */
    void (*on_ready)(void *ctx, request **ready, int32_t n);
    void *ctx;
} scheduler_options;

/* Numbers for /metrics, as of the last step or the one before; callable from any thread. Counters
 * since the start. */
typedef struct scheduler_stats {
    int32_t n_running, n_waiting; /* sequences; a request that waits counts as one */
    /* used: held by running sequences; cached: free, but a prefix may still be found there */
    int32_t pages_total, pages_used, pages_cached;
    int32_t host_pages_total, host_pages_used;
    uint64_t pages_out, pages_in;         /* moved to the host and back */
    uint64_t pages_out_aside;             /* of pages_out: no step waited for them */
    uint64_t prompt_tokens;               /* of requests that started, each prompt once */
    uint64_t generation_tokens;           /* of all choices */
    uint64_t prompt_tokens_cached;        /* of prompt_tokens: not computed */
    uint64_t prompt_tokens_recomputed;    /* computed again after a preemption */
    uint64_t prefix_queries, prefix_hits; /* tokens looked up and found, preempted ones too */
    uint64_t n_preemptions, n_steps;
    uint64_t n_drafts, draft_tokens; /* times that a sequence had drafts, and how many in all */
    uint64_t draft_tokens_right;     /* of draft_tokens */
    uint64_t draft_steps;            /* of the draft model */
    uint64_t draft_read;             /* tokens of texts that it read, apart from its guesses */
    uint64_t draft_us_total;         /* time in them: part of no other */
    uint64_t n_rejected;             /* submits that failed, for any reason */
    uint64_t step_us_total;          /* time with a step in flight, each moment once */
    uint64_t plan_us_total;          /* time in the planner */
    uint64_t host_us_total; /* time of steps in which the engine thread did not wait for results */
    uint64_t wait_us_total; /* and in which it did */
    uint64_t finished[5];   /* by finish_reason, per choice */
    uint64_t step_tokens_hist[16]; /* steps; buckets le 1,8,16,32,64,...,16384,+Inf */
    uint64_t step_tokens_total;    /* tokens computed */
    int32_t budget;                /* most tokens that the last step might have had */
    float pace_us[PACE_SIZES];     /* what steps of these sizes take, as learned (pace_size_tokens),
                                    * apart from what they read of the cache; 0: not seen */
    float pace_read_us;            /* and what a million positions read add to that */
    /* bit id-1 of each: adapters with a request that runs, with one that waits to start */
    uint64_t adapters_running[LIMIT_ADAPTERS / 64], adapters_waiting[LIMIT_ADAPTERS / 64];
    bool healthy; /* false for good after a failed device */
} scheduler_stats;

typedef struct scheduler scheduler;

/* Allocates all that steps need; what s points to must outlive it. */
scheduler *scheduler_new(const scheduler_options *o, stepper s);
void scheduler_start(scheduler *s); /* starts the engine thread */
/* Any thread. Takes a reference of its own on success. ERR_BUSY: queue full; ERR_UNAVAILABLE:
 * draining or unhealthy; ERR_INVALID: can never run (prompt longer than the context or the cache).
 */
NODISCARD status scheduler_submit(scheduler *s, request *r, error *err);
/* Any thread: a cancel or choice_done flag was set; it is obeyed before the next step. (A ring that
 * was full and is now drained is noticed without it, within a millisecond.) */
void scheduler_poke(scheduler *s);
/* Stop taking requests; true once nothing runs or waits (poll it). */
bool scheduler_drain(scheduler *s);
/* End everything in flight with FINISH_CANCEL and join the thread. */
void scheduler_stop(scheduler *s);
void scheduler_free(scheduler *s); /* stops first; takes NULL */
void scheduler_stats_get(scheduler *s, scheduler_stats *ret);
/* Any thread: false while the device is well; else what failed is in *ret. */
bool scheduler_failed(scheduler *s, error *ret);

#endif
