/* See simt_mma.h. Fragments are laid out over the lanes as the PTX manual says ("Matrix Fragments
 * for mma.m16n8k16 with floating point type" and "... m16n8k32"; "Warp-level matrix load
 * instruction: ldmatrix"): with g = lane / 4 and t = lane % 4,
 *   a[i]  rows g + 8*(i%2), elements from E*t + 4*E*(i/2)    E: elements in a register, 2 or 4
 *   b[i]  column g, elements from E*t + 4*E*i
 *   d[i]  row g + 8*(i/2), column 2*t + i%2 */
#include "tests/simt/simt_mma.h"

#include "kernels/f8_values.h"
#include "tests/simt/simt_inside.h"

/* ---- Votes and reductions ---- */

void simt_ballot(simt_op *const lanes[32], uint32_t mask) {
    uint32_t r = 0;
    SIMT_LANES(mask, i) r |= (uint32_t)(((simt_vote *)lanes[i])->value != 0) << i;
    SIMT_LANES(mask, i)((simt_vote *)lanes[i])->result = r;
}

void simt_match(simt_op *const lanes[32], uint32_t mask) {
    SIMT_LANES(mask, i) {
        simt_vote *v = (simt_vote *)lanes[i];
        v->result = 0;
        for (uint32_t j = 0; j < 32; j++)
            if ((mask >> j & 1) && ((simt_vote *)lanes[j])->value == v->value) v->result |= 1u << j;
    }
}

template <class F> static void reduce(simt_op *const lanes[32], uint32_t mask, F f) {
    bool first = true;
    uint32_t r = 0;
    SIMT_LANES(mask, i) {
        uint32_t v = (uint32_t)((simt_vote *)lanes[i])->value;
        r = first ? v : f(r, v);
        first = false;
    }
    SIMT_LANES(mask, i)((simt_vote *)lanes[i])->result = r;
}
#define REDUCE(name, expr)                                                                         \
    void name(simt_op *const lanes[32], uint32_t mask) {                                           \
        reduce(lanes, mask, [](uint32_t a, uint32_t b) -> uint32_t { return (expr); });            \
    }
REDUCE(simt_add, a + b)
REDUCE(simt_max_u, a > b ? a : b)
REDUCE(simt_min_u, a < b ? a : b)
REDUCE(simt_max_i, (int)a > (int)b ? a : b)
REDUCE(simt_min_i, (int)a < (int)b ? a : b)
REDUCE(simt_or, a | b)
REDUCE(simt_and, a &b)

/* ---- Numbers ---- */

float simt_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
    if (e == 0) { /* zero or subnormal: m * 2^-24 */
        float f = (float)m * 0x1p-24f;
        return sign ? -f : f;
    }
    uint32_t high = e == 31 ? 0xffu : e + 112;
    return __uint_as_float(sign | high << 23 | m << 13);
}

uint16_t simt_to_f16(float x) {
    uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
    if (mag >= 0x47800000u) return (uint16_t)(sign | 0x7c00); /* 2^16 and more */
    if (mag < 0x38800000u) { /* below 2^-14: a multiple of 2^-24; nearbyintf rounds to even */
        return (uint16_t)(sign | (uint32_t)nearbyintf(__uint_as_float(mag) * 0x1p24f));
    }
    uint32_t r = mag - 0x38000000u; /* exponent of f16, 13 bits too many */
    return (uint16_t)(sign | (r + 0xfff + (r >> 13 & 1)) >> 13);
}

unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}

unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    unsigned long long v = (unsigned long long)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned pick = s >> (4 * i) & 15, byte = (unsigned)(v >> (8 * (pick & 7))) & 0xff;
        if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
        r |= byte << (8 * i);
    }
    return r;
}

int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
    return c;
}

/* ---- Products ---- */

static float from_bf16(uint16_t h) {
    return __uint_as_float((uint32_t)h << 16);
}

template <class F> static void mma16(simt_op *const lanes[32], F value) {
    float a[16][16], b[16][8], d[16][8];
    for (int l = 0; l < 32; l++) {
        const simt_mma_op *o = (const simt_mma_op *)lanes[l];
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < 2; e++)
                a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + e] = value((uint16_t)(o->a[i] >> 16 * e));
        for (int i = 0; i < 2; i++)
            for (int e = 0; e < 2; e++)
                b[2 * t + 8 * i + e][g] = value((uint16_t)(o->b[i] >> 16 * e));
        for (int i = 0; i < 4; i++) d[g + 8 * (i / 2)][2 * t + i % 2] = ((const float *)o->d)[i];
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            ((float *)((simt_mma_op *)lanes[l])->d)[i] =
                d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
}

