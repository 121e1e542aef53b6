/* Private to scheduler/: the records behind a request, and the core that owns them.
 *
 *   group   one request inside the scheduler          seq   one choice of it
 *   HELD    waits for the lead choice to compute the prompt
 *   WAITING in the wait queue, holds no pages          RUNNING holds pages, may be planned
 *   DONE    its final event is pushed, holds nothing
 *
 * Steps in flight: n_known and n_computed are what the collected steps gave; n_unseen tokens more
 * are chosen, and n_launched are computed, once those in flight are done. A sequence that is thrown
 * back or ends meanwhile gives its pages away at once, since steps take effect in order (batch.h);
 * only its records stay until nothing in flight names them.
 *
 * Of drafts (drafts.c) one more token is chosen than are right: n_unseen counts all of them until
 * the results are there, and n_launched too.
 *
 * Bounds that always hold for a seq: n_computed <= n_launched <= n_known + n_unseen <= g->len_max;
 * n_launched <= n_pages * page_tokens; n_hashed * page_tokens <= n_known. */
#ifndef SCHEDULER_STATE_H
#define SCHEDULER_STATE_H

#include "conf/limits.h"
#include "engine/base/vec.h"
#include "scheduler/drafts.h"
#include "scheduler/pace.h"
#include "scheduler/pages.h"
#include "scheduler/prefix.h"
#include "scheduler/scheduler.h"
#include "scheduler/swap.h"
#include "scheduler/waitq.h"

typedef enum seq_state { SEQ_HELD, SEQ_WAITING, SEQ_RUNNING, SEQ_DONE } seq_state;

typedef struct group group;

typedef struct seq {
    group *g;
    int32_t choice;
    uint8_t state;        /* seq_state */
    bool is_returning;    /* was preempted: waits in front of what never ran */
    int32_t n_known;      /* prompt and generated tokens */
    int32_t n_computed;   /* of them: keys and values are in the pages */
    int32_t n_unseen;     /* tokens that steps in flight choose */
    int32_t n_launched;   /* n_computed, and what steps in flight compute */
    int32_t n_flight;     /* entries in steps in flight */
    uint64_t chosen_by;   /* the step that chooses the last unseen token */
    int32_t chosen_at;    /* its entry there */
    int32_t n_pages;      /* held */
    int32_t n_hashed;     /* full pages whose hash is known; hashes outlive the pages */
    int32_t n_deferred;   /* steps it let pass because another computes its prefix */
    int32_t n_stuck;      /* of them: since that prefix last grew */
    int32_t n_wait;       /* pages of that prefix that were ready when last looked at */
    int32_t blocked_free; /* pages that were free when it last did not fit; -1: it was not tried */
    uint64_t retry_plan;  /* look again at the latest at this plan */
    int32_t n_fresh;      /* tokens that it had to compute when it was admitted */
    int32_t n_computed_max; /* most ever computed: below it is recomputation */
    seq_drafts drafts;
    int32_t *ids;            /* [g->len_max] */
    int32_t *pages;          /* [g->n_pages_max] */
    hash128 *hashes;         /* [g->n_pages_max] */
    struct seq *prev, *next; /* wait queue */
} seq;

struct group {
    request *r;
    group *prev, *next; /* all groups of the core */
    group *ready_next;  /* groups with news */
    bool is_ready, is_ended, is_started;
    bool has_prompt;             /* the lead computed it once: the other choices may start */
    uint64_t order;              /* of arrival */
    int32_t lead;                /* the choice that computes the prompt */
    int32_t n_open;              /* choices that are not done */
    int32_t len_max;             /* most tokens of one choice, what fits included */
    int32_t n_pages_max;         /* most pages of one choice */
    int32_t rope_len;            /* batch_seq.max_len */
    int32_t ring_cap, ring_room; /* room: a lower bound, slots promised to the plan deducted */
    int32_t ring_promised;       /* most tokens of steps in flight and of the plan under way */
    int32_t n_flight;            /* entries in steps in flight */
    uint64_t stalled_us;         /* when the ring was first found full; 0: it is not */
    hash128 root;
    double charge; /* virtual time per token: 1 / weight */
    size_t bytes;  /* of this block */
    seq seqs[];    /* [r->n] */
};

