/* Hash map from byte strings to uint64 values (indices or pointers). Keys are borrowed: they must
 * outlive the map. Open addressing, no deletion (nothing that uses it deletes). */
#ifndef ENGINE_BASE_MAP_H
#define ENGINE_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"

typedef struct map_slot {
    str key; /* p == NULL: empty */
    uint64_t value, hash;
} map_slot;

/* {0} is a valid empty map. */
typedef struct map {
    map_slot *slots;
    size_t n, cap; /* cap is a power of two or 0 */
} map;

void map_done(map *m);
void map_reserve(map *m, size_t n);
/* Insert or overwrite; true if the key was new. */
bool map_put(map *m, str key, uint64_t value);
bool map_get(const map *m, str key, uint64_t *ret_value);

#endif
