/* What quantised storage means, as code that both the program and kernels on a device compile:
 * quant_blocks.c and quant.c include it as C, kernels/cuda/cu_quant.h as device code. The includer
 * defines
 *   QUANT_FN          before every function: "static" or "static __device__"
 *   QUANT_TABLE       before every table: "static const", ...
 *   QUANT_RESTRICT    the restrict of its language
 *   QUANT_F16(h)      binary16, QUANT_E8M0(x), QUANT_SCALE(dt, p) (dtype_to_f32) to float
 *   QUANT_E4M3, QUANT_E5M2   tables of 256 floats
 *
 * GGUF blocks are read in runs of 16 values (every block is a whole number of them), one function
 * per type: the formula of the type, element by element. Products of a half-precision scale with
 * small integers are exact in f32, so most types have one rounding or none, whatever the order of
 * operations.
 *
 * Format: ggml's block structs, as described by the GGUF project. Little endian, no alignment.
 *
 * No include guard: each includer compiles its own copy. */
#include "kernels/quant.h"

#define QUANT_RUN 16
#define RUN_ARGS  const uint8_t *QUANT_RESTRICT b, int run, float *QUANT_RESTRICT v

QUANT_FN float quant_half(const uint8_t *b) {
    return QUANT_F16((uint16_t)(b[0] | b[1] << 8));
}

/* Types of 32: a run is the low or the high nibbles of 16 bytes. */
QUANT_FN void run_q4_0(RUN_ARGS) {
    float d = quant_half(b);
    for (int i = 0; i < QUANT_RUN; i++) v[i] = d * (float)((b[2 + i] >> 4 * run & 15) - 8);
}

QUANT_FN void run_q4_1(RUN_ARGS) {
    float d = quant_half(b), m = quant_half(b + 2);
    for (int i = 0; i < QUANT_RUN; i++) v[i] = d * (float)(b[4 + i] >> 4 * run & 15) + m;
}

/* The five-bit types: low nibbles at qs, bit i of the 32 at qh is element i's fifth. */
QUANT_FN uint32_t fifth_bits(const uint8_t *qh, int run) {
    return qh[2 * run] | (uint32_t)qh[2 * run + 1] << 8;
}

QUANT_FN int five_bits(uint32_t fifth, const uint8_t *qs, int run, int i) {
    return (qs[i] >> 4 * run & 15) | (int)(fifth >> i & 1) << 4;
}

QUANT_FN void run_q5_0(RUN_ARGS) {
    float d = quant_half(b);
    uint32_t fifth = fifth_bits(b + 2, run);
    for (int i = 0; i < QUANT_RUN; i++) v[i] = d * (float)(five_bits(fifth, b + 6, run, i) - 16);
}

QUANT_FN void run_q5_1(RUN_ARGS) {
    float d = quant_half(b), m = quant_half(b + 2);
    uint32_t fifth = fifth_bits(b + 4, run);
    for (int i = 0; i < QUANT_RUN; i++) v[i] = d * (float)five_bits(fifth, b + 8, run, i) + m;
}

QUANT_FN void signed_bytes(float d, const uint8_t *QUANT_RESTRICT q, float *QUANT_RESTRICT v) {
    for (int i = 0; i < QUANT_RUN; i++) v[i] = d * (float)(int8_t)q[i];
}

QUANT_FN void run_q8_0(RUN_ARGS) {
    signed_bytes(quant_half(b), b + 2 + QUANT_RUN * run, v);
}

QUANT_FN void run_q8_1(RUN_ARGS) { /* d, d * sum, values */
    signed_bytes(quant_half(b), b + 4 + QUANT_RUN * run, v);
}

QUANT_FN void run_q8_k(RUN_ARGS) { /* f32 d, values, sums */
    float d;
    memcpy(&d, b, sizeof d);
    signed_bytes(d, b + 4 + QUANT_RUN * run, v);
}

/* Types of 256: two halves of 128, in each four layers of two bits over the same 32 bytes. Sixteen
 * elements share a scale: a run is in half run/8, layer run%8/2. */
