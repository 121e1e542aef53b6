/* Packing of WMAT_HALVES (rows.h): each row is rounded to the type of the matrix, scaled and stored
 * as f16, 16 rows by 16 pairs of K at a time through a transpose in registers. Exact for every
 * weight down to 2^-20 of the row's largest; of smaller ones less than 2^-28 of that is lost. */
#include <string.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/transpose_avx512.h"

/* Rows of a source, and what they are to be rounded to first. */
typedef struct source {
    const char *at; /* NULL: zeros */
    size_t row_bytes;
    dtype dt, as;
} source;

/* Elements [k, k+n) of a row, n <= 16, as f32. */
SIMD_FN vf load(const source *s, const char *row, int32_t k, int32_t n) {
    vf x;
    if (s->dt == DT_F32)
        x = vf_load_n((const float *)row + k, n);
    else {
        __m256i h = _mm256_maskz_loadu_epi16(vm_first(n), (const uint16_t *)row + k);
        x = s->dt == DT_F16 ? _mm512_cvtph_ps(h)
                            : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    }
    if (s->as == s->dt) return x;
    if (s->as == DT_F16) return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    return _mm512_castsi512_ps(_mm512_slli_epi32(vf_bf16_bits(x), 16));
}

/* The factor that puts the row's largest into [2^3, 2^4); *ret_inverse: its inverse. */
static float scale_of(const source *s, const char *row, int32_t k, float *ret_inverse) {
    __m512i top = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    for (int32_t i = 0; i < k; i += VW) {
        __m512i x = _mm512_castps_si512(load(s, row, i, MIN(VW, k - i)));
        top = _mm512_max_epu32(top, _mm512_and_si512(x, magnitude));
    }
    uint32_t e = MAX(_mm512_reduce_max_epu32(top) >> 23, 6u), up = (257 - e) << 23,
             down = (e - 3) << 23;
    float scale;
    memcpy(&scale, &up, 4);
    memcpy(ret_inverse, &down, 4);
    return scale;
}

/* Pairs [k/2, k/2+16) of a row, k+n elements existing from k on. */
SIMD_FN __m512i halves(const source *s, const char *row, int32_t k, int32_t n, vf scale) {
    vf low = vf_mul(load(s, row, k, MIN(n, VW)), scale);
    vf high = n > VW ? vf_mul(load(s, row, k + VW, n - VW), scale) : vf_zero();
    __m512i h = _mm512_castsi256_si512(_mm512_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
    return _mm512_inserti64x4(h, _mm512_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
}

/* Columns [col0, col1) of 16, the first of them at `from`; to: their first pair. */
static void pack16(const source *s, const char *from, int32_t k, int32_t col0, int32_t col1,
                   uint32_t *to, float *inverse) {
    vf scale[16];
    for (int c = col0; c < col1; c++)
        scale[c] = vf_set1(
            from ? scale_of(s, from + (size_t)(c - col0) * s->row_bytes, k, &inverse[c]) : 0);
    if (!from) memset(inverse + col0, 0, (size_t)(col1 - col0) * sizeof *inverse);
    __mmask16 columns = (__mmask16)(vm_first(col1) & ~vm_first(col0));
    for (int32_t i = 0; i < k; i += 32, to += 16 * PANEL_COLS) {
        __m512i r[16];
        int32_t n = MIN(32, k - i);
        for (int c = 0; c < 16; c++)
            r[c] = from && c >= col0 && c < col1
                       ? halves(s, from + (size_t)(c - col0) * s->row_bytes, i, n, scale[c])
                       : _mm512_setzero_si512();
        transpose16(r);
        for (int32_t p = 0; p < CEIL_DIV(n, 2); p++)
            _mm512_mask_storeu_epi32(to + p * PANEL_COLS, columns, r[p]);
    }
}

void avx512fp16_pack(wmat *w, int32_t row0, int32_t n_rows, const void *src, dtype src_dt,
                     int64_t src_stride) {
    CHECK(row0 >= 0 && n_rows >= 0 && row0 + n_rows <= w->n);
    CHECK(src_dt == DT_F32 || src_dt == DT_F16 || src_dt == DT_BF16);
    source s = {src, (size_t)src_stride * dtype_bytes(src_dt), src_dt, w->dt};
    size_t weights = (size_t)CEIL_DIV(w->k, 2) * PANEL_COLS * sizeof(uint32_t);
    size_t panel_bytes = weights + PANEL_COLS * sizeof(float);
    int32_t end = row0 + n_rows, last = end == w->n ? ALIGN_UP(end, PANEL_COLS) : end;
    for (int32_t row = row0, next; row < last; row = next) {
        next = MIN((row / 16 + 1) * 16, row < end ? end : last);
        char *panel = (char *)w->data + (size_t)(row / PANEL_COLS) * panel_bytes;
        int32_t group = row % PANEL_COLS / 16 * 16;
        pack16(&s, row < end ? s.at + (size_t)(row - row0) * s.row_bytes : NULL, w->k, row % 16,
               row % 16 + next - row, (uint32_t *)panel + group,
               (float *)(panel + weights) + group);
    }
}
