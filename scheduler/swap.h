/* The second tier of the prefix cache: pages in pinned memory of the host (stepper.n_host_pages).
 *
 * A page whose content may be found again is moved out when it is given to another holder, and
 * back when a sequence wants its text. Both are moves in the plan; here is which slot holds what,
 * and whether moving beats computing. One thread. */
#ifndef SCHEDULER_SWAP_H
#define SCHEDULER_SWAP_H

#include "engine/batch.h"
#include "scheduler/pages.h"

/* What one more token in a step costs: from how the time changes from one step to the next when the
 * number of tokens does. What steps of one size take, and how that drifts, does not matter. */
typedef struct token_cost {
    double n_tokens, step_us; /* of the last step */
    double xx, xy;            /* sums over changes, recent ones counting most */
    int32_t n;                /* changes so far */
    double us;                /* per token, as last known; 0: not yet */
} token_cost;

/* A step of n_tokens took us microseconds. */
void token_cost_add(token_cost *t, double n_tokens, double us);

/* Out and back against computing page_tokens tokens at token_us each. What is not known yet (0)
 * counts in favour of moving. */
bool swap_pays(double page_us, double token_us, int32_t page_tokens);

typedef struct swap {
    pages slots; /* of the host; no holders between plans. n == 0: there is no second tier */
    token_cost cost;
    bool out, in;      /* do they pay? For the plan under way */
    int32_t n_taken;   /* pages that it took */
    int32_t n_rate;    /* that plans of late took at most */
    struct seq *fetch; /* waits for its first n_fetch pages to be moved in; NULL: none does */
    int32_t n_fetch;
    bool is_over; /* planning is: moves are beside the step */
    uint64_t n_out, n_aside, n_in;
} swap;

#endif
