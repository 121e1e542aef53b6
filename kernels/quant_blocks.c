/* GGUF blocks to f32, one function per type; each is the formula of the type, element by element
 * in order. Products of a half-precision scale with small integers are exact in f32, so most types
 * have one rounding or none, whatever the order of operations.
 *
 * Format: ggml's block structs, as described by the GGUF project. Little endian, no alignment. */
#include "engine/base/check.h"
#include "kernels/quant.h"

static float half_at(const uint8_t *b) {
    return f16_to_f32((uint16_t)(b[0] | b[1] << 8));
}

static void q4_0(const uint8_t *restrict b, float *restrict v) {
    float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        v[i] = d * (float)((b[2 + i] & 15) - 8);
        v[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void q4_1(const uint8_t *restrict b, float *restrict v) {
    float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        v[i] = d * (float)(b[4 + i] & 15) + m;
        v[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* The five-bit types: low nibbles at qs, bit i of the 32 at qh is element i's fifth. */
static void five_bits(const uint8_t *qh, const uint8_t *qs, uint8_t *q) {
    for (int i = 0; i < 16; i++) {
        q[i] = (uint8_t)((qs[i] & 15) | (qh[i / 8] >> i % 8 & 1) << 4);
        q[i + 16] = (uint8_t)(qs[i] >> 4 | (qh[2 + i / 8] >> i % 8 & 1) << 4);
    }
}

static void q5_0(const uint8_t *restrict b, float *restrict v) {
    uint8_t q[32];
    float d = half_at(b);
    five_bits(b + 2, b + 6, q);
    for (int i = 0; i < 32; i++) v[i] = d * (float)(q[i] - 16);
}

static void q5_1(const uint8_t *restrict b, float *restrict v) {
    uint8_t q[32];
    float d = half_at(b), m = half_at(b + 2);
    five_bits(b + 4, b + 8, q);
    for (int i = 0; i < 32; i++) v[i] = d * (float)q[i] + m;
}

static void signed_bytes(float d, const uint8_t *restrict q, int n, float *restrict v) {
    for (int i = 0; i < n; i++) v[i] = d * (float)(int8_t)q[i];
}

static void q8_0(const uint8_t *restrict b, float *restrict v) {
    signed_bytes(half_at(b), b + 2, 32, v);
}

static void q8_1(const uint8_t *restrict b, float *restrict v) { /* d, d * sum, values */
    signed_bytes(half_at(b), b + 4, 32, v);
}

static void q8_k(const uint8_t *restrict b, float *restrict v) { /* f32 d, values, sums */
    signed_bytes(dtype_to_f32(DT_F32, b), b + 4, 256, v);
}

/* Types of 256: two halves of 128, in each four layers of two bits over the same 32 bytes. Sixteen
 * elements share a scale: run i of 16 is in half i/8, layer i%8/2. */
static const uint8_t *run_bytes(const uint8_t *qs, int i) {
    return qs + 32 * (i / 8) + 16 * (i % 2);
}

static int run_shift(int i) {
    return 2 * (i % 8 / 2);
}

static void q2_k(const uint8_t *restrict b, float *restrict v) {
    float d = half_at(b + 80), min = half_at(b + 82);
    for (int i = 0; i < 16; i++, v += 16) {
        const uint8_t *qs = run_bytes(b + 16, i);
        float ds = d * (float)(b[i] & 15), dm = min * (float)(b[i] >> 4);
        int shift = run_shift(i);
        for (int l = 0; l < 16; l++) v[l] = ds * (float)(qs[l] >> shift & 3) - dm;
    }
}

static void q3_k(const uint8_t *restrict b, float *restrict v) {
    const uint8_t *s = b + 96;
    float d = half_at(b + 108);
    for (int i = 0; i < 16; i++, v += 16) {
        const uint8_t *qs = run_bytes(b + 32, i), *high = b + 16 * (i % 2);
        int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
        int scale = (low | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32, shift = run_shift(i);
        float ds = d * (float)scale;
        for (int l = 0; l < 16; l++)
            v[l] = ds * (float)((qs[l] >> shift & 3) + 4 * (high[l] >> i / 2 & 1) - 4);
    }
}

/* Eight six-bit scales and minima in 12 bytes. */
static void scale_min(const uint8_t *s, int j, int *ret_scale, int *ret_min) {
    if (j < 4) {
        *ret_scale = s[j] & 63;
        *ret_min = s[j + 4] & 63;
    } else {
        *ret_scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *ret_min = s[j + 4] >> 4 | (s[j] >> 6) << 4;
    }
}

/* q4_K, and with the fifth bits at qh, q5_K. */
static void q45_k(const uint8_t *b, const uint8_t *qh, const uint8_t *restrict qs,
                  float *restrict v) {
    float d = half_at(b), min = half_at(b + 2);
    for (int sub = 0; sub < 8; sub++) {
        int scale, m;
        scale_min(b + 4, sub, &scale, &m);
        float ds = d * (float)scale, dm = min * (float)m;
        for (int l = 0; l < 32; l++) {
            int q = qs[32 * (sub / 2) + l] >> 4 * (sub & 1) & 15;
            if (qh) q |= (qh[l] >> sub & 1) << 4;
            v[32 * sub + l] = ds * (float)q - dm;
        }
    }
}

static void q4_k(const uint8_t *restrict b, float *restrict v) {
    q45_k(b, NULL, b + 16, v);
}

static void q5_k(const uint8_t *restrict b, float *restrict v) {
    q45_k(b, b + 16, b + 48, v);
}

static void q6_k(const uint8_t *restrict b, float *restrict v) {
    float d = half_at(b + 208);
    for (int i = 0; i < 16; i++, v += 16) {
        int h = i / 8, t = i % 8 / 2, shift = run_shift(i);
        const uint8_t *low = b + 64 * h + 32 * (t & 1) + 16 * (i % 2);
        const uint8_t *high = run_bytes(b + 128, i);
        float ds = d * (float)(int8_t)b[192 + i];
        for (int l = 0; l < 16; l++) {
            int q = (low[l] >> 4 * (t >> 1) & 15) | (high[l] >> shift & 3) << 4;
            v[l] = ds * (float)(q - 32);
        }
    }
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

static void iq4_half(float d, const uint8_t *restrict qs, float *restrict v) {
    for (int i = 0; i < 16; i++) {
        v[i] = d * (float)iq4_values[qs[i] & 15];
        v[i + 16] = d * (float)iq4_values[qs[i] >> 4];
    }
}

static void iq4_nl(const uint8_t *restrict b, float *restrict v) {
    iq4_half(half_at(b), b + 2, v);
}

static void iq4_xs(const uint8_t *restrict b, float *restrict v) {
    float d = half_at(b);
    int high = b[2] | b[3] << 8;
    for (int i = 0; i < 8; i++) {
        int scale = (b[4 + i / 2] >> 4 * (i % 2) & 15) | (high >> 2 * i & 3) << 4;
        iq4_half(d * (float)(scale - 32), b + 8 + 16 * i, v + 32 * i);
    }
}

/* Digits of base three, most significant first: byte = ceil(256 * number / 3^5). */
static float trit(uint8_t byte, int n) {
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    uint8_t rest = (uint8_t)(byte * pow3[n]);
    return (float)(rest * 3 >> 8) - 1;
}

static void tq1_0(const uint8_t *restrict b,
                  float *restrict v) { /* 32 and 16 bytes of five, 4 bytes of four */
    float d = half_at(b + 52);
    for (int i = 0; i < 160; i++) v[i] = d * trit(b[i % 32], i / 32);
    for (int i = 0; i < 80; i++) v[160 + i] = d * trit(b[32 + i % 16], i / 16);
    for (int i = 0; i < 16; i++) v[240 + i] = d * trit(b[48 + i % 4], i / 4);
}

static void tq2_0(const uint8_t *restrict b, float *restrict v) {
    float d = half_at(b + 64);
    for (int i = 0; i < 16; i++, v += 16)
        for (int l = 0; l < 16; l++)
            v[l] = d * (float)((run_bytes(b, i)[l] >> run_shift(i) & 3) - 1);
}

static const float e2m1_values[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                      -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

static void mxfp4(const uint8_t *restrict b, float *restrict v) {
    float d = f8_e8m0_to_f32(b[0]);
    for (int i = 0; i < 16; i++) {
        v[i] = d * e2m1_values[b[1 + i] & 15];
        v[i + 16] = d * e2m1_values[b[1 + i] >> 4];
    }
}

/* Four scales without a sign bit (E4M3 whose NaN counts as zero), then 8 bytes for each 16. */
static void nvfp4(const uint8_t *restrict b, float *restrict v) {
    for (int s = 0; s < 4; s++) {
        uint8_t x = b[s] & 0x7F;
        float d = x == 0x7F ? 0 : f8_e4m3_values[x];
        for (int i = 0; i < 8; i++) {
            v[16 * s + i] = d * e2m1_values[b[4 + 8 * s + i] & 15];
            v[16 * s + 8 + i] = d * e2m1_values[b[4 + 8 * s + i] >> 4];
        }
    }
}

typedef void (*block_fn)(const uint8_t *restrict block, float *restrict values);

static const block_fn blocks[DT_COUNT] = {
    [DT_Q4_0] = q4_0,     [DT_Q4_1] = q4_1,     [DT_Q5_0] = q5_0,   [DT_Q5_1] = q5_1,
    [DT_Q8_0] = q8_0,     [DT_Q8_1] = q8_1,     [DT_Q2_K] = q2_k,   [DT_Q3_K] = q3_k,
    [DT_Q4_K] = q4_k,     [DT_Q5_K] = q5_k,     [DT_Q6_K] = q6_k,   [DT_Q8_K] = q8_k,
    [DT_IQ4_NL] = iq4_nl, [DT_IQ4_XS] = iq4_xs, [DT_TQ1_0] = tq1_0, [DT_TQ2_0] = tq2_0,
    [DT_MXFP4] = mxfp4,   [DT_NVFP4] = nvfp4,
};

void quant_blocks_f32(dtype dt, const void *src, int64_t n, float *ret) {
    const uint8_t *b = src;
    int64_t values = dtype_block(dt);
    CHECK(blocks[dt] && n % values == 0);
    for (int64_t i = 0; i < n; i += values, b += dtype_block_bytes(dt)) blocks[dt](b, ret + i);
}
