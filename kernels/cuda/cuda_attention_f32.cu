/* Attention over pages of f32, everything in f32: the exact path that goldens are compared on, for
 * heads and latent rows of every width.
 *
 * A block is 8 rows by 32 keys; each of its 4 warps has two of the rows. Scores: a lane is a key;
 * the width passes through shared memory in slices of 64, sums over it are one chain per (row,
 * key). Softmax: the 32 lanes of a warp are the keys of a row. Values: a lane is every 32nd column,
 * keys are read from their page one after another. A key that no row of the tile sees is not read;
 * one that only other rows see adds an exact zero.
 *
 * Made to be right and plain; its limit is the shared memory and cache traffic of its small tiles.
 * Not timed on a GPU. */
#include "kernels/cuda/cuda_attention.h"

#define EXACT_WARPS 4
#define EXACT_EACH  2 /* rows of a warp */
#define EXACT_ROWS  (EXACT_WARPS * EXACT_EACH)
#define EXACT_KEYS  CU_WARP
#define EXACT_SLICE 64

typedef struct exact_tile {
    attn_item t;
    attn_seq s;
    int kv_head, warp, lane;
    int key0, key1; /* that any row sees */
} exact_tile;

/* Columns [col, col+EXACT_SLICE) of the tile's queries and of a block's keys to shared memory. */
static __device__ void load_slice(const attn_args &a, const exact_tile &x, int key, int col,
                                  float q[EXACT_ROWS][EXACT_SLICE],
                                  float k[EXACT_KEYS][EXACT_SLICE + 1]) {
    const float *keys = static_cast<const float *>(a.k);
    for (int r = x.warp; r < EXACT_KEYS; r += EXACT_WARPS) {
        bool seen = key + r >= x.key0 && key + r <= x.key1;
        int64_t at = seen ? attn_key_at(a, x.s, x.kv_head, key + r) : 0;
        for (int c = x.lane; c < EXACT_SLICE; c += CU_WARP)
            k[r][c] = seen && col + c < a.width ? keys[at + col + c] : 0;
    }
    for (int r = x.warp; r < EXACT_ROWS; r += EXACT_WARPS) {
        bool there = r < x.t.n_f;
        int64_t at =
            there ? attn_row_at(a, x.s.row0, x.t.f0 + r, x.kv_head, a.q_stride, a.width) : 0;
        for (int c = x.lane; c < EXACT_SLICE; c += CU_WARP)
            q[r][c] = there && col + c < a.width ? a.q[at + col + c] : 0;
    }
}

/* One lane's part of two rows. */
template <int columns> struct exact_lane {
    float acc[EXACT_EACH][columns]; /* columns lane, lane + 32, ... */
    float max[EXACT_EACH], sum[EXACT_EACH];
    attn_running all[EXACT_EACH];
};

/* Scores of this lane's key for the warp's rows: probabilities, and the maximum and sum with them.
 */
template <int columns>
static __device__ void exact_softmax(const attn_args &a, const attn_row *rows, int key,
                                     float s[EXACT_EACH], exact_lane<columns> &l) {
#pragma unroll
    for (int i = 0; i < EXACT_EACH; i++) {
        float x = attn_score(a, rows[i], key, s[i] * a.fold);
        float max = fmaxf(l.max[i], cu_warp_max(fmaxf(x, ATTN_NONE)));
        float down = attn_exp2((l.max[i] - max) * a.unit);
        s[i] = attn_exp2((x - max) * a.unit);
        l.max[i] = max;
        l.sum[i] = fmaf(l.sum[i], down, cu_warp_sum(s[i]));
#pragma unroll
        for (int c = 0; c < columns; c++) l.acc[i][c] *= down;
    }
}

/* acc += p . values, keys ascending; p[i] of lane j is key j's. */
template <int columns>
static __device__ void exact_values(const attn_args &a, const exact_tile &x, int key,
                                    const float p[EXACT_EACH], exact_lane<columns> &l) {
    const float *values = static_cast<const float *>(a.v);
    int from = max(x.key0 - key, 0), to = min(x.key1 - key + 1, EXACT_KEYS);
    for (int j = from; j < to; j++) {
        const float *v = values + attn_key_at(a, x.s, x.kv_head, key + j);
        float weight[EXACT_EACH];
#pragma unroll
        for (int i = 0; i < EXACT_EACH; i++) weight[i] = __shfl_sync(CU_FULL, p[i], j);
#pragma unroll
        for (int c = 0; c < columns; c++) {
            int col = c * CU_WARP + x.lane;
            if (col >= a.value_width) break;
            float y = v[col];
#pragma unroll
            for (int i = 0; i < EXACT_EACH; i++) l.acc[i][c] = fmaf(weight[i], y, l.acc[i][c]);
        }
    }
}

