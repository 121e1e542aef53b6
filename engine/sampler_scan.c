/* Rows are walked in blocks: a block whose maximum is below the bar is skipped, so a scan for the
 * few best of 152k logits is one vector compare per lane and almost no branches. */
#include "engine/sampler_scan.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/sample_num.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BLOCK 64
#define LANES 16

#if defined(__x86_64__)
#define FOR_AVX2 __attribute__((target("avx2")))
#if defined(__clang__) /* which takes no width there, and then none of the others */
#define FOR_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#else
#define FOR_AVX512                                                                                 \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")))
#endif
#else
#define FOR_AVX2
#define FOR_AVX512
#endif
#define INLINE static inline __attribute__((always_inline))

/* 16 lanes; the compiler cuts them to what the CPU has. */
typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));

INLINE float block_max(const float *x, int32_t n) {
    float m[LANES];
    int32_t i = 0;
    v16f v = (v16f){0} - INFINITY;
    for (; i + LANES <= n; i += LANES) {
        v16f y;
        memcpy(&y, x + i, sizeof y);
        v16i above = y > v;
        v = (v16f)(((v16i)y & above) | ((v16i)v & ~above));
    }
    memcpy(m, &v, sizeof m);
    for (; i < n; i++) m[0] = x[i] > m[0] ? x[i] : m[0];
    for (int w = LANES / 2; w; w /= 2)
        for (int k = 0; k < w; k++) m[k] = m[k + w] > m[k] ? m[k + w] : m[k];
    return m[0];
}

/* What is kept of element i of x: its place base + i, its value, or both. `values` may be x. */
INLINE int32_t take(const float *x, int32_t n, float least, int32_t base, int32_t *ids,
                    float *values) {
    int32_t found = 0;
    for (int32_t i = 0; i < n; i += BLOCK) {
        int32_t m = MIN(BLOCK, n - i);
        if (!(block_max(x + i, m) >= least)) continue;
        for (int32_t k = 0; k < m; k++) {
            float v = x[i + k];
            if (ids) ids[found] = base + i + k;
            if (values) values[found] = v;
            found += v >= least;
        }
    }
    return found;
}

/* Maximum of every whole block. */
INLINE void block_maxima(const float *x, int32_t n, float *ret) {
    for (int32_t i = 0; i + BLOCK <= n; i += BLOCK) ret[i / BLOCK] = block_max(x + i, BLOCK);
}

INLINE int32_t first_equal(const float *x, int32_t n, float value) {
    v16f want = (v16f){0} + value;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        v16f y;
        uint64_t w[8];
        memcpy(&y, x + i, sizeof y);
        v16i equal = y == want;
        memcpy(w, &equal, sizeof w);
        if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]) break;
    }
    while (i < n && x[i] != value) i++;
    return i;
}

INLINE int32_t count_above(const float *x, int32_t n, float value) {
    int32_t c[LANES] = {0}, i = 0, sum = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) c[k] += x[i + k] > value;
    for (; i < n; i++) sum += x[i] > value;
    for (int k = 0; k < LANES; k++) sum += c[k];
    return sum;
}

INLINE double sum_block(const float *x, int32_t n) {
    float sum[LANES];
    double total = 0;
    int32_t i = 0;
    v16f v = {0};
    for (; i + LANES <= n; i += LANES) {
        v16f y;
        memcpy(&y, x + i, sizeof y);
        v += y;
    }
    memcpy(sum, &v, sizeof sum);
    for (; i < n; i++) sum[0] += x[i];
    for (int k = 0; k < LANES; k++) total += sum[k];
    return total;
}

INLINE double exp_all(const float *x, int32_t n, float max, float inv_t, float *ret) {
    double total = 0;
    for (int32_t at = 0; at < n; at += SCAN_BLOCK) {
        int32_t end = MIN(n, at + SCAN_BLOCK);
        for (int32_t i = at; i < end; i++) ret[i] = sample_weight(x[i], max, inv_t);
        total += sum_block(ret + at, end - at);
    }
    return total;
}

typedef struct scans {
    float (*max)(const float *, int32_t);
    int32_t (*take)(const float *, int32_t, float, int32_t, int32_t *, float *);
    int32_t (*first_equal)(const float *, int32_t, float);
    int32_t (*count_above)(const float *, int32_t, float);
    double (*exp_all)(const float *, int32_t, float, float, float *);
    double (*sum)(const float *, int32_t);
    void (*block_maxima)(const float *, int32_t, float *);
} scans;

#if defined(__x86_64__)
/* take with the instruction that closes up the lanes of a mask: whole vectors are stored, and never
 * behind element i+15 of what was read. */
FOR_AVX512 static int32_t avx512_take(const float *x, int32_t n, float least, int32_t base,
                                      int32_t *ids, float *values) {
    __m512 bar = _mm512_set1_ps(least);
    __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int32_t found = 0, i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        __m512 v[BLOCK / 16];
        __mmask16 m[BLOCK / 16];
        for (int k = 0; k < BLOCK / 16; k++) {
            v[k] = _mm512_loadu_ps(x + i + 16 * k);
            m[k] = _mm512_cmp_ps_mask(v[k], bar, _CMP_GE_OQ);
        }
        if (!(m[0] | m[1] | m[2] | m[3])) continue;
        for (int k = 0; k < BLOCK / 16; k++) {
            __m512i at = _mm512_add_epi32(iota, _mm512_set1_epi32(base + i + 16 * k));
            if (ids) _mm512_storeu_si512(ids + found, _mm512_maskz_compress_epi32(m[k], at));
            if (values) _mm512_storeu_ps(values + found, _mm512_maskz_compress_ps(m[k], v[k]));
            found += __builtin_popcount(m[k]);
        }
    }
    for (; i < n; i++) {
        float v = x[i];
        if (ids) ids[found] = base + i;
        if (values) values[found] = v;
        found += v >= least;
    }
    return found;
}
#endif

