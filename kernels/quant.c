/* Codes with scales apart: the canonical row, written and read (quant_codes.inc says what it
 * means). Strips of QUANT_STRIP columns are unpacked to a byte each first, then scaled. */
#include "kernels/quant.h"

#include <math.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/f8_round.h"
#include "kernels/quant_tables.h"

int quant_bits(dtype dt) {
    return (int)(dtype_block_bytes(dt) * 8) / dtype_block(dt);
}

size_t quant_row_bytes(dtype dt, const quant_spec *q, int32_t k) {
    size_t bytes = dtype_row_bytes(dt, k);
    if (dtype_kind_of(dt) != DTYPE_CODES) return bytes;
    return bytes + (size_t)quant_groups(q, k) * (dtype_bytes(q->scale_dt) + q->has_zeros);
}

static size_t order_bytes(const quant_spec *q, int32_t k) {
    return q->has_order ? (size_t)k * sizeof(int32_t) : 0;
}

size_t quant_side_bytes(dtype dt, const quant_spec *q, int32_t k) {
    if (dtype_kind_of(dt) != DTYPE_CODES) return 0;
    return ALIGN_UP(order_bytes(q, k) + (dt == DT_TABLE4 ? 16 * sizeof(float) : 0), (size_t)64);
}

void quant_pack_side(dtype dt, const quant_spec *q, int32_t k, const int32_t *order,
                     const float *table, void *dst) {
    if (q->has_order) memcpy(dst, order, order_bytes(q, k));
    if (dt == DT_TABLE4) memcpy((char *)dst + order_bytes(q, k), table, 16 * sizeof(float));
}

bool quant_sort_columns(const quant_spec *q, int32_t k, const int32_t *order,
                        int32_t *ret_columns) {
    int32_t groups = quant_groups(q, k), at = 0;
    int32_t *next = mem_calloc((size_t)groups + 1, sizeof *next);
    for (int32_t i = 0; i < k; i++) next[order[i]]++;
    bool whole = k % q->group == 0;
    for (int32_t g = 0; g < groups; g++) {
        int32_t n = next[g];
        whole &= n == q->group;
        next[g] = at;
        at += n;
    }
    for (int32_t i = 0; i < k; i++) ret_columns[next[order[i]]++] = i;
    mem_free(next);
    return whole;
}

static void pack_codes(int bits, const uint8_t *codes, int32_t k, uint8_t *dst, size_t bytes) {
    if (bits == 8) {
        memcpy(dst, codes, (size_t)k);
        return;
    }
    memset(dst, 0, bytes);
    for (int32_t i = 0; i < k; i++) {
        uint32_t at = (uint32_t)i * (uint32_t)bits, code = (uint32_t)codes[i] << at % 8;
        dst[at / 8] |= (uint8_t)code;
        if (code >> 8) dst[at / 8 + 1] |= (uint8_t)(code >> 8);
    }
}

void quant_pack_rows(dtype dt, const quant_spec *q, int32_t k, const quant_rows *src,
                     int32_t n_rows, void *dst) {
    size_t row_bytes = quant_row_bytes(dt, q, k), code_bytes = dtype_row_bytes(dt, k);
    CHECK(dtype_kind_of(dt) == DTYPE_CODES);
    size_t n_groups = (size_t)quant_groups(q, k), scale_bytes = dtype_bytes(q->scale_dt) * n_groups;
    for (size_t r = 0; r < (size_t)n_rows; r++) {
        uint8_t *to = (uint8_t *)dst + r * row_bytes;
        pack_codes(quant_bits(dt), src->codes + r * (size_t)k, k, to, code_bytes);
        memcpy(to + code_bytes, (const char *)src->scales + r * scale_bytes, scale_bytes);
        if (q->has_zeros)
            memcpy(to + code_bytes + scale_bytes, src->zeros + r * n_groups, n_groups);
    }
}

typedef uint8_t bytes16 __attribute__((vector_size(16)));

static void unpack_nibbles(const uint8_t *p, int32_t n, uint8_t *ret) {
    int32_t i = 0;
    for (; i + 32 <= n; i += 32, p += 16) {
        bytes16 b, low, high, first, second;
        memcpy(&b, p, sizeof b);
        low = b & 15;
        high = b >> 4;
        first = __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                        7, 23);
        second = __builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29,
                                         14, 30, 15, 31);
        memcpy(ret + i, &first, sizeof first);
        memcpy(ret + i + 16, &second, sizeof second);
    }
    for (; i < n; i++) ret[i] = p[i % 32 / 2] >> 4 * (i % 2) & 15;
}

