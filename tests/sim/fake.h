/* A fake engine that cannot be fooled: it keeps, for every slot of every page, a hash of all tokens
 * up to and including the one stored there, as a real cache keeps keys and values that depend on
 * all tokens before. Reading through a page table and finding anything but the sequence's own
 * history is an error of the scheduler: a wrong prefix hit, a missing copy, a page given away too
 * early. Steps in flight are computed in order, as late or as early as `eager` says; what a plan
 * points to is read then. The next token is a function of that history, the seed and the choice, so
 * what a request must answer is known without running it. */
#ifndef TESTS_SIM_FAKE_H
#define TESTS_SIM_FAKE_H

#include "engine/batch.h"

enum { FAKE_DEPTH_MAX = 3 };

typedef struct fake {
    int32_t page_tokens, n_pages, vocab;
    int32_t class_len; /* > 0: longer sequences have other keys and values (stepper.kv_class) */
    bool whole_prompt; /* what is stored depends on all of the prompt, at every position */
    uint64_t *slots;   /* [n_pages * page_tokens] */
    int32_t n_host_pages;
    float page_move_us;                       /* what it says a move takes */
    uint64_t *host_slots;                     /* [n_host_pages * page_tokens] */
    int32_t (*refs)(void *ctx, int32_t page); /* NULL: writes are not checked */
    void *ctx;
    int32_t depth;                /* stepper.depth; 0: 1 */
    int32_t max_tokens, max_seqs; /* of a step */
    /* Step k is in ring[k % depth]: its plan until it is collected; what it gave until step
     * k + depth is computed. */
    struct fake_step {
        const batch_plan *plan;
        status st; /* of the step, of each sequence, and what they chose */
        status *seq_status;
        sample_out *out, *more;
        int32_t *n_right;
    } ring[FAKE_DEPTH_MAX];
    uint64_t n_launched, n_computed, n_collected;
    bool is_lost;               /* a fault was drawn: nothing works any more */
    bool (*eager)(void *ctx);   /* asked at each launch: compute all that is in flight now, or not
                                 * before it is collected; NULL: never */
    uint64_t n_drafts, n_right; /* of all steps */
    uint64_t n_steps, n_tokens, n_copies, n_out, n_aside, n_in, n_fetched;
    uint64_t trace;                                   /* hash of every plan so far */
    void (*spend)(void *ctx, const batch_plan *plan); /* what a step takes; NULL: nothing */
    /* Faults: asked at each launch, before each step, for each sequence; may be NULL. */
    bool (*fail_launch)(void *ctx);
    bool (*fail_device)(void *ctx);
    bool (*fail_seq)(void *ctx);
    char problem[256]; /* first thing found wrong; "" : none */
} fake;

void fake_init(fake *f, int32_t page_tokens, int32_t n_pages, int32_t vocab);
/* Give it a second tier, before fake_stepper. */
void fake_host(fake *f, int32_t n_host_pages, float page_move_us);
void fake_done(fake *f);
stepper fake_stepper(fake *f, int32_t max_tokens, int32_t max_seqs, int32_t max_model_len);

/* The empty history of a sequence that may get max_len long, with an adapter (0: none). */
uint64_t fake_start(const fake *f, const int32_t *prompt, int32_t n_prompt, int32_t max_len,
                    int32_t adapter);
/* History after one more token. */
uint64_t fake_history(uint64_t before, int32_t token);
/* The token that follows a history. */
int32_t fake_next(const fake *f, uint64_t history, const sample_params *p, int32_t choice);

#endif
