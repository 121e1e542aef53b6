/* How the low-rank parts of a call are laid out on a device: plain arithmetic on sizes, tested
 * where there is no device. It knows nothing of adapters: what is launched depends on shapes alone.
 *
 * What changes bits is fixed by K (lora_chunks); a plan only says which block does which part. */
#ifndef KERNELS_CUDA_CUDA_LORA_PLAN_H
#define KERNELS_CUDA_CUDA_LORA_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* K is cut into chunks, a chunk into neighbouring splits, one for each warp of a block. A split is
 * summed on its own; the splits of a chunk are added in ascending order, then the chunks. */
#define LORA_WARPS 8
#define LORA_SPLIT 256 /* columns */
#define LORA_CHUNK (LORA_WARPS * LORA_SPLIT)

static inline int32_t lora_chunks(int32_t k) {
    return (k + LORA_CHUNK - 1) / LORA_CHUNK;
}

#define LORA_COLS 128 /* columns of out that a block of the second kernel owns */

typedef struct lora_plan {
    /* x to low: blocks of down_rows rows x down_ranks ranks */
    int32_t down_rows, down_ranks;
    int32_t down_tiles;     /* blocks along rows and ranks */
    int32_t chunk_parts;    /* blocks along K: 1 (each sums all chunks) or the chunks */
    int32_t adapters_apart; /* blocks that share the adapters of a tile of rows */
    /* low to out: blocks of up_rows rows x LORA_COLS */
    int32_t up_rows, up_tiles;
    size_t low_bytes; /* [chunk_parts][rows][rank] f32 */
} lora_plan;

lora_plan lora_plan_of(int32_t n_rows, int32_t n, int32_t k, int32_t rank);
/* The most low_bytes of calls with up to n_rows rows, K and ranks. */
size_t lora_low_bytes_max(int32_t n_rows, int32_t k, int32_t rank);

#endif