void simt_mma_bf16(simt_op *const lanes[32], uint32_t) {
    mma16(lanes, from_bf16);
}

void simt_mma_f16(simt_op *const lanes[32], uint32_t) {
    mma16(lanes, simt_from_f16);
}

template <class D, class F> static void mma32(simt_op *const lanes[32], F value) {
    D a[16][32], b[32][8], d[16][8];
    for (int l = 0; l < 32; l++) {
        const simt_mma_op *o = (const simt_mma_op *)lanes[l];
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < 4; e++)
                a[g + 8 * (i % 2)][4 * t + 16 * (i / 2) + e] = value((uint8_t)(o->a[i] >> 8 * e));
        for (int i = 0; i < 2; i++)
            for (int e = 0; e < 4; e++)
                b[4 * t + 16 * i + e][g] = value((uint8_t)(o->b[i] >> 8 * e));
        for (int i = 0; i < 4; i++) d[g + 8 * (i / 2)][2 * t + i % 2] = ((const D *)o->d)[i];
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 32; k++)
            for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            ((D *)((simt_mma_op *)lanes[l])->d)[i] = d[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
}

void simt_mma_s8(simt_op *const lanes[32], uint32_t) {
    mma32<int32_t>(lanes, [](uint8_t x) -> int32_t { return (int8_t)x; });
}

static const float e4m3_values[256] = {F8_E4M3_VALUES};

void simt_mma_e4m3(simt_op *const lanes[32], uint32_t) {
    mma32<float>(lanes, [](uint8_t x) { return e4m3_values[x]; });
}

/* ---- Matrices of shared memory ---- */

void simt_check_row(const void *row) {
    if ((uintptr_t)row % 16) simt_fail("ldmatrix: the row %p is not 16-byte aligned", row);
    if (!block_is_shared(row, 16)) simt_fail("ldmatrix: the row %p is not shared memory", row);
}

static uint16_t element(simt_op *const lanes[32], int matrix, int row, int col) {
    const simt_matrix_op *o = (const simt_matrix_op *)lanes[matrix * 8 + row];
    uint16_t v;
    memcpy(&v, (const char *)o->row + 2 * col, 2);
    return v;
}

void simt_ldmatrix(simt_op *const lanes[32], uint32_t) {
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            memcpy(&((simt_matrix_op *)lanes[l])->r[i],
                   (const char *)((const simt_matrix_op *)lanes[i * 8 + l / 4])->row + 4 * (l % 4),
                   4);
}

void simt_ldmatrix_trans(simt_op *const lanes[32], uint32_t) {
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            uint32_t lo = element(lanes, i, 2 * (l % 4), l / 4);
            uint32_t hi = element(lanes, i, 2 * (l % 4) + 1, l / 4);
            ((simt_matrix_op *)lanes[l])->r[i] = lo | hi << 16;
        }
}

/* ---- Asynchronous copies ---- */

struct copy {
    void *dst;
    const void *src; /* NULL: zeros */
    uint32_t group;
};
struct copies {     /* of one thread */
    uint64_t block; /* that they are of */
    copy *list;
    int n, cap;
    uint32_t group; /* the open one */
};
static copies all_copies[1024];

static copies *mine(void) {
    copies *c = &all_copies[block_thread_index()];
    if (c->block != block_number()) c->block = block_number(), c->n = 0, c->group = 0;
    return c;
}

void cu_copy16_async(void *shared, const void *src, bool valid) {
    if ((uintptr_t)shared % 16 || (valid && (uintptr_t)src % 16))
        simt_fail("cu_copy16_async from %p to %p: not 16-byte aligned", src, shared);
    if (!block_is_shared(shared, 16)) simt_fail("cu_copy16_async: %p is not shared memory", shared);
    copies *c = mine();
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 64;
        c->list = (copy *)realloc(c->list, (size_t)c->cap * sizeof(copy));
        if (!c->list) simt_fail("out of memory");
    }
    c->list[c->n++] = {shared, valid ? src : nullptr, c->group};
    memset(shared, 0xff, 16);
}

void cu_copy_commit(void) {
    mine()->group++;
}

void simt_copy_wait(int n) {
    copies *c = mine();
    int i = 0;
    for (; i < c->n && c->list[i].group + (uint32_t)n < c->group; i++) {
        const copy *p = &c->list[i];
        if (p->src)
            memcpy(p->dst, p->src, 16);
        else
            memset(p->dst, 0, 16);
    }
    c->n -= i;
    memmove(c->list, c->list + i, (size_t)c->n * sizeof(copy));
}
