/* What the attention kernels share: the arguments of a launch, the scores, the state of a row and
 * how states are merged. Every kernel of one element type must give a row the same bits, so what
 * touches a row's numbers is here: the compiler contracts
 * nothing, so what is written is what every kernel does.
 *
 * The state of a row after a chunk of keys is {acc[value width], max, sum}: acc and sum relative to
 * max, which is ATTN_NONE before the first key. A key that a row does not see scores -inf and adds
 * an exact zero; so blocks, chunks and tiles that only other rows need change nothing. */
#ifndef KERNELS_CUDA_CUDA_ATTENTION_H
#define KERNELS_CUDA_CUDA_ATTENTION_H

#include <math.h>

#include "kernels/cuda/cu.h"
#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cu_num.h"
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "kernels/cuda/cuda_attn_plan.h"
}

#define ATTN_LOG2E 1.44269504088896340736f
#define ATTN_NONE  (-1e30f) /* maximum of no score: finite, so that differences are */

/* One launch. Scores are in units of log2 in the bf16 kernels (unit 1) and natural in the f32 ones
 * (unit log2(e)): probabilities are exp2((score - max) * unit). */
typedef struct attn_args {
    const attn_item *items;
    const attn_merge *merges;
    const int32_t *n_live; /* NULL, or how many of the items, or merges, of the grid there are */
    const attn_seq *seqs;
    const int32_t *page_table;
    int32_t group, n_kv_heads;
    int32_t width, value_width; /* of a key, of a value */
    int32_t page_tokens, window;
    const float *q;
    void *out; /* of out_dt */
    dtype out_dt;
    float *sums; /* what rows hold between chunks, f32: out where that is */
    int64_t q_stride, out_stride, sums_stride;
    float fold; /* q . k * fold, then cap * tanh(that) if cap > 0 */
    float cap;
    float unit, slope_unit; /* of scores; what slopes and sinks are multiplied by */
    const float *slopes, *sinks;
    const void *k, *v;
    bool aligned;       /* rows of pages are whole 16-byte pieces */
    bool f8;            /* of codes: E4M3, not integers */
    int32_t split;      /* of a latent row of codes: where the second scale begins */
    int64_t head_bytes; /* of codes: of a page's part of a kv head */
    float *states;
    int32_t state_floats; /* of one state */
    int32_t stages;       /* buffers of keys and values in shared memory */
} attn_args;

/* A row of a tile, in shared memory. */
typedef struct attn_row {
    int32_t first, last, pos; /* the keys that it sees; its own position */
    float slope;
} attn_row;

