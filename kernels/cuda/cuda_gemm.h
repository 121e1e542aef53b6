/* What the kernels of matrix products share: the parameters of a launch, how blocks find their
 * part, how outputs are written. A launch multiplies all rows by one matrix, or, for experts, runs
 * of rows by a matrix each: the rows lie sorted by expert, and a list on the device cuts them into
 * tiles. */
#ifndef KERNELS_CUDA_CUDA_GEMM_H
#define KERNELS_CUDA_CUDA_GEMM_H

#include "kernels/cuda/cu_load.h"
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/mem.h"
#include "kernels/cuda/cuda_quant_layout.h"
}

/* A packed matrix as kernels read it. */
typedef struct gemm_w {
    const uint8_t *rows, *side;    /* side: of codes (quant.h); with planes the order of columns */
    const uint8_t *scales, *zeros; /* planes (cuda_quant_layout.h); zeros NULL: there are none */
    int32_t groups;                /* of a row of those planes */
    int64_t row_bytes;
    int32_t ld; /* elements of a row of floats, the padding zero; pairs of bytes */
    dtype dt;
    gemm_kind kind;
    bool is_codes; /* else GGUF blocks, where it is quantised */
    quant_spec q;  /* of codes */
} gemm_w;

/* Rows [row0, row0+n) are of one expert; n is at most the tokens of a block. */
typedef struct gemm_tile {
    int32_t expert, row0, n;
} gemm_tile;

/* Rows of activations as the caller has them (ops.h). */
typedef struct gemm_rows {
    const void *p;
    int64_t stride; /* elements */
    dtype dt;
    const float *scale; /* of codes, a scale for each row */
} gemm_rows;

/* Parameters of a launch. Row r of out is the product of row (a_row ? a_row[r] : r) of a. */
typedef struct gemm_call {
    gemm_kind kind;
    int32_t m, n, k; /* k: gemm_k_of */
    int32_t columns; /* of in */
    gemm_rows in;
    bool rounds; /* rows are rounded in f32 first, as some matrix asks */
    /* What kernels read; gemm_product makes it of `in`. */
    const float *a; /* f32 */
    int64_t a_stride;
    const uint16_t *a16; /* or the weights' type; rows are read by 16 bytes, up to column k */
    int64_t a16_stride;
    const float *a_scale; /* byte kinds: [rows, a_groups] */
    const int32_t *a_sum; /* S8: [rows] sums of the codes; NULL: no matrix needs them */
    int32_t a_groups;
    bool by_group;     /* F8: scales of either side change along a row */
    bool shifts;       /* S8: the zero of some weights is not 128 */
    bool interleaved;  /* a16 and 16-bit weights have columns as cu_splits.h says */
    bool whole_groups; /* int4 kinds: every matrix' groups are multiples of 128 columns */
    bool ordered;      /* int4 kinds: some matrix has an order of columns */
    const int32_t *a_row;
    const int32_t *row_expert; /* experts, where each row is made for its own matrix */
    float *out;
    int64_t out_stride;
    bool accumulate;
    gemm_w w;    /* one matrix for all */
    bool made_w; /* a kernel before wrote it: its product begins after that one (cu_pdl.h) */
    const float *bias;
    const gemm_w
        *experts; /* or NULL: a matrix for each expert; tiles of other kinds are left out */
    const float *const *biases; /* [E] or NULL; the first bias_skip of each are not used */
    int32_t bias_skip;
    const gemm_tile *tiles;
    const int32_t *n_tiles;
    int64_t most_tiles; /* what *n_tiles can be at most */
} gemm_call;

gemm_w gemm_w_of(const wmat *w);
/* wmat.layout of a quantised matrix, unless its order of columns forbids it. */
gemm_kind cuda_quant_kind(const cuda_backend *c, int32_t k, dtype dt, const quant_spec *q);
/* gemm_call's by_group and shifts of one matrix. */
bool gemm_by_group(const gemm_w *w);
bool gemm_shifts(const gemm_w *w);
/* Bytes of n_rows rows of 16 bits or codes as passes make them for g's kind, columns, by_group. */
size_t gemm_act_bytes(const gemm_call *g, int32_t n_rows);

