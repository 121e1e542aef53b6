/* A list of chunks, each twice the last up to 1 MiB; large requests get a chunk of their own. */
#include "engine/base/arena.h"

#include <string.h>

#include "engine/base/mem.h"

/* A request and its call have an arena each, so the first chunk is what thousands of open streams
 * hold: a short prompt fits. */
enum { CHUNK_FIRST = 1024, CHUNK_MAX = 1 << 20 };

typedef struct chunk {
    struct chunk *next;
    size_t cap, used;
    _Alignas(16) unsigned char data[];
} chunk;

struct arena {
    chunk *head;
    size_t bytes, bytes_max, chunk_bytes;
};

arena *arena_new(size_t bytes_max) {
    arena *a = mem_calloc(1, sizeof *a);
    a->bytes_max = bytes_max;
    a->chunk_bytes = CHUNK_FIRST;
    return a;
}

void arena_free(arena *a) {
    if (!a) return;
    for (chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        mem_free(c);
    }
    mem_free(a);
}

void *arena_alloc(arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    size_t n = ALIGN_UP(bytes ? bytes : 1, (size_t)16);
    if (a->bytes_max && (n > a->bytes_max || a->bytes > a->bytes_max - n)) return NULL;
    if (!a->head || a->head->cap - a->head->used < n) {
        size_t cap = MAX(a->chunk_bytes, n);
        chunk *c = mem_alloc(sizeof *c + cap);
        *c = (chunk){.next = a->head, .cap = cap};
        a->head = c;
        a->chunk_bytes = MIN(a->chunk_bytes * 2, (size_t)CHUNK_MAX);
    }
    void *p = a->head->data + a->head->used;
    a->head->used += n;
    a->bytes += n;
    return memset(p, 0, n);
}

void *arena_array(arena *a, size_t n, size_t size) {
    size_t bytes;
    return mul_ok(n, size, &bytes) ? arena_alloc(a, bytes) : NULL;
}

char *arena_strdup(arena *a, str s) {
    char *p = arena_alloc(a, s.n + 1);
    if (p && s.n) memcpy(p, s.p, s.n);
    return p;
}
