/* lora: two kernels, x to low = A x and low to out += B (s * low), for rows of any adapters.
 *
 * A block owns a tile of rows and goes through the adapters that its rows have, each found by the
 * first row that has it; the other rows are zeros meanwhile and are not written. Which adapters
 * there are is read on the device, so the same launches, and a captured graph, serve any mixture. A
 * tile without adapters ends at once.
 *
 * 16-bit matrices go through tensor cores, with x and s * low rounded to their type; f32 ones
 * through f32 multiply-adds, the lanes of a warp along K. The order of sums is that of
 * cuda_lora_plan.h: it depends on K alone, and tiles of any size add alike.
 *
 * Expected limits, not timed on a GPU: for few rows the latency of one round of loads, since a
 * block reads 64 kB of A, all under way at once; for many rows the traffic of x and out. */
#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cuda/cuda_lora_plan.h"
}

#define THREADS  (LORA_WARPS * CU_WARP)
#define LOW_STEP 64 /* ranks that the second kernel takes at once */
#define LOW_LD   (LOW_STEP + 4)

typedef struct lora_call {
    int32_t n_rows, n, k, rank, slot;
    const void *x;
    int64_t x_stride;
    dtype x_dt;
    bool x_aligned; /* rows begin at 16 bytes */
    float *out;
    int64_t out_stride;
    const lora_slot *const *table;
    const int32_t *of_row, *pick;
    float *low; /* [n_low][n_rows][rank] */
    int32_t n_low;
} lora_call;

/* ---- Rows and their adapters ---- */

/* Of a tile of at most 32 rows: the adapter of row `lane`, 0 where it adds nothing here. */
static __device__ __forceinline__ int32_t tile_adapter(const lora_call &c, int32_t row0,
                                                       int32_t n) {
    int lane = threadIdx.x % CU_WARP;
    if (lane >= n) return 0;
    int32_t id = c.of_row[c.pick ? c.pick[row0 + lane] : row0 + lane];
    if (id <= 0 || !c.table[id]) return 0;
    return c.table[id][c.slot].n_parts > 0 ? id : 0;
}

/* Bit i: row i is the first with its adapter. */
static __device__ __forceinline__ uint32_t tile_leaders(int32_t id) {
    uint32_t same = __match_any_sync(CU_FULL, id);
    return __ballot_sync(CU_FULL, id != 0 && __ffs((int)same) - 1 == (int)(threadIdx.x % CU_WARP));
}

/* ---- Matrices ---- */

static __device__ __forceinline__ int32_t ld_of(const wmat &w) {
    int32_t per = w.dt == DT_F32 ? 4 : 8;
    return (w.k + per - 1) / per * per;
}

static __device__ __forceinline__ cu_words zeros(void) {
    cu_words z = {0, 0, 0, 0};
    return z;
}

/* Columns k .. k+7 of a row of 16-bit weights; zeros behind its end. */
static __device__ __forceinline__ cu_words load_weights(const wmat &w, int32_t ld, int32_t row,
                                                        int32_t k) {
    return k < ld ? cu_load_words((const uint16_t *)w.data + (int64_t)row * ld + k) : zeros();
}

/* Columns k .. k+7 of a row of f32, rounded; zeros behind its end. */
template <class H>
static __device__ __forceinline__ cu_words load_rounded(const float *row, int32_t k, int32_t k_end,
                                                        bool aligned) {
    cu_floats l, h;
    if (aligned && k + 8 <= k_end) {
        l = *(const cu_floats *)(row + k);
        h = *(const cu_floats *)(row + k + 4);
    } else {
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = k + i < k_end ? row[k + i] : 0;
        l.x = v[0], l.y = v[1], l.z = v[2], l.w = v[3];
        h.x = v[4], h.y = v[5], h.z = v[6], h.w = v[7];
    }
    cu_words w = {H::pack(l.x, l.y), H::pack(l.z, l.w), H::pack(h.x, h.y), H::pack(h.z, h.w)};
    return w;
}

static __device__ __forceinline__ float from_16(dtype dt, uint32_t bits) {
    return dt == DT_BF16 ? cu_from_bf16((uint16_t)bits) : cu_from_f16((uint16_t)bits);
}
template <class H> static __device__ __forceinline__ uint32_t repack(dtype dt, uint32_t pair) {
    return H::pack(from_16(dt, pair & 0xffff), from_16(dt, pair >> 16));
}

