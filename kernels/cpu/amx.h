/* Tiles of AMX: the few instructions that the amx level uses, as the hardware has them or, with
 * AMX_EMULATED, in C (tests/kernels: the level was written where no CPU has them).
 *
 * Eight tiles of up to 16 rows x 64 bytes. Their shapes are of the thread, set by amx_begin and
 * given up by amx_end. Tile numbers are constants. */
#ifndef KERNELS_CPU_AMX_H
#define KERNELS_CPU_AMX_H

#include <stdint.h>
#include <string.h>

#define AMX_TILES     8
#define AMX_ROWS      16
#define AMX_ROW_BYTES 64

/* As ldtilecfg reads it. */
typedef struct amx_shape {
    uint8_t palette; /* 1 */
    uint8_t start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_shape;
_Static_assert(sizeof(amx_shape) == 64, "what ldtilecfg reads");

#ifndef AMX_EMULATED
#include <immintrin.h>

/* The compiler does not know that tiles are loaded from memory. */
#define amx_begin(shape)                                                                           \
    {                                                                                              \
        __asm__ volatile("" ::: "memory");                                                         \
        _tile_loadconfig(shape);                                                                   \
    }
#define amx_end()                 _tile_release()
#define amx_zero(t)               _tile_zero(t)
#define amx_load(t, from, stride) _tile_loadd(t, from, stride)
#define amx_store(t, to, stride)  _tile_stored(t, to, stride)
/* c[m][n] += sum over k < 4 of signed a[m][4q+k] * unsigned b[q][4n+k], over all q; 32-bit sums. */
#define amx_dot(c, a, b) _tile_dpbsud(c, a, b)
/* c[m][n] += (sum over q of a[m][2q] * b[q][2n]) + (that of a[m][2q+1] * b[q][2n+1]): bf16 by bf16,
 * f32 sums in ascending q, rounded to nearest after each step; subnormals are zeros. */
#define amx_dot_bf16(c, a, b) _tile_dpbf16ps(c, a, b)

#else

typedef struct amx_state {
    amx_shape shape;
    uint8_t tiles[AMX_TILES][AMX_ROWS][AMX_ROW_BYTES];
} amx_state;
static _Thread_local amx_state amx_now;

static inline void amx_begin(const amx_shape *shape) {
    memset(&amx_now, 0, sizeof amx_now);
    amx_now.shape = *shape;
}
static inline void amx_end(void) {
    memset(&amx_now, 0, sizeof amx_now);
}
static inline void amx_zero(int t) {
    memset(amx_now.tiles[t], 0, sizeof amx_now.tiles[t]);
}
static inline void amx_load(int t, const void *from, int64_t stride) {
    amx_zero(t);
    for (int r = 0; r < amx_now.shape.rows[t]; r++)
        memcpy(amx_now.tiles[t][r], (const char *)from + r * stride, amx_now.shape.row_bytes[t]);
}
static inline void amx_store(int t, void *to, int64_t stride) {
    for (int r = 0; r < amx_now.shape.rows[t]; r++)
        memcpy((char *)to + r * stride, amx_now.tiles[t][r], amx_now.shape.row_bytes[t]);
}
/* What faults on the hardware ends the program here. */
static inline void amx_fault(const amx_shape *s, int c, int a, int b) {
    if (s->palette != 1 || s->rows[c] != s->rows[a] || s->row_bytes[c] != s->row_bytes[b] ||
        s->row_bytes[a] != 4 * s->rows[b] || s->rows[a] == 0 || s->rows[b] == 0)
        __builtin_trap();
}
static inline float amx_flush(float x) {
    return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x;
}
/* bf16 number i of row r of a tile. */
static inline float amx_bf16(int t, int r, int i) {
    uint16_t half;
    memcpy(&half, &amx_now.tiles[t][r][2 * i], sizeof half);
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return amx_flush(x);
}
static inline void amx_dot_bf16(int c, int a, int b) {
    const amx_shape *s = &amx_now.shape;
    amx_fault(s, c, a, b);
    for (int m = 0; m < s->rows[c]; m++)
        for (int n = 0; n < s->row_bytes[c] / 4; n++) {
            float part[2] = {0, 0}, sum;
            for (int q = 0; q < s->rows[b]; q++)
                for (int i = 0; i < 2; i++)
                    part[i] = amx_flush(__builtin_fmaf(amx_bf16(a, m, 2 * q + i),
                                                       amx_bf16(b, q, 2 * n + i), part[i]));
            memcpy(&sum, &amx_now.tiles[c][m][4 * n], sizeof sum);
            sum = amx_flush(amx_flush(sum) + amx_flush(part[0] + part[1]));
            memcpy(&amx_now.tiles[c][m][4 * n], &sum, sizeof sum);
        }
}
static inline void amx_dot(int c, int a, int b) {
    const amx_shape *s = &amx_now.shape;
    amx_fault(s, c, a, b);
    for (int m = 0; m < s->rows[c]; m++)
        for (int n = 0; n < s->row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &amx_now.tiles[c][m][4 * n], sizeof sum);
            for (int q = 0; q < s->rows[b]; q++)
                for (int k = 0; k < 4; k++)
                    sum += (int8_t)amx_now.tiles[a][m][4 * q + k] * amx_now.tiles[b][q][4 * n + k];
            memcpy(&amx_now.tiles[c][m][4 * n], &sum, sizeof sum);
        }
}
#endif

/* Sums, which are tiles 0 and 1, += tile `act` by tiles w0 and w1. These are loaded first: act from
 * rows at a, w0 and w1 from w, where their rows lie side by side. */
#define amx_dot_pair(dot, act, w0, w1, a, a_stride, w)                                             \
    {                                                                                              \
        amx_load(act, a, a_stride);                                                                \
        amx_load(w0, w, 2 * AMX_ROW_BYTES);                                                        \
        amx_load(w1, (w) + AMX_ROW_BYTES, 2 * AMX_ROW_BYTES);                                      \
        dot(0, act, w0);                                                                           \
        dot(1, act, w1);                                                                           \
    }

#endif
