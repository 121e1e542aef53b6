/* Memory: small allocations that cannot fail (the process ends with a sentence when the system
 * has no memory left), large aligned ones that can, and checked size arithmetic. */
#ifndef ENGINE_BASE_MEM_H
#define ENGINE_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Never return NULL. mem_alloc is not zeroed, mem_calloc is. Free with mem_free (takes NULL). */
void *mem_alloc(size_t bytes);
void *mem_calloc(size_t n, size_t size);
void *mem_realloc(void *p, size_t bytes);
char *mem_strdup(const char *s);
void mem_free(void *p);

/* Large buffers, 64-byte to 2 MiB aligned, zeroed lazily by the kernel (mmap; transparent huge
 * pages advised from 2 MiB). NULL when the system refuses. `bytes` is given back to mem_unmap. */
void *mem_map(size_t bytes);
void mem_unmap(void *p, size_t bytes);
/* The same for a range of which perhaps only a part is ever used: the system does not count what
 * nobody has touched. */
void *mem_reserve(size_t bytes);

/* *ret = a op b; false on overflow. For counts and offsets that come from outside. */
static inline bool mul_ok(size_t a, size_t b, size_t *ret) {
    return !__builtin_mul_overflow(a, b, ret);
}
static inline bool add_ok(size_t a, size_t b, size_t *ret) {
    return !__builtin_add_overflow(a, b, ret);
}

#define ARRAY_LEN(a)   (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)      ((a) < (b) ? (a) : (b))
#define MAX(a, b)      ((a) > (b) ? (a) : (b))
#define CEIL_DIV(a, b) (((a) + (b)-1) / (b))
#define ALIGN_UP(a, b) (CEIL_DIV(a, b) * (b))

#endif
