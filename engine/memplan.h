/* The memory plan: what engine_open will allocate, decided and printed before it does. */
#ifndef ENGINE_MEMPLAN_H
#define ENGINE_MEMPLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct memplan {
    /* in: what is fixed */
    size_t weights, staging;                       /* staging is freed after loading */
    size_t activations_fixed, activations_per_len; /* + per_len * max_model_len (rope tables) */
    size_t other;                                  /* set aside: program, tokenizer, requests */
    size_t page_bytes; /* of all that a page holds, draft_page_bytes included */
    int32_t page_tokens;
    size_t draft_weights, draft_page_bytes; /* of a draft model; 0: there is none */
    const char *kv_type;                    /* of what the pages hold, for the table; static */
    int32_t ctx_max;                        /* what the model can do */
    int32_t max_model_len;                  /* wanted; 0: ctx_max, reduced to what fits */
    int32_t max_seqs;
    size_t kv_wanted;       /* 0: chosen */
    double kv_fraction;     /* with kv_wanted 0: part of what is left; 0: chosen */
    size_t available;       /* free for this process; SIZE_MAX: unknown */
    const char *limited_by; /* "free memory" or "the control group's limit" */
    /* the second tier of the KV cache, in the host's memory: swap_wanted bytes (0: none; SIZE_MAX:
     * chosen) of the host_available that are free there, or, with swap_why, none for that reason */
    size_t swap_wanted, host_available;
    const char *swap_why;
    /* out */
    int32_t len; /* most tokens of one sequence */
    int32_t n_pages;
    size_t kv, activations, total; /* total: the largest sum at any time */
    int32_t n_host_pages;
    size_t swap; /* not part of total: it is other memory */
} memplan;

/* Memory that this process may still take: MemAvailable, less where a control group allows less. */
void memplan_available(size_t *ret_bytes, const char **ret_limited_by);
/* Fill the out fields. ERR_NOMEM with the numbers when it does not fit, ERR_INVALID for a second
 * tier of less than a page; the out fields are then what would be needed. */
NODISCARD status memplan_decide(memplan *m, error *err);
/* A table for people. */
void memplan_print(const memplan *m, strbuf *out);
/* "1.5 GiB" */
void memplan_size(size_t bytes, char *out, size_t n);

#endif
