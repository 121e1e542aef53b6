/* The parts of the bf16 attention kernels: keys and values from pages to shared memory, queries as
 * bf16, and the end of a chunk. Tiles lie in shared memory as rows of `ld` bf16, an odd number of
 * 16-byte pieces, so that ldmatrix meets no bank twice.
 *
 * Tensor-core sums: scores over the width in steps of 16, values over the keys in steps of 16, both
 * ascending, whatever the tile; the sum of probabilities is one more column of values, all ones,
 * so that it is of the same rounded probabilities and needs no exchange between lanes. */
#ifndef KERNELS_CUDA_CUDA_ATTENTION_MMA_H
#define KERNELS_CUDA_CUDA_ATTENTION_MMA_H

#include "kernels/cuda/cu_mma.h"
#include "kernels/cuda/cuda_attention.h"

#define ATTN_ONES 0x3f803f80u /* two bf16 */

/* One block's place: what it works on, and the keys that its rows see. */
typedef struct attn_place {
    attn_item t;
    attn_seq s;
    int kv_head;
    int key0, key1;     /* first and last that any row sees */
    int plain0, plain1; /* keys between them are seen by every row */
    int from, to;       /* of this item: whole blocks from `from` */
} attn_place;

static __device__ __forceinline__ attn_place attn_place_of(const attn_args &a, int block_keys) {
    attn_place p;
    p.t = a.items[blockIdx.x / a.n_kv_heads];
    p.s = a.seqs[p.t.seq];
    p.kv_head = (int)(blockIdx.x % a.n_kv_heads);
    int pos0 = p.s.pos0 + p.t.f0 / a.group;
    int pos1 = p.s.pos0 + (p.t.f0 + p.t.n_f - 1) / a.group;
    p.key0 = attn_first_key(a.window, pos0);
    p.key1 = attn_last_key(a.window, p.s.prefix, pos1);
    p.plain0 = attn_first_key(a.window, pos1);
    p.plain1 = attn_last_key(a.window, p.s.prefix, pos0);
    int chunk_from = p.t.chunk0 * ATTN_CHUNK, chunk_to = p.t.chunk1 * ATTN_CHUNK;
    p.from = max(chunk_from, p.key0 / block_keys * block_keys);
    p.to = min(chunk_to, p.key1 + 1);
    return p;
}

/* Elements of a row in shared memory, in whole steps of 16, and the row's stride. */
ATTN_FN int attn_steps(int width) {
    return (width + 15) / 16;
}
ATTN_FN int attn_ld(int width) {
    return attn_steps(width) * 16 + 8;
}

/* The eight elements from `from` of a row of pages as 16 bytes, those past n as zeros. */
static __device__ __forceinline__ uint4 attn_gather(const uint16_t *from, int n) {
    uint32_t w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t low = 2 * i < n ? from[2 * i] : 0, high = 2 * i + 1 < n ? from[2 * i + 1] : 0;
        w[i] = low | high << 16;
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
}

/* Sixteen bytes of a row of pages to shared memory: columns [col, col+8), zeros where there is no
 * row or no column. */
static __device__ __forceinline__ void attn_load_piece(const attn_args &a, const uint16_t *row,
                                                       bool seen, int col, uint16_t *to) {
    bool valid = seen && col < a.width;
    if (a.aligned)
        cu_copy16_async(to, valid ? row + col : row, valid);
    else
        *reinterpret_cast<uint4 *>(to) = attn_gather(row + col, valid ? a.width - col : 0);
}

/* Keys [key, key+block_keys) of pages to `to`, `steps` sixteens of columns, and with `both` those
 * of pages2 behind them; keys that no row sees become zeros and are not read: a page may hold
 * anything there. The caller commits and waits. */
template <int block_keys, int threads, bool both>
static __device__ __forceinline__ void attn_load_keys(const attn_args &a, const attn_place &p,
                                                      const void *pages, const void *pages2,
                                                      int key, uint16_t *to, int steps) {
    int ld = steps * 16 + 8;
#pragma unroll 2
    for (int r = (int)threadIdx.x / 8; r < block_keys; r += threads / 8) {
        bool seen = key + r >= p.key0 && key + r <= p.key1;
        int64_t at = seen ? attn_key_at(a, p.s, p.kv_head, key + r) : 0;
        const uint16_t *row = static_cast<const uint16_t *>(pages) + at;
        const uint16_t *row2 = both ? static_cast<const uint16_t *>(pages2) + at : row;
        for (int i = (int)threadIdx.x % 8; i < steps * 2; i += 8) {
            uint16_t *piece = to + r * ld + i * 8;
            attn_load_piece(a, row, seen, i * 8, piece);
            if (both) attn_load_piece(a, row2, seen, i * 8, piece + block_keys * ld);
        }
    }
}

/* The queries of a tile, folded and rounded; rows behind the last are zeros. */
template <int rows, int threads>
static __device__ __forceinline__ void attn_load_queries(const attn_args &a, const attn_place &p,
                                                         uint16_t *to, int steps) {
    int pairs = steps * 8, ld = steps * 16 + 8;
    for (int i = (int)threadIdx.x; i < rows * pairs; i += threads) {
        int r = i / pairs, c = i % pairs * 2;
        float x = 0, y = 0;
        if (r < p.t.n_f) {
            const float *q =
                a.q + attn_row_at(a, p.s.row0, p.t.f0 + r, p.kv_head, a.q_stride, a.width);
            if (c < a.width) x = q[c] * a.fold;
            if (c + 1 < a.width) y = q[c + 1] * a.fold;
        }
        *reinterpret_cast<uint32_t *>(to + r * ld + c) = cu_bf16::pack(x, y);
    }
}

