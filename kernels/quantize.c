/* Rows are taken as many at a time as the level has lanes, group by group: transposed, searched
 * (quantize_body.inc), and the codes transposed back. Rows behind the last are zeros.
 *
 * The lists of tries were chosen on normal, Laplace and Student numbers, where they are within 0.2
 * % (int4) and 1 % (int8) of the root of the error that 66 tries between 0.6 and 1.25 find. */
#include "kernels/quantize.h"

#include <math.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/quantize_level.h"
#include "kernels/select.h"

static const float tries_int4[] = {1, 0.75f, 0.8f, 0.85f, 0.9f, 0.95f, 1.05f, 1.1f, 1.15f};
static const float tries_zeros[] = {1, 0.7f, 0.75f, 0.8f, 0.85f, 0.9f, 0.95f, 1.05f};
static const float tries_int8[] = {1, 0.92f, 0.94f, 0.96f, 0.98f};

/* One lane of plain floats: the level of every machine. */
#define VW       1
#define VNAME(x) plain_##x
typedef float vf;
typedef bool vmask;
#define SIMD_FN static inline
SIMD_FN vf vf_zero(void) {
    return 0;
}
SIMD_FN vf vf_set1(float x) {
    return x;
}
SIMD_FN vf vf_load(const float *p) {
    return *p;
}
SIMD_FN void vf_store(float *p, vf v) {
    *p = v;
}
SIMD_FN vf vf_add(vf a, vf b) {
    return a + b;
}
SIMD_FN vf vf_sub(vf a, vf b) {
    return a - b;
}
SIMD_FN vf vf_mul(vf a, vf b) {
    return a * b;
}
SIMD_FN vf vf_div(vf a, vf b) {
    return a / b;
}
/* As MAXPS and MINPS: the second where they are not ordered. */
SIMD_FN vf vf_max(vf a, vf b) {
    return a > b ? a : b;
}
SIMD_FN vf vf_min(vf a, vf b) {
    return a < b ? a : b;
}
SIMD_FN vf vf_round(vf a) {
    return nearbyintf(a);
}
SIMD_FN vmask vf_lt(vf a, vf b) {
    return a < b;
}
SIMD_FN vf vf_blend(vmask m, vf no, vf yes) {
    return m ? yes : no;
}
#include "kernels/cpu/quantize_body.inc"

const quantize_level *quantize_level_of(cpu_isa isa) {
#if defined(__x86_64__)
    if (isa >= ISA_AVX512) return &avx512_quantize;
    if (isa >= ISA_AVX2) return &avx2_quantize;
#elif defined(__aarch64__)
    if (isa >= ISA_NEON) return &neon_quantize;
#endif
    (void)isa;
    return &plain_quantize;
}

static quantize_search search_of(dtype dt, const quant_spec *q) {
    bool is_int4 = dt == DT_INT4;
    CHECK((is_int4 || dt == DT_INT8) && !q->has_order && q->scale_mul == 1);
    CHECK(q->group > 0 && q->group <= QUANTIZE_GROUP_MAX);
    CHECK(q->scale_dt == DT_F16 || q->scale_dt == DT_F32);
    CHECK(q->zero == (q->has_zeros ? 0 : is_int4 ? 8 : 128));
    quantize_search s = {.top = is_int4 ? 15 : 255,
                         .zero = q->zero,
                         .has_zeros = q->has_zeros,
                         .scale_dt = q->scale_dt,
                         .tries = tries_int8,
                         .n_tries = ARRAY_LEN(tries_int8)};
    if (is_int4) {
        s.tries = q->has_zeros ? tries_zeros : tries_int4;
        s.n_tries = q->has_zeros ? ARRAY_LEN(tries_zeros) : ARRAY_LEN(tries_int4);
    }
    return s;
}

/* What is written of one row. */
typedef struct stored_row {
    uint8_t *codes, *scales, *zeros;
} stored_row;

static stored_row row_at(dtype dt, const quant_spec *q, int32_t k, uint8_t *p) {
    stored_row r = {p, p + dtype_row_bytes(dt, k), NULL};
    r.zeros = r.scales + (size_t)quant_groups(q, k) * dtype_bytes(q->scale_dt);
    return r;
}

/* Lane l of a group to columns [k0, k0+n) of its row; k0 is even where two codes share a byte. */
static void put_lane(dtype dt, const quant_spec *q, const quantize_group *g, int lanes, int l,
                     int32_t k0, int32_t n, stored_row r) {
    const float *code = g->code + l;
    int32_t at = k0 / q->group;
    if (dt == DT_INT8)
        for (int32_t i = 0; i < n; i++) r.codes[k0 + i] = (uint8_t)(int)code[i * lanes];
    for (int32_t i = 0; i < n && dt == DT_INT4; i += 2) {
        int low = (int)code[i * lanes], high = i + 1 < n ? (int)code[(i + 1) * lanes] : 0;
        r.codes[(k0 + i) / 2] = (uint8_t)((low & 15) | high << 4);
    }
    uint16_t half = f32_to_f16(g->scale[l]);
    if (q->scale_dt == DT_F16)
        memcpy(r.scales + 2 * at, &half, sizeof half);
    else
        memcpy(r.scales + 4 * at, &g->scale[l], sizeof(float));
    if (q->has_zeros) r.zeros[at] = (uint8_t)(int)g->zero[l];
}

static bool all_finite(const quantize_group *g, int lanes) {
    float sum = 0;
    for (int l = 0; l < lanes; l++) sum += g->err2[l] + g->sum2[l];
    return isfinite(sum);
}

void quantize_rows(dtype dt, const quant_spec *q, int32_t k, const float *src, int32_t n_rows,
                   void *dst, quantize_error *ret) {
    const quantize_level *v = quantize_level_of(isa_best());
    quantize_search s = search_of(dt, q);
    size_t row_bytes = quant_row_bytes(dt, q, k);
    quantize_group *g = mem_alloc(sizeof *g);
    CHECK(dt == DT_INT8 || q->group % 2 == 0 || q->group >= k);
    for (int32_t row = 0; row < n_rows; row += v->lanes)
        for (int32_t k0 = 0; k0 < k; k0 += q->group) {
            int rows = MIN(v->lanes, n_rows - row);
            s.n = MIN(q->group, k - k0);
            if (rows < v->lanes) memset(g->x, 0, sizeof g->x);
            for (int l = 0; l < rows; l++)
                for (int32_t i = 0; i < s.n; i++)
                    g->x[i * v->lanes + l] = src[(int64_t)(row + l) * k + k0 + i];
            v->run(&s, g);
            if (!all_finite(g, rows)) ret->err2 = NAN;
            for (int l = 0; l < rows && !isnan(ret->err2); l++) {
                uint8_t *to = (uint8_t *)dst + (size_t)(row + l) * row_bytes;
                put_lane(dt, q, g, v->lanes, l, k0, s.n, row_at(dt, q, k, to));
                ret->err2 += (double)g->err2[l];
                ret->sum2 += (double)g->sum2[l];
            }
        }
    mem_free(g);
}
