/* The prefix cache's keys: each full page of a sequence is named by a keyed 128-bit hash of its
 * parent's hash and its token ids, so that a hash names the whole text before it too. The key is
 * secret and new in every process: a client cannot construct two texts with one hash. The root
 * holds what else must agree before keys and values may be shared. */
#ifndef SCHEDULER_PREFIX_H
#define SCHEDULER_PREFIX_H

#include "scheduler/pages.h"

enum { PREFIX_PAGE_TOKENS_MAX = 1024 };

/* The parent of a text's first page. `salt` separates tenants; `kv_class` separates sequences
 * whose keys differ for the same tokens (see stepper.kv_class). */
hash128 prefix_root(hash_key key, const uint64_t salt[2], uint64_t kv_class);
/* The next page's hash; ids[page_tokens], page_tokens <= PREFIX_PAGE_TOKENS_MAX. */
hash128 prefix_next(hash_key key, hash128 parent, const int32_t *ids, int32_t page_tokens);

/* What the cache has of a text. */
typedef struct prefix_match {
    int32_t n;       /* leading pages that are ready, on the device or the host */
    int32_t n_free;  /* of them: nobody holds them now, so reviving them uses up free pages */
    int32_t n_host;  /* of them: only in a slot of the host, so they need a page */
    bool is_pending; /* the page after them is being computed by a running sequence */
} prefix_match;

/* Walk hashes[n_hashes] until the first that is not ready. slots: of the host (swap.h), or NULL. */
prefix_match prefix_find(const pages *ps, const pages *slots, const hash128 *hashes,
                         int32_t n_hashes);

#endif
