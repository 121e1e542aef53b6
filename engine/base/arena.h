/* Arena: allocations that die together (one per request, one per loaded file). Not thread-safe. */
#ifndef ENGINE_BASE_ARENA_H
#define ENGINE_BASE_ARENA_H

#include <stddef.h>

#include "engine/base/str.h"

typedef struct arena arena;

/* `bytes_max` bounds the sum of allocations (0 = none). */
arena *arena_new(size_t bytes_max);
void arena_free(arena *a); /* takes NULL */
/* 16-byte aligned, zeroed; NULL when bytes_max would be passed (never for lack of memory). */
void *arena_alloc(arena *a, size_t bytes);
/* n * size with overflow check; NULL as above. */
void *arena_array(arena *a, size_t n, size_t size);
/* NUL-terminated copy; NULL as above. */
char *arena_strdup(arena *a, str s);

#endif