/* The end of a chunk for row i of the warp: as attn_row_end of the bf16 kernels. */
template <int columns>
static __device__ void exact_end(const attn_args &a, const exact_tile &x, int chunk, bool last,
                                 int i, exact_lane<columns> &l) {
    int r = x.warp * EXACT_EACH + i, width = a.value_width, f = x.t.f0 + r;
    if (r >= x.t.n_f) return;
    bool cut = x.t.state >= 0, first = cut || chunk == x.t.chunk0;
    float old_factor = 0, new_factor = 1, sink_factor = 1, inverse = 1;
    float *to;
    int64_t out = attn_row_at(a, x.s.row0, f, x.kv_head, a.out_stride, width);
    if (cut) {
        to = attn_state_at(a, x.t.state + (int64_t)(chunk - x.t.chunk0) * x.t.n_f + r, x.kv_head);
        if (x.lane == 0) to[width] = l.max[i], to[width + 1] = l.sum[i];
    } else {
        to = a.sums + attn_row_at(a, x.s.row0, f, x.kv_head, a.sums_stride, width);
        attn_merge_max(&l.all[i], a.unit, l.max[i], l.sum[i], &old_factor, &new_factor);
        if (last) {
            sink_factor = attn_sink(a, x.kv_head * a.group + f % a.group, &l.all[i]);
            inverse = 1.0f / l.all[i].sum;
        }
    }
#pragma unroll
    for (int c = 0; c < columns; c++) {
        int col = c * CU_WARP + x.lane;
        if (col >= width) break;
        float y = l.acc[i][c];
        if (!cut) y = attn_merge_acc(first ? 0.0f : to[col], old_factor, y, new_factor);
        if (!cut && last)
            attn_put(a, out + col, attn_finish(y, sink_factor, inverse), 0, false);
        else
            to[col] = y;
    }
}

static __device__ exact_tile exact_tile_of(const attn_args &a) {
    exact_tile x;
    x.t = a.items[blockIdx.x / a.n_kv_heads];
    x.s = a.seqs[x.t.seq];
    x.kv_head = (int)(blockIdx.x % a.n_kv_heads);
    x.warp = (int)threadIdx.x / CU_WARP;
    x.lane = (int)threadIdx.x % CU_WARP;
    x.key0 = attn_first_key(a.window, x.s.pos0 + x.t.f0 / a.group);
    x.key1 = attn_last_key(a.window, x.s.prefix, x.s.pos0 + (x.t.f0 + x.t.n_f - 1) / a.group);
    return x;
}

template <int columns>
static __global__ void __launch_bounds__(EXACT_WARPS *CU_WARP) attn_f32_kernel(attn_args a) {
    cu_next_begin();
    __shared__ float q[EXACT_ROWS][EXACT_SLICE], k[EXACT_KEYS][EXACT_SLICE + 1];
    if (attn_idle(a)) return;
    exact_tile x = exact_tile_of(a);
    exact_lane<columns> l;
    attn_row rows[EXACT_EACH];
#pragma unroll
    for (int i = 0; i < EXACT_EACH; i++) {
        rows[i] = attn_row_of(a, x.t, x.s, x.kv_head, x.warp * EXACT_EACH + i);
        l.all[i].max = ATTN_NONE;
        l.all[i].sum = 0;
    }
    int from = max(x.t.chunk0 * ATTN_CHUNK, x.key0 / EXACT_KEYS * EXACT_KEYS);
    int to = min(x.t.chunk1 * ATTN_CHUNK, x.key1 + 1);
    for (int key = from; key < to; key += EXACT_KEYS) {
        float s[EXACT_EACH] = {0, 0};
#pragma unroll
        for (int i = 0; i < EXACT_EACH; i++)
            if (key == from || key % ATTN_CHUNK == 0) {
                l.max[i] = ATTN_NONE;
                l.sum[i] = 0;
#pragma unroll
                for (int c = 0; c < columns; c++) l.acc[i][c] = 0;
            }
        for (int col = 0; col < a.width; col += EXACT_SLICE) {
            __syncthreads();
            load_slice(a, x, key, col, q, k);
            __syncthreads();
#pragma unroll 8
            for (int c = 0; c < EXACT_SLICE; c++)
#pragma unroll
                for (int i = 0; i < EXACT_EACH; i++)
                    s[i] = fmaf(q[x.warp * EXACT_EACH + i][c], k[x.lane][c], s[i]);
        }
        exact_softmax(a, rows, key + x.lane, s, l);
        exact_values(a, x, key, s, l);
        int next = key + EXACT_KEYS;
        if (next % ATTN_CHUNK && next < to) continue;
#pragma unroll
        for (int i = 0; i < EXACT_EACH; i++) exact_end(a, x, key / ATTN_CHUNK, next >= to, i, l);
    }
}

template <int columns>
static void run(cuda_backend *c, const attn_args *a, unsigned blocks, size_t smem) {
    CU_LAUNCH_NEXT(c, (attn_f32_kernel<columns>), blocks, EXACT_WARPS * CU_WARP, smem, *a);
}

template <int columns> static attn_launch launch_of(void) {
    attn_launch l = {};
    l.kernel = reinterpret_cast<const void *>(attn_f32_kernel<columns>);
    l.run = run<columns>;
    l.tile_rows = EXACT_ROWS;
    l.stages = 1;
    l.per_sm = 4;
    return l;
}

attn_launch attn_pick_f32(int32_t value_width) {
    if (value_width <= 2 * CU_WARP) return launch_of<2>();
    if (value_width <= 4 * CU_WARP) return launch_of<4>();
    if (value_width <= 16 * CU_WARP) return launch_of<16>();
    return launch_of<32>();
}