/* 2^x to 2 units in the last place; 0 for -inf. */
static __device__ __forceinline__ float attn_exp2(float x) {
#ifdef PAGODA_SIMT
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* A block whose item or merge the plan does not have: of a grid that is fixed (attn_fixed). */
static __device__ __forceinline__ bool attn_idle(const attn_args &a) {
    return a.n_live && (int)(blockIdx.x / a.n_kv_heads) >= *a.n_live;
}

/* Row i of an item; a row behind its last sees nothing. */
static __device__ __forceinline__ attn_row attn_row_of(const attn_args &a, const attn_item &t,
                                                       const attn_seq &s, int kv_head, int i) {
    attn_row r = {0, -1, 0, 0};
    if (i >= t.n_f) return r;
    int f = t.f0 + i;
    r.pos = s.pos0 + f / a.group;
    r.first = attn_first_key(a.window, r.pos);
    r.last = attn_last_key(a.window, s.prefix, r.pos);
    if (a.slopes) r.slope = a.slopes[kv_head * a.group + f % a.group] * a.slope_unit;
    return r;
}

/* Where row i of an item reads its query and writes its result, [width]. */
static __device__ __forceinline__ int64_t attn_row_at(const attn_args &a, int row0, int f,
                                                      int kv_head, int64_t stride, int width) {
    return (row0 + f / a.group) * stride + (int64_t)(kv_head * a.group + f % a.group) * width;
}

/* Number of (page of key, kv head), and the key's place in it. The key is one that some row sees.
 */
static __device__ __forceinline__ int64_t attn_head_at(const attn_args &a, const attn_seq &s,
                                                       int kv_head, int key, int *ret_at) {
    unsigned in = (unsigned)key / (unsigned)a.page_tokens;
    int64_t page = a.page_table[s.page0 + in];
    *ret_at = key - (int)in * a.page_tokens;
    return page * a.n_kv_heads + kv_head;
}

/* Element 0 of (page of key, kv head, key). */
static __device__ __forceinline__ int64_t attn_key_at(const attn_args &a, const attn_seq &s,
                                                      int kv_head, int key) {
    int at;
    int64_t head = attn_head_at(a, s, kv_head, key, &at);
    return (head * a.page_tokens + at) * a.width;
}

/* True when a product is not yet the score of every row and key of a block. */
static __device__ __forceinline__ bool attn_is_plain(const attn_args &a) {
    return !(a.cap > 0) && !a.slopes;
}

/* The score of a (folded) product: cap, slope, mask. */
static __device__ __forceinline__ float attn_score(const attn_args &a, const attn_row &r, int key,
                                                   float x) {
    if (a.cap > 0) x = a.cap * tanhf(x);
    if (a.slopes) x = fmaf(-r.slope, fabsf((float)(r.pos - key)), x);
    return key < r.first || key > r.last ? -INFINITY : x;
}

/* The maximum and sum of a row over chunks merged so far, and the factors that bring what was
 * summed before and what is added to a common maximum. */
typedef struct attn_running {
    float max, sum;
} attn_running;

static __device__ __forceinline__ void attn_merge_max(attn_running *all, float unit, float max,
                                                      float sum, float *ret_old, float *ret_new) {
    float top = fmaxf(all->max, max);
    *ret_old = attn_exp2((all->max - top) * unit);
    *ret_new = attn_exp2((max - top) * unit);
    all->max = top;
    all->sum = fmaf(sum, *ret_new, all->sum * *ret_old);
}

static __device__ __forceinline__ float attn_merge_acc(float all, float old_factor, float acc,
                                                       float new_factor) {
    return fmaf(acc, new_factor, all * old_factor);
}

/* After the last chunk: the sink of a query head joins the sum; the factor of acc for it. */
static __device__ __forceinline__ float attn_sink(const attn_args &a, int head, attn_running *all) {
    if (!a.sinks) return 1;
    float old_factor, new_factor;
    attn_merge_max(all, a.unit, fmaxf(a.sinks[head] * a.slope_unit, ATTN_NONE), 1, &old_factor,
                   &new_factor);
    return old_factor;
}

/* out of acc; + 0 makes a negative zero positive: what other rows need may have added zeros. */
static __device__ __forceinline__ float attn_finish(float acc, float sink_factor, float inverse) {
    return acc * sink_factor * inverse + 0.0f;
}

/* Two neighbouring results of a row, or the first alone, from element at on. */
static __device__ __forceinline__ void attn_put(const attn_args &a, int64_t at, float x, float y,
                                                bool both) {
    if (a.out_dt == DT_F32) {
        ((float *)a.out)[at] = x;
        if (both) ((float *)a.out)[at + 1] = y;
        return;
    }
    uint16_t *to = (uint16_t *)a.out + at;
    uint32_t pair = a.out_dt == DT_BF16 ? cu_bf16::pack(x, y) : cu_f16::pack(x, y);
    if (both && (uintptr_t)to % 4 == 0) {
        *(uint32_t *)to = pair;
        return;
    }
    to[0] = (uint16_t)pair;
    if (both) to[1] = (uint16_t)(pair >> 16);
}

/* Floats of a state: acc, max, sum, whole 16-byte pieces. */
static inline int32_t attn_state_floats(int32_t value_width) {
    return (value_width + 2 + 3) / 4 * 4;
}
/* Number i of an item's or merge's states for a kv head. */
static __device__ __forceinline__ float *attn_state_at(const attn_args &a, int64_t i, int kv_head) {
    return a.states + (i * a.n_kv_heads + kv_head) * a.state_floats;
}

/* Launchers: a block per item and kv head, a.items from the first of the launch. smem of the bf16
 * ones is what attn_*_smem said. */
typedef struct attn_launch {
    const void *kernel; /* for cudaFuncSetAttribute */
    void (*run)(cuda_backend *c, const attn_args *a, unsigned blocks, size_t smem);
    int32_t tile_rows, stages, per_sm;
    size_t smem;
} attn_launch;

/* The kernels for a call: value width and storage decide, then what fits into smem_max. */
attn_launch attn_pick_f32(int32_t width);
attn_launch attn_pick_group(int32_t width, attn_width kind, bool codes, size_t smem_max);
attn_launch attn_pick_prefill(int32_t width, bool codes);
attn_launch attn_pick_latent(int32_t width, int32_t value_width, attn_width kind, bool codes,
                             size_t smem_max);

/* The part of attn_run that launches what a division on the device says (cuda_attn_graph.cu). False
 * where there is no room for one more kind of call: the host has to divide. */
bool attn_run_fixed(cuda_backend *c, const op_attention *op, attn_args *a, const attn_shape *shape,
                    const attn_launch launch[ATTN_WIDTHS]);
void attn_fixed_done(cuda_backend *c);
/* Let a kernel have that much dynamic shared memory. */
bool attn_allow(cuda_backend *c, const void *kernel, size_t bytes);

/* Merge the states of cut tiles. */
void attn_run_merges(cuda_backend *c, const attn_args *a, unsigned blocks, unsigned rows);

/* Scratch for n_states states of cut tiles and, where out cannot hold them, for the sums between
 * chunks of n_rows rows, those up to the last that sees more than one chunk; false after a failure.
 */
bool attn_scratch(cuda_backend *c, const op_attention *op, int64_t n_states, int64_t n_rows,
                  attn_args *a);

/* Plan, upload and launch: a call with its two kernels (the same twice where one does all). */
void attn_run(cuda_backend *c, const op_attention *op, int32_t value_width,
              const attn_launch launch[ATTN_WIDTHS], const char *name);

#endif
