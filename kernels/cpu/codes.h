/* Products of codes by codes on the CPU: what the rows of all levels share.
 *
 * A matrix whose spec rounds activations to int8 codes (quant_spec.act) and whose storage a row of
 * the level serves is repacked when it is loaded (WMAT_CODES): a panel holds CODES_COLS columns of
 * the result, chunk after chunk of K. The products of a chunk are summed in integers, exactly, and
 * are then scaled and added in f32, chunk by chunk in ascending order. So a result depends neither
 * on the number of rows nor on who computes it.
 *
 * A chunk of K lies within one group of the activations and within one of the weights, and is short
 * enough for its sums, and its zero points times the sum of its activations, to be whole in f32.
 *
 * A code_row decides by (dt, spec, k) alone what it serves, so the layout of a matrix follows from
 * them and the level. To add a kind of storage: a slot in rows.def, a line in cpu_code_row, a
 * code_row for each level; CODES_* below and codes_body.inc are there to be used but need not be.
 */
#ifndef KERNELS_CPU_CODES_H
#define KERNELS_CPU_CODES_H

#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

#define CODES_COLS  PANEL_COLS
#define CODES_UNIT  32  /* chunks are whole multiples of it, but for the last: that is padded */
#define CODES_CHUNK 256 /* the longest */
/* The templates read four bytes of a column at a time. */
#define CODES_STEP_BYTES (4 * CODES_COLS)
/* Zeros that a row takes: CODES_CHUNK * 127 * 511 is below 2^24. */
#define CODES_ZERO_MAX 256

/* The row that multiplies such a matrix of k columns, NULL: none, it is expanded to f32. */
const code_row *cpu_code_row(const cpu_backend *c, dtype dt, const quant_spec *q, int32_t k);
/* backend_vtbl.native_act. */
act_rounding cpu_native_act(backend *b, dtype dt, const quant_spec *q, int32_t k);

/* The chunk for weights in groups of `group`: the group, or a part of it; 0: groups that cut
 * CODES_UNIT. */
int32_t codes_chunk(int32_t group, int32_t k);
/* May a product of chunks of that many columns round its activations as q->act says? */
bool codes_act_ok(const quant_spec *q, int32_t chunk);

static inline int32_t codes_chunks(int32_t k, int32_t chunk) {
    return (k + chunk - 1) / chunk;
}
/* Columns of chunk i as stored, a multiple of CODES_UNIT. */
static inline int32_t codes_chunk_cols(int32_t k, int32_t chunk, int32_t i) {
    return (MIN(chunk, k - i * chunk) + CODES_UNIT - 1) / CODES_UNIT * CODES_UNIT;
}

/* Packed activations. A tile of mr rows is, chunk by chunk, [cols/4][mr][4] codes (int8 in
 * CODES_A_BYTES of the level each), then what the codes of each row are worth: */
typedef struct codes_act {
    float scale;   /* NaN: the row has an infinity or a NaN there */
    float sum;     /* of the codes */
    int32_t start; /* (what the level takes from the codes - zero of all weights) * sum */
} codes_act;

/* Bytes that n rows take at most: spec and chunk are not known to the caller. */
static inline size_t codes_a_bytes(int32_t n, int32_t k, size_t code_bytes) {
    size_t units = ((size_t)k + CODES_UNIT - 1) / CODES_UNIT;
    return (size_t)n * units * (CODES_UNIT * code_bytes + sizeof(codes_act));
}

/* ---- Panels of unsigned codes ----
 *
 * The value of a weight is (code - zero) * scale, one scale and zero for a chunk or for all of a
 * row. A panel is, chunk by chunk: the codes; unless one scale serves a whole row, the chunk's
 * scales [CODES_COLS] and zeros [CODES_COLS]. Where one serves the row, they come once, behind the
 * last chunk. */
typedef struct codes_panel {
    int32_t k, chunk, n_chunks;
    int32_t bits;     /* of a code: a column of K takes CODES_COLS * bits / 8 bytes */
    bool per_row;     /* scales and zeros are behind the chunks */
    bool has_zeros;   /* zeros [CODES_COLS] int16; else `zero` is that of all */
    bool half_scales; /* f16, else f32 */
    int32_t zero;
    size_t side_bytes;         /* of CODES_COLS scales, and zeros */
    size_t chunk_bytes, bytes; /* of a whole chunk with what belongs to it, of a panel */
} codes_panel;

/* Of a matrix whose zeros and scales are those of a spec. */
codes_panel codes_panel_of(int bits, const quant_spec *q, int32_t k);
/* Is the spec such that codes_panel can hold it? */
bool codes_panel_ok(const quant_spec *q);

static inline size_t codes_panel_codes(const codes_panel *p, int32_t cols) {
    return (size_t)cols * CODES_COLS * (size_t)p->bits / 8;
}
static inline size_t codes_panel_scale_bytes(const codes_panel *p) {
    return CODES_COLS * (p->half_scales ? sizeof(uint16_t) : sizeof(float));
}
/* Write scale and zero of column `col` of chunk i, or of its whole row, into a panel. */
void codes_panel_put(const codes_panel *p, void *panel, int32_t i, int32_t col, float scale,
                     int32_t zero);

/* ---- 8-bit codes: int8 of quant.h and q8_0 (codes_int8.c). [cols/4][CODES_COLS][4] ---- */
codes_panel codes_int8_panel(dtype dt, const quant_spec *q, int32_t k);
/* Parts of a code_row. */
int32_t codes_int8_chunk(dtype dt, const quant_spec *q, int32_t k);
int32_t codes_int8_alone_chunk(dtype dt, const quant_spec *q, int32_t k); /* q8_0: see narrow.h */
size_t codes_int8_bytes(dtype dt, const quant_spec *q, int32_t n, int32_t k);
void codes_int8_pack(const wmat *w, int32_t row0, int32_t n_rows, const void *rows);

#endif
