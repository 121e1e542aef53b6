/* Where threads and memory of the CPU backend go on machines of more than one node. */
#ifndef KERNELS_CPU_PLACE_H
#define KERNELS_CPU_PLACE_H

#include <stdbool.h>
#include <stddef.h>

/* n CPUs that this process may use, one for each member of a team: of each core one before any
 * second, the cores of a node side by side. False: there are fewer than n. */
bool place_cpus(int n, int *ret_cpus);
/* Nodes whose memory this process may use; 1 where the kernel does not tell. */
int place_nodes(void);
/* Pages of memory that nobody touched yet will come from all nodes in turn, so that all of them
 * together give what reads of it take. Does nothing where there is one node. */
void place_interleave(void *p, size_t bytes);

#endif
