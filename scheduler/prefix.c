/* Tokens are not compared on a hit: with a secret key a collision of 128 bits cannot be
 * constructed, and by chance is out of reach (2^64 pages for even odds).
 *
 * Invariant: equal hashes mean equal salt, class and token ids from position 0. */
#include "scheduler/prefix.h"

#include <string.h>

#include "engine/base/check.h"

hash128 prefix_root(hash_key key, const uint64_t salt[2], uint64_t kv_class) {
    uint64_t v[3] = {salt[0], salt[1], kv_class};
    return hash128_of(key, v, sizeof v);
}

hash128 prefix_next(hash_key key, hash128 parent, const int32_t *ids, int32_t page_tokens) {
    unsigned char buf[sizeof parent + PREFIX_PAGE_TOKENS_MAX * sizeof *ids];
    CHECK(page_tokens <= PREFIX_PAGE_TOKENS_MAX);
    size_t n = (size_t)page_tokens * sizeof *ids;
    memcpy(buf, &parent, sizeof parent);
    memcpy(buf + sizeof parent, ids, n);
    return hash128_of(key, buf, sizeof parent + n);
}

prefix_match prefix_find(const pages *ps, const pages *slots, const hash128 *hashes,
                         int32_t n_hashes) {
    prefix_match m = {0};
    for (; m.n < n_hashes; m.n++) {
        int32_t id = pages_find(ps, hashes[m.n]);
        if (id < 0) {
            if (!slots || pages_find(slots, hashes[m.n]) < 0) break;
            m.n_host++;
            continue;
        }
        if (ps->p[id].state == PAGE_PENDING) {
            m.is_pending = true;
            break;
        }
        m.n_free += ps->p[id].refs == 0;
    }
    return m;
}