#define QUANT_FN              static inline
#define QUANT_RESTRICT        restrict
#define QUANT_SCALE           dtype_to_f32
#define QUANT_SCALE_BYTES(dt) dtype_bytes(dt)
#define QUANT_NIBBLES         unpack_nibbles
#define QUANT_STEP            QUANT_STRIP
#include "kernels/quant_codes.inc"

/* The fixed tables by code, NULL for integers. */
static const float *table_of(dtype dt, const quant_spec *q, int32_t k, const void *side) {
    static const float e2m1[16] = {E2M1_VALUES};
    if (dt == DT_E2M1) return e2m1;
    if (dt == DT_F8_E4M3) return f8_e4m3_values;
    if (dt == DT_F8_E5M2) return f8_e5m2_values;
    if (dt == DT_TABLE4) return (const float *)((const char *)side + order_bytes(q, k));
    return NULL;
}

void quant_row_f32(dtype dt, const quant_spec *q, int32_t k, const void *side, const void *row,
                   int32_t k0, int32_t n, float *ret) {
    if (dtype_kind_of(dt) == DTYPE_GGUF) {
        quant_blocks_f32(dt, (const char *)row + dtype_row_bytes(dt, k0), n, ret);
        return;
    }
    codes_row r = {.q = q, .bits = quant_bits(dt), .codes = row};
    r.scales = r.codes + dtype_row_bytes(dt, k);
    if (q->has_zeros) r.zeros = r.scales + dtype_bytes(q->scale_dt) * (size_t)quant_groups(q, k);
    r.table = table_of(dt, q, k, side);
    r.order = q->has_order ? side : NULL;
    for (int32_t i = 0; i < n; i += QUANT_STRIP)
        codes_f32(&r, k0 + i, MIN(QUANT_STRIP, n - i), ret + i);
}

static float round_code(float x, int zero) {
    float code = nearbyintf(x) + (float)zero;
    return fminf(fmaxf(code, -128.0f), 127.0f) - (float)zero;
}

static float largest(const float *x, int32_t n) {
    float most = 0;
    for (int32_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return most;
}

static void round_fp8(const quant_spec *q, int32_t k, float *x) {
    int32_t group = q->act == ACT_ROUND_FP8_GROUP ? ACT_GROUP : k;
    for (int32_t at = 0, n; at < k; at += n) {
        n = MIN(group, k - at);
        float s = q->act == ACT_ROUND_FP8_STATIC ? q->act_scale : largest(x + at, n) / 448.0f;
        if (!(s > 0) || isinf(s)) continue; /* as below */
        for (int32_t i = at; i < at + n; i++) x[i] = f8_e4m3_round(x[i] / s) * s;
    }
}

static void round_int8_group(int32_t n, float *x) {
    float most = largest(x, n), scale = most / 127.0f, inverse = 127.0f / most;
    bool is_bad = isinf(most);
    for (int32_t i = 0; i < n; i++) is_bad |= isnan(x[i]);
    for (int32_t i = 0; i < n; i++)
        x[i] = is_bad ? NAN : most < ACT_TINY ? 0 : nearbyintf(x[i] * inverse) * scale;
}

static void round_int8_groups(const quant_spec *q, int32_t k, float *x) {
    CHECK(q->act_group > 0);
    for (int32_t at = 0; at < k; at += q->act_group)
        round_int8_group(MIN(q->act_group, k - at), x + at);
}

static void round_sorted(const quant_spec *q, int32_t k, const int32_t *order, float *x) {
    int32_t *columns = mem_alloc((size_t)k * sizeof *columns);
    float *sorted = mem_alloc((size_t)k * sizeof *sorted);
    CHECK(quant_sort_columns(q, k, order, columns));
    for (int32_t i = 0; i < k; i++) sorted[i] = x[columns[i]];
    round_int8_groups(q, k, sorted);
    for (int32_t i = 0; i < k; i++) x[columns[i]] = sorted[i];
    mem_free(columns);
    mem_free(sorted);
}

void quant_round_acts(const quant_spec *q, int32_t k, const int32_t *order, float *x) {
    float s = q->act_scale;
    if (q->act == ACT_ROUND_NONE) return;
    if (q->act == ACT_ROUND_INT8_GROUP) {
        if (q->whole_order)
            round_sorted(q, k, order, x);
        else
            round_int8_groups(q, k, x);
        return;
    }
    if (act_round_is_fp8(q->act)) {
        round_fp8(q, k, x);
        return;
    }
    if (q->act == ACT_ROUND_INT8_TOKEN) s = largest(x, k) / 127.0f;
    if (!(s > 0) || isinf(s)) return; /* zeros stay zero; nothing sensible with infinities */
    int zero = q->act == ACT_ROUND_INT8_STATIC ? q->act_zero : 0;
    for (int32_t i = 0; i < k; i++)
        if (!isnan(x[i])) x[i] = round_code(x[i] / s, zero) * s;
}
