/* Where threads and memory of the CPU backend go on machines of more than one node. */
#ifndef KERNELS_CPU_PLACE_H
#define KERNELS_CPU_PLACE_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLACE_SYSFS "/sys" /* where the kernel tells of CPUs and nodes */

/* CPUs for the n members of a team, of the usable ones (NULL: those that this process may use): of
 * each core one before any second, and of as few nodes as that takes; members of one node side by
 * side. ret_nodes: their nodes, 0 where the kernel does not tell. False: there are fewer than n. */
bool place_cpus(const char *sysfs, const cpu_set_t *usable, int n, int *ret_cpus, int *ret_nodes);
/* Nodes whose memory this process may use; 1 where the kernel does not tell. */
int place_nodes(void);
/* Pages of memory that nobody touched yet will come from all nodes in turn, so that all of them
 * together give what reads of it take. Does nothing where there is one node. */
void place_interleave(void *p, size_t bytes);

/* Bytes [from, to) of a matrix belong to members of this node. */
typedef struct place_span {
    int node;
    size_t from, to;
} place_span;
/* A matrix of n_panels equal panels, which members read by team_range: what of it is whose node's,
 * in ascending order, all of it, at most n_members spans. Returns how many. */
int place_spans(const int *nodes, int n_members, int64_t n_panels, size_t bytes, place_span *ret);
/* Pages of such a matrix that nobody touched yet will come from the nodes of those who read them,
 * or from another that has some left. Whole pages of 2 MiB: a matrix of few of them is left as it
 * is. */
void place_panels(const int *nodes, int n_members, int64_t n_panels, void *p, size_t bytes);

#endif
