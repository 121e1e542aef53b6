/* Stored rows taken apart for packing: the formats of quant_values.inc and quant_codes.inc again,
 * as codes and what scales them instead of values. checkkern holds the two against each other. */
#include "kernels/cpu/narrow_read.h"

#include <math.h>

#include "engine/base/mem.h"
#include "kernels/quant_tables.h"

static uint16_t half_at(const uint8_t *b) {
    return (uint16_t)(b[0] | b[1] << 8);
}

/* 32 codes whose low halves come first. */
static void halves(const uint8_t *b, int n, uint8_t *to) {
    for (int i = 0; i < n; i++) to[i] = b[i] & 15;
    for (int i = 0; i < n; i++) to[n + i] = b[i] >> 4;
}

/* The code of column c of a row of codes. */
static uint8_t code_at(const uint8_t *codes, int bits, int32_t c) {
    size_t at = (size_t)c * (size_t)bits;
    uint32_t two = codes[at / 8];
    if (at % 8 + (size_t)bits > 8) two |= (uint32_t)codes[at / 8 + 1] << 8;
    return (uint8_t)(two >> at % 8 & ((1u << bits) - 1));
}

/* A NaN of E4M3 has no place in f16, and is as good a scale as a weight. */
static void keep_nans(const narrow_panel *p, int32_t n, narrow_span *v) {
    for (int32_t i = 0; i < n; i++)
        if ((v->codes[i] & 0x7F) == 0x7F) v->scales[i / p->sub] = NAN;
}

static void read_codes(const narrow_panel *p, const wmat *w, const uint8_t *row, int32_t k0,
                       int32_t n, narrow_span *v) {
    const quant_spec *q = &w->q;
    const int32_t *columns = narrow_columns(w);
    const uint8_t *scales = row + dtype_row_bytes(w->dt, p->k);
    size_t bytes = dtype_bytes(q->scale_dt);
    const uint8_t *zeros = scales + bytes * (size_t)quant_groups(q, p->k);
    int bits = quant_bits(w->dt);
    if (bits == 8 && !columns)
        memcpy(v->codes, row + k0, (size_t)n);
    else if (columns)
        for (int32_t i = 0; i < n; i++) v->codes[i] = code_at(row, bits, columns[k0 + i]);
    else
        for (int32_t i = 0; i < n; i++) v->codes[i] = code_at(row, bits, k0 + i);
    for (int32_t s = 0; s * p->sub < n; s++) {
        int32_t g = (k0 + s * p->sub) / q->group;
        v->scales[s] = dtype_to_f32(q->scale_dt, scales + bytes * (size_t)g);
        if (p->offsets == NARROW_ZEROS) v->offsets[s] = zeros[g];
    }
    if (p->bits == NARROW_E4M3) keep_nans(p, n, v);
}

/* Signed bytes behind a scale, as codes around 128: q8_0, q8_1 (which has a sum before them), q8_K.
 */
static void read_bytes(const narrow_panel *p, dtype dt, const uint8_t *b, int32_t s,
                       narrow_span *v) {
    v->scales[s] = dt == DT_Q8_K ? dtype_to_f32(DT_F32, b) : f16_to_f32(half_at(b));
    b += dt == DT_Q8_0 ? 2 : 4;
    for (int32_t i = 0; i < p->sub; i++) v->codes[s * p->sub + i] = b[i] ^ 0x80;
}

/* Blocks of 32: d, a minimum of the types .._1, the fifth bits, halves. */
static void read_block32(dtype dt, const uint8_t *b, int32_t s, narrow_span *v) {
    bool is_five = dt == DT_Q5_0 || dt == DT_Q5_1, has_min = dt == DT_Q4_1 || dt == DT_Q5_1;
    v->scales[s] = dt == DT_MXFP4 ? f8_e8m0_to_f32(b[0]) : f16_to_f32(half_at(b));
    b += dt == DT_MXFP4 ? 1 : 2;
    if (has_min) v->adds[s] = half_at(b), b += 2;
    uint8_t *codes = v->codes + 32 * s;
    halves(b + (is_five ? 4 : 0), 16, codes);
    for (int i = 0; is_five && i < 32; i++) codes[i] |= (uint8_t)((b[i / 8] >> i % 8 & 1) << 4);
}

/* q4_K and q5_K: d, dmin, 12 bytes of scales and minima, fifth bits of q5_K, halves of 64. */
static void read_q45_k(dtype dt, const uint8_t *b, narrow_span *v) {
    const uint8_t *s = b + 4, *high = b + 16, *low = high + (dt == DT_Q5_K ? 32 : 0);
    v->d = half_at(b);
    v->dmin = half_at(b + 2);
    for (int i = 0; i < 4; i++) {
        v->six[i] = s[i] & 63;
        v->offsets[i] = s[i + 4] & 63;
        v->six[i + 4] = (uint8_t)((s[i + 8] & 15) | (s[i] >> 6) << 4);
        v->offsets[i + 4] = (uint8_t)(s[i + 8] >> 4 | (s[i + 4] >> 6) << 4);
    }
    for (int i = 0; i < 4; i++) halves(low + 32 * i, 32, v->codes + 64 * i);
    for (int i = 0; dt == DT_Q5_K && i < 8; i++)
        for (int l = 0; l < 32; l++) v->codes[32 * i + l] |= (uint8_t)((high[l] >> i & 1) << 4);
}

