/* The bf16 attention kernel whose warps share a tile: for decoding (16 rows: the heads of a group,
 * packed into the M of one product), for latent rows and for heads wider than the prefill kernel
 * takes.
 *
 * Per block of `block_keys` keys: warp w computes the scores of 16 keys for every (or every n-th)
 * 16 rows; row maxima meet in shared memory; probabilities go there as bf16; then warp w sums the
 * values of its own columns, pairs w, w + warps, ... of 8, for all rows. Three barriers a block.
 * The next block is copied while one is computed, where two stages fit into shared memory. With
 * `latent` the values are the first columns of the keys: the same rows in shared memory.
 *
 * With `codes` (cuda_attention_codes.h) there is one tile, and the codes of the next block are
 * under way while one is computed: one barrier more, and less shared memory.
 *
 * The state across chunks lies in out itself (attn_row_end), so registers hold one accumulator
 * only. */
#ifndef KERNELS_CUDA_CUDA_ATTENTION_GROUP_H
#define KERNELS_CUDA_CUDA_ATTENTION_GROUP_H

#include "kernels/cuda/cu_mma.h"
#include "kernels/cuda/cuda_attention_codes.h"
#include "kernels/cuda/cuda_attention_mma.h"

/* The pieces of shared memory. */
typedef struct group_memory {
    uint16_t *q, *kv, *p; /* [rows][ld]; stages of keys [block][ld], then values; [rows][ld_p] */
    unsigned char *raw;   /* codes of a block */
    float *max;           /* [rows][16-key groups] */
    attn_row *rows;
} group_memory;

static inline size_t attn_group_smem(int tiles, int block_keys, bool latent, bool codes, int width,
                                     int stages) {
    size_t rows = (size_t)tiles * 16, ld = (size_t)attn_ld(width);
    return rows * ld * 2 + (size_t)(stages * block_keys * (latent ? 1 : 2)) * ld * 2 +
           rows * (size_t)(block_keys + 8) * 2 + rows * (size_t)(block_keys / 16) * 4 +
           rows * sizeof(attn_row) + (codes ? attn_codes_smem(block_keys, latent, width) : 0);
}

template <int tiles, int block_keys, bool latent, bool codes>
static __device__ __forceinline__ group_memory group_memory_of(unsigned char *at, int ld,
                                                               int stages) {
    const int rows = tiles * 16;
    group_memory m;
    m.q = reinterpret_cast<uint16_t *>(at);
    m.kv = m.q + rows * ld;
    m.p = m.kv + stages * block_keys * (latent ? 1 : 2) * ld;
    m.raw = reinterpret_cast<unsigned char *>(m.p);
    if (codes) m.p += block_keys * (latent ? 1 : 2) * (ld - 8) / 2; /* a byte a column */
    m.max = reinterpret_cast<float *>(m.p + rows * (block_keys + 8));
    m.rows = reinterpret_cast<attn_row *>(m.max + rows * (block_keys / 16));
    return m;
}