/* A step from its plan to its results. */
typedef struct flight {
    batch_plan plan;
    seq **planned; /* [max_running], beside plan.seqs */
    uint64_t launch_us;
} flight;

typedef struct core {
    scheduler_options o; /* clamped to what the stepper can do */
    stepper step;
    hash_key key;
    pages pages;
    swap swap;
    pace pace;
    drafting drafting;
    waitq wait;
    seq **running; /* [max_running], by (priority, order, choice) */
    int32_t n_running;
    int64_t n_reserved; /* pages that running sequences may still take (ADMIT_RESERVE) */

    double *vtime;     /* [n_tenants] tokens served / weight */
    int32_t *n_active; /* [n_tenants] groups in flight */
    int32_t adapter_runs[LIMIT_ADAPTERS], adapter_waits[LIMIT_ADAPTERS]; /* groups; of id-1 */
    int32_t n_tenants;
    double vclock; /* virtual time of the tenant that was admitted last */

    flight *ring;        /* [depth]: step k is in ring[k % depth] until it is collected */
    uint64_t n_launch;   /* steps launched: the number of the next */
    int32_t n_flight;    /* of them: not collected, the last ones */
    flight *last;        /* planned last: the plan under way */
    uint64_t n_plans;    /* made, empty ones too */
    uint64_t collect_us; /* when a step was collected last */
    step_result result;
    int32_t budget;     /* tokens of the plan under way: <= o.token_budget */
    bool plan_stalled;  /* some sequence was left out because its ring is full */
    bool plan_deferred; /* some sequence lets this step pass */

    group *groups;
    int32_t n_groups;
    group *ready_head, *ready_tail;
    request **ready; /* [READY_MAX] */
    token_event *event;
    uint64_t now_us;     /* of the call under way */
    uint64_t due_us;     /* next time that a deadline or a stall may be up; UINT64_MAX: none */
    uint64_t n_order;    /* groups ever added */
    uint64_t n_unqueued; /* groups that started or ended before: left the queue */
    uint64_t n_ended;    /* groups gone */
    scheduler_stats stats;
    error failure; /* why it is not healthy */
} core;

enum { READY_MAX = 1024 };

/* --- group.c: one request's records --- */
status group_new(const core *c, request *r, group **ret, error *err);
void group_free(group *g);
/* An ended group that has been told of and that nothing in flight names: its end. */
void group_retire(core *c, group *g);
/* Slots of its ring that may be promised: a lower bound, exact (asked from the ring) when it is
 * <= at_most. */
