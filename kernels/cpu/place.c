/* Weights are read by all members in every step, and which member reads which panel differs from
 * product to product (by the grid, which depends on the number of rows). So no page has an owner
 * that it could lie next to, and first touch, which would put it where the loading thread happens
 * to run, is chance. Interleaved, every member gets the same mean of near and far. Not measured: no
 * machine of several nodes was at hand.
 *
 * The kernel's interface (mbind, get_mempolicy) is used without a library; where it is not there,
 * or forbidden in a container, everything is as without this file. */
#include "kernels/cpu/place.h"

#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/mem.h"

enum { NODES_MAX = 1024, MASK_WORDS = NODES_MAX / 64, MEMS_ALLOWED = 4, INTERLEAVE = 3 };
#define SYS_CPU "/sys/devices/system/cpu/cpu%d/"

typedef struct place {
    int cpu, node, sibling; /* sibling: how many of the core's CPUs have lower numbers */
} place;

/* How many numbers of a list like "0,64" or "0-1" are below cpu. */
static int n_below(const char *list, int cpu) {
    int n = 0;
    while (*list >= '0' && *list <= '9') {
        char *end;
        long a = strtol(list, &end, 10), b = a;
        if (*end == '-') b = strtol(end + 1, &end, 10);
        if (a < cpu) n += (int)(MIN(b, cpu - 1) - a + 1);
        list = *end == ',' ? end + 1 : end;
    }
    return n;
}

static int sibling_of(int cpu) {
    char path[96], list[256] = "";
    snprintf(path, sizeof path, SYS_CPU "topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    if (!fgets(list, sizeof list, f)) list[0] = 0;
    fclose(f);
    return n_below(list, cpu);
}

static int node_of(int cpu, int n_nodes) {
    char path[96];
    for (int node = 0; node < n_nodes; node++) {
        snprintf(path, sizeof path, SYS_CPU "node%d", cpu, node);
        if (access(path, F_OK) == 0) return node;
    }
    return 0;
}

static int by_place(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->sibling != y->sibling) return x->sibling - y->sibling;
    return x->node != y->node ? x->node - y->node : x->cpu - y->cpu;
}

bool place_cpus(int n, int *ret_cpus) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) < n) return false;
    place *all = mem_alloc((size_t)CPU_COUNT(&set) * sizeof *all);
    int n_all = 0, n_nodes = place_nodes() > 1 ? NODES_MAX : 1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &set))
            all[n_all++] = (place){cpu, node_of(cpu, n_nodes), sibling_of(cpu)};
    qsort(all, (size_t)n_all, sizeof *all, by_place);
    for (int i = 0; i < n; i++) ret_cpus[i] = all[i].cpu;
    mem_free(all);
    return true;
}

/* The nodes allowed; false: unknown. */
static bool nodes(unsigned long long *mask) {
    for (int i = 0; i < MASK_WORDS; i++) mask[i] = 0;
    return syscall(SYS_get_mempolicy, NULL, mask, (unsigned long)NODES_MAX, NULL, MEMS_ALLOWED) ==
           0;
}

static int count(const unsigned long long *mask) {
    int n = 0;
    for (int i = 0; i < MASK_WORDS; i++) n += __builtin_popcountll(mask[i]);
    return n;
}

int place_nodes(void) {
    unsigned long long mask[MASK_WORDS];
    return nodes(mask) ? MAX(1, count(mask)) : 1;
}

void place_interleave(void *p, size_t bytes) {
    unsigned long long mask[MASK_WORDS];
    if (!nodes(mask) || count(mask) < 2) return;
    (void)syscall(SYS_mbind, p, bytes, INTERLEAVE, mask, (unsigned long)NODES_MAX, 0);
}