/* The same of a row that is stored in 16 bits, of H or of the other type. */
template <class H>
static __device__ __forceinline__ cu_words load_narrow(const lora_call &c, const uint16_t *row,
                                                       int32_t k) {
    cu_words w;
    if (c.x_aligned && k + 8 <= c.k)
        w = *(const cu_words *)(row + k);
    else {
        uint32_t v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = k + i < c.k ? row[k + i] : 0;
        w.x = v[0] | v[1] << 16, w.y = v[2] | v[3] << 16;
        w.z = v[4] | v[5] << 16, w.w = v[6] | v[7] << 16;
    }
    if (c.x_dt == H::type) return w;
    cu_words other = {repack<H>(c.x_dt, w.x), repack<H>(c.x_dt, w.y), repack<H>(c.x_dt, w.z),
                      repack<H>(c.x_dt, w.w)};
    return other;
}

template <class H, bool narrow>
static __device__ __forceinline__ cu_words load_x(const lora_call &c, int32_t row, int32_t k) {
    int64_t at = row * c.x_stride;
    if (narrow) return load_narrow<H>(c, (const uint16_t *)c.x + at, k);
    return load_rounded<H>((const float *)c.x + at, k, c.k, c.x_aligned);
}

template <bool narrow>
static __device__ __forceinline__ float x_at(const lora_call &c, int32_t row, int32_t k) {
    int64_t at = row * c.x_stride + k;
    return narrow ? from_16(c.x_dt, ((const uint16_t *)c.x)[at]) : ((const float *)c.x)[at];
}

/* ---- x to low ---- */

/* Where the sum of a split, a row and a rank of the tile waits. */
template <int TN, int TM>
static __device__ __forceinline__ int sum_at(int split, int row, int rank) {
    return (split * 8 * TM + row) * (16 * TN + 4) + rank;
}