/* Launch one product under its plan; a16 is filled where the plan wants it. */
void gemm_lanes(cuda_backend *c, const gemm_call *g, const gemm_plan *p);
void gemm_unpack(cuda_backend *c, const gemm_call *g, const gemm_plan *p);
void gemm_splits_run(cuda_backend *c, const gemm_call *g, const gemm_plan *p);
void gemm_int4(cuda_backend *c, const gemm_call *g, const gemm_plan *p);
void gemm_values(cuda_backend *c, const gemm_call *g, const gemm_plan *p);
void gemm_byte_splits(cuda_backend *c, const gemm_call *g, const gemm_plan *p);
void gemm_byte_tiles(cuda_backend *c, const gemm_call *g, const gemm_plan *p);
/* The same by the vendor's library, a16 set; false where it is not asked for or cannot. */
bool cuda_library_gemm(cuda_backend *c, const gemm_call *g);
void gemm_tiles_run(cuda_backend *c, const gemm_call *g, const gemm_plan *p);

/* Passes before a product. round16: n_rows rows of g->in to 16 bits, gemm_round_ld apart; with
 * row_expert row r is that of row a_row[r], in the order of its matrix' columns. codes8: the same
 * as codes of a byte, as its matrix asks; rows that are codes already are copied. widen: rows of
 * g->in to f32 [n_rows,k], which then are `in`. round_acts: row r of to [n_rows,k] is row (a_row ?
 * a_row[r] : r) of in, which is f32, rounded as its matrix says (quant_spec.act): w, or that of
 * expert row_expert[r]. expand: rows [row0, row0+n_rows) of w to f32 [n_rows, ld of f32]. expand16:
 * of an int4 kind to 16 bits [n_rows, gemm_round_ld(k)], interleaved; expand_values: of the values
 * kinds, in their order. */
void gemm_round16(cuda_backend *c, const gemm_call *g, int32_t n_rows, uint16_t *to);
void gemm_widen(cuda_backend *c, gemm_call *g, int32_t n_rows, float *to);
void gemm_round_acts(cuda_backend *c, const gemm_call *g, int32_t n_rows, const int32_t *row_expert,
                     float *to);
void gemm_expand(cuda_backend *c, const gemm_w *w, int32_t k, int32_t row0, int32_t n_rows,
                 float *to);

void gemm_expand16(cuda_backend *c, const gemm_w *w, int32_t k, int32_t row0, int32_t n_rows,
                   uint16_t *to);
void gemm_expand_values(cuda_backend *c, const gemm_w *w, int32_t k, int32_t row0, int32_t n_rows,
                        uint16_t *to);
typedef struct gemm_codes {
    uint8_t *codes; /* [rows, 2 * gemm_round_ld(k)] */
    float *scale;   /* [rows, groups] */
    int32_t *sum;   /* [rows] */
    int32_t groups;
} gemm_codes;
void gemm_codes8(cuda_backend *c, const gemm_call *g, int32_t n_rows, const gemm_codes *to);

/* f32 kinds, and rounding, want f32 rows. */
static inline bool gemm_widens(const gemm_call *g) {
    bool wants = g->kind == GEMM_F32 || g->kind == GEMM_CODES || g->rounds;
    return wants && g->in.dt != DT_F32;
}
/* Bytes of scratch that gemm_product needs for a plan; `in` has a_rows rows. */
size_t gemm_scratch(const gemm_plan *p, const gemm_call *g, int32_t a_rows);
/* The product with its passes. */
void gemm_product(cuda_backend *c, gemm_call *g, const gemm_plan *p, int32_t a_rows, void *scratch);
gemm_plan gemm_choose(const cuda_backend *c, const gemm_call *g, int32_t n_experts);

/* ---- on the device ---- */

/* A block's part of a launch. */
typedef struct gemm_place {
    const uint8_t *rows; /* of its matrix */
    int64_t row_bytes;
    int32_t ld, expert;
    const uint8_t *scales; /* plane */
    int32_t groups, group; /* of a row of weights; columns of one */
    int32_t act_zero;
    const float *bias;
    int32_t row0, n_rows; /* of out */
    int32_t n0;           /* first feature */
} gemm_place;

