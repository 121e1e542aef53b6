/* Memory of the checks. Where ops reach ordinary memory, it ends at an unmapped page, so that
 * reading past it ends the program: on the CPU, and on an emulated device that says so
 * (SIMT_HOST_POINTERS, tests/simt). For a real device it is pinned memory that the device reaches.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/kernels/checkkern.h"

#define PAGE ((size_t)4096)

typedef struct block {
    char *at, *map;
    size_t bytes, map_bytes; /* map NULL: of the device */
    struct block *next;
} block;

static backend *device;         /* NULL: ops reach ordinary memory */
static size_t packed_align = 4; /* of the CPU's weights: they start with floats */
static block *blocks;

void fences_for(backend *b) {
    const char *reach = getenv("SIMT_HOST_POINTERS");
    bool ordinary = !b || b->host_memory || (reach && atoi(reach) == 1);
    device = ordinary ? NULL : b;
    packed_align = !b || b->host_memory ? 4 : 64;
}

static void fence(block *k, size_t bytes, size_t align) {
    bytes = ALIGN_UP(bytes, align);
    k->map_bytes = ALIGN_UP(bytes, PAGE) + PAGE;
    k->map = mmap(NULL, k->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (k->map == MAP_FAILED) abort();
    char *end = k->map + k->map_bytes - PAGE;
    if (mprotect(end, PAGE, PROT_NONE) != 0) abort();
    k->at = end - bytes;
}

static void *room(size_t bytes, size_t align) {
    block *k = mem_calloc(1, sizeof *k);
    k->bytes = bytes;
    k->next = blocks;
    blocks = k;
    if (!device) {
        fence(k, bytes, align);
        return k->at;
    }
    void *p;
    error err;
    if (device->v->host_alloc(device, bytes, &p, &err) != OK) {
        fprintf(stderr, "checkkern: %s\n", err.text);
        exit(2);
    }
    return k->at = p;
}

void *fenced_alloc(size_t bytes) {
    return room(bytes, 4);
}

void *packed_alloc(size_t bytes) {
    return room(bytes, packed_align);
}

void fenced_free(void *p) {
    for (block **at = &blocks; p && *at; at = &(*at)->next) {
        block *k = *at;
        if (k->at != p) continue;
        *at = k->next;
        if (k->map)
            munmap(k->map, k->map_bytes);
        else
            device->v->host_free(device, p, k->bytes);
        mem_free(k);
        return;
    }
}
