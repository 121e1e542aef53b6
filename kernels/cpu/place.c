/* Weights are read by all members in every step. A product of few rows, which waits for memory, is
 * divided by panels: member i of n has the i-th n-th of them (team_range), and where rows are cut
 * as well, neighbours share the panels of their ranges taken together (gemm_share). So a panel has
 * an owner up to its neighbours, and its pages come from the owner's node. First touch would put
 * them where the loading thread happens to run, hence a rule for the range (mbind), given before
 * anything is loaded. What members share in other ways (pages of keys and values, lists of experts,
 * tables) is interleaved: every member gets the same mean of near and far.
 *
 * Pages of 2 MiB stay whole: a stream of weights from 4 KiB pages is a sixth slower, near or not.
 * The border between two nodes' panels is moved to the next page, so a matrix of a few pages for
 * each node is left interleaved. Not measured: no machine of several nodes was at hand.
 *
 * The kernel's interface (mbind, get_mempolicy) is used without a library; where it is not there,
 * or forbidden in a container, everything is as without this file. */
#include "kernels/cpu/place.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "kernels/cpu/team.h"

enum { NODES_MAX = 1024, MASK_WORDS = NODES_MAX / 64, LINE = 4096 };
enum { MEMS_ALLOWED = 4, PREFERRED = 1, INTERLEAVE = 3 }; /* of the kernel's interface */
#define HUGE_PAGE  ((size_t)2 << 20)
#define SMALL_PAGE ((size_t)4096)
#define SPAN_LEAST (2 * HUGE_PAGE) /* of a node, or borders would be moved by half of it */

typedef struct place {
    int cpu, node, sibling; /* sibling: how many of the core's CPUs have lower numbers */
} place;

/* --- what the kernel tells --- */

/* A file of one list like "0-3,8"; empty where there is none. */
static void read_list(const char *path, char list[LINE]) {
    FILE *f = fopen(path, "re");
    list[0] = 0;
    if (!f) return;
    if (!fgets(list, LINE, f)) list[0] = 0;
    fclose(f);
}

/* Takes the first range off a list; false: no more, or it is not such a list. */
static bool next_range(const char **list, int *ret_from, int *ret_to) {
    char *end;
    if (**list < '0' || **list > '9') return false;
    long from = strtol(*list, &end, 10), to = from;
    if (*end == '-') to = strtol(end + 1, &end, 10);
    *list = *end == ',' ? end + 1 : end;
    *ret_from = (int)MIN(from, INT32_MAX - 1);
    *ret_to = (int)MIN(to, INT32_MAX - 1);
    return from >= 0 && to >= from;
}

static int sibling_of(const char *sysfs, int cpu) {
    char path[256], text[LINE];
    const char *list = text;
    snprintf(path, sizeof path, "%s/devices/system/cpu/cpu%d/topology/thread_siblings_list", sysfs,
             cpu);
    read_list(path, text);
    int n = 0, from, to;
    while (next_range(&list, &from, &to))
        if (from < cpu) n += MIN(to, cpu - 1) - from + 1;
    return n;
}

static void set_node(const char *sysfs, int node, place *all, int n) {
    char path[256], text[LINE];
    const char *list = text;
    snprintf(path, sizeof path, "%s/devices/system/node/node%d/cpulist", sysfs, node);
    read_list(path, text);
    int from, to;
    while (next_range(&list, &from, &to))
        for (int i = 0; i < n; i++)
            if (all[i].cpu >= from && all[i].cpu <= to) all[i].node = node;
}

static void set_nodes(const char *sysfs, place *all, int n) {
    char path[256], text[LINE];
    const char *list = text;
    snprintf(path, sizeof path, "%s/devices/system/node/online", sysfs);
    read_list(path, text);
    int from, to;
    while (next_range(&list, &from, &to))
        for (int node = from; node <= MIN(to, NODES_MAX - 1); node++) set_node(sysfs, node, all, n);
}