QUANT_FN const uint8_t *run_bytes(const uint8_t *qs, int run) {
    return qs + 32 * (run / 8) + 16 * (run % 2);
}

QUANT_FN int run_shift(int run) {
    return 2 * (run % 8 / 2);
}

QUANT_FN void run_q2_k(RUN_ARGS) {
    const uint8_t *qs = run_bytes(b + 16, run);
    int shift = run_shift(run);
    float ds = quant_half(b + 80) * (float)(b[run] & 15);
    float dm = quant_half(b + 82) * (float)(b[run] >> 4);
    for (int l = 0; l < QUANT_RUN; l++) v[l] = ds * (float)(qs[l] >> shift & 3) - dm;
}

QUANT_FN void run_q3_k(RUN_ARGS) {
    const uint8_t *s = b + 96, *qs = run_bytes(b + 32, run), *high = b + 16 * (run % 2);
    int low = run < 8 ? s[run] & 15 : s[run - 8] >> 4;
    int scale = (low | (s[8 + run % 4] >> 2 * (run / 4) & 3) << 4) - 32, shift = run_shift(run);
    float ds = quant_half(b + 108) * (float)scale;
    for (int l = 0; l < QUANT_RUN; l++)
        v[l] = ds * (float)((qs[l] >> shift & 3) + 4 * (high[l] >> run / 2 & 1) - 4);
}

