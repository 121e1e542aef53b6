/* Products of codes whose weights have fewer than eight bits, or eight with a scale for so few
 * columns of K that activations share one between several: the panels that the rows of all
 * levels share (narrow.c packs them, narrow_body.inc multiplies). Panels of more types are for
 * products of values in f32 (values_body.inc).
 *
 * K is cut into spans. The activations of a span share a scale; its weights have a scale, and maybe
 * an offset, for each `sub` columns of K:
 *   value = code * scale + offset,      or      value = (code - zero) * scale
 * Sums over a sub are integers, exact. They are scaled and added in f32 in ascending order, then
 * the span's sum is multiplied by the scale of the activations and added to the result.
 *
 * A panel of NARROW_COLS columns is, span by span, its codes, then what scales them, padded to
 * NARROW_ALIGN bytes. Codes go unit by unit of K; in each first the low four bits of all codes,
 *   [unit / 8][NARROW_COLS][4] bytes: byte b holds columns 8 s + b of K (low half), 8 s + 4 + b
 * then the bits above them, where there are,
 *   [NARROW_COLS][4] bytes: bits [j h, j h + h) of byte b are those of column 4 j + b of K,
 * h = 1 (unit 32) or 2 (unit 16). So a load, a shift and a mask give four columns of K for as many
 * columns of the result as there are lanes, in the order that dot products of bytes take. Codes of
 * two bits are such words alone, two bits a column of K; codes of three bits are two of those, then
 * a word of third bits.
 *
 * Of a matrix with an order, panels hold columns of K sorted by their group, so that groups lie
 * together; which those are comes first in the matrix' memory (narrow_columns), and the activations
 * are taken in that order. */
#ifndef KERNELS_CPU_NARROW_H
#define KERNELS_CPU_NARROW_H

#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"

#define NARROW_COLS     PANEL_COLS
#define NARROW_PAD      32  /* the columns of the last span are padded to a multiple of it */
#define NARROW_SPAN     256 /* the longest */
#define NARROW_SUB      16  /* the shortest */
#define NARROW_SUBS     (NARROW_SPAN / NARROW_SUB)
#define NARROW_ALIGN    64
#define NARROW_ZERO_MAX 256 /* NARROW_SPAN * 127 * (NARROW_ZERO_MAX + 255) is below 2^24 */

/* How codes are stored. */
typedef enum narrow_bits {
    NARROW_FOUR,
    NARROW_TABLE, /* four bits, that stand for narrow_panel.table[code] */
    NARROW_FIVE,
    NARROW_SIX,
    NARROW_TWO,
    NARROW_THREE,
    NARROW_BYTES, /* one code a byte: [K/4][NARROW_COLS][4]; what the others are unpacked to */
    /* Of products of values alone: */
    NARROW_FLOATS, /* as FOUR; the matrix has 16 floats that codes stand for */
    NARROW_E4M3,   /* [K/2][NARROW_COLS][2] bytes */
    NARROW_E5M2,   /* the same */
    NARROW_BITS
} narrow_bits;

/* Columns of K of a unit, and its bytes. */
static inline int32_t narrow_unit_cols(narrow_bits bits) {
    return bits == NARROW_FIVE || bits == NARROW_THREE ? 32 : 16;
}
static inline int32_t narrow_unit_bytes(narrow_bits bits) {
    int32_t width = bits == NARROW_FIVE                           ? 5
                    : bits == NARROW_SIX                          ? 6
                    : bits == NARROW_TWO                          ? 2
                    : bits == NARROW_THREE                        ? 3
                    : bits == NARROW_BYTES || bits >= NARROW_E4M3 ? 8
                                                                  : 4;
    return PANEL_COLS * narrow_unit_cols(bits) * width / 8;
}

/* What scales the codes of a span, `subs` being its number of subs. */
typedef enum narrow_scales {
    NARROW_F16,   /* [subs][NARROW_COLS] */
    NARROW_BF16,  /* the same */
    NARROW_F32,   /* the same */
    NARROW_SIX_U, /* f16 d [NARROW_COLS]; uint8 [subs][NARROW_COLS] that multiply it */
    NARROW_SIX_S  /* the same with int8 */
} narrow_scales;

/* What offsets them, behind the scales. */
typedef enum narrow_offsets {
    NARROW_CENTRED, /* nothing: `zero` is that of all */
    NARROW_ZEROS,   /* uint8 [subs][NARROW_COLS]: offset = -(that + zero) * scale */
    NARROW_ADD_F16, /* [subs][NARROW_COLS] */
    NARROW_SIX_MIN  /* f16 d [NARROW_COLS]; uint8 [subs][NARROW_COLS]: offset = -d * that */
} narrow_offsets;

typedef struct narrow_panel {
    int32_t k, sub, span, n_spans;
    narrow_bits bits;
    narrow_scales scales;
    narrow_offsets offsets;
    int32_t zero;
    float mul; /* of all scales; it goes into the scales of the activations */
    uint8_t table[16];
    int32_t unit;
    size_t unit_bytes, span_bytes, bytes; /* of a whole span, of the panel */
    size_t side;                          /* bytes before the first panel */
} narrow_panel;

/* The panel of such storage; false: not served. max_code: the largest code that the level's
 * products take (127, or 255), or NARROW_VALUES. Does not look at the spec's act. */
#define NARROW_VALUES INT32_MAX
bool narrow_panel_of(dtype dt, const quant_spec *q, int32_t k, int32_t max_code, narrow_panel *ret);

/* Columns of span i as stored. */
static inline int32_t narrow_cols(const narrow_panel *p, int32_t i) {
    return ALIGN_UP(MIN(p->span, p->k - i * p->span), NARROW_PAD);
}
static inline int32_t narrow_subs(const narrow_panel *p, int32_t cols) {
    return (cols + p->sub - 1) / p->sub;
}
static inline size_t narrow_code_bytes(const narrow_panel *p, int32_t cols) {
    return (size_t)(cols / p->unit) * p->unit_bytes;
}
/* Bytes of the scales of a span before its offsets. */
static inline size_t narrow_scale_bytes(const narrow_panel *p, int32_t subs) {
    size_t of_each = p->scales == NARROW_F32 ? 4 : p->scales >= NARROW_SIX_U ? 1 : 2;
    return NARROW_COLS * ((p->scales >= NARROW_SIX_U ? 2 : 0) + of_each * (size_t)subs);
}

static inline const char *narrow_panel_at(const narrow_panel *p, const wmat *w, int32_t n) {
    return (const char *)w->data + p->side + (size_t)n * p->bytes;
}
/* The matrix' columns of K in the order of its panels; NULL: as they are. */
static inline const int32_t *narrow_columns(const wmat *w) {
    return w->q.has_order ? w->data : NULL;
}

/* Parts of a code_row. */
size_t narrow_bytes(const narrow_panel *p, int32_t n);
/* backend_vtbl.quant_side, before rows are packed. */
void narrow_side(const wmat *w, const int32_t *order, const float *table);
void narrow_pack(const narrow_panel *p, const wmat *w, int32_t row0, int32_t n_rows,
                 const void *rows);

#endif
