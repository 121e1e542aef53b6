/* The adapters that a server knows by name, and who uses them.
 *
 * An entry holds one reference while it is listed, one for each exchange and each request that
 * names it. Unloading takes it off the list at once (nobody can ask for it any more); the engine
 * lets go of it with the last reference, so a running answer is never cut. Any thread. */
#ifndef SERVER_ADAPTERS_H
#define SERVER_ADAPTERS_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/batch.h"

typedef struct adapters adapters;

typedef struct adapter_entry {
    char *name;
    char *dir; /* last component of its path: what clients may see of it */
    int64_t created;
    adapter_info info;
    /* private */
    adapters *list;
    bool listed;
    int32_t refs;
} adapter_entry;

adapters *adapters_new(adapter_host host);
void adapters_free(adapters *a); /* nothing may use it any more; takes NULL */

/* Read a directory and list it under `name`; takes as long as reading does. ERR_INVALID: the name
 * is taken or no name; else what the engine says. */
NODISCARD status adapters_load(adapters *a, str name, const char *path, error *err);
/* ERR_NOT_FOUND: no such name. */
NODISCARD status adapters_unload(adapters *a, str name, error *err);

/* The listed entry of that name with a reference, or NULL. */
adapter_entry *adapters_take(adapters *a, str name);
adapter_entry *adapter_entry_ref(adapter_entry *e);
void adapter_entry_release(void *e); /* an adapter_entry; takes NULL */

/* Calls each for every listed entry, in the order of loading, under the lock: must be quick. */
void adapters_each(adapters *a, void (*each)(void *ctx, const adapter_entry *e), void *ctx);
/* Names of the ids whose bit (id-1) is set, separated by commas. */
void adapters_names(adapters *a, const uint64_t *bits, strbuf *out);
int32_t adapters_max(const adapters *a);

#endif
