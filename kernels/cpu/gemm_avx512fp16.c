/* Matrix products of 16-bit weights by f16 multiply-adds, which do twice the work of f32 ones.
 *
 * f16 has the precision for it (11 bits, bf16 weights have 8) but neither the range nor the length
 * of sums. So rows of `a` and of the weights are scaled by powers of two (WMAT_HALVES), and sums
 * have three levels: RUN products in a register, up to LEVEL of them as sums of runs in f16, those
 * in f32. Adding a run to its level takes one operation where bringing it to f32 takes seven, and
 * its rounding errors are few beside those inside of runs. Products are below 2^7, so a level stays
 * below 2^15. Each scale is that of a whole row, so a row's bits do not depend on others; what
 * underflows is 2^-27 of the row's largest.
 *
 * Every output element has one sequence of operations whatever the tile, the block of K or the
 * thread: runs and levels begin at multiples of RUN and LEVEL steps, a step being a pair of K.
 *
 * Walk. `a` comes in tiles of up to TILE rows. One tile alone is bound by reading weights: units of
 * several panels side by side, each a stream fetched ahead. With more tiles a block of steps of a
 * panel stays in L1 while all tiles meet it. A few tiles still wait for memory, so four panels go
 * forward together in short blocks and lines of all four are fetched in turn, evenly over the
 * passes: memory gives more to four streams than to one. Many tiles wait for the multipliers: one
 * panel, long blocks. */
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/cpu/levels.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/transpose_avx512.h"
#include "kernels/cpu/finish.inc"

#define TILE    12
#define RUN     32  /* steps */
#define LEVEL   256 /* steps, whole runs */
#define NV_MAX  8   /* vectors of a unit: two of each panel */
#define STREAMS 4   /* panels of a group */

#define FEW_TILES  4             /* groups of panels up to here */
#define BLOCK_FEW  64            /* steps; they divide LEVEL */
#define AHEAD_FEW  2             /* blocks */
#define L2_A_BYTES (1024 * 1024) /* of packed `a` that should stay in L2 */
#define MIN_TILES  4

#define PF_FAR  12288 /* bytes that a stream of a single tile is fetched ahead into L2, */
#define PF_NEAR 512   /* and into L1 */

#define STEP_BYTES (PANEL_COLS * 4)
#define VEC_BYTES  64
#define VPP        2 /* vectors of a panel */

/* clang-format off */
#define MICROS(M)                                                                                  \
    M(1, 2) M(1, 4) M(1, 8) M(2, 2) M(2, 4) M(2, 8) M(3, 2) M(3, 4) M(4, 2) M(4, 4) M(5, 2)        \
    M(5, 4) M(6, 2) M(6, 4) M(7, 2) M(8, 2) M(9, 2) M(10, 2) M(11, 2) M(12, 2)
/* clang-format on */

static float bits_float(int32_t biased_exponent) {
    uint32_t u = (uint32_t)biased_exponent << 23;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* ---- rows of a: packed [step][row] for each tile, then the inverse scale of each row ---- */

/* The largest of the row comes into [2^2, 2^3). Rows with an infinity or NaN keep it. */
static float row_scale(const float *src, int32_t k, float *ret_inverse) {
    __m512i top = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    for (int32_t i = 0; i < k; i += VW) {
        __m512i x = _mm512_castps_si512(vf_load_n(src + i, MIN(VW, k - i)));
        top = _mm512_max_epu32(top, _mm512_and_si512(x, magnitude));
    }
    int32_t e = MAX((int32_t)(_mm512_reduce_max_epu32(top) >> 23), 3);
    *ret_inverse = bits_float(e - 2);
    return bits_float(256 - e);
}

/* Pairs [from/2, from/2 + 16) of a row of k elements, zeros behind its end. */
SIMD_FN __m512i pairs16(const float *src, int32_t from, int32_t k, vf scale) {
    int32_t low = MIN(VW, k - from), high = MIN(VW, k - from - VW);
    __m512i h = _mm512_castsi256_si512(
        _mm512_cvtps_ph(vf_mul(vf_load_n(src + from, low), scale), _MM_FROUND_TO_NEAREST_INT));
    if (high <= 0) return _mm512_zextsi256_si512(_mm512_castsi512_si256(h));
    vf x = vf_mul(vf_load_n(src + from + VW, high), scale);
    return _mm512_inserti64x4(h, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT), 1);
}