static int by_core(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->sibling != y->sibling) return x->sibling - y->sibling;
    return x->node != y->node ? x->node - y->node : x->cpu - y->cpu;
}

static int by_node(const void *a, const void *b) {
    const place *x = a, *y = b;
    return x->node != y->node ? x->node - y->node : by_core(a, b);
}

bool place_cpus(const char *sysfs, const cpu_set_t *usable, int n, int *ret_cpus, int *ret_nodes) {
    cpu_set_t set;
    if (usable)
        set = *usable;
    else if (sched_getaffinity(0, sizeof set, &set) != 0)
        return false;
    if (CPU_COUNT(&set) < n) return false;
    place *all = mem_alloc((size_t)CPU_COUNT(&set) * sizeof *all);
    int n_all = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &set)) all[n_all++] = (place){cpu, 0, sibling_of(sysfs, cpu)};
    set_nodes(sysfs, all, n_all);
    qsort(all, (size_t)n_all, sizeof *all, by_core);
    qsort(all, (size_t)n, sizeof *all, by_node);
    for (int i = 0; i < n; i++) {
        ret_cpus[i] = all[i].cpu;
        ret_nodes[i] = all[i].node;
    }
    mem_free(all);
    return true;
}

/* --- where memory comes from --- */

typedef struct node_mask {
    unsigned long long word[MASK_WORDS];
} node_mask;

/* The nodes allowed; false: unknown. */
static bool nodes_allowed(node_mask *m) {
    *m = (node_mask){{0}};
    return syscall(SYS_get_mempolicy, NULL, m->word, (unsigned long)NODES_MAX, NULL,
                   MEMS_ALLOWED) == 0;
}

static int count(const node_mask *m) {
    int n = 0;
    for (int i = 0; i < MASK_WORDS; i++) n += __builtin_popcountll(m->word[i]);
    return n;
}

int place_nodes(void) {
    node_mask m;
    return nodes_allowed(&m) ? MAX(1, count(&m)) : 1;
}

/* A node that is not allowed is refused, and the range stays as it was. */
static void set_rule(uintptr_t from, uintptr_t to, int rule, const node_mask *m) {
    (void)syscall(SYS_mbind, from, to - from, rule, m->word, (unsigned long)NODES_MAX, 0);
}

void place_interleave(void *p, size_t bytes) {
    node_mask m;
    if (nodes_allowed(&m) && count(&m) > 1)
        set_rule((uintptr_t)p, (uintptr_t)p + bytes, INTERLEAVE, &m);
}

int place_spans(const int *nodes, int n_members, int64_t n_panels, size_t bytes, place_span *ret) {
    int n = 0;
    int64_t from, to;
    for (int i = 0; i < n_members; i++) {
        team_range(n_panels, 1, i, n_members, &from, &to);
        if (from == to) continue;
        size_t end = bytes / (size_t)n_panels * (size_t)to;
        if (to == n_panels) end = bytes;
        if (n > 0 && ret[n - 1].node == nodes[i])
            ret[n - 1].to = end;
        else
            ret[n] = (place_span){nodes[i], n ? ret[n - 1].to : 0, end}, n++;
    }
    return n;
}

static uintptr_t nearest(uintptr_t p) {
    return (p + HUGE_PAGE / 2) / HUGE_PAGE * HUGE_PAGE;
}

void place_panels(const int *nodes, int n_members, int64_t n_panels, void *p, size_t bytes) {
    place_span spans[TEAM_MAX];
    uintptr_t at = (uintptr_t)p, end = ALIGN_UP(at + bytes, SMALL_PAGE);
    int n = place_spans(nodes, n_members, n_panels, bytes, spans);
    if (bytes < (size_t)n * SPAN_LEAST) return;
    for (int i = 0; i < n; i++) {
        uintptr_t from = nearest(at + spans[i].from), to = MIN(nearest(at + spans[i].to), end);
        node_mask m = {{0}};
        m.word[spans[i].node / 64] = 1ull << spans[i].node % 64;
        if (from < to) set_rule(from, to, PREFERRED, &m);
    }
}
