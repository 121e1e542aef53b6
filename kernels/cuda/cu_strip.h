/* Decoding quantised rows, a strip of 256 columns of two features by a warp: it fetches the bytes
 * by words, one strip ahead, into shared memory of its own, and each lane decodes sixteen values
 * from there. */
#ifndef KERNELS_CUDA_CU_STRIP_H
#define KERNELS_CUDA_CU_STRIP_H

#include "kernels/cuda/cu_quant.h"
#include "kernels/cuda/cuda_gemm.h"

#define STRIP      QUANT_STRIP
#define STRIP_RUNS (STRIP / CU_RUN)
#define FEATURES   2 /* of a warp */
/* Bytes that 256 columns take: 292 of q8_K at most; words that hold them from any address. */
#define RAW_WORDS 74
#define RAW_EACH  ((FEATURES * RAW_WORDS + CU_WARP - 1) / CU_WARP)

/* ---- Sixteen values ---- */

/* Codes of one word or several to values, where one group holds the run. */
static __device__ __forceinline__ void codes_run(const codes_row &r, const uint8_t *codes,
                                                 int32_t k0, float v[CU_RUN]) {
    int32_t g = k0 / r.q->group;
    float scale = scale_at(&r, g);
    int zero = zero_at(&r, g);
#pragma unroll
    for (int i = 0; i < CU_RUN; i++) {
        int code = r.bits == 8 ? codes[i] : codes[i / 2] >> i % 2 * 4 & 15;
        v[i] = (r.table ? r.table[code] : (float)(code - zero)) * scale;
    }
}

/* Where column k0's bytes begin in a stored row, k0 a multiple of 16 (of a block for GGUF types:
 * the block that holds it). */
static __device__ __forceinline__ int64_t quant_at(dtype dt, int32_t k0) {
    int32_t values = cu_dtypes[dt].values;
    return (int64_t)(k0 / values) * cu_dtypes[dt].bytes;
}

/* Columns k0 .. k0+15 of a stored row of k, zeros from column k on; `bytes` holds what quant_at
 * names, which may be a copy. */
static __device__ __forceinline__ void quant_run(const gemm_w &w, const uint8_t *row,
                                                 const uint8_t *bytes, int32_t k, int32_t k0,
                                                 float v[CU_RUN]) {
    if (!w.is_codes) {
        cu_block_run(w.dt, bytes, k0 % cu_dtypes[w.dt].values / CU_RUN, v);
        return;
    }
    codes_row r = cu_codes(w.dt, &w.q, k, w.side, row);
    bool whole = k0 + CU_RUN <= k && !r.order && r.bits >= 4;
    if (whole && k0 / w.q.group == (k0 + CU_RUN - 1) / w.q.group) {
        codes_run(r, bytes, k0, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < CU_RUN; i++) v[i] = 0;
    codes_f32(&r, k0, k - k0 < CU_RUN ? k - k0 : CU_RUN, v);
}

/* ---- A strip of a warp's features ---- */

typedef struct warp_strip {
    const uint8_t *row[FEATURES];
    uint32_t words[RAW_EACH]; /* of the strip to come, on their way */
} warp_strip;

/* The bytes of columns [k0, k0+STRIP) of a row. */
static __device__ __forceinline__ const uint8_t *
strip_bytes(const gemm_w &w, const uint8_t *row, int32_t k, int32_t k0, int32_t *ret_n) {
    int32_t k1 = k0 + STRIP < k ? k0 + STRIP : k, values = cu_dtypes[w.dt].values;
    int64_t from = quant_at(w.dt, k0);
    *ret_n = (int32_t)((int64_t)((k1 + values - 1) / values) * cu_dtypes[w.dt].bytes - from);
    return row + from;
}

/* Words from the one that holds the first byte to the one that holds the last: rows begin at any
 * byte, memory ends at a word. */
static __device__ __forceinline__ void fetch(const gemm_w &w, int32_t k, int32_t k0,
                                             warp_strip *s) {
#pragma unroll
    for (int i = 0; i < RAW_EACH; i++) {
        int at = threadIdx.x % CU_WARP + i * CU_WARP, f = at / RAW_WORDS, n;
        if (f >= FEATURES || k0 >= k) continue;
        const uint8_t *p = strip_bytes(w, f ? s->row[1] : s->row[0], k, k0, &n);
        int skip = (int)((uintptr_t)p % 4), word = at % RAW_WORDS;
        if (word * 4 < skip + n) s->words[i] = ((const uint32_t *)(p - skip))[word];
    }
}

static __device__ __forceinline__ void put_words(const warp_strip &s, uint32_t *raw) {
#pragma unroll
    for (int i = 0; i < RAW_EACH; i++) {
        int at = threadIdx.x % CU_WARP + i * CU_WARP;
        if (at < FEATURES * RAW_WORDS) raw[at] = s.words[i];
    }
}

/* Sixteen values of the strip for this lane: run lane % 16 of feature lane / 16, zeros behind K. */
static __device__ __forceinline__ void strip_decode(const gemm_w &w, const warp_strip &s, int32_t k,
                                                    int32_t k0, const uint32_t *raw,
                                                    float v[CU_RUN]) {
    int lane = threadIdx.x % CU_WARP, f = lane / STRIP_RUNS, n;
    int32_t at = k0 + lane % STRIP_RUNS * CU_RUN;
    const uint8_t *row = f ? s.row[1] : s.row[0], *p = strip_bytes(w, row, k, k0, &n);
    const uint8_t *copy = (const uint8_t *)(raw + f * RAW_WORDS) + (uintptr_t)p % 4;
#pragma unroll
    for (int i = 0; i < CU_RUN; i++) v[i] = 0;
    if (at < k) quant_run(w, row, copy + (quant_at(w.dt, at) - quant_at(w.dt, k0)), k, at, v);
}

#endif