#define VARIANT(name, attribute)                                                                   \
    attribute static float name##_max(const float *x, int32_t n) {                                 \
        return block_max(x, n);                                                                    \
    }                                                                                              \
    attribute static int32_t name##_first(const float *x, int32_t n, float v) {                    \
        return first_equal(x, n, v);                                                               \
    }                                                                                              \
    attribute static int32_t name##_count(const float *x, int32_t n, float v) {                    \
        return count_above(x, n, v);                                                               \
    }                                                                                              \
    attribute static double name##_exp(const float *x, int32_t n, float m, float t, float *r) {    \
        return exp_all(x, n, m, t, r);                                                             \
    }                                                                                              \
    attribute static double name##_sum(const float *x, int32_t n) {                                \
        return sum_block(x, n);                                                                    \
    }                                                                                              \
    attribute static void name##_maxima(const float *x, int32_t n, float *r) {                     \
        block_maxima(x, n, r);                                                                     \
    }                                                                                              \
    static const scans name = {name##_max, name##_take, name##_first, name##_count,                \
                               name##_exp, name##_sum,  name##_maxima};
#define TAKE(name, attribute)                                                                      \
    attribute static int32_t name##_take(const float *x, int32_t n, float v, int32_t b,            \
                                         int32_t *ids, float *values) {                            \
        return take(x, n, v, b, ids, values);                                                      \
    }

TAKE(portable, )
VARIANT(portable, )
#if defined(__x86_64__)
TAKE(avx2, FOR_AVX2)
VARIANT(avx2, FOR_AVX2)
VARIANT(avx512, FOR_AVX512)
#endif

static const scans *best(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &avx512;
    if (__builtin_cpu_supports("avx2")) return &avx2;
#endif
    return &portable;
}

float scan_max(const float *x, int32_t n) {
    return best()->max(x, n);
}

int32_t scan_at_least(const float *x, int32_t n, float least, int32_t *ret) {
    return best()->take(x, n, least, 0, ret, NULL);
}

int32_t scan_take(float *x, int32_t n, float least, int32_t *ret) {
    return best()->take(x, n, least, 0, ret, x);
}

int32_t scan_first_equal(const float *x, int32_t n, float value) {
    return best()->first_equal(x, n, value);
}

int32_t scan_count_above(const float *x, int32_t n, float value) {
    return best()->count_above(x, n, value);
}

double scan_exp(const float *x, int32_t n, float max, float inv_t, float *ret) {
    return best()->exp_all(x, n, max, inv_t, ret);
}

double scan_sum(const float *x, int32_t n) {
    return best()->sum(x, n);
}

/* Hoare's selection, descending, pivot by median of three. */
static float kth_by_select(float *x, int32_t n, int32_t k) {
    int32_t lo = 0, hi = n - 1, want = k - 1;
    while (lo < hi) {
        float a = x[lo], b = x[lo + (hi - lo) / 2], c = x[hi];
        float pivot = MAX(MIN(a, b), MIN(MAX(a, b), c));
        int32_t i = lo, j = hi;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i > j) break;
            float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (want <= j)
            hi = j;
        else if (want >= i)
            lo = i;
        else
            break;
    }
    return x[want];
}

/* The k-th largest of the block maxima is a bar that at least k values reach, and only blocks whose
 * maximum does are looked at again. The maxima lie at the end of the scratch, where the values that
 * are kept in front of them cannot catch up: 64 for each block that was read. */
static int32_t candidates(const float *x, int32_t n, int32_t k, float *values, int32_t *ids) {
    const scans *s = best();
    int32_t n_blocks = n / BLOCK, m = 0;
    float *maxima = values + n - n_blocks;
    s->block_maxima(x, n, maxima);
    memcpy(values, maxima, (size_t)n_blocks * sizeof *values);
    float bar = kth_by_select(values, n_blocks, k);
    for (int32_t b = 0; b < n_blocks; b++)
        if (maxima[b] >= bar)
            m += s->take(x + b * BLOCK, BLOCK, bar, b * BLOCK, ids ? ids + m : NULL, values + m);
    int32_t rest = n_blocks * BLOCK;
    return m + s->take(x + rest, n - rest, bar, rest, ids ? ids + m : NULL, values + m);
}

float scan_kth(const float *x, int32_t n, int32_t k, float *scratch) {
    int32_t m = n;
    if (k > n / BLOCK)
        memcpy(scratch, x, (size_t)n * sizeof *x);
    else
        m = candidates(x, n, k, scratch, NULL);
    return kth_by_select(scratch, m, k);
}

int32_t scan_top(const float *x, int32_t n, int32_t k, float *scratch, int32_t *ret) {
    if (k > n / BLOCK) return scan_at_least(x, n, scan_kth(x, n, k, scratch), ret);
    int32_t m = candidates(x, n, k, scratch, ret), found = 0;
    float bar = kth_by_select(scratch, m, k);
    for (int32_t i = 0; i < m; i++) {
        int32_t id = ret[i];
        ret[found] = id;
        found += x[id] >= bar;
    }
    return found;
}
