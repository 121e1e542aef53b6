/* Where the parts of a quantised matrix lie in a device's memory, and how its stored rows (quant.h)
 * get there. Plain arithmetic and copies, tested where there is no device.
 *
 * GEMM_CODES and GEMM_VALUES kinds keep stored rows as they are, behind the side of quant.h. The
 * others have planes, so that every lane's loads are 16 aligned bytes:
 *
 *   order    int4 with an order: column[j] of the j-th code in a row, int32 [K]
 *   codes    [N][code_ld], zeros behind K
 *            int4  blocks of 128 codes, 16 words of eight: word q of slab s at 4q + s, so that the
 *                  16 bytes of lane q are its columns of four slabs. With an order the columns are
 *                  sorted by their group
 *            S8    the codes less 128, signed
 *            F8    the codes
 *   scales   int4  [N][G] as they are, f16 or bf16
 *            S8    [N] quant_row8
 *            F8    [N][G] f32, scale_mul multiplied in
 *   zeros    int4 with zeros: [N][G] bytes
 */
#ifndef KERNELS_CUDA_CUDA_QUANT_LAYOUT_H
#define KERNELS_CUDA_CUDA_QUANT_LAYOUT_H

#include "kernels/cuda/cuda_gemm_plan.h"

/* What a row of int8 codes c brings: its values are (c + shift) * scale, sum is that of all c. */
typedef struct quant_row8 {
    float scale;
    int32_t sum, shift, unused;
} quant_row8;

typedef struct quant_plane {
    size_t at, row_bytes; /* from the matrix' beginning; row_bytes 0: there is none */
} quant_plane;

typedef struct quant_layout {
    gemm_kind kind;
    int32_t k, groups;
    quant_plane codes, scales, zeros;
    size_t bytes; /* of the matrix, also as stored rows */
} quant_layout;

quant_layout quant_layout_of(gemm_kind kind, dtype dt, const quant_spec *q, int32_t n, int32_t k);
static inline bool quant_has_planes(gemm_kind kind) {
    return gemm_is_int4(kind) || gemm_is_bytes(kind);
}

/* One stored row as a row of each plane; columns: of quant_sort_columns, or NULL. */
void quant_layout_codes(const quant_layout *l, dtype dt, const int32_t *columns,
                        const uint8_t *stored, uint8_t *to);
void quant_layout_scales(const quant_layout *l, dtype dt, const quant_spec *q,
                         const uint8_t *stored, uint8_t *to);
void quant_layout_zeros(const quant_layout *l, dtype dt, const quant_spec *q, const uint8_t *stored,
                        uint8_t *to);

#endif
