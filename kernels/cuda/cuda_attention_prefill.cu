/* The bf16 attention kernel for tiles of many rows (prefill), heads of up to 128: flash attention 2
 * over pages.
 *
 * A block is 128 rows (query x head of the group) by 64 keys; each of its 4 warps has 32 rows to
 * itself from scores to output, so probabilities go from the accumulators of one product to the
 * operand of the next within a lane, and a fragment of keys or values that was read from shared
 * memory serves 32 rows: with 16 the reads, not the products, would be the limit. Values are copied
 * while scores are computed and the next keys while values are summed: two barriers a block, 70 KB
 * of shared memory at width 128, two blocks per multiprocessor. A warp leaves out blocks of keys
 * that none of its rows sees; out holds the state between chunks (once per 512 keys).
 *
 * With `codes` (cuda_attention_codes.h) keys and values of the next block are under way as codes
 * while one is computed: 86 KB at width 128.
 *
 * Multiply-adds are counted at mma.sync's rate, which on Hopper is about two thirds of what wgmma
 * reaches: that is the limit of this kernel there. Not yet timed on a GPU.
 *
 * The bits of a row are those of cuda_attention_group.h: the same steps of 16 in the same order. */
#include "kernels/cuda/cuda_attention_codes.h"
#include "kernels/cuda/cuda_attention_mma.h"

#define PRE_WARPS 4
#define PRE_TILES 2 /* of 16 rows, per warp */
#define PRE_ROWS  (PRE_WARPS * PRE_TILES * 16)
#define PRE_KEYS  64

