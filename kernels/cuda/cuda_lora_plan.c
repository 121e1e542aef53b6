/* Few rows are decoding: each row may have another adapter, and what counts is how many blocks read
 * weights at once. So tiles are small, and K and the adapters of a tile go to blocks of their own.
 * Many rows are prompts, mostly of one adapter: tiles are large, so that x and the weights are read
 * seldom, and a block does all of K. */
#include "kernels/cuda/cuda_lora_plan.h"

#include "engine/base/mem.h"

#define FEW_ROWS 256

lora_plan lora_plan_of(int32_t n_rows, int32_t n, int32_t k, int32_t rank) {
    bool few = n_rows <= FEW_ROWS;
    lora_plan p = {.down_rows = few ? 8 : 16,
                   .down_ranks = few ? 16 : 64,
                   .chunk_parts = few ? lora_chunks(k) : 1,
                   .adapters_apart = few ? 8 : 1,
                   .up_rows = few ? 8 : 32};
    p.down_tiles = CEIL_DIV(n_rows, p.down_rows) * CEIL_DIV(rank, p.down_ranks);
    p.up_tiles = CEIL_DIV(n_rows, p.up_rows) * CEIL_DIV(n, LORA_COLS);
    p.low_bytes = (size_t)p.chunk_parts * (size_t)n_rows * (size_t)rank * sizeof(float);
    return p;
}

size_t lora_low_bytes_max(int32_t n_rows, int32_t k, int32_t rank) {
    size_t few = lora_plan_of(MIN(n_rows, FEW_ROWS), 1, k, rank).low_bytes;
    return MAX(few, lora_plan_of(n_rows, 1, k, rank).low_bytes);
}