static int32_t steps_of(int32_t k) {
    return CEIL_DIV(k, 2);
}

static size_t a_bytes(int32_t m, int32_t k) {
    return (size_t)m * ((size_t)steps_of(k) * sizeof(uint32_t) + sizeof(float));
}

static const float *a_inverse(const void *a, int32_t m, int32_t k) {
    return (const float *)((const uint32_t *)a + (int64_t)m * steps_of(k));
}

static void pack_a(const op_gemm *g, int32_t n_tiles, int32_t tile0, int32_t tile1, void *dst) {
    int32_t k = g->w->k;
    float *inverse = (float *)((uint32_t *)dst + (int64_t)g->m * steps_of(k));
    for (int32_t t = tile0; t < tile1; t++) {
        int32_t row0 = gemm_tile_row(g->m, n_tiles, t);
        int32_t mr = gemm_tile_row(g->m, n_tiles, t + 1) - row0;
        uint32_t *to = (uint32_t *)dst + (int64_t)row0 * steps_of(k);
        const float *src = (const float *)g->a + row0 * g->a_stride;
        vf scale[TILE];
        for (int32_t r = 0; r < mr; r++)
            scale[r] = vf_set1(row_scale(src + r * g->a_stride, k, &inverse[row0 + r]));
        for (int32_t from = 0; from < k; from += 2 * VW) {
            __m512i x[VW] = {0};
            for (int32_t r = 0; r < mr; r++)
                x[r] = pairs16(src + r * g->a_stride, from, k, scale[r]);
            transpose16(x);
            for (int32_t s = 0; s < MIN(VW, CEIL_DIV(k - from, 2)); s++, to += mr)
                _mm512_mask_storeu_epi32(to, vm_first(mr), x[s]);
        }
    }
}

/* ---- micro-kernels ---- */

/* Lines wanted later: line i is number i / n of stream i % n, n = mask + 1. */
typedef struct ahead {
    const char *stream[STREAMS];
    uint32_t next, end, mask, shift;
} ahead;

/* mr rows times nv vectors of columns, within a level. */
typedef struct micro {
    const uint32_t *a; /* [step][mr] */
    const char *b;     /* first vector of the first step */
    size_t panel_bytes;
    int32_t steps;
    char *level; /* [mr][nv] vectors of f16 */
    float *c;    /* [mr][nv][2 VW] */
    bool add;    /* to what is in level: it did not begin here */
    bool ends;   /* the level does, and is not the last: add it to c, */
    bool first;  /* or store it there */
    bool stream; /* fetch ahead in the streams of b; otherwise: */
    ahead *next;
    uint32_t lines; /* per four steps */
} micro;

SIMD_FN void fetch_next(ahead *n, uint32_t lines) {
    uint32_t i = n->next, end = MIN(i + lines, n->end);
    for (; i < end; i++) SIMD_PREFETCH_FAR(n->stream[i & n->mask] + (size_t)(i >> n->shift) * 64);
    n->next = i;
}

#define EACH_ACC(mr, nv)                                                                           \
    _Pragma("GCC unroll 16") for (int r = 0; r < mr; r++)                                          \
        _Pragma("GCC unroll 8") for (int v = 0; v < nv; v++)

SIMD_FN void step(const int mr, const int nv, __m512h acc[TILE][NV_MAX], const uint32_t *a,
                  const char *const *b, size_t at) {
    __m512h w[NV_MAX];
#pragma GCC unroll 8
    for (int v = 0; v < nv; v++) w[v] = _mm512_castsi512_ph(_mm512_loadu_si512(b[v] + at));
#pragma GCC unroll 16
    for (int r = 0; r < mr; r++) {
        __m512h x = _mm512_castsi512_ph(_mm512_set1_epi32((int)a[r]));
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++) acc[r][v] = _mm512_fmadd_ph(x, w[v], acc[r][v]);
    }
}