/* q6_K: low halves, two bits above them, a signed scale for each 16, d. */
static void read_q6_k(const uint8_t *b, narrow_span *v) {
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = b + 64 * half, *high = b + 128 + 32 * half;
        uint8_t *to = v->codes + 128 * half;
        halves(low, 64, to);
        for (int i = 0; i < 4; i++)
            for (int l = 0; l < 32; l++) to[32 * i + l] |= (uint8_t)((high[l] >> 2 * i & 3) << 4);
    }
    memcpy(v->six, b + 192, NARROW_SUBS);
    v->d = half_at(b + 208);
}

/* Two bits of 256 codes: halves of 128, in each four layers over the same 32 bytes. */
static void layers(const uint8_t *b, uint8_t *to) {
    for (int i = 0; i < 256; i++) to[i] = b[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

/* q2_K: scales and minima of four bits, codes, d, dmin. */
static void read_q2_k(const uint8_t *b, narrow_span *v) {
    for (int i = 0; i < 16; i++) {
        v->six[i] = b[i] & 15;
        v->offsets[i] = b[i] >> 4;
    }
    layers(b + 16, v->codes);
    v->d = half_at(b + 80);
    v->dmin = half_at(b + 82);
}

/* q3_K: third bits, codes, scales in 12 bytes (four bits of each, then two more), d. */
static void read_q3_k(const uint8_t *b, narrow_span *v) {
    const uint8_t *s = b + 96;
    layers(b + 32, v->codes);
    for (int i = 0; i < 256; i++) v->codes[i] |= (uint8_t)((b[i % 32] >> i / 32 & 1) << 2);
    for (int i = 0; i < 16; i++) {
        int low = s[i % 8] >> i / 8 * 4 & 15, high = s[8 + i % 4] >> i / 4 * 2 & 3;
        v->six[i] = (uint8_t)((low | high << 4) - 32);
    }
    v->d = half_at(b + 108);
}

/* iq4_xs: d, two bits of each scale, four bits of each, halves of 32. */
static void read_iq4_xs(const uint8_t *b, narrow_span *v) {
    int high = half_at(b + 2);
    for (int i = 0; i < 8; i++) {
        v->six[i] = (uint8_t)(((b[4 + i / 2] >> i % 2 * 4 & 15) | (high >> 2 * i & 3) << 4) - 32);
        halves(b + 8 + 16 * i, 16, v->codes + 32 * i);
    }
    v->d = half_at(b);
}

/* Digits of base three: a byte is ceil(256 * five digits / 3^5). 32 and 16 bytes of five digits, 4
 * of four, d. */
static void read_tq1_0(const uint8_t *b, narrow_span *v) {
    static const uint8_t pow3[5] = {POW3_VALUES};
    for (int i = 0; i < 256; i++) {
        int rest = i - 160, byte = i < 160 ? i % 32 : rest < 80 ? 32 + rest % 16 : 48 + i % 4;
        int digit = i < 160 ? i / 32 : rest < 80 ? rest / 16 : (rest - 80) / 4;
        v->codes[i] = (uint8_t)((uint8_t)(b[byte] * pow3[digit]) * 3 >> 8);
    }
    v->scales[0] = f16_to_f32(half_at(b + 52));
}

static void read_tq2_0(const uint8_t *b, narrow_span *v) {
    layers(b, v->codes);
    v->scales[0] = f16_to_f32(half_at(b + 64));
}

/* nvfp4: four scales without a sign (their NaN is zero), 8 bytes for each 16. */
static void read_nvfp4(const uint8_t *b, int32_t block, narrow_span *v) {
    for (int i = 0; i < 4; i++) {
        uint8_t x = b[i] & 0x7F;
        v->scales[4 * block + i] = x == 0x7F ? 0 : f8_e4m3_values[x];
        halves(b + 4 + 8 * i, 8, v->codes + 64 * block + 16 * i);
    }
}

static void read_superblock(dtype dt, const uint8_t *b, narrow_span *v) {
    switch (dt) {
    case DT_Q2_K: read_q2_k(b, v); break;
    case DT_Q3_K: read_q3_k(b, v); break;
    case DT_Q4_K:
    case DT_Q5_K: read_q45_k(dt, b, v); break;
    case DT_Q6_K: read_q6_k(b, v); break;
    case DT_IQ4_XS: read_iq4_xs(b, v); break;
    case DT_TQ1_0: read_tq1_0(b, v); break;
    default: read_tq2_0(b, v); break;
    }
}

void narrow_read(const narrow_panel *p, const wmat *w, const uint8_t *row, int32_t k0, int32_t n,
                 narrow_span *ret) {
    int32_t block = dtype_block(w->dt);
    if (dtype_kind_of(w->dt) == DTYPE_CODES) {
        read_codes(p, w, row, k0, n, ret);
        return;
    }
    const uint8_t *b = row + dtype_row_bytes(w->dt, k0);
    if (block == NARROW_SPAN && p->bits != NARROW_BYTES) {
        read_superblock(w->dt, b, ret);
        return;
    }
    for (int32_t i = 0; i < n / block; i++, b += dtype_block_bytes(w->dt))
        if (p->bits == NARROW_BYTES)
            read_bytes(p, w->dt, b, i, ret);
        else if (w->dt == DT_NVFP4)
            read_nvfp4(b, i, ret);
        else
            read_block32(w->dt, b, i, ret);
}
