/* Small allocations end the process on failure: with overcommit they practically never fail, and
 * no caller could do anything sensible. Large ones go through mmap and may be refused. */
#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

static void *must(void *p, size_t bytes) {
    if (p) return p;
    fprintf(stderr, "pagoda: out of memory (%zu bytes)\n", bytes);
    abort();
}

void *mem_alloc(size_t bytes) {
    return must(malloc(bytes ? bytes : 1), bytes);
}

void *mem_calloc(size_t n, size_t size) {
    return must(calloc(n ? n : 1, size ? size : 1), size);
}

void *mem_realloc(void *p, size_t bytes) {
    return must(realloc(p, bytes ? bytes : 1), bytes);
}

char *mem_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(mem_alloc(n), s, n);
}

void mem_free(void *p) {
    free(p);
}

static void *map(size_t bytes, int flags) {
    size_t n = bytes ? bytes : 1;
    size_t pad = n >= HUGE_PAGE ? HUGE_PAGE : 0;
    if (n + pad < n) return NULL;
    char *p =
        mmap(NULL, n + pad, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (!pad) return p;
    size_t skip = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    size_t page = 4096, end = ALIGN_UP(n, page);
    if (skip) munmap(p, skip);
    p += skip;
    if (pad > skip && n + pad - skip > end) munmap(p + end, n + pad - skip - end);
    madvise(p, n, MADV_HUGEPAGE);
    return p;
}

void *mem_map(size_t bytes) {
    return map(bytes, 0);
}

void *mem_reserve(size_t bytes) {
    return map(bytes, MAP_NORESERVE);
}

void mem_unmap(void *p, size_t bytes) {
    if (p) munmap(p, bytes ? bytes : 1);
}