/* n <= RUN steps from byte `at` of the vectors on. */
SIMD_FN void run_steps(const int mr, const int nv, const micro *u, __m512h acc[TILE][NV_MAX],
                       const uint32_t *a, const char *const *b, size_t at, int32_t n) {
    int32_t s = 0;
    for (; s + 4 <= n; s += 4, a += 4 * mr, at += 4 * STEP_BYTES) {
        if (u->stream)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
#pragma GCC unroll 8
                for (int v = 0; v < nv; v++) {
                    SIMD_PREFETCH_FAR(b[v] + at + i * STEP_BYTES + PF_FAR);
                    SIMD_PREFETCH(b[v] + at + i * STEP_BYTES + PF_NEAR);
                }
        else
            fetch_next(u->next, u->lines);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) step(mr, nv, acc, a + i * mr, b, at + (size_t)i * STEP_BYTES);
    }
    for (; s < n; s++, a += mr, at += STEP_BYTES) step(mr, nv, acc, a, b, at);
}

/* Of the level's sums as they lie in memory: converting a load costs one operation of the vector
 * ports, converting a register two, and one more to get at its upper half. */
SIMD_FN void level_ends(const int n, const micro *u) {
    const uint16_t *level = (const uint16_t *)u->level;
    float *c = u->c;
    if (u->first)
#pragma GCC unroll 8
        for (int i = 0; i < 2 * n * VW; i += VW) vf_store(c + i, vf_load_f16(level + i));
    else
#pragma GCC unroll 8
        for (int i = 0; i < 2 * n * VW; i += VW)
            vf_store(c + i, vf_add(vf_load(c + i), vf_load_f16(level + i)));
}

SIMD_FN void micro_run(const int mr, const int nv, const micro *u) {
    __m512h acc[TILE][NV_MAX];
    const char *b[NV_MAX];
    bool add = u->add;
#pragma GCC unroll 8
    for (int v = 0; v < nv; v++)
        b[v] = u->b + (size_t)(v / VPP) * u->panel_bytes + (size_t)(v % VPP) * VEC_BYTES;
    for (int32_t s = 0; s < u->steps; s += RUN, add = true) {
        EACH_ACC(mr, nv) acc[r][v] = _mm512_setzero_ph();
        run_steps(mr, nv, u, acc, u->a + s * mr, b, (size_t)s * STEP_BYTES, MIN(RUN, u->steps - s));
        if (add) EACH_ACC(mr, nv) {
                char *sum = u->level + (r * nv + v) * 64;
                _mm512_storeu_ph(sum, _mm512_add_ph(_mm512_loadu_ph(sum), acc[r][v]));
            }
        else
            EACH_ACC(mr, nv) _mm512_storeu_ph(u->level + (r * nv + v) * 64, acc[r][v]);
    }
    if (u->ends) level_ends(mr * nv, u);
}

#define MICRO(mr, nv)                                                                              \
    static void micro_##mr##_##nv(const micro *u) {                                                \
        micro_run(mr, nv, u);                                                                      \
    }
MICROS(MICRO)
#undef MICRO

typedef void (*micro_fn)(const micro *);
/* [mr][log2 nv]; NULL where the accumulators would not fit the registers. */
static const micro_fn micros[TILE + 1][4] = {
#define MICRO(mr, nv) [mr][nv == 8 ? 3 : nv == 4 ? 2 : 1] = micro_##mr##_##nv,
    MICROS(MICRO)
#undef MICRO
};

/* ---- the walk ---- */

/* Tiles [t0, t1) of a job. */
typedef struct part {
    const gemm_job *j;
    int32_t t0, t1;
    int32_t steps, block; /* of K, of a block */
    int32_t group;        /* most panels that go forward together */
    size_t panel_bytes;
    char *level; /* [panel of the group][row] of two vectors, where blocks end within levels */
    float *c;    /* likewise, always */
} part;

static int32_t part_row(const part *p, int32_t t) {
    return gemm_tile_row(p->j->g->m, p->j->n_tiles, t);
}

static const char *step_at(const part *p, int32_t panel, int32_t s) {
    return (const char *)p->j->g->w->data + (size_t)panel * p->panel_bytes + (size_t)s * STEP_BYTES;
}

/* Panels that go together from `panel` on: a power of two. */
static int32_t group_at(const part *p, int32_t panel) {
    int32_t n = p->group;
    while (n > 1 && panel + n > p->j->panel1) n /= 2;
    return n;
}

/* The last level is added to c here (NULL: it is the only one). Sums of the even and of the odd
 * elements of K stand side by side. */