/* Scores of 16 keys for this warp's tiles of rows first, first + step, ...: s[u] of the u-th. */
template <int tiles, int mine>
static __device__ __forceinline__ void group_scores(const uint16_t *q, const uint16_t *k, int ld,
                                                    int steps, int first, int step,
                                                    float s[mine][2][4]) {
    int lane = (int)threadIdx.x % CU_WARP;
#pragma unroll
    for (int u = 0; u < mine; u++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[u][0][e] = s[u][1][e] = 0;
    const uint16_t *k_at = attn_k_at(k, ld, lane), *q_at = attn_a_at(q, ld, lane);
#pragma unroll 4
    for (int i = 0; i < steps; i++) {
        uint32_t b[4];
        cu_ldmatrix_x4(b, k_at + i * 16);
#pragma unroll
        for (int u = 0; u < mine; u++) {
            if (first + u * step >= tiles) break;
            uint32_t x[4];
            cu_ldmatrix_x4(x, q_at + (first + u * step) * 16 * ld + i * 16);
            cu_mma_bf16(s[u][0], x, b);
            cu_mma_bf16(s[u][1], x, b + 2);
        }
    }
}

/* acc[rows][columns of this warp] += p . values, and the sums of p. */
template <int tiles, int pairs, int block_keys, int warps>
static __device__ __forceinline__ void group_values(const uint16_t *p, const uint16_t *v, int ld,
                                                    int n_pairs, attn_lane<tiles, pairs> &l) {
    const int ld_p = block_keys + 8;
    const uint32_t ones[2] = {ATTN_ONES, ATTN_ONES};
    int lane = (int)threadIdx.x % CU_WARP, warp = (int)threadIdx.x / CU_WARP;
#pragma unroll
    for (int k = 0; k < block_keys; k += 16) {
        uint32_t x[tiles][4];
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            cu_ldmatrix_x4(x[m], attn_a_at(p + m * 16 * ld_p + k, ld_p, lane));
            cu_mma_bf16(l.sum[m], x[m], ones);
        }
#pragma unroll
        for (int j = 0; j < pairs; j++) {
            if (warp + j * warps >= n_pairs) break;
            uint32_t b[4];
            cu_ldmatrix_x4_trans(b, attn_v_at(v + k * ld + (warp + j * warps) * 16, ld, lane));
#pragma unroll
            for (int m = 0; m < tiles; m++) {
                cu_mma_bf16(l.acc[m][j][0], x[m], b);
                cu_mma_bf16(l.acc[m][j][1], x[m], b + 2);
            }
        }
    }
}

/* Cap, slopes and mask on one lane's scores of a tile of rows; the maxima of its two rows. */
static __device__ __forceinline__ void group_adjust(const attn_args &a, const attn_row *rows,
                                                    int key, bool plain, float s[2][4],
                                                    float top[2]) {
    int lane = (int)threadIdx.x % CU_WARP;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        top[half] = ATTN_NONE;
        if (!plain) {
            attn_row row = rows[half * 8 + lane / 4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float *x = &s[e / 2][half * 2 + e % 2];
                *x = attn_score(a, row, key + e / 2 * 8 + lane % 4 * 2 + e % 2, *x);
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++) top[half] = fmaxf(top[half], s[e / 2][half * 2 + e % 2]);
        top[half] = attn_quad_max(top[half]);
    }
}

/* The maximum of a row, which rises to that of its groups of keys. */
template <int groups>
static __device__ __forceinline__ float group_top(const float *max, int row, float old) {
#pragma unroll
    for (int g = 0; g < groups; g++) old = fmaxf(old, max[row * groups + g]);
    return old;
}

/* One block of keys in shared memory at `key`. seen_max[u][half]: maxima of the rows whose scores
 * this warp computes; those of all rows are l.max. */
template <int tiles, int pairs, int block_keys, int warps, bool latent, int mine>
static __device__ __forceinline__ void
group_block(const attn_args &a, const attn_place &p, const group_memory &mem, const uint16_t *stage,
            int ld, int key, float seen_max[mine][2], attn_lane<tiles, pairs> &l) {
    const int groups = block_keys / 16, step = warps / groups, ld_p = block_keys + 8;
    int lane = (int)threadIdx.x % CU_WARP, warp = (int)threadIdx.x / CU_WARP;
    int group = warp % groups, first = warp / groups;
    bool plain = attn_is_plain(a) && key >= p.plain0 && key + block_keys - 1 <= p.plain1;
    float s[mine][2][4], top[2];
    group_scores<tiles, mine>(mem.q, stage + group * 16 * ld, ld, attn_steps(a.width), first, step,
                              s);
#pragma unroll
    for (int u = 0; u < mine; u++) {
        int m = first + u * step;
        if (m >= tiles) break;
        group_adjust(a, mem.rows + m * 16, key + group * 16, plain, s[u], top);
        if (lane % 4 == 0) {
            mem.max[(m * 16 + lane / 4) * groups + group] = top[0];
            mem.max[(m * 16 + 8 + lane / 4) * groups + group] = top[1];
        }
    }
    __syncthreads();
#pragma unroll
    for (int u = 0; u < mine; u++) {
        int m = first + u * step;
        if (m >= tiles) break;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = m * 16 + half * 8 + lane / 4;
            float max = group_top<groups>(mem.max, row, seen_max[u][half]);
            seen_max[u][half] = max;
#pragma unroll
            for (int n = 0; n < 2; n++)
                *reinterpret_cast<uint32_t *>(mem.p + row * ld_p + group * 16 + n * 8 +
                                              lane % 4 * 2) =
                    cu_bf16::pack(attn_exp2(s[u][n][half * 2] - max),
                                  attn_exp2(s[u][n][half * 2 + 1] - max));
        }
    }
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        float down[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float max = group_top<groups>(mem.max, m * 16 + half * 8 + lane / 4, l.max[m][half]);
            down[half] = attn_exp2(l.max[m][half] - max);
            l.max[m][half] = max;
        }
        attn_rescale(l, m, down);
    }
    __syncthreads();
    group_values<tiles, pairs, block_keys, warps>(mem.p, latent ? stage : stage + block_keys * ld,
                                                  ld, attn_steps(a.value_width), l);
}

