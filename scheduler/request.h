/* A request: made by the front end, carried by the scheduler, answered through its event ring.
 *
 * Two holders (the front end and the scheduler) each have a reference. Fields say who writes them;
 * everything under "front end, before submit" is read-only afterwards. */
#ifndef SCHEDULER_REQUEST_H
#define SCHEDULER_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/queue.h"
#include "engine/batch.h"

typedef enum finish_reason {
    FINISH_NONE,   /* still going */
    FINISH_STOP,   /* a stop id was generated, or the front end saw a stop string */
    FINISH_LENGTH, /* max_tokens or the context is used up */
    FINISH_CANCEL, /* client left, shutdown; deadline, stalled reader: then request.err says so */
    FINISH_ERROR,  /* see request.err */
} finish_reason;

/* One entry of the ring: a generated token, the end of a choice, or both. The ring's element size
 * is token_event_bytes(n_logprobs); `top` has n_top entries. Every choice gets exactly one event
 * with finish != FINISH_NONE, its last. A stop id is delivered as a token too (the front end hides
 * it). */
typedef struct token_event {
    int32_t choice;
    int32_t token; /* -1: no token, only the finish */
    finish_reason finish;
    float logprob;
    int32_t n_top;
    token_logprob top[];
} token_event;

static inline size_t token_event_bytes(int32_t n_logprobs) {
    return sizeof(token_event) + (size_t)(n_logprobs > 0 ? n_logprobs : 0) * sizeof(token_logprob);
}

/* Times in monotonic microseconds, 0 = did not happen. Written by the engine thread, to be read
 * after a final event. */
typedef struct request_times {
    uint64_t scheduled_us;   /* first time in a plan */
    uint64_t first_token_us; /* first generated token */
    uint64_t finished_us;    /* last choice ended */
    int32_t n_cached;        /* prompt tokens taken from the prefix cache */
    int32_t n_preempted;     /* times thrown back */
    int32_t n_drafted;       /* tokens guessed, of all choices */
    int32_t n_accepted;      /* of them: right */
} request_times;

typedef struct request {
    /* front end, before submit */
    uint64_t id;           /* unique, ascending */
    arena *mem;            /* everything below lives here; freed with the request */
    const int32_t *prompt; /* [n_prompt], >= 1 */
    int32_t n_prompt;
    int32_t max_tokens; /* >= 0; 0 with prompt logprobs only (echo) */
    int32_t n;          /* choices, >= 1 */
    sample_params params;
    bool ignore_eos;        /* params.stop_ids then do not end it */
    int32_t priority;       /* lower runs first */
    int32_t tenant;         /* index of the API key, 0 without keys */
    float tenant_weight;    /* fair share, > 0 */
    uint64_t cache_salt[2]; /* part of every page hash: tenants with other salts share nothing */
    uint64_t arrival_us;
    uint64_t deadline_us;   /* 0: none; not finished by then -> cancelled with ERR_TIMEOUT */
    int32_t ring_max;       /* most events kept for the reader, 0: 4096; never under 2n */
    bool stream;            /* wake the reader at every step, not only at the end */
    sample_out *prompt_out; /* [n_prompt] when prompt logprobs are wanted, else NULL; filled
                             * before the first event is pushed, never touched after it */
    float *pool_out; /* [hidden] when an embedding is wanted (max_tokens 0), else NULL; filled
                      * before the first event is pushed */
    pool_kind pool;
    void *owner;       /* the front end's own */
    int32_t adapter;   /* batch_seq.adapter: 0 = the base model */
    int32_t n_virtual; /* leading ids of the prompt that are the adapter's virtual tokens */
    /* Called when the last reference goes, on that thread: an adapter stays loaded until then. */
    void (*on_free)(void *ctx);
    void *on_free_ctx;

    /* front end, at any time */
    _Atomic bool cancel;          /* the whole request: client gone */
    _Atomic uint8_t *choice_done; /* [n]: 1 = this choice needs no more (stop string) */

    /* engine thread writes, front end reads after the final event (or by the ring's order) */
    spsc *events;
    request_times times;
    error err; /* the first failure; code OK when there was none */

    _Atomic int32_t refs;
    void *sched; /* the scheduler's private state */
} request;

/* One reference; fields zero but for defaults (n 1, params neutral: greedy, no penalties).
 * The caller fills it in, then request_arm() makes the ring. */
request *request_new(size_t arena_bytes_max);
/* Make the event ring and choice flags from n, max_tokens and params.n_logprobs. */
void request_arm(request *r);
/* Slots of the event ring: n * (max_tokens + 1), bounded, at least 2n. */
int32_t request_ring_cap(const request *r);
request *request_ref(request *r);
void request_unref(request *r); /* takes NULL; frees with the last one */

#endif