SIMD_FN vf total(const uint16_t *level, const float *c, vf w_inverse) {
    __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    vf low = vf_load_f16(level), high = vf_load_f16(level + VW);
    if (c) {
        low = vf_add(vf_load(c), low);
        high = vf_add(vf_load(c + VW), high);
    }
    vf sum =
        vf_add(_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high));
    return vf_mul(sum, w_inverse);
}

/* out = level + c (+ bias) (+ out), for mr rows of a panel's columns that exist. Rows of level and
 * of c are as many elements apart. */
static void finish(const part *p, const char *level, const float *c, int64_t stride, int32_t row0,
                   int32_t mr, int32_t panel) {
    const op_gemm *g = p->j->g;
    const float *a_inv = a_inverse(p->j->a, g->m, g->w->k) + row0;
    const float *w_inv = (const float *)step_at(p, panel, p->steps);
    float *out = g->out + (int64_t)row0 * g->out_stride;
    for (int32_t r = 0; r < mr; r++, out += g->out_stride)
        for (int32_t v = 0; v < VPP; v++) {
            int32_t col = panel * PANEL_COLS + v * VW, n = MIN(VW, g->w->n - col);
            if (n <= 0) break;
            int64_t at = r * stride + v * 2 * VW;
            vf x = total((const uint16_t *)level + at, c ? c + at : NULL, vf_load(w_inv + v * VW));
            vf bias = g->bias ? vf_load_n(g->bias + col, n) : vf_zero();
            VNAME(finish_lanes)(g, out + col, n, bias, vf_mul(x, vf_set1(a_inv[r])));
        }
}

/* Block b of a group of panels is at hand: what is wanted some blocks later. */
static ahead ahead_of(const part *p, int32_t panel, int32_t n, int32_t b) {
    int32_t n_blocks = CEIL_DIV(p->steps, p->block);
    b += p->group > 1 ? AHEAD_FEW : 1;
    if (b >= n_blocks) {
        b = MIN(b - n_blocks, n_blocks - 1);
        panel += n;
        if (panel >= p->j->panel1) return (ahead){.end = 0};
        n = group_at(p, panel);
    }
    int32_t s = b * p->block;
    ahead a = {.mask = (uint32_t)n - 1, .shift = n == 4 ? 2 : n == 2 ? 1 : 0};
    a.end = (uint32_t)(n * MIN(p->block, p->steps - s) * VPP);
    for (int32_t i = 0; i < n; i++) a.stream[i] = step_at(p, panel + i, s);
    return a;
}

/* Block b of n panels, all tiles. */
static void block_run(const part *p, int32_t panel, int32_t n, int32_t b) {
    int32_t s = b * p->block, rows0 = part_row(p, p->t0), n_rows = part_row(p, p->t1) - rows0;
    ahead next = ahead_of(p, panel, n, b);
    micro u = {.panel_bytes = p->panel_bytes, .next = &next};
    u.steps = MIN(p->block, p->steps - s);
    bool last = s + u.steps == p->steps;
    u.add = s % LEVEL != 0;
    u.ends = !last && (s + u.steps) % LEVEL == 0;
    u.first = s < LEVEL;
    int32_t fours = MAX(1, u.steps / 4), passes = n * (p->t1 - p->t0);
    for (int32_t i = 0; i < n; i++) {
        u.b = step_at(p, panel + i, s);
        for (int32_t t = p->t0; t < p->t1; t++, passes--) {
            int32_t row0 = part_row(p, t), mr = part_row(p, t + 1) - row0;
            int64_t row = (int64_t)i * n_rows + row0 - rows0;
            u.a = (const uint32_t *)p->j->a + (int64_t)row0 * steps_of(p->j->g->w->k) +
                  (int64_t)s * mr;
            u.level = p->level + (p->block < LEVEL ? row * VPP * 64 : 0);
            u.c = p->c + row * VPP * 2 * VW;
            u.lines = CEIL_DIV(next.end - next.next, (uint32_t)(fours * passes));
            if (last) VNAME(finish_fetch)(p->j->g, row0, mr, (panel + i) * PANEL_COLS);
            micros[mr][1](&u);
            if (last) finish(p, u.level, u.first ? NULL : u.c, VPP * 2 * VW, row0, mr, panel + i);
        }
    }
}