/* Eight six-bit scales and minima in 12 bytes. */
QUANT_FN void scale_min(const uint8_t *s, int j, int *ret_scale, int *ret_min) {
    if (j < 4) {
        *ret_scale = s[j] & 63;
        *ret_min = s[j + 4] & 63;
    } else {
        *ret_scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *ret_min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

/* The two scales of a run of q4_K and q5_K; two runs share them. */
QUANT_FN void scales_q45(const uint8_t *b, int run, float *ret_ds, float *ret_dm) {
    int scale, m;
    scale_min(b + 4, run / 2, &scale, &m);
    *ret_ds = quant_half(b) * (float)scale;
    *ret_dm = quant_half(b + 2) * (float)m;
}

QUANT_FN void run_q4_k(RUN_ARGS) {
    const uint8_t *qs = b + 16 + 32 * (run / 4) + 16 * (run % 2);
    int shift = 4 * (run / 2 & 1);
    float ds, dm;
    scales_q45(b, run, &ds, &dm);
    for (int l = 0; l < QUANT_RUN; l++) v[l] = ds * (float)(qs[l] >> shift & 15) - dm;
}

QUANT_FN void run_q5_k(RUN_ARGS) {
    const uint8_t *qh = b + 16 + 16 * (run % 2), *qs = b + 48 + 32 * (run / 4) + 16 * (run % 2);
    int shift = 4 * (run / 2 & 1), bit = run / 2;
    float ds, dm;
    scales_q45(b, run, &ds, &dm);
    for (int l = 0; l < QUANT_RUN; l++)
        v[l] = ds * (float)((qs[l] >> shift & 15) | (qh[l] >> bit & 1) << 4) - dm;
}

QUANT_FN void run_q6_k(RUN_ARGS) {
    int layer = run % 8 / 2, shift = run_shift(run), half = 4 * (layer >> 1);
    const uint8_t *low = b + 64 * (run / 8) + 32 * (layer & 1) + 16 * (run % 2);
    const uint8_t *high = run_bytes(b + 128, run);
    float ds = quant_half(b + 208) * (float)(int8_t)b[192 + run];
    for (int l = 0; l < QUANT_RUN; l++)
        v[l] = ds * (float)(((low[l] >> half & 15) | (high[l] >> shift & 3) << 4) - 32);
}

QUANT_TABLE int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};

QUANT_FN void iq4_run(float d, const uint8_t *QUANT_RESTRICT qs, int high,
                      float *QUANT_RESTRICT v) {
    for (int i = 0; i < QUANT_RUN; i++) v[i] = d * (float)iq4_values[qs[i] >> 4 * high & 15];
}

QUANT_FN void run_iq4_nl(RUN_ARGS) {
    iq4_run(quant_half(b), b + 2, run, v);
}

QUANT_FN void run_iq4_xs(RUN_ARGS) {
    int i = run / 2, high = b[2] | b[3] << 8;
    int scale = (b[4 + i / 2] >> 4 * (i % 2) & 15) | (high >> 2 * i & 3) << 4;
    iq4_run(quant_half(b) * (float)(scale - 32), b + 8 + 16 * i, run % 2, v);
}

/* Digits of base three, most significant first: byte = ceil(256 * number / 3^5). */
QUANT_FN float trit(uint8_t byte, int power) {
    uint8_t rest = (uint8_t)(byte * power);
    return (float)(rest * 3 >> 8) - 1;
}

QUANT_TABLE uint8_t pow3[5] = {1, 3, 9, 27, 81};

QUANT_FN void run_tq1_0(RUN_ARGS) { /* 32 and 16 bytes of five digits, 4 bytes of four */
    float d = quant_half(b + 52);
    if (run < 15) {
        const uint8_t *q = run < 10 ? b + 16 * (run % 2) : b + 32;
        int power = pow3[run < 10 ? run / 2 : run - 10];
        for (int i = 0; i < QUANT_RUN; i++) v[i] = d * trit(q[i], power);
    } else {
        for (int i = 0; i < QUANT_RUN; i++) v[i] = d * trit(b[48 + i % 4], pow3[i / 4]);
    }
}

QUANT_FN void run_tq2_0(RUN_ARGS) {
    float d = quant_half(b + 64);
    const uint8_t *qs = run_bytes(b, run);
    int shift = run_shift(run);
    for (int l = 0; l < QUANT_RUN; l++) v[l] = d * (float)((qs[l] >> shift & 3) - 1);
}

QUANT_TABLE float e2m1_values[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                     -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

QUANT_FN void run_mxfp4(RUN_ARGS) {
    float d = QUANT_E8M0(b[0]);
    for (int i = 0; i < QUANT_RUN; i++) v[i] = d * e2m1_values[b[1 + i] >> 4 * run & 15];
}

/* Four scales without a sign bit (E4M3 whose NaN counts as zero), then 8 bytes for each 16. */
QUANT_FN void run_nvfp4(RUN_ARGS) {
    uint8_t x = b[run] & 0x7F;
    const uint8_t *qs = b + 4 + 8 * run;
    float d = x == 0x7F ? 0 : QUANT_E4M3[x];
    for (int i = 0; i < 8; i++) {
        v[i] = d * e2m1_values[qs[i] & 15];
        v[8 + i] = d * e2m1_values[qs[i] >> 4];
    }
}

/* The types and their functions: X(dtype, runs of a block, function). */
#define QUANT_BLOCK_TYPES(X)                                                                       \
    X(DT_Q4_0, 2, run_q4_0)                                                                        \
    X(DT_Q4_1, 2, run_q4_1)                                                                        \
    X(DT_Q5_0, 2, run_q5_0)                                                                        \
    X(DT_Q5_1, 2, run_q5_1)                                                                        \
    X(DT_Q8_0, 2, run_q8_0)                                                                        \
    X(DT_Q8_1, 2, run_q8_1)                                                                        \
    X(DT_Q2_K, 16, run_q2_k)                                                                       \
    X(DT_Q3_K, 16, run_q3_k)                                                                       \
    X(DT_Q4_K, 16, run_q4_k)                                                                       \
    X(DT_Q5_K, 16, run_q5_k)                                                                       \
    X(DT_Q6_K, 16, run_q6_k)                                                                       \
    X(DT_Q8_K, 16, run_q8_k)                                                                       \
    X(DT_IQ4_NL, 2, run_iq4_nl)                                                                    \
    X(DT_IQ4_XS, 16, run_iq4_xs)                                                                   \
    X(DT_TQ1_0, 16, run_tq1_0)                                                                     \
    X(DT_TQ2_0, 16, run_tq2_0)                                                                     \
    X(DT_MXFP4, 2, run_mxfp4)                                                                      \
    X(DT_NVFP4, 4, run_nvfp4)