/* Scores of a warp's rows and all keys of a block. */
template <int steps>
static __device__ __forceinline__ void pre_scores(const uint16_t *q, const uint16_t *k,
                                                  float s[PRE_TILES][PRE_KEYS / 8][4]) {
    const int ld = steps * 16 + 8;
    int lane = (int)threadIdx.x % CU_WARP;
#pragma unroll
    for (int m = 0; m < PRE_TILES; m++)
#pragma unroll
        for (int n = 0; n < PRE_KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[m][n][e] = 0;
    const uint16_t *q_at = attn_a_at(q, ld, lane), *k_at = attn_k_at(k, ld, lane);
#pragma unroll
    for (int i = 0; i < steps; i++) {
        uint32_t x[PRE_TILES][4];
#pragma unroll
        for (int m = 0; m < PRE_TILES; m++) cu_ldmatrix_x4(x[m], q_at + m * 16 * ld + i * 16);
#pragma unroll
        for (int n = 0; n < PRE_KEYS / 16; n++) {
            uint32_t b[4];
            cu_ldmatrix_x4(b, k_at + n * 16 * ld + i * 16);
#pragma unroll
            for (int m = 0; m < PRE_TILES; m++) {
                cu_mma_bf16(s[m][2 * n], x[m], b);
                cu_mma_bf16(s[m][2 * n + 1], x[m], b + 2);
            }
        }
    }
}

/* Cap, slopes and mask. */
static __device__ __forceinline__ void pre_adjust(const attn_args &a, const attn_row *rows, int key,
                                                  float s[PRE_TILES][PRE_KEYS / 8][4]) {
    int lane = (int)threadIdx.x % CU_WARP;
#pragma unroll
    for (int m = 0; m < PRE_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            attn_row row = rows[m * 16 + half * 8 + lane / 4];
#pragma unroll
            for (int n = 0; n < PRE_KEYS / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    s[m][n][half * 2 + e] =
                        attn_score(a, row, key + n * 8 + lane % 4 * 2 + e, s[m][n][half * 2 + e]);
        }
}

/* Scores become probabilities relative to the risen maximum, as operands of the value product. */
template <int steps>
static __device__ __forceinline__ void pre_softmax(float s[PRE_TILES][PRE_KEYS / 8][4],
                                                   uint32_t x[PRE_TILES][PRE_KEYS / 16][4],
                                                   attn_lane<PRE_TILES, steps> &l) {
#pragma unroll
    for (int m = 0; m < PRE_TILES; m++) {
        float down[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = ATTN_NONE;
#pragma unroll
            for (int n = 0; n < PRE_KEYS / 8; n++)
                top = fmaxf(top, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
            float max = fmaxf(l.max[m][half], attn_quad_max(top));
            down[half] = attn_exp2(l.max[m][half] - max);
            l.max[m][half] = max;
#pragma unroll
            for (int n = 0; n < PRE_KEYS / 8; n++)
                x[m][n / 2][n % 2 * 2 + half] = cu_bf16::pack(
                    attn_exp2(s[m][n][half * 2] - max), attn_exp2(s[m][n][half * 2 + 1] - max));
        }
        attn_rescale(l, m, down);
    }
}

template <int steps>
static __device__ __forceinline__ void pre_values(const uint16_t *v,
                                                  const uint32_t x[PRE_TILES][PRE_KEYS / 16][4],
                                                  attn_lane<PRE_TILES, steps> &l) {
    const int ld = steps * 16 + 8;
    const uint32_t ones[2] = {ATTN_ONES, ATTN_ONES};
    const uint16_t *v_at = attn_v_at(v, ld, (int)threadIdx.x % CU_WARP);
#pragma unroll
    for (int k = 0; k < PRE_KEYS / 16; k++) {
#pragma unroll
        for (int m = 0; m < PRE_TILES; m++) cu_mma_bf16(l.sum[m], x[m][k], ones);
#pragma unroll
        for (int j = 0; j < steps; j++) {
            uint32_t b[4];
            cu_ldmatrix_x4_trans(b, v_at + k * 16 * ld + j * 16);
#pragma unroll
            for (int m = 0; m < PRE_TILES; m++) {
                cu_mma_bf16(l.acc[m][j][0], x[m][k], b);
                cu_mma_bf16(l.acc[m][j][1], x[m][k], b + 2);
            }
        }
    }
}

/* The keys that a warp's rows see, and those that all of them see. */
typedef struct pre_span {
    int rows, key0, key1, plain0, plain1;
} pre_span;

static __device__ __forceinline__ pre_span pre_span_of(const attn_args &a, const attn_place &p,
                                                       int row0) {
    pre_span w = {min(p.t.n_f - row0, PRE_TILES * 16), 0, -1, 0, -1};
    if (w.rows <= 0) return w;
    int pos0 = p.s.pos0 + (p.t.f0 + row0) / a.group;
    int pos1 = p.s.pos0 + (p.t.f0 + row0 + w.rows - 1) / a.group;
    w.key0 = attn_first_key(a.window, pos0);
    w.key1 = attn_last_key(a.window, p.s.prefix, pos1);
    w.plain0 = attn_first_key(a.window, pos1);
    w.plain1 = attn_last_key(a.window, p.s.prefix, pos0);
    return w;
}

template <int steps, bool codes>
static __global__ void __launch_bounds__(PRE_WARPS *CU_WARP, 2) attn_prefill_kernel(attn_args a) {
    const int threads = PRE_WARPS * CU_WARP, ld = steps * 16 + 8;
    CU_DYN_SHARED(uint16_t, q);
    if (attn_idle(a)) return;
    uint16_t *k = q + PRE_ROWS * ld, *v = k + PRE_KEYS * ld;
    attn_row *rows = reinterpret_cast<attn_row *>(v + PRE_KEYS * ld);
    unsigned char *raw = reinterpret_cast<unsigned char *>(rows + PRE_ROWS);
    attn_codes<PRE_KEYS, threads, false> coming;
    attn_place p = attn_place_of(a, PRE_KEYS);
    int row0 = (int)threadIdx.x / CU_WARP * PRE_TILES * 16;
    if (codes)
        attn_fetch_codes(a, p, p.from, raw, steps, coming);
    else
        attn_load_keys<PRE_KEYS, threads, false>(a, p, a.k, NULL, p.from, k, steps);
    cu_copy_commit();
    attn_load_queries<PRE_ROWS, threads>(a, p, q, steps);
    for (int i = (int)threadIdx.x; i < PRE_ROWS; i += threads)
        rows[i] = attn_row_of(a, p.t, p.s, p.kv_head, i);
    pre_span w = pre_span_of(a, p, row0);
    attn_lane<PRE_TILES, steps> l;
    attn_begin(l);
    for (int key = p.from; key < p.to; key += PRE_KEYS) {
        if (key == p.from || key % ATTN_CHUNK == 0) attn_chunk_begin(l);
        int next = key + PRE_KEYS;
        bool seen = key <= w.key1 && next > w.key0;
        cu_copy_wait<0>();
        __syncthreads(); /* keys are there; the values before are done with */
        if (codes) {
            attn_convert_codes(a, raw, k, steps, coming); /* v lies behind k */
            __syncthreads();
            if (next < p.to) attn_fetch_codes(a, p, next, raw, steps, coming);
        } else
            attn_load_keys<PRE_KEYS, threads, false>(a, p, a.v, NULL, key, v, steps);
        cu_copy_commit();
        uint32_t x[PRE_TILES][PRE_KEYS / 16][4];
        if (seen) {
            float s[PRE_TILES][PRE_KEYS / 8][4];
            pre_scores<steps>(q + row0 * ld, k, s);
            if (!attn_is_plain(a) || key < w.plain0 || next - 1 > w.plain1)
                pre_adjust(a, rows + row0, key, s);
            pre_softmax<steps>(s, x, l);
        }
        if (!codes) {
            cu_copy_wait<0>();
            __syncthreads(); /* values are there; the keys are done with */
            if (next < p.to) {
                attn_load_keys<PRE_KEYS, threads, false>(a, p, a.k, NULL, next, k, steps);
                cu_copy_commit();
            }
        }
        if (seen) pre_values<steps>(v, x, l);
        if (next % ATTN_CHUNK == 0 || next >= p.to)
            attn_chunk_end(a, p, key / ATTN_CHUNK, next >= p.to, row0, 0, 1, l);
    }
}

template <int steps, bool codes>
static void run(cuda_backend *c, const attn_args *a, unsigned blocks, size_t smem) {
    CU_LAUNCH((attn_prefill_kernel<steps, codes>), blocks, PRE_WARPS * CU_WARP, smem, c->stream,
              *a);
}

template <int steps, bool codes> static attn_launch launch_of(void) {
    attn_launch l = {};
    l.kernel = reinterpret_cast<const void *>(attn_prefill_kernel<steps, codes>);
    l.run = run<steps, codes>;
    l.tile_rows = PRE_ROWS;
    l.stages = 1;
    l.per_sm = 2;
    l.smem = (size_t)(PRE_ROWS + 2 * PRE_KEYS) * (steps * 16 + 8) * 2 + PRE_ROWS * sizeof(attn_row);
    if (codes) l.smem += attn_codes_smem(PRE_KEYS, false, steps * 16);
    return l;
}

template <bool codes> static attn_launch pick(int32_t width) {
    int steps = attn_steps(width);
    if (steps <= 2) return launch_of<2, codes>();
    if (steps <= 4) return launch_of<4, codes>();
    if (steps == 5) return launch_of<5, codes>();
    if (steps == 6) return launch_of<6, codes>();
    return launch_of<8, codes>();
}

attn_launch attn_pick_prefill(int32_t width, bool codes) {
    return codes ? pick<true>(width) : pick<false>(width);
}