/* One tile: as many vectors side by side as its accumulators leave room for. */
static void stream_run(const part *p) {
    int32_t row0 = part_row(p, p->t0), mr = part_row(p, p->t1) - row0, panel = p->j->panel0;
    for (int32_t l; panel < p->j->panel1; panel += (1 << l) / VPP) {
        for (l = 3; l > 1 && (!micros[mr][l] || panel + (1 << l) / VPP > p->j->panel1);) l--;
        micro u = {.panel_bytes = p->panel_bytes, .level = p->level, .c = p->c, .stream = true};
        for (int32_t s = 0; s < p->steps; s += LEVEL) {
            u.a = (const uint32_t *)p->j->a + (int64_t)row0 * steps_of(p->j->g->w->k) +
                  (int64_t)s * mr;
            u.b = step_at(p, panel, s);
            u.steps = MIN(LEVEL, p->steps - s);
            u.ends = s + LEVEL < p->steps;
            u.first = s == 0;
            micros[mr][l](&u);
        }
        for (int32_t i = 0; i < (1 << l) / VPP; i++)
            finish(p, p->level + i * VPP * 64, u.first ? NULL : p->c + i * VPP * 2 * VW,
                   (1 << l) * 2 * VW, row0, mr, panel + i);
    }
}

/* Tiles that meet all panels before the next ones do: their rows stay in L2. */
static int32_t round_tiles(int32_t n_tiles, int32_t k) {
    int64_t tile = (int64_t)TILE * steps_of(k) * (int64_t)sizeof(uint32_t);
    int32_t fit = (int32_t)MAX(L2_A_BYTES / tile, MIN_TILES);
    return CEIL_DIV(n_tiles, CEIL_DIV(n_tiles, fit));
}

/* Rows of sums: [panel of a group][row of a round], or one tile times NV_MAX vectors. */
static int64_t sum_rows(int32_t m, int32_t k) {
    int64_t rows = (int64_t)round_tiles(CEIL_DIV(m, TILE), k) * TILE;
    return MAX(rows, FEW_TILES * TILE * STREAMS);
}

#define LEVEL_BYTES ((size_t)VPP * 64) /* of such a row */
#define C_BYTES     ((size_t)VPP * 2 * VW * sizeof(float))

static size_t scratch_bytes(int32_t m, int32_t n, int32_t k) {
    return (size_t)sum_rows(m, k) * (LEVEL_BYTES + C_BYTES);
}

static void run(const gemm_job *j) {
    int32_t k = j->g->w->k, n_round = round_tiles(j->n_tiles, k);
    part p = {.j = j, .steps = steps_of(k), .level = j->scratch};
    p.panel_bytes = (size_t)p.steps * STEP_BYTES + PANEL_COLS * sizeof(float);
    p.c = (float *)(p.level + (size_t)sum_rows(j->g->m, k) * LEVEL_BYTES);
    for (p.t0 = j->tile0; p.t0 < j->tile1; p.t0 = p.t1) {
        p.t1 = MIN(p.t0 + n_round, j->tile1);
        if (j->n_tiles == 1) {
            stream_run(&p);
            continue;
        }
        bool few = p.t1 - p.t0 <= FEW_TILES;
        p.group = few ? STREAMS : 1;
        p.block = few ? BLOCK_FEW : LEVEL;
        for (int32_t panel = j->panel0, n; panel < j->panel1; panel += n) {
            n = group_at(&p, panel);
            for (int32_t b = 0; b * p.block < p.steps; b++) block_run(&p, panel, n, b);
        }
    }
}

/* Whatever the weights came as, they are packed alike. */
#define ROW(name_)                                                                                 \
    const gemm_row avx512fp16_##name_ = {.name = "avx512fp16_" #name_,                             \
                                         .layout = WMAT_HALVES,                                    \
                                         .pack = avx512fp16_pack,                                  \
                                         .pack_rows = PANEL_COLS,                                  \
                                         .tile_rows = TILE,                                        \
                                         .a_bytes = a_bytes,                                       \
                                         .pack_a = pack_a,                                         \
                                         .scratch_bytes = scratch_bytes,                           \
                                         .run = run};
ROW(gemm_bf16)
ROW(gemm_f16)
