/* Attention over bf16 pages by warps that share a tile (cuda_attention_group.h): tiles of up to 16
 * rows of any width, and larger tiles of heads wider than 128.
 *
 * Decoding moves every key and value once per group of heads: its limit is memory bandwidth. A
 * block has one block of 64 keys (34 KB at width 128) under way while it computes on another, and
 * two blocks run on a multiprocessor. Not yet timed on a GPU. */
#include "kernels/cuda/cuda_attention_group.h"

#define GROUP_WARPS 4

template <int tiles, int pairs, int block_keys, bool codes>
static void run(cuda_backend *c, const attn_args *a, unsigned blocks, size_t smem) {
    CU_LAUNCH_NEXT(c, (attn_group_kernel<tiles, pairs, block_keys, GROUP_WARPS, false, codes>),
                   blocks, GROUP_WARPS * CU_WARP, smem, *a);
}

template <bool codes, int tiles, int pairs, int block_keys>
static attn_launch launch_of(int32_t width, size_t smem_max) {
    attn_launch l = {};
    l.kernel = reinterpret_cast<const void *>(
        attn_group_kernel<tiles, pairs, block_keys, GROUP_WARPS, false, codes>);
    l.run = run<tiles, pairs, block_keys, codes>;
    l.tile_rows = tiles * 16;
    bool two = attn_group_smem(tiles, block_keys, false, codes, width, 2) <= smem_max;
    l.stages = two && !codes ? 2 : 1;
    l.per_sm = tiles == 1 ? 4 : 2;
    l.smem = attn_group_smem(tiles, block_keys, false, codes, width, l.stages);
    return l;
}

/* pairs: columns of a warp in sixteens. One width has one size of blocks, whatever the tile; those
 * of wide heads are smaller, and with codes, which lie beside their tile, smaller again. */
template <bool codes> static attn_launch pick(int32_t width, attn_width kind, size_t smem_max) {
    const int half = codes ? 2 : 1;
    int pairs = (attn_steps(width) + GROUP_WARPS - 1) / GROUP_WARPS,
        block_keys = (pairs <= 4 ? 64 : 32) / half;
    bool two =
        kind == ATTN_WIDE && attn_group_smem(2, block_keys, false, codes, width, 1) <= smem_max;
    if (pairs <= 1) return launch_of<codes, 1, 1, 64>(width, smem_max);
    if (pairs <= 2) return launch_of<codes, 1, 2, 64>(width, smem_max);
    if (pairs <= 4)
        return two ? launch_of<codes, 2, 4, 64 / half>(width, smem_max)
                   : launch_of<codes, 1, 4, 64 / half>(width, smem_max);
    return two ? launch_of<codes, 2, 8, 32 / half>(width, smem_max)
               : launch_of<codes, 1, 8, 32 / half>(width, smem_max);
}

attn_launch attn_pick_group(int32_t width, attn_width kind, bool codes, size_t smem_max) {
    return codes ? pick<true>(width, kind, smem_max) : pick<false>(width, kind, smem_max);
}
