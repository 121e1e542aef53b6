/* See the header. A plane's rows are made one by one, so that any range of rows can be packed by
 * any thread. Interleaving 16 rows into tiles of one load each was left out for that: four lanes
 * read 64 neighbouring bytes of a row, two whole sectors, as they do of 16-bit weights. */
#include "kernels/cuda/cuda_quant_layout.h"

#include <string.h>

#include "engine/base/mem.h"

#define PLANE_ALIGN 256
#define UNIT_CODES  128 /* of int4, four slabs */
#define UNIT_BYTES  (UNIT_CODES / 2)

static quant_plane add_plane(quant_layout *l, int32_t n, size_t row_bytes) {
    quant_plane p = {l->bytes, row_bytes};
    l->bytes = ALIGN_UP(l->bytes + (size_t)n * row_bytes, (size_t)PLANE_ALIGN);
    return p;
}

quant_layout quant_layout_of(gemm_kind kind, dtype dt, const quant_spec *q, int32_t n, int32_t k) {
    quant_layout l = {.kind = kind, .k = k};
    size_t side = quant_side_bytes(dt, q, k), row = quant_row_bytes(dt, q, k);
    size_t as_stored = side + (size_t)n * row;
    if (!quant_has_planes(kind)) {
        l.codes = (quant_plane){side, row};
        l.bytes = as_stored;
        return l;
    }
    l.groups = quant_groups(q, k);
    size_t groups = (size_t)l.groups;
    if (q->has_order) l.bytes = ALIGN_UP((size_t)k * sizeof(int32_t), (size_t)PLANE_ALIGN);
    if (gemm_is_int4(kind)) {
        l.codes = add_plane(&l, n, (size_t)CEIL_DIV(k, UNIT_CODES) * UNIT_BYTES);
        l.scales = add_plane(&l, n, groups * 2);
        if (q->has_zeros) l.zeros = add_plane(&l, n, groups);
    } else {
        l.codes = add_plane(&l, n, ALIGN_UP((size_t)k, (size_t)64));
        l.scales = add_plane(&l, n, kind == GEMM_S8 ? sizeof(quant_row8) : groups * sizeof(float));
    }
    l.bytes = MAX(l.bytes, as_stored);
    return l;
}

static void int4_codes(const quant_layout *l, const int32_t *columns, const uint8_t *stored,
                       uint8_t *to) {
    uint8_t unit[UNIT_BYTES];
    for (int32_t k0 = 0; k0 < l->k; k0 += UNIT_CODES, to += UNIT_BYTES) {
        int32_t n = MIN(UNIT_CODES, l->k - k0);
        memset(unit, 0, sizeof unit);
        if (columns)
            for (int32_t i = 0; i < n; i++) {
                int32_t from = columns[k0 + i];
                unit[i / 2] |= (uint8_t)((stored[from / 2] >> from % 2 * 4 & 15) << i % 2 * 4);
            }
        else
            memcpy(unit, stored + k0 / 2, (size_t)(n + 1) / 2);
        for (int s = 0; s < 4; s++)
            for (int q = 0; q < 4; q++) memcpy(to + 4 * (4 * q + s), unit + 4 * (4 * s + q), 4);
    }
}

void quant_layout_codes(const quant_layout *l, dtype dt, const int32_t *columns,
                        const uint8_t *stored, uint8_t *to) {
    (void)dt;
    if (gemm_is_int4(l->kind)) {
        int4_codes(l, columns, stored, to);
        return;
    }
    memset(to + l->k, 0, l->codes.row_bytes - (size_t)l->k);
    for (int32_t i = 0; i < l->k; i++) to[i] = l->kind == GEMM_S8 ? stored[i] ^ 0x80 : stored[i];
}

static int32_t row_sum(const uint8_t *codes, int32_t k) {
    int32_t sum = 0;
    for (int32_t i = 0; i < k; i++) sum += codes[i] - 128;
    return sum;
}

void quant_layout_scales(const quant_layout *l, dtype dt, const quant_spec *q,
                         const uint8_t *stored, uint8_t *to) {
    size_t each = dtype_bytes(q->scale_dt);
    const uint8_t *scales = stored + dtype_row_bytes(dt, l->k);
    if (gemm_is_int4(l->kind)) {
        memcpy(to, scales, (size_t)l->groups * each);
        return;
    }
    if (l->kind == GEMM_S8) {
        int zero = q->zero + (q->has_zeros ? scales[each] : 0);
        quant_row8 r = {.scale = dtype_to_f32(q->scale_dt, scales) * q->scale_mul,
                        .sum = row_sum(stored, l->k),
                        .shift = 128 - zero};
        memcpy(to, &r, sizeof r);
        return;
    }
    for (int32_t g = 0; g < l->groups; g++) {
        float v = dtype_to_f32(q->scale_dt, scales + (size_t)g * each) * q->scale_mul;
        memcpy(to + (size_t)g * sizeof v, &v, sizeof v);
    }
}

void quant_layout_zeros(const quant_layout *l, dtype dt, const quant_spec *q, const uint8_t *stored,
                        uint8_t *to) {
    size_t scales = (size_t)l->groups * dtype_bytes(q->scale_dt);
    memcpy(to, stored + dtype_row_bytes(dt, l->k) + scales, (size_t)l->groups);
}
