/* Packed weight matrices: bytes and packing of each layout of rows.h. */
#ifndef KERNELS_CPU_PACK_H
#define KERNELS_CPU_PACK_H

#include "kernels/ref/rows.h"

size_t pack_bytes(wmat_layout layout, int32_t n, int32_t k, dtype dt);
/* Bytes of one panel of PANEL_COLS columns. */
size_t pack_panel_bytes(int32_t k, dtype dt);
/* backend_vtbl.wmat_pack. Any row0 is allowed; ranges packed at the same time must not share a
 * panel. */
void pack_rows_into(wmat *w, int32_t row0, int32_t n_rows, const void *src, dtype src_dt,
                    int64_t src_stride);
/* n numbers of a row from column k0, as f32: what was packed, but for numbers of WMAT_HALVES below
 * 2^-20 of the largest of their row, of which less than 2^-28 of that is lost. */
void pack_row_f32(const wmat *w, int32_t row, int32_t k0, int32_t n, float *ret);

#endif
