/* API keys: who may call, which models, how much.
 *
 * A key file has one key a line (blank lines and lines that begin with '#' are skipped), or is a
 * JSON array of objects
 *
 *     {"name": "team-a", "key": "sk-...", "weight": 2, "models": ["demo"],
 *      "max_in_flight": 8, "rpm": 600, "tpm": 200000, "admin": false}
 *
 * of which only "key" is required ("sha256", 64 hexadecimal digits, may stand in its place); 0 or
 * absent means no limit. Keys are kept as SHA-256 only and compared in constant time.
 *
 * A table is immutable but for its counters and shared by reference: a reload publishes a new one,
 * requests go on with the one they began with. All functions may be called from any thread. */
#ifndef SERVER_KEYS_H
#define SERVER_KEYS_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct server server;
typedef struct keys keys;
typedef struct key key;

typedef struct key_use {
    const char *name;
    uint64_t n_requests, prompt_tokens, generation_tokens;
} key_use;

/* From plain keys and/or a file (NULL: none). No key at all gives *ret = NULL: no authentication.
 * Errors name the file and the line or entry. */
NODISCARD status keys_load(const char *const *plain, int n_plain, const char *path, keys **ret,
                           error *err);
/* A freshly loaded table takes over from `old` (may be NULL) what its file does not say: the plain
 * keys, and the counters and buckets of keys that both have. Requests in flight keep counting
 * against the table that they began with. */
void keys_inherit(keys *fresh, keys *old);
keys *keys_ref(keys *k);
void keys_release(keys *k);    /* takes NULL */
keys *keys_acquire(server *s); /* the current table with a reference, or NULL */

/* `authorization` is the header's value or NULL. ERR_UNAUTHORIZED for anything but "Bearer KEY"
 * with a known key. *ret lives as long as the table. */
NODISCARD status keys_check(keys *k, const char *authorization, key **ret, error *err);
int keys_count(const keys *k);
key *keys_at(keys *k, int i);

bool key_allows(const key *k, str model);
bool key_is_admin(const key *k); /* --api-key, or "admin": true in the file */
int key_index(const key *k);
const char *key_name(const key *k);
float key_weight(const key *k);
/* What separates the prefix cache of this key from others'. */
void key_salt(const key *k, uint64_t ret[2]);
/* Count a generation in; ERR_RATE names the limit that it meets and *ret_retry_s says when to try
 * again. Each success is paired with key_leave. */
NODISCARD status key_enter(key *k, int32_t n_prompt, uint64_t now_us, int *ret_retry_s, error *err);
void key_leave(key *k, int32_t n_generated);
void key_use_get(key *k, key_use *ret);
/* x-ratelimit-*, as OpenAI's. */
typedef void (*header_fn)(void *ctx, const char *name, const char *value);
void keys_limit_headers(key *k, header_fn add, void *ctx);

#endif
