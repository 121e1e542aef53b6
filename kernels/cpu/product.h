/* A matrix product as work to be divided: what of it can be done apart, by whom does not matter.
 * gemm divides one product among the team, experts and lora lists of them.
 *
 * First its rows are prepared (rounded and packed), tile by tile; then it is multiplied, in any
 * rectangles of tiles x panels. No division changes a bit of the result. */
#ifndef KERNELS_CPU_PRODUCT_H
#define KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/cpu.h"

typedef struct product {
    op_gemm g;               /* `a` f32 */
    const int32_t *pick;     /* row r is row pick[r] of g.a; NULL: row r */
    const gemm_row *row;     /* that multiplies */
    bool expands;            /* its panels are made f32 first (gemm_quant.c), */
    const value_row *values; /* by this row if it is not NULL, */
    bool few;                /* which then multiplies its rows too */
    int32_t n_tiles, n_panels;
    size_t a_bytes;       /* of prepared rows; 0: g.a is read as it is */
    size_t scratch_bytes; /* of each member that prepares or multiplies */
    void *a;              /* set by the caller: memory for prepared rows, 64-byte aligned */
} product;

/* Of a product with rows. pick: as above. */
product product_of(const cpu_backend *c, const op_gemm *g, const int32_t *pick);
/* Are the prepared rows of both the same where their rows of `a` are? */
bool product_same_rows(const product *x, const product *y);
/* Tiles [tile0, tile1) of a product whose a_bytes are not 0. */
void product_prepare(const product *p, int32_t tile0, int32_t tile1, void *scratch);
/* What it multiplies is prepared. A product that expands takes each panel once only if one member
 * has all of its tiles. */
void product_run(const product *p, int32_t tile0, int32_t tile1, int32_t panel0, int32_t panel1,
                 void *scratch);

static inline int64_t product_macs(const product *p) {
    return (int64_t)p->g.m * p->g.w->n * p->g.w->k;
}

/* Of gemm_quant.c: scratch of a member, and panel `panel` of the matrix times tiles of `a`. */
size_t gemm_quant_scratch(const product *p);
void gemm_quant_panel(const product *p, const op_gemm *g, int32_t tile0, int32_t tile1,
                      int32_t panel, char *scratch);

#endif
