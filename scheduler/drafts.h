/* Speculation: guesses at the tokens that follow, checked by the step that computes them. They cost
 * a step rows and give it tokens; how many of each is learned (drafts.c). No text depends on them:
 * a guess counts only where it is the token that is chosen anyway (batch.h). */
#ifndef SCHEDULER_DRAFTS_H
#define SCHEDULER_DRAFTS_H

#include "scheduler/ngram.h"

/* Drafts are told apart by how many tokens agreed where they come from: 2, 3, 4, 5 to 7, 8 or more.
 */
enum { DRAFT_KINDS = 5 };

/* How often such drafts were right: of `tried` that were reached, so many. Old ones fade. */
typedef struct draft_odds {
    double tried[DRAFT_KINDS], right[DRAFT_KINDS];
} draft_odds;

/* Of a sequence. */
typedef struct seq_drafts {
    ngram index; /* of its own text, prompt and output */
    draft_odds odds;
    int32_t kind; /* of those in flight */
} seq_drafts;

/* Of the core. */
typedef struct drafting {
    int32_t most; /* drafts of a sequence in a step; 0: there are none */
    draft_odds odds;
    uint64_t try_plan; /* drafts that seem not to pay are tried again from this plan on */
} drafting;

#endif
