/* Speculation: guesses at the tokens that follow, checked by the step that computes them. They cost
 * a step rows and give it tokens; how many of each is learned (drafts.c). No text depends on them:
 * a guess counts only where it is the token that is chosen anyway (batch.h). */
#ifndef SCHEDULER_DRAFTS_H
#define SCHEDULER_DRAFTS_H

#include <stdbool.h>

#include "scheduler/ngram.h"

typedef struct draft_model draft_model; /* draft_model.c */

/* Drafts are told apart by how many tokens agreed where they come from: 2, 3, 4, 5 to 7, 8 or more;
 * those of a model are a kind of their own. */
enum { DRAFT_LOOKUPS = 5, DRAFT_OF_MODEL = DRAFT_LOOKUPS, DRAFT_KINDS };
enum { DRAFTS_MOST = 64 }; /* of a sequence in a step */

/* How often such drafts were right: of `tried` that were reached, so many. Old ones fade. */
typedef struct draft_odds {
    double tried[DRAFT_KINDS], right[DRAFT_KINDS];
} draft_odds;

/* Of a sequence. */
typedef struct seq_drafts {
    ngram index; /* of its own text, prompt and output */
    draft_odds odds;
    int32_t kind;    /* of those in flight */
    int32_t n_read;  /* of its tokens the draft model has keys and values in the pages */
    bool is_foreign; /* holds ids that the draft model has not */
} seq_drafts;

/* Of the core. */
typedef struct drafting {
    int32_t most; /* drafts of a sequence in a step; 0: there are none */
    draft_odds odds;
    /* Those that seem not to pay are tried again from this plan on, and then after so many. */
    uint64_t try_plan;
    int32_t try_gap;
    draft_model *model; /* NULL: they are looked up */
} drafting;

#endif