/* Blocks that run together share weights and activations in the L2 cache: neighbours in a launch
 * take the row tiles of a group of GEMM_RASTER one after the other, feature tile by feature tile.
 */
#define GEMM_RASTER 16
static __device__ __forceinline__ bool gemm_place_of(const gemm_call &c, int32_t features,
                                                     int32_t tokens, gemm_place *p) {
    int32_t n_across = (c.n + features - 1) / features;
    int32_t n_down = c.experts ? *c.n_tiles : (c.m + tokens - 1) / tokens;
    int64_t id = blockIdx.x;
    if (id >= (int64_t)n_across * n_down) return false;
    int32_t group = (int32_t)(id / ((int64_t)n_across * GEMM_RASTER));
    int32_t at = (int32_t)(id - (int64_t)group * n_across * GEMM_RASTER);
    int32_t high = n_down - group * GEMM_RASTER;
    if (high > GEMM_RASTER) high = GEMM_RASTER;
    int32_t tile = group * GEMM_RASTER + at % high;
    p->n0 = at / high * features;
    if (!c.experts) {
        p->rows = c.w.rows, p->row_bytes = c.w.row_bytes, p->ld = c.w.ld, p->expert = 0;
        p->scales = c.w.scales, p->groups = c.w.groups, p->group = c.w.q.group;
        p->act_zero = c.w.q.act_zero;
        p->bias = c.bias;
        p->row0 = tile * tokens;
        p->n_rows = c.m - p->row0 < tokens ? c.m - p->row0 : tokens;
        return true;
    }
    gemm_tile t = c.tiles[tile];
    const gemm_w *w = &c.experts[t.expert];
    if (w->kind != c.kind) return false;
    p->rows = w->rows, p->row_bytes = w->row_bytes, p->ld = w->ld, p->expert = t.expert;
    p->scales = w->scales, p->groups = w->groups, p->group = w->q.group;
    p->act_zero = w->q.act_zero;
    p->bias = c.biases ? c.biases[t.expert] + c.bias_skip : NULL;
    p->row0 = t.row0, p->n_rows = t.n;
    return true;
}

static __device__ __forceinline__ int64_t gemm_a_row(const gemm_call &c, int32_t row) {
    return c.a_row ? c.a_row[row] : row;
}

/* Write the sum of row r and feature n0+f of the place, where there are such. */
static __device__ __forceinline__ void gemm_put(const gemm_call &c, const gemm_place &p, int32_t r,
                                                int32_t f, float v) {
    int32_t n = p.n0 + f;
    if (r >= p.n_rows || n >= c.n) return;
    if (p.bias) v += p.bias[n];
    float *out = c.out + (int64_t)(p.row0 + r) * c.out_stride + n;
    *out = c.accumulate ? v + *out : v;
}

/* What an element's sum of type H::acc is worth; H that need more than the sum have their own. */
template <class H> struct gemm_worth {
    static __device__ __forceinline__ float of(const gemm_call &c, const gemm_place &p, int32_t r,
                                               int32_t f, float sum) {
        return sum;
    }
};
/* H whose sums leave the tensor cores inside a split (H::FOLDS) say how in gemm_folds: part is
 * added to sum behind slab `slab` and becomes zero. f0, r0: of the warp's first tile. */
template <class H, int TN, int TM> struct gemm_folds {
    static __device__ __forceinline__ void fold(const gemm_call &c, const gemm_place &p, int32_t f0,
                                                int32_t r0, int32_t slab,
                                                typename H::acc part[TN][TM][4],
                                                typename H::acc sum[TN][TM][4]) {}
};

/* Blocks of a launch. */
static inline int64_t gemm_blocks(const gemm_call *g, const gemm_plan *p) {
    int64_t down = g->experts ? g->most_tiles : CEIL_DIV(g->m, p->tokens);
    return down * CEIL_DIV(g->n, p->features);
}

#endif
