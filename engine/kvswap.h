/* The second tier of the KV cache: pages in pinned memory of the host. One page of all layers is
 * contiguous there, so that it moves by one copy. Which slot holds what is the scheduler's
 * business (scheduler/swap.h). */
#ifndef ENGINE_KVSWAP_H
#define ENGINE_KVSWAP_H

#include "engine/kvcache.h"

/* Allocate n slots beside an allocated cache. */
NODISCARD status kvswap_alloc(kvcache *c, int32_t n, error *err);
void kvswap_done(kvcache *c); /* before kvcache_done */
/* What moving a page takes: c->move_us. Contents stay as they are; waits. */
NODISCARD status kvswap_measure(kvcache *c, error *err);
/* The plan's moves, in order, ordered with the ops. */
void kvswap_run(kvcache *c, const page_move *moves, int32_t n);

#endif
