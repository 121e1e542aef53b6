/* Quantised storage of a weight matrix [N,K] and what its values are.
 *
 * Two kinds (dtype.def):
 *   GGUF blocks: a row is K/block consecutive blocks, as in the file.
 *   Codes: one canonical layout for GPTQ, AWQ, compressed-tensors, block and channel FP8,
 *   bitsandbytes, MXFP4 and NVFP4. Column k of a row belongs to group g = order ? order[k] :
 *   k / group; its value is
 *       (table[code] or code - zero[g]) * scale[g]
 *   intN: code - zero; e2m1, f8: their fixed tables; table4: the matrix' own 16 values.
 *
 * A stored row is its codes (dtype_row_bytes; code j at bit j*bits, low bits first), then G scales
 * of scale_dt, then G zeros of a byte if the spec has them. What belongs to all rows comes first in
 * the matrix' memory: order [K] int32, then table [16] f32 (quant_side_bytes, a multiple of 64).
 *
 * Everything here is pure and defines the values; faster rows must give the same bits or stay
 * within the gemm's tolerance. Formulas: GGUF and the checkpoint formats' own documents. */
#ifndef KERNELS_QUANT_H
#define KERNELS_QUANT_H

#include "kernels/dtype.h"

/* How the activations of a product are rounded before it, as checkpoints for 8-bit units ask.
 * INT8: x becomes round(x / s) * s, clamped to [-128 s, 127 s]. FP8: e4m3(x / s) * s, where e4m3
 * rounds to the nearest value of E4M3, ties to even, and what is beyond 448 to 448.
 *
 * No checkpoint asks for INT8_GROUP: it is what a backend multiplies by codes fastest (backend.h:
 * native_act). There code = round(x * (127 / max|x|)); a group with an infinity or a NaN becomes
 * NaN, one whose largest is below ACT_TINY zeros. Its groups are of columns as the weights' scales
 * have them: with whole_order, of the columns sorted by their weights' group. */
typedef enum act_round {
    ACT_ROUND_NONE,
    ACT_ROUND_INT8_TOKEN,  /* s = max|x| / 127 of the row */
    ACT_ROUND_INT8_STATIC, /* s = quant_spec.act_scale, codes shifted by act_zero */
    ACT_ROUND_INT8_GROUP,  /* s = max|x| / 127 of each quant_spec.act_group columns of the row */
    ACT_ROUND_FP8_TOKEN,   /* s = max|x| / 448 of the row */
    ACT_ROUND_FP8_GROUP,   /* s = max|x| / 448 of each ACT_GROUP columns of the row */
    ACT_ROUND_FP8_STATIC   /* s = quant_spec.act_scale */
} act_round;
#define ACT_GROUP 128
#define ACT_TINY  0x1p-100f

/* As checkpoints for int8 units ask. */
static inline bool act_round_is_int8(act_round a) {
    return a == ACT_ROUND_INT8_TOKEN || a == ACT_ROUND_INT8_STATIC;
}
static inline bool act_round_is_fp8(act_round a) {
    return a >= ACT_ROUND_FP8_TOKEN;
}

/* What a matrix of codes needs to be understood; zero but for `math` for other types. */
typedef struct quant_spec {
    int32_t group;    /* columns of one scale, >= 1; G = ceil(K / group) */
    dtype scale_dt;   /* f32, f16, bf16, f8_e8m0, f8_e4m3 */
    bool has_zeros;   /* a stored zero for each group; else `zero` is the zero of all */
    bool has_order;   /* order[K] says each column's group, every value below G */
    bool whole_order; /* and every group has exactly `group` columns, as act-order makes them */
    int16_t zero;     /* of all groups, or what is added to every stored zero */
    float scale_mul;  /* every scale is multiplied by it: 1, or 1 / global scale */
    act_round act;
    int16_t act_zero;  /* ACT_ROUND_INT8_STATIC */
    float act_scale;   /* ACT_ROUND_.._STATIC */
    int32_t act_group; /* ACT_ROUND_INT8_GROUP: a multiple of 32 */
    dtype math; /* f32: products are of the values themselves. f16, bf16: the checkpoint is made for
                 * arithmetic of that type, and a product may round code - zero, the scale, what
                 * they make and the activations to it (then ops.def's narrow tolerance). Of GGUF
                 * types too */
} quant_spec;

static inline int32_t quant_groups(const quant_spec *q, int32_t k) {
    return (k + q->group - 1) / q->group;
}
/* Bytes of one stored row of k values; q is not read for other kinds than codes. */
size_t quant_row_bytes(dtype dt, const quant_spec *q, int32_t k);
/* Bytes before the rows; 0 for other kinds than codes. */
size_t quant_side_bytes(dtype dt, const quant_spec *q, int32_t k);
int quant_bits(dtype dt); /* of a code: 2, 3, 4, 8 */

/* Rows of codes as readers unpack them, one code a byte. */
typedef struct quant_rows {
    const uint8_t *codes; /* [n_rows,K] */
    const void *scales;   /* [n_rows,G] of scale_dt */
    const uint8_t *zeros; /* [n_rows,G] if the spec has zeros */
} quant_rows;

/* Write rows of codes as consecutive stored rows to dst. */
void quant_pack_rows(dtype dt, const quant_spec *q, int32_t k, const quant_rows *src,
                     int32_t n_rows, void *dst);
/* Write what belongs to all rows: order [K] and table [16], NULL where there is none. */
void quant_pack_side(dtype dt, const quant_spec *q, int32_t k, const int32_t *order,
                     const float *table, void *dst);

/* Columns sorted by their group, in their order within one, to ret_columns [K]. False where some
 * group has not exactly q->group columns. */
bool quant_sort_columns(const quant_spec *q, int32_t k, const int32_t *order, int32_t *ret_columns);

/* Columns [k0, k0+n) of one stored row of k; k0 is a multiple of QUANT_STRIP, and so is n unless
 * the row ends there. side: the memory that quant_pack_side wrote. */
#define QUANT_STRIP 256 /* a multiple of every block */
void quant_row_f32(dtype dt, const quant_spec *q, int32_t k, const void *side, const void *row,
                   int32_t k0, int32_t n, float *ret);
/* n values (whole blocks) of a GGUF type. */
void quant_blocks_f32(dtype dt, const void *src, int64_t n, float *ret);

/* Round k activations in place as the spec says. order: [K] if the spec has one. */
void quant_round_acts(const quant_spec *q, int32_t k, const int32_t *order, float *x);

#endif
