/* What one instruction-set level brings: straight-line work on a range. Dividing the work between
 * threads is the drivers' business (backend_cpu.c, gemm.c, attention.c); a row never sees threads.
 *
 * Every range split gives the same bits: a row computes each output element by one fixed sequence
 * of operations that does not depend on the range it is part of. */
#ifndef KERNELS_REF_ROWS_H
#define KERNELS_REF_ROWS_H

#include "kernels/ops.h"
#include "kernels/select.h"

typedef struct embed_row {
    const char *name;
    void (*run)(const op_embed *a, int32_t row0, int32_t row1);
} embed_row;

typedef struct norm_row {
    const char *name;
    void (*run)(const op_norm *a, int32_t row0, int32_t row1);
} norm_row;

typedef struct rope_kv_row {
    const char *name;
    void (*run)(const op_rope_kv *a, int32_t row0, int32_t row1);
} rope_kv_row;

typedef struct latent_kv_row {
    const char *name;
    void (*run)(const op_latent_kv *a, int32_t row0, int32_t row1);
} latent_kv_row;

typedef struct route_row {
    const char *name;
    void (*run)(const op_route *a, int32_t row0, int32_t row1);
} route_row;

typedef struct act_row {
    const char *name;
    void (*run)(const op_act *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1);
} act_row;

typedef struct add_row {
    const char *name;
    void (*run)(const op_add *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1);
} add_row;

typedef struct scale_row {
    const char *name;
    void (*run)(const op_scale *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1);
} scale_row;

typedef struct limit_row {
    const char *name;
    void (*run)(const op_limit *a, int32_t row0, int32_t row1, int32_t col0, int32_t col1);
} limit_row;

typedef struct copy_pages_row {
    const char *name;
    void (*run)(const op_copy_pages *a, int32_t buffer0, int32_t buffer1);
} copy_pages_row;

/* Statistics of n values: maximum, lowest index of it, sum of exp(x - maximum). A NaN makes the
 * maximum NaN. Long rows are cut into blocks of LSE_BLOCK and merged by the driver. */
#define LSE_BLOCK 8192
typedef struct logsumexp_row {
    const char *name;
    void (*run)(const float *x, int32_t n, float *ret_max, double *ret_sum, int32_t *ret_argmax);
} logsumexp_row;

/* Layouts of a packed matrix (wmat.layout). */
typedef enum wmat_layout {
    WMAT_ROWS,   /* [N][K] */
    WMAT_PANELS, /* f32, f16: [N/32][K][32]; bf16: [N/32][ceil(K/2)][32][2]; zero padded */
    WMAT_HALVES, /* [N/32] of f16 [ceil(K/2)][32][2] and f32 [32]: row n is its f16 times the
                  * latter, a power of two that puts its largest in [8, 16); zero padded */
    WMAT_QUANT,  /* what quant_pack_side writes, then N rows of quant_row_bytes */
    WMAT_CODES,  /* of the code_row that serves it (cpu/codes.h) */
    WMAT_VALUES  /* panels of cpu/narrow.h, for the level's value_row */
} wmat_layout;
#define PANEL_COLS 32

/* Rows of `a` come in tiles of at most tile_rows. Tile t of n_tiles holds rows
 * [gemm_tile_row(m, n_tiles, t), gemm_tile_row(m, n_tiles, t+1)). */
static inline int32_t gemm_tile_row(int32_t m, int32_t n_tiles, int32_t t) {
    return (int32_t)((int64_t)m * t / n_tiles);
}

/* What the adapter of row t adds; NULL: nothing. */
static inline const lora_slot *lora_of_row(const op_lora *a, int32_t t) {
    int32_t i = a->of_row[a->pick ? a->pick[t] : t];
    const lora_slot *l = i > 0 && a->table[i] ? &a->table[i][a->slot] : NULL;
    return l && l->n_parts > 0 ? l : NULL;
}

typedef struct gemm_job {
    const op_gemm *g;
    const void *a; /* packed tiles, NULL if the row does not pack */
    int32_t n_tiles;
    int32_t tile0, tile1;   /* tiles to compute */
    int32_t panel0, panel1; /* column panels (of pack_rows columns) to compute */
    void *scratch;          /* of this thread: scratch_bytes */
} gemm_job;

typedef struct gemm_row {
    const char *name;
    wmat_layout layout;
    int32_t pack_rows; /* columns of out in one panel */
    int32_t tile_rows;
    /* backend_vtbl.wmat_pack of its layout; NULL: pack.c has it. */
    void (*pack)(wmat *w, int32_t row0, int32_t n_rows, const void *src, dtype src_dt,
                 int64_t src_stride);
    size_t (*a_bytes)(int32_t m, int32_t k); /* of all packed tiles; NULL: reads a as it is */
    void (*pack_a)(const op_gemm *g, int32_t n_tiles, int32_t tile0, int32_t tile1, void *dst);
    size_t (*scratch_bytes)(int32_t m, int32_t n, int32_t k); /* for any grid */
    void (*run)(const gemm_job *j);
} gemm_row;

