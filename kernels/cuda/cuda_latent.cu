/* Attention with a compressed cache (MLA in its absorbed form). Every head reads the same row of
 * L+R elements as its key and the first L of it as its value, so the heads are the rows of a tile
 * (16 to 128 of them per query) and a row of a page is copied once for both products.
 *
 * bf16: the kernel of cuda_attention_group.h with 8 warps, blocks of 32 keys, values taken from the
 * keys' rows in shared memory; 64 rows a tile where shared memory allows (Hopper: 155 KB at
 * 512+64), else 16. With 16 heads a byte of a page meets 32 operations: decoding is memory-bound;
 * with 128 it meets 256, which is the limit of mma.sync. f32: the exact path of
 * cuda_attention_f32.cu. Not yet timed on a GPU. */
#include "kernels/cuda/cuda_attention_group.h"
#include "kernels/kv8.h"

#define LATENT_WARPS       8
#define LATENT_KEYS        32
#define LATENT_CODES_WIDTH 640 /* 87 KB */

template <int tiles, int pairs, int keys, bool codes>
static void run(cuda_backend *c, const attn_args *a, unsigned blocks, size_t smem) {
    CU_LAUNCH_NEXT(c, (attn_group_kernel<tiles, pairs, keys, LATENT_WARPS, true, codes>), blocks,
                   LATENT_WARPS * CU_WARP, smem, *a);
}

template <int tiles, int pairs, int keys, bool codes>
static attn_launch launch_of(int32_t width, size_t smem_max) {
    attn_launch l = {};
    l.kernel = reinterpret_cast<const void *>(
        attn_group_kernel<tiles, pairs, keys, LATENT_WARPS, true, codes>);
    l.run = run<tiles, pairs, keys, codes>;
    l.tile_rows = tiles * 16;
    bool two = attn_group_smem(tiles, keys, true, codes, width, 2) <= smem_max;
    l.stages = two && !codes ? 2 : 1;
    l.per_sm = tiles == 1 ? 2 : 1;
    l.smem = attn_group_smem(tiles, keys, true, codes, width, l.stages);
    return l;
}

/* One width has one size of blocks. Codes lie beside their tile: of wide rows there is room for
 * half the keys. */
template <bool codes>
static attn_launch pick(int32_t width, int32_t value_width, attn_width kind, size_t smem_max) {
    const int K = LATENT_KEYS, few = codes ? K / 2 : K;
    bool wide = kind == ATTN_WIDE && attn_group_smem(4, K, true, codes, width, 1) <= smem_max;
    if (value_width > LATENT_WARPS * 4 * 16 || (codes && width > LATENT_CODES_WIDTH))
        return launch_of<1, 8, few, codes>(width, smem_max);
    return wide ? launch_of<4, 4, K, codes>(width, smem_max)
                : launch_of<1, 4, K, codes>(width, smem_max);
}

attn_launch attn_pick_latent(int32_t width, int32_t value_width, attn_width kind, bool codes,
                             size_t smem_max) {
    return codes ? pick<true>(width, value_width, kind, smem_max)
                 : pick<false>(width, value_width, kind, smem_max);
}

void cuda_latent_attention(backend *b, const op_latent_attention *l) {
    cuda_backend *c = cuda_of(b);
    op_attention a = {};
    a.seqs = l->seqs;
    a.n_heads = l->n_heads;
    a.n_kv_heads = 1;
    a.head_dim = l->latent + l->rope_dim;
    a.q = l->q;
    a.q_stride = l->q_stride;
    a.out = l->out;
    a.out_stride = l->out_stride;
    a.out_dt = l->out_dt;
    a.scale = l->scale;
    a.k_pages = a.v_pages = l->pages;
    a.kv_dt = l->kv_dt;
    a.page_tokens = l->page_tokens;
    attn_launch launch[ATTN_WIDTHS];
    for (int w = 0; w < ATTN_WIDTHS; w++)
        launch[w] = a.kv_dt == DT_F32 ? attn_pick_f32(l->latent)
                                      : attn_pick_latent(a.head_dim, l->latent, (attn_width)w,
                                                         kv_is_8bit(a.kv_dt), c->smem_max);
    attn_run(c, &a, l->latent, launch, "latent_attention");
}
