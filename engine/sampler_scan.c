/* Rows are walked in blocks: a block whose maximum is below the bar is skipped, so a scan for the
 * few best of 152k logits is one vector compare per lane and almost no branches. */
#include "engine/sampler_scan.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/sample_num.h"

#define BLOCK 64
#define LANES 16

#if defined(__x86_64__)
#define FOR_AVX2 __attribute__((target("avx2")))
#define FOR_AVX512                                                                                 \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")))
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

INLINE int32_t at_least(const float *x, int32_t n, float least, int32_t *ret) {
    int32_t found = 0;
    for (int32_t i = 0; i < n; i += BLOCK) {
        int32_t m = MIN(BLOCK, n - i);
        if (!(block_max(x + i, m) >= least)) continue;
        for (int32_t k = 0; k < m; k++) {
            ret[found] = i + k;
            found += x[i + k] >= least;
        }
    }
    return found;
}

/* Maximum of every whole block. */
INLINE void block_maxima(const float *x, int32_t n, float *ret) {
    for (int32_t i = 0; i + BLOCK <= n; i += BLOCK) ret[i / BLOCK] = block_max(x + i, BLOCK);
}

INLINE int32_t values_at_least(const float *x, int32_t n, float least, float *ret) {
    int32_t found = 0;
    for (int32_t i = 0; i < n; i += BLOCK) {
        int32_t m = MIN(BLOCK, n - i);
        if (!(block_max(x + i, m) >= least)) continue;
        for (int32_t k = 0; k < m; k++)
            if (x[i + k] >= least) ret[found++] = x[i + k];
    }
    return found;
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
    int32_t (*at_least)(const float *, int32_t, float, int32_t *);
    int32_t (*count_above)(const float *, int32_t, float);
    double (*exp_all)(const float *, int32_t, float, float, float *);
    double (*sum)(const float *, int32_t);
    void (*block_maxima)(const float *, int32_t, float *);
    int32_t (*values_at_least)(const float *, int32_t, float, float *);
} scans;

#define VARIANT(name, attribute)                                                                   \
    attribute static float name##_max(const float *x, int32_t n) {                                 \
        return block_max(x, n);                                                                    \
    }                                                                                              \
    attribute static int32_t name##_at_least(const float *x, int32_t n, float v, int32_t *r) {     \
        return at_least(x, n, v, r);                                                               \
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
    attribute static int32_t name##_values(const float *x, int32_t n, float v, float *r) {         \
        return values_at_least(x, n, v, r);                                                        \
    }                                                                                              \
    static const scans name = {name##_max, name##_at_least, name##_count, name##_exp,              \
                               name##_sum, name##_maxima,   name##_values};

VARIANT(portable, )
#if defined(__x86_64__)
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
    return best()->at_least(x, n, least, ret);
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

/* The k-th largest of the block maxima is a bar that at least k values reach; only those that do
 * are looked at again. */
float scan_kth(const float *x, int32_t n, int32_t k, float *scratch) {
    int32_t n_blocks = n / BLOCK, m = 0;
    if (k > n_blocks) {
        memcpy(scratch, x, (size_t)n * sizeof *x);
        return kth_by_select(scratch, n, k);
    }
    best()->block_maxima(x, n, scratch);
    float bar = kth_by_select(scratch, n_blocks, k);
    m = best()->values_at_least(x, n, bar, scratch);
    return kth_by_select(scratch, m, k);
}