template <int tiles, int pairs, int block_keys, int warps, bool latent, bool codes>
static __global__ void __launch_bounds__(warps *CU_WARP) attn_group_kernel(attn_args a) {
    cu_next_begin();
    const int threads = warps * CU_WARP, step = warps / (block_keys / 16);
    const int mine = (tiles + step - 1) / step;
    CU_DYN_SHARED(unsigned char, shared);
    if (attn_idle(a)) return;
    attn_place p = attn_place_of(a, block_keys);
    int steps = attn_steps(a.width), ld = steps * 16 + 8;
    int stage_size = block_keys * (latent ? 1 : 2) * ld;
    group_memory mem = group_memory_of<tiles, block_keys, latent, codes>(shared, ld, a.stages);
    attn_codes<block_keys, threads, latent> coming;
    if (codes)
        attn_fetch_codes(a, p, p.from, mem.raw, steps, coming);
    else
        attn_load_keys<block_keys, threads, !latent>(a, p, a.k, a.v, p.from, mem.kv, steps);
    cu_copy_commit();
    attn_load_queries<tiles * 16, threads>(a, p, mem.q, steps);
    for (int i = (int)threadIdx.x; i < tiles * 16; i += threads)
        mem.rows[i] = attn_row_of(a, p.t, p.s, p.kv_head, i);
    attn_lane<tiles, pairs> l;
    float seen_max[mine][2];
    attn_begin(l);
    int stage = 0;
    for (int key = p.from; key < p.to; key += block_keys) {
        if (key == p.from || key % ATTN_CHUNK == 0) {
            attn_chunk_begin(l);
#pragma unroll
            for (int u = 0; u < mine; u++) seen_max[u][0] = seen_max[u][1] = ATTN_NONE;
        }
        cu_copy_wait<0>();
        __syncthreads(); /* the block is there, and the one before is done with */
        int next = key + block_keys, other = a.stages == 2 ? stage ^ 1 : 0;
        if (codes) {
            attn_convert_codes(a, mem.raw, mem.kv, steps, coming);
            __syncthreads();
            if (next < p.to) attn_fetch_codes(a, p, next, mem.raw, steps, coming);
            cu_copy_commit();
        }
        if (!codes && a.stages == 2 && next < p.to) {
            attn_load_keys<block_keys, threads, !latent>(a, p, a.k, a.v, next,
                                                         mem.kv + other * stage_size, steps);
            cu_copy_commit();
        }
        group_block<tiles, pairs, block_keys, warps, latent, mine>(
            a, p, mem, mem.kv + stage * stage_size, ld, key, seen_max, l);
        if (!codes && a.stages == 1 && next < p.to) {
            __syncthreads();
            attn_load_keys<block_keys, threads, !latent>(a, p, a.k, a.v, next, mem.kv, steps);
            cu_copy_commit();
        }
        if (next % ATTN_CHUNK == 0 || next >= p.to)
            attn_chunk_end(a, p, key / ATTN_CHUNK, next >= p.to, 0, (int)threadIdx.x / CU_WARP,
                           warps, l);
        stage = other;
    }
}

#endif
