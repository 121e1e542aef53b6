/* What a row of codes with scales apart means (quant.h), as code that both the program and kernels
 * on a device compile: quant.c includes it as C, kernels/cuda/cu_quant.h as device code. The
 * includer defines QUANT_FN and QUANT_RESTRICT (quant_values.h) and
 *   QUANT_SCALE(dt, p)       one scale to float, as dtype_to_f32; p is not aligned
 *   QUANT_SCALE_BYTES(dt)
 *   QUANT_NIBBLES(p, n, ret) n codes of four bits from p, low nibble first
 *   QUANT_STEP               most columns of one call of codes_f32
 *
 * Reading goes group by group: one scale and one zero serve a run of columns. With an order
 * (GPTQ's act-order) neighbouring columns have different groups, so each column looks up its own.
 * Both ways compute the same product.
 *
 * No include guard: each includer compiles its own copy. */
#include "kernels/quant.h"

/* A stored row. */
typedef struct codes_row {
    const quant_spec *q;
    int bits;
    const uint8_t *codes, *scales, *zeros; /* zeros: NULL where the spec has none */
    const int32_t *order;                  /* of all columns, or NULL */
    const float *table;                    /* of values by code; NULL: integers */
} codes_row;

/* n codes from code k0, which begins a byte. */
QUANT_FN void unpack_codes(int bits, const uint8_t *row, int32_t k0, int32_t n, uint8_t *ret) {
    const uint8_t *p = row + (size_t)k0 * (size_t)bits / 8;
    if (bits == 8) {
        for (int32_t i = 0; i < n; i++) ret[i] = p[i];
    } else if (bits == 4) {
        QUANT_NIBBLES(p, n, ret);
    } else if (bits == 2) {
        for (int32_t i = 0; i < n; i++) ret[i] = p[i / 4] >> i % 4 * 2 & 3;
    } else {
        for (int32_t i = 0; i < n; i += 8, p += 3) { /* eight codes in three bytes */
            uint32_t all = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
            for (int32_t j = 0; j < 8 && i + j < n; j++) ret[i + j] = all >> 3 * j & 7;
        }
    }
}

QUANT_FN float scale_at(const codes_row *r, int32_t g) {
    size_t bytes = QUANT_SCALE_BYTES(r->q->scale_dt);
    return QUANT_SCALE(r->q->scale_dt, r->scales + (size_t)g * bytes) * r->q->scale_mul;
}

QUANT_FN int zero_at(const codes_row *r, int32_t g) {
    return r->q->zero + (r->zeros ? r->zeros[g] : 0);
}

/* n values of one group. */
QUANT_FN void group_f32(const float *QUANT_RESTRICT table, float scale, int zero,
                        const uint8_t *QUANT_RESTRICT codes, int32_t n, float *QUANT_RESTRICT ret) {
    if (table)
        for (int32_t i = 0; i < n; i++) ret[i] = table[codes[i]] * scale;
    else
        for (int32_t i = 0; i < n; i++) ret[i] = (float)(codes[i] - zero) * scale;
}

/* Columns [k0, k0+n), n at most QUANT_STEP; k0 is a multiple of 8. */
QUANT_FN void codes_f32(const codes_row *r, int32_t k0, int32_t n, float *ret) {
    uint8_t codes[QUANT_STEP];
    unpack_codes(r->bits, r->codes, k0, n, codes);
    for (int32_t i = 0, run; i < n; i += run) {
        int32_t g = r->order ? r->order[k0 + i] : (k0 + i) / r->q->group;
        int64_t left = (int64_t)(g + 1) * r->q->group - k0 - i;
        run = r->order ? 1 : left < n - i ? (int32_t)left : n - i;
        group_f32(r->table, scale_at(r, g), zero_at(r, g), codes + i, run, ret + i);
    }
}