/* Products of codes by codes: matrices whose activations are rounded to int8 codes, repacked for
 * the row (cpu/codes.h). What it serves depends on storage, spec and k alone. */
typedef struct code_row {
    const char *name;
    /* Columns of K whose products it sums in integers: what native_act lets share a scale, if the
     * spec does not say otherwise. 0: it does not serve such storage. Does not look at the act. */
    int32_t (*chunk)(dtype dt, const quant_spec *q, int32_t k);
    size_t (*bytes)(dtype dt, const quant_spec *q, int32_t n, int32_t k);
    /* backend_vtbl.quant_pack: any ranges by any threads, so each writes its own columns only. */
    void (*pack)(const wmat *w, int32_t row0, int32_t n_rows, const void *rows);
    gemm_row gemm; /* layout WMAT_CODES; pack_a rounds as w->q.act says */
} code_row;

/* Products of quantised weights by their values in f32: what gemm_f32 of the level makes of them,
 * to the bit, out of panels that keep the codes (cpu/narrow.h). */
typedef struct value_row {
    const char *name;
    int32_t few_rows;
    /* All of a product of at most few_rows rows for panels of columns [panel0, panel1). The rows of
     * g->a have their columns in the order of the panels, and zeros up to whole pads. */
    void (*few)(const op_gemm *g, int32_t panel0, int32_t panel1);
    /* A panel as WMAT_PANELS of f32, up to whole pads of K. */
    void (*expand)(const wmat *w, int32_t panel, float *to);
} value_row;

/* Attention rows are numbered f = query * (H/G) + head within the group, per sequence and kv head.
 * A tile is a range of them over a range of key chunks; keys are cut into chunks of ATTN_CHUNK at
 * absolute positions. The state of a row after a chunk is {max, sum, acc[D]}; states of chunks are
 * merged in ascending order, whoever computed them; a sink comes last.
 *
 * Latent attention is the same with one kv head, head_dim L+R, k_pages == v_pages and values that
 * are the first value_dim = L elements of a row; its pages are [S][L+R] at every level. */
#define ATTN_CHUNK     512
#define ATTN_STATE(d)  ((d) + 16) /* floats of one state: acc[value_dim], max, sum, padding */
#define ATTN_PAGE_UNIT 16         /* page_tokens is a multiple of it */

typedef struct attn_tile {
    const attn_seq *seq;
    int32_t kv_head;
    int32_t value_dim;      /* of out and acc; head_dim unless latent */
    bool latent;            /* eight-bit rows have two scales: of the value, of the rest */
    int32_t f0, f1;         /* rows */
    int32_t chunk0, chunk1; /* key chunks; all that the rows see, unless partial */
    float *partial;         /* NULL: write out. Else the state of row f, f0 <= f < f1, of chunk c
                             * goes to partial + (f-f0)*partial_stride + (c-chunk0)*ATTN_STATE */
    int64_t partial_stride; /* floats */
    const struct attn_tile *next; /* what the caller reads after it: its keys are fetched ahead;
                                   * NULL: nothing */
} attn_tile;

typedef struct attention_row {
    const char *name;
    int32_t tile_rows;
    size_t (*scratch_bytes)(const op_attention *a);
    void (*tile)(const op_attention *a, const attn_tile *t, void *scratch);
    /* Merge n states at `partial`, `stride` floats apart, and the sink (NULL: none), and write [d]
     * to out, d = value_dim. NULL: the row does not split keys. */
    void (*merge)(const float *partial, int64_t stride, int32_t n, int32_t d, const float *sink,
                  float *out);
} attention_row;

/* The keys that the row at position pos sees: [first, last], never empty. */
static inline int32_t attn_first_key(const op_attention *a, int32_t pos) {
    return a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
}
static inline int32_t attn_last_key(const op_attention *a, const attn_seq *s, int32_t pos) {
    if (pos >= s->prefix) return pos;
    int32_t ahead = s->prefix - 1 - pos;
    return a->window > 0 && a->window <= ahead ? pos + a->window - 1 : s->prefix - 1;
}

typedef struct cpu_rows {
#define ROW(slot, type, op, dtypes) const type *slot;
#include "kernels/ref/rows.def"
#undef ROW
} cpu_rows;

extern const cpu_rows rows_ref;
#if defined(__x86_64__)
extern const cpu_rows rows_avx2, rows_avxvnni, rows_avx512, rows_avx512vnni, rows_avx512bf16,
    rows_avx512fp16, rows_amx;
#elif defined(__aarch64__)
extern const cpu_rows rows_neon, rows_neondot, rows_neoni8mm, rows_neonbf16;
#endif

#endif