int32_t group_room(group *g, int32_t at_most);
/* Room for one more token, with a slot left over for the end of every open choice. */
bool group_has_room(group *g);
/* Put it on the list of the next on_ready call. */
void group_news(core *c, group *g);
/* Remember the first failure. */
void group_error(group *g, status code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* --- seq.c: transitions of one sequence --- */
int32_t seq_cmp(const seq *a, const seq *b); /* priority, order, choice: <0 a goes first */
static inline int32_t pages_for(const core *c, int32_t n_tokens) {
    return CEIL_DIV(n_tokens, c->step.page_tokens);
}
void seq_run(core *c, seq *s);     /* WAITING -> RUNNING */
void seq_preempt(core *c, seq *s); /* RUNNING -> WAITING, in front */
bool seq_grow(core *c, seq *s);    /* one more page; false: none left */
void seq_shrink(core *c, seq *s);  /* give back the pages behind what it knows */
/* Any state but DONE -> DONE: everything is given back and the final event pushed, with a token if
 * it is >= 0 (out: its logprobs). May end the group. */
void seq_end(core *c, seq *s, finish_reason why, const sample_out *out);
/* Push a token event without an end. */
void seq_emit(core *c, seq *s, const sample_out *out);
/* Nobody may share its pages any more: what was computed is suspect. */
void seq_forget(core *c, seq *s);
/* Keys and values of the first n tokens are in the pages now: make full pages shareable. */
void seq_computed(core *c, seq *s, int32_t n);
/* Started groups and those that wait to start, by adapter: `by` is 1 or -1. */
void adapter_count(core *c, const group *g, bool started, int32_t by);
/* The lead has the prompt (or cannot get it): let the other choices start. */
void group_release(core *c, group *g);
void group_end(core *c, group *g, finish_reason why);

/* --- swap.c: the second tier; all do nothing where there is none --- */
void swap_init(core *c);
void swap_done(core *c);
/* A plan begins: do moves pay? */
void swap_plan(core *c);
/* The plan's step is done and took us microseconds. */
void swap_stepped(core *c, batch_plan *p, uint64_t us);
/* Moving n_host pages in would hold up those that run: s, whose first n pages are known, lets the
 * step pass, and the pages come beside it. False: it need not wait, or another does already. */
bool swap_fetch(core *c, seq *s, int32_t n, int32_t n_host);
/* A plan ends: what was fetched, and what the next ones will evict, is moved beside its step. */
void swap_ahead(core *c);
/* pages_take, but what it evicts may be moved out. */
int32_t swap_take(core *c);
/* Give s, which holds no pages, those of its first n hashes, which prefix_find has just found; free
 * pages for those on the host are there. */
void swap_share(core *c, seq *s, int32_t n);
/* These texts are suspect: no slot may be found by them. */
void swap_forget(core *c, const hash128 *hashes, int32_t n);

/* --- drafts.c: guesses at tokens; all do nothing where there are to be none --- */
void drafts_init(core *c, int32_t most, const stepper *model);
void drafts_done(core *c);
/* Give entries of the plan, which is complete but for them, drafts; not while steps are in flight.
 */
void drafts_plan(core *c);
/* Were the steps in flight collected, sequences would likely get drafts. */
bool drafts_hoped(core *c);
/* Of n drafts of s n_right were right. */
void drafts_learn(core *c, seq *s, int32_t n, int32_t n_right);

/* What the ways to guess share. How likely the next draft is right if those before it were. */
double draft_chance(const core *c, const seq *s, int32_t kind);
/* What a plan holds, and what a step takes, also one larger than any so far. */
pace_step draft_load(const batch_plan *plan);
double draft_step_us(const core *c, pace_step step);
#define DRAFT_GAIN 1.01 /* what a gain must be to be one */
/* Room for drafts of s, whose entry is made, without pages. */
int32_t draft_room(const core *c, const seq *s);
/* The pages of n drafts, as far as there are some to spare; for how many they are. */
int32_t draft_pages(core *c, seq *s, int32_t n);
/* The entry of s gets n, ids[n_known ..]. */
void draft_add(core *c, seq *s, batch_seq *b, int32_t n, int32_t kind);

/* --- draft_model.c: those of a second model; where there is none only run, enter and page_taken
 * may be called, and do nothing --- */
void draft_model_init(core *c, const stepper *by);
void draft_model_done(core *c);
void draft_model_enter(core *c); /* stepper.enter */
void draft_model_plan(core *c);
bool draft_model_hoped(const core *c);
/* Between the plan and its launch: let the model write the drafts. A failure is the device's. */
NODISCARD status draft_model_run(core *c, error *err);
void draft_model_learn(core *c, seq *s, int32_t n, int32_t n_right);
/* The page gets another holder, who will write to it. */
void draft_model_page_taken(core *c, int32_t id);

/* --- plan.c, apply.c: the two halves of a step --- */
void plan_build(core *c);               /* state -> c->last; takes pages, may preempt */
void apply_results(core *c, flight *f); /* f, c->result -> tokens, events, ends */
void apply_nothing(core *c, flight *f); /* f has no results: take back what it promised */

#endif
