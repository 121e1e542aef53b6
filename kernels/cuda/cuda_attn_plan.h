/* How a call of attention is divided, decided on the host: tiles of rows, cut along the keys where
 * there are too few of them to fill the device. Pure functions of the sequences and the shape.
 *
 * Rows are numbered f = query * group + head within the group, per sequence and kv head (rows.h of
 * the reference has the same). A tile is a range of rows of one sequence; every kv head does all
 * tiles. Keys are cut into chunks of ATTN_CHUNK at absolute positions; the state of a row after a
 * chunk is {acc[value width], max, sum}, and states are merged in ascending order, inside the
 * kernel when one item has all chunks of a tile, by a second kernel when several share them: the
 * same operations either way, so cutting changes no bit. */
#ifndef KERNELS_CUDA_CUDA_ATTN_PLAN_H
#define KERNELS_CUDA_CUDA_ATTN_PLAN_H

#include "engine/base/vec.h"
#include "kernels/ops.h"

#ifdef __CUDACC__
#define ATTN_FN static inline __host__ __device__
#else
#define ATTN_FN static inline
#endif

#define ATTN_CHUNK 512 /* keys; a multiple of every kernel's block of keys */

/* The keys that the row at position pos sees: [first, last], never empty; neither falls as pos
 * rises. */
ATTN_FN int32_t attn_first_key(int32_t window, int32_t pos) {
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}
ATTN_FN int32_t attn_last_key(int32_t window, int32_t prefix, int32_t pos) {
    if (pos >= prefix) return pos;
    return window > 0 && window <= prefix - 1 - pos ? pos + window - 1 : prefix - 1;
}

/* One block's work, for one kv head: rows [f0, f0+n_f) of a sequence over chunks [chunk0, chunk1).
 * state < 0: all chunks of these rows; the result goes to out. Else the state of row i after
 * chunk j goes to number state + (j-chunk0)*n_f + i. */
typedef struct attn_item {
    int32_t seq, f0, n_f;
    int32_t chunk0, chunk1;
    int32_t state;
} attn_item;

/* A tile that was cut: states state + j*n_f + i, j < n_chunks, make row f0+i of out. */
typedef struct attn_merge {
    int32_t seq, f0, n_f;
    int32_t n_chunks;
    int32_t state;
} attn_merge;

/* Two kernels share a call: tiles of few rows (decoding) and of many (prefill). */
typedef enum attn_width { ATTN_NARROW, ATTN_WIDE, ATTN_WIDTHS } attn_width;

/* What a plan depends on beside the sequences. */
typedef struct attn_shape {
    int32_t group, n_kv_heads, window;
    int32_t tile_rows[ATTN_WIDTHS]; /* most rows of a tile; what fits a narrow one is narrow */
    int32_t slots[ATTN_WIDTHS];     /* blocks that the device runs at once */
    int64_t states_max;             /* that scratch may hold, of all kv heads */
    int32_t items_max;              /* of each width; 0: any number */
} attn_shape;

typedef struct attn_plan {
    VEC(attn_item) items; /* the narrow ones first; each kind longest first */
    VEC(attn_merge) merges;
    int32_t n_items[ATTN_WIDTHS];
    int32_t merge_rows;   /* most rows of a merge */
    int64_t n_states;     /* of one kv head */
    VEC(attn_item) tiles; /* working memory */
    vec_i32 counts;
} attn_plan;

/* Divide n sequences; p is zeroed or holds an earlier plan, whose memory is used again. */
void attn_plan_make(const attn_shape *s, const attn_seq *seqs, int32_t n, attn_plan *p);
void attn_plan_done(attn_plan *p);

/* A plan for launches that depend on the number of sequences alone, each with one row: how many
 * items and merges there can be, and the two lists behind their true numbers, at fixed places. */
typedef struct attn_fixed {
    int32_t n_items, n_merges, unused[2];
} attn_fixed; /* then attn_item[most.items], attn_merge[most.merges] */
typedef struct attn_most {
    int32_t items, merges;
} attn_most;
/* One kind of tile serves all sequences: the width that a row of `group` heads gets. Cutting may
 * add two rounds of blocks to one item per tile, beyond which it gains nothing. */
attn_width attn_fixed_width(const attn_shape *s);
attn_most attn_fixed_most(const attn_shape *s, int32_t n);
size_t attn_fixed_bytes(attn_most most);
static inline size_t attn_fixed_merges_at(attn_most most) {
    return sizeof(attn_fixed) + (size_t)most.items * sizeof(attn_item);
}
/* Write p, made with items_max = most.items, to `to`. */
void attn_fixed_write(const attn_plan *p, attn_most most, void *to);

/* Chunks per item for n tiles (chunks [chunk0, chunk1) of each): the number that is expected to
 * finish first, the longest tile's number of chunks or more when none should be cut. */
int32_t attn_split_chunks(const attn_item *tiles, int32_t n, int32_t n_kv_heads, int32_t slots,
                          int64_t states_max, int32_t items_max);

/* Blocks of `smem` bytes of shared memory each that run at once on n_sms multiprocessors of compute
 * capability cc (80, 89, 90 ...), at most per_sm on each. */
int32_t attn_slots(int32_t n_sms, int32_t cc, int64_t smem, int32_t per_sm);

#endif