/* Lane's row address for ldmatrix: of a 16x16 tile at `at` as the A operand; of 16 keys x 16
 * features as B of the scores (keys are columns); as B of the values (transposed: keys are rows).
 */
static __device__ __forceinline__ const uint16_t *attn_a_at(const uint16_t *at, int ld, int lane) {
    return at + lane % 16 * ld + lane / 16 * 8;
}
static __device__ __forceinline__ const uint16_t *attn_k_at(const uint16_t *at, int ld, int lane) {
    return at + (lane / 16 * 8 + lane % 8) * ld + lane / 8 % 2 * 8;
}
static __device__ __forceinline__ const uint16_t *attn_v_at(const uint16_t *at, int ld, int lane) {
    return at + lane % 16 * ld + lane / 16 * 8;
}

static __device__ __forceinline__ float attn_quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(CU_FULL, x, 1));
    return fmaxf(x, __shfl_xor_sync(CU_FULL, x, 2));
}

/* What a lane holds of tiles of 16 rows: rows lane/4 and lane/4 + 8 of each; columns 2*(lane%4)
 * and the next of every 8, of the pairs of 8 pair0, pair0 + pair_step, ... */
template <int tiles, int pairs> struct attn_lane {
    float acc[tiles][pairs][2][4];
    float sum[tiles][4]; /* columns alike: [0] of the first row, [2] of the second */
    float max[tiles][2];
    attn_running all[tiles][2]; /* chunks merged so far */
};

template <int tiles, int pairs>
static __device__ __forceinline__ void attn_chunk_begin(attn_lane<tiles, pairs> &l) {
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        l.max[m][0] = l.max[m][1] = ATTN_NONE;
#pragma unroll
        for (int e = 0; e < 4; e++) {
            l.sum[m][e] = 0;
#pragma unroll
            for (int j = 0; j < pairs; j++) l.acc[m][j][0][e] = l.acc[m][j][1][e] = 0;
        }
    }
}

/* Bring what was summed to the risen maximum. */
template <int tiles, int pairs>
static __device__ __forceinline__ void attn_rescale(attn_lane<tiles, pairs> &l, int m,
                                                    const float down[2]) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        l.sum[m][e] *= down[e / 2];
#pragma unroll
        for (int j = 0; j < pairs; j++) {
            l.acc[m][j][0][e] *= down[e / 2];
            l.acc[m][j][1][e] *= down[e / 2];
        }
    }
}

/* One row's part after a chunk: its state goes to the scratch of cut tiles, or is merged into the
 * sums of the chunks before (nothing, if first) and finished after the last. */
template <int tiles, int pairs>
static __device__ __forceinline__ void
attn_row_end(const attn_args &a, const attn_place &p, int chunk, bool last, int i, int m, int half,
             int pair0, int pair_step, attn_lane<tiles, pairs> &l) {
    int lane = (int)threadIdx.x % CU_WARP, width = a.value_width, f = p.t.f0 + i;
    float max = l.max[m][half], sum = l.sum[m][half * 2];
    bool cut = p.t.state >= 0, first = cut || chunk == p.t.chunk0;
    float old_factor = 0, new_factor = 1, sink_factor = 1, inverse = 1;
    float *to;
    int64_t out = attn_row_at(a, p.s.row0, f, p.kv_head, a.out_stride, width);
    if (cut) {
        to = attn_state_at(a, p.t.state + (int64_t)(chunk - p.t.chunk0) * p.t.n_f + i, p.kv_head);
        if (pair0 == 0 && lane % 4 == 0) to[width] = max, to[width + 1] = sum;
    } else {
        to = a.sums + attn_row_at(a, p.s.row0, f, p.kv_head, a.sums_stride, width);
        attn_merge_max(&l.all[m][half], a.unit, max, sum, &old_factor, &new_factor);
        if (last) {
            sink_factor = attn_sink(a, p.kv_head * a.group + f % a.group, &l.all[m][half]);
            inverse = 1.0f / l.all[m][half].sum;
        }
    }
#pragma unroll
    for (int j = 0; j < pairs; j++)
#pragma unroll
        for (int eight = 0; eight < 2; eight++) {
            int col = (pair0 + j * pair_step) * 16 + eight * 8 + lane % 4 * 2;
            float x[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                x[e] = l.acc[m][j][eight][half * 2 + e];
                if (cut || col + e >= width) continue;
                x[e] = attn_merge_acc(first ? 0.0f : to[col + e], old_factor, x[e], new_factor);
                if (last) x[e] = attn_finish(x[e], sink_factor, inverse);
            }
            if (col >= width) continue;
            if (!cut && last) {
                attn_put(a, out + col, x[0], x[1], col + 1 < width);
                continue;
            }
            to[col] = x[0];
            if (col + 1 < width) to[col + 1] = x[1];
        }
}

/* After the last block of a chunk; rows of the lane are row0 + 16*m + lane/4 (+ 8). */
template <int tiles, int pairs>
static __device__ __forceinline__ void attn_chunk_end(const attn_args &a, const attn_place &p,
                                                      int chunk, bool last, int row0, int pair0,
                                                      int pair_step, attn_lane<tiles, pairs> &l) {
#pragma unroll
    for (int m = 0; m < tiles; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = row0 + m * 16 + half * 8 + (int)threadIdx.x % CU_WARP / 4;
            if (i < p.t.n_f) attn_row_end(a, p, chunk, last, i, m, half, pair0, pair_step, l);
        }
}

/* Before the first chunk. */
template <int tiles, int pairs>
static __device__ __forceinline__ void attn_begin(attn_lane<tiles, pairs> &l) {
#pragma unroll
    for (int m = 0; m < tiles; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            l.all[m][half].max = ATTN_NONE;
            l.all[m][half].sum = 0;
        }
}

#endif