/* This warp's split of a chunk: ranks rank0 .. of A times the rows of `mine`. */
template <class H, int TN, int TM, bool narrow>
static __device__ __forceinline__ void split_16(const lora_call &c, const wmat &a, int32_t row0,
                                                uint32_t mine, int32_t rank0, int32_t chunk,
                                                float *sums) {
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP, g = lane / 4, q = lane % 4;
    int32_t k0 = chunk * LORA_CHUNK + warp * LORA_SPLIT, ld = ld_of(a);
    float sum[TN][TM][4] = {};
#pragma unroll(TN == 1 ? 8 : 2)
    for (int s = 0; s < LORA_SPLIT / 32; s++) {
        int32_t k = k0 + s * 32 + q * 8;
        cu_words w[TN][2], x[TM];
#pragma unroll
        for (int i = 0; i < 2 * TN; i++)
            w[i / 2][i % 2] = load_weights(a, ld, min(rank0 + i * 8 + g, a.n - 1), k);
#pragma unroll
        for (int j = 0; j < TM; j++)
            x[j] = mine >> (j * 8 + g) & 1 && k < c.k ? load_x<H, narrow>(c, row0 + j * 8 + g, k)
                                                      : zeros();
#pragma unroll
        for (int i = 0; i < TN; i++)
#pragma unroll
            for (int j = 0; j < TM; j++) {
                half_step0<H>(sum[i][j], w[i], x[j]);
                half_step1<H>(sum[i][j], w[i], x[j]);
            }
    }
#pragma unroll
    for (int i = 0; i < TN; i++)
#pragma unroll
        for (int j = 0; j < TM; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sums[sum_at<TN, TM>(warp, j * 8 + q * 2 + e % 2, i * 16 + g + e / 2 * 8)] =
                    sum[i][j][e];
}

/* A chunk in f32, its sum in the place of split 0: a warp takes a few ranks, row by row. */
template <int TN, int TM, bool narrow>
static __device__ __forceinline__ void chunk_32(const lora_call &c, const wmat &a, int32_t row0,
                                                uint32_t mine, int32_t rank0, int32_t chunk,
                                                float *sums) {
    enum { RANKS = 16 * TN / LORA_WARPS };
    int lane = threadIdx.x % CU_WARP, first = threadIdx.x / CU_WARP * RANKS;
    int32_t k0 = chunk * LORA_CHUNK, k_end = min(k0 + LORA_CHUNK, c.k), ld = ld_of(a);
    for (; mine; mine &= mine - 1) {
        int row = __ffs((int)mine) - 1;
        for (int f = first; f < first + RANKS && rank0 + f < a.n; f++) {
            const float *w = (const float *)a.data + (int64_t)(rank0 + f) * ld;
            float sum = 0;
            for (int32_t k = k0 + lane; k < k_end; k += CU_WARP)
                sum = fmaf(x_at<narrow>(c, row0 + row, k), w[k], sum);
            sum = cu_warp_sum(sum);
            if (lane == 0) sums[sum_at<TN, TM>(0, row, f)] = sum;
        }
    }
}

/* One adapter's rows of a tile. */
template <int TN, int TM, bool narrow>
static __device__ __forceinline__ void down_rows(const lora_call &c, const wmat &a, int32_t row0,
                                                 uint32_t mine, int32_t rank0, float *sums) {
    enum { ROWS = 8 * TM, RANKS = 16 * TN, CELLS = (ROWS * RANKS + THREADS - 1) / THREADS };
    int32_t n_chunks = (c.k + LORA_CHUNK - 1) / LORA_CHUNK;
    float total[CELLS] = {};
    for (int32_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        if (a.dt == DT_F32)
            chunk_32<TN, TM, narrow>(c, a, row0, mine, rank0, chunk, sums);
        else if (a.dt == DT_BF16)
            split_16<cu_bf16, TN, TM, narrow>(c, a, row0, mine, rank0, chunk, sums);
        else
            split_16<cu_f16, TN, TM, narrow>(c, a, row0, mine, rank0, chunk, sums);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < CELLS; i++) {
            int cell = i * THREADS + threadIdx.x, row = cell / RANKS, rank = cell % RANKS;
            if (row >= ROWS || !(mine >> row & 1) || rank0 + rank >= a.n) continue;
            float sum = 0;
            for (int s = 0; s < (a.dt == DT_F32 ? 1 : LORA_WARPS); s++)
                sum += sums[sum_at<TN, TM>(s, row, rank)];
            total[i] += sum;
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < CELLS; i++) {
        int cell = i * THREADS + threadIdx.x, row = cell / RANKS, rank = cell % RANKS;
        if (row >= ROWS || !(mine >> row & 1) || rank0 + rank >= a.n) continue;
        int64_t at = (int64_t)blockIdx.y * c.n_rows + row0 + row;
        c.low[at * c.rank + rank0 + rank] = total[i];
    }
}

/* x: tiles of rows and ranks, y: chunks, z: adapters of a tile. */
template <int TN, int TM, bool narrow>
static __global__ void __launch_bounds__(THREADS) down_kernel(const lora_call c) {
    enum { ROWS = 8 * TM, RANKS = 16 * TN };
    __shared__ float sums[LORA_WARPS * ROWS * (RANKS + 4)];
    int32_t across = (c.rank + RANKS - 1) / RANKS;
    int32_t row0 = (int32_t)blockIdx.x / across * ROWS;
    int32_t rank0 = (int32_t)blockIdx.x % across * RANKS;
    int32_t id = tile_adapter(c, row0, min(ROWS, c.n_rows - row0));
    uint32_t leaders = tile_leaders(id);
    for (uint32_t i = 0; leaders; i++, leaders &= leaders - 1) {
        if (i % gridDim.z != blockIdx.z) continue;
        int32_t of = __shfl_sync(CU_FULL, id, __ffs((int)leaders) - 1);
        uint32_t mine = __ballot_sync(CU_FULL, id == of);
        const wmat &a = c.table[of][c.slot].a;
        if (rank0 < a.n) down_rows<TN, TM, narrow>(c, a, row0, mine, rank0, sums);
    }
}

/* ---- low to out ---- */

/* Ranks r0 .. r0+LOW_STEP-1 of a part for the rows of `mine`, summed over chunks and scaled; zeros
 * elsewhere. */
template <int ROWS>
static __device__ __forceinline__ void load_low(const lora_call &c, const lora_slot &l,
                                                const lora_part &p, int32_t row0, uint32_t mine,
                                                int32_t r0, float *low) {
    for (int i = threadIdx.x; i < ROWS * LOW_STEP; i += THREADS) {
        int row = i / LOW_STEP, r = i % LOW_STEP;
        float v = 0;
        if (mine >> row & 1 && r0 + r < p.b.k) {
            int32_t rank = p.col0 + r0 + r;
            for (int32_t chunk = 0; chunk < c.n_low; chunk++)
                v += c.low[((int64_t)chunk * c.n_rows + row0 + row) * c.rank + rank];
            v *= l.s[rank];
        }
        low[row * LOW_LD + r] = v;
    }
}

static __device__ __forceinline__ void put(const lora_call &c, int32_t row, int32_t col, float v) {
    float *out = c.out + row * c.out_stride + col;
    *out = v + *out;
}

/* A part's columns of the block times LOW_STEP ranks, in tensor-core steps: a warp has 16 columns.
 */
template <class H, int TM>
static __device__ __forceinline__ void up_16(const wmat &b, int32_t n0, int32_t r0,
                                             const float *low, float sum[TM][4]) {
    int lane = threadIdx.x % CU_WARP, g = lane / 4, q = lane % 4;
    int32_t ld = ld_of(b);
#pragma unroll
    for (int s = 0; s < LOW_STEP / 32; s++) {
        int32_t k = s * 32 + q * 8;
        cu_words w[2];
        if (r0 + s * 32 >= b.k) break;
#pragma unroll
        for (int i = 0; i < 2; i++)
            w[i] = load_weights(b, ld, min(max(n0 + i * 8 + g, 0), b.n - 1), r0 + k);
#pragma unroll
        for (int j = 0; j < TM; j++) {
            cu_words x = load_rounded<H>(low + (j * 8 + g) * LOW_LD, k, LOW_STEP, true);
            half_step0<H>(sum[j], w, x);
            half_step1<H>(sum[j], w, x);
        }
    }
}

template <int TM>
static __device__ __forceinline__ void up_part_16(const lora_call &c, const lora_slot &l,
                                                  const lora_part &p, int32_t row0, uint32_t mine,
                                                  int32_t n0, float *low) {
    int lane = threadIdx.x % CU_WARP, g = lane / 4, q = lane % 4;
    n0 += threadIdx.x / CU_WARP * 16 - p.row0; /* of this warp, in the part */
    bool is_in = n0 + 16 > 0 && n0 < p.b.n;
    float sum[TM][4] = {};
    for (int32_t r0 = 0; r0 < p.b.k; r0 += LOW_STEP) {
        load_low<8 * TM>(c, l, p, row0, mine, r0, low);
        __syncthreads();
        if (is_in && p.b.dt == DT_BF16) up_16<cu_bf16, TM>(p.b, n0, r0, low, sum);
        if (is_in && p.b.dt == DT_F16) up_16<cu_f16, TM>(p.b, n0, r0, low, sum);
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < TM; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = j * 8 + q * 2 + e % 2, col = n0 + g + e / 2 * 8;
            if (mine >> row & 1 && col >= 0 && col < p.b.n)
                put(c, row0 + row, p.row0 + col, sum[j][e]);
        }
}

/* In f32: a thread has one column of half of the rows. */
template <int TM>
static __device__ __forceinline__ void up_part_32(const lora_call &c, const lora_slot &l,
                                                  const lora_part &p, int32_t row0, uint32_t mine,
                                                  int32_t n0, float *low) {
    enum { EACH = 8 * TM * LORA_COLS / THREADS };
    int32_t col = n0 - p.row0 + (int)threadIdx.x % LORA_COLS;
    int half = threadIdx.x / LORA_COLS;
    bool is_in = col >= 0 && col < p.b.n;
    const float *w = (const float *)p.b.data + (is_in ? (int64_t)col * ld_of(p.b) : 0);
    float sum[EACH] = {};
    for (int32_t r0 = 0; r0 < p.b.k; r0 += LOW_STEP) {
        load_low<8 * TM>(c, l, p, row0, mine, r0, low);
        __syncthreads();
        for (int r = 0; is_in && r < LOW_STEP && r0 + r < p.b.k; r++)
#pragma unroll
            for (int i = 0; i < EACH; i++)
                sum[i] = fmaf(low[(i * 2 + half) * LOW_LD + r], w[r0 + r], sum[i]);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (is_in && mine >> (i * 2 + half) & 1) put(c, row0 + i * 2 + half, p.row0 + col, sum[i]);
}

template <int TM> static __global__ void __launch_bounds__(THREADS) up_kernel(const lora_call c) {
    enum { ROWS = 8 * TM };
    __shared__ __align__(16) float low[ROWS * LOW_LD];
    int32_t across = (c.n + LORA_COLS - 1) / LORA_COLS;
    int32_t row0 = (int32_t)blockIdx.x / across * ROWS;
    int32_t n0 = (int32_t)blockIdx.x % across * LORA_COLS;
    int32_t id = tile_adapter(c, row0, min(ROWS, c.n_rows - row0));
    for (uint32_t leaders = tile_leaders(id); leaders; leaders &= leaders - 1) {
        int32_t of = __shfl_sync(CU_FULL, id, __ffs((int)leaders) - 1);
        uint32_t mine = __ballot_sync(CU_FULL, id == of);
        const lora_slot &l = c.table[of][c.slot];
        for (int32_t i = 0; i < l.n_parts; i++) {
            const lora_part &p = l.parts[i];
            if (p.row0 >= n0 + LORA_COLS || p.row0 + p.b.n <= n0) continue;
            if (p.b.dt == DT_F32)
                up_part_32<TM>(c, l, p, row0, mine, n0, low);
            else
                up_part_16<TM>(c, l, p, row0, mine, n0, low);
        }
    }
}

/* ---- Launches ---- */

template <bool narrow>
static void launch_down(cuda_backend *c, const lora_call *l, const lora_plan *p) {
    dim3 grid((unsigned)p->down_tiles, (unsigned)p->chunk_parts, (unsigned)p->adapters_apart);
    if (p->down_rows == 8)
        CU_LAUNCH((down_kernel<1, 1, narrow>), grid, THREADS, 0, c->stream, *l);
    else
        CU_LAUNCH((down_kernel<4, 2, narrow>), grid, THREADS, 0, c->stream, *l);
    cuda_launched(c, "lora");
}

static void launch_up(cuda_backend *c, const lora_call *l, const lora_plan *p) {
    if (p->up_rows == 8)
        CU_LAUNCH((up_kernel<1>), p->up_tiles, THREADS, 0, c->stream, *l);
    else
        CU_LAUNCH((up_kernel<4>), p->up_tiles, THREADS, 0, c->stream, *l);
    cuda_launched(c, "lora");
}

size_t cuda_lora_need(const op_bounds *o) {
    int32_t k = 0;
    for (int32_t i = 0; i < o->n_mats; i++) k = MAX(k, o->mats[i].k);
    return lora_low_bytes_max(o->n_tokens, k, o->lora_rank);
}

void cuda_lora(backend *b, const op_lora *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_rows <= 0 || a->rank <= 0) return;
    lora_plan p = lora_plan_of(a->n_rows, a->n, a->k, a->rank);
    CHECK(p.chunk_parts <= 65535);
    bool narrow = a->x_dt != DT_F32;
    CHECK(dtype_is_float(a->x_dt));
    lora_call l = {};
    l.n_rows = a->n_rows, l.n = a->n, l.k = a->k, l.rank = a->rank, l.slot = a->slot;
    l.x = a->x, l.x_stride = a->x_stride;
    l.x_dt = a->x_dt;
    l.x_aligned = (uintptr_t)a->x % 16 == 0 && a->x_stride % (narrow ? 8 : 4) == 0;
    l.out = a->out, l.out_stride = a->out_stride;
    l.table = a->table, l.of_row = a->of_row, l.pick = a->pick;
    l.low = (float *)cuda_scratch(c, p.low_bytes);
    l.n_low = p.chunk_parts;
    if (!l.low) return;
    if (narrow)
        launch_down<true>(c, &l, &p);
    else
        launch_down<false>(c, &l, &p);
    launch_up(c, &l, &p);
}
