/* Rotary embedding in place, and the write of keys and values into pages.
 *
 * One thread does one piece of one token: `vec` pairs of a query head (rotated in place), of a key
 * head (rotated in place and written to the page), or `vec` elements that are only written to the
 * page. Every piece is apart from all others, so the op is one pass: bytes read once, written once;
 * vec is 4 (16-byte accesses) where the shapes, strides and pointers of the call allow it, else 1.
 * Both compute an element by the same two operations, so the choice changes no bit.
 *
 * In eight bits (kv8.h) a head's numbers share a scale, so a warp has a head: it rotates in place,
 * finds the largest, and reads the row again, from the L1 cache, to write its codes.
 *
 * Limit: memory bandwidth at many tokens, the launch at few. Not yet timed on a GPU. */
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cu_num.h"
#include "kernels/cuda/cuda_attention.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/kv8.h"

#define ROPE_THREADS 128

template <int vec> struct piece { float x[vec]; };

template <int vec>
static __device__ __forceinline__ void load_piece(piece<vec> &p, const float *from) {
    if (vec == 4) {
        float4 f = *reinterpret_cast<const float4 *>(from);
        p.x[0] = f.x, p.x[1 % vec] = f.y, p.x[2 % vec] = f.z, p.x[3 % vec] = f.w;
    } else
        p.x[0] = *from;
}

template <int vec>
static __device__ __forceinline__ void store_piece(float *to, const piece<vec> &p) {
    if (vec == 4)
        *reinterpret_cast<float4 *>(to) =
            make_float4(p.x[0], p.x[1 % vec], p.x[2 % vec], p.x[3 % vec]);
    else
        *to = p.x[0];
}

/* To element `at` of pages of f32 or bf16. */
template <int vec>
static __device__ __forceinline__ void store_page(void *pages, bool bf16, int64_t at,
                                                  const piece<vec> &p) {
    if (!bf16) {
        store_piece<vec>(static_cast<float *>(pages) + at, p);
        return;
    }
    uint16_t *to = static_cast<uint16_t *>(pages) + at;
    if (vec == 4) {
        uint2 two = make_uint2(cu_bf16::pack(p.x[0], p.x[1 % vec]),
                               cu_bf16::pack(p.x[2 % vec], p.x[3 % vec]));
        *reinterpret_cast<uint2 *>(to) = two;
    } else
        *to = cu_to_bf16(p.x[0]);
}

/* Where pairs j .. j+vec-1 lie in a head: their first elements from `first`, their second ones
 * `apart` behind; PAIR: the 2*vec elements from `first`. */
static __device__ __forceinline__ void place_of(rope_style style, int half, int j, int *ret_first,
                                                int *ret_apart) {
    *ret_first = j;
    *ret_apart = half;
    if (style == ROPE_PAIR) *ret_first = 2 * j;
    if (style == ROPE_HALVES) {
        int quarter = half / 2;
        *ret_first = j < quarter ? j : half + j - quarter;
        *ret_apart = quarter;
    }
}

static __device__ __forceinline__ void rotate_one(float *u, float *v, float cosine, float sine) {
    float x = *u, y = *v;
    *u = fmaf(x, cosine, -y * sine);
    *v = fmaf(y, cosine, x * sine);
}

/* Rotate pairs j .. j+vec-1 of the head at x in place; pages not NULL: write them there as well,
 * the head's first element at `at`. */
template <int vec>
static __device__ void rotate_pairs(rope_style style, float *x, int half, int j,
                                    const float *cosines, const float *sines, void *pages,
                                    bool bf16, int64_t at) {
    int first, apart;
    place_of(style, half, j, &first, &apart);
    if (style == ROPE_PAIR) apart = vec;
    piece<vec> c, s, lo, hi;
    load_piece<vec>(c, cosines + j);
    load_piece<vec>(s, sines + j);
    load_piece<vec>(lo, x + first);
    load_piece<vec>(hi, x + first + apart);
    if (style == ROPE_PAIR && vec == 4) { /* (0,1) (2,3) of lo, then of hi */
        rotate_one(&lo.x[0], &lo.x[1 % vec], c.x[0], s.x[0]);
        rotate_one(&lo.x[2 % vec], &lo.x[3 % vec], c.x[1 % vec], s.x[1 % vec]);
        rotate_one(&hi.x[0], &hi.x[1 % vec], c.x[2 % vec], s.x[2 % vec]);
        rotate_one(&hi.x[2 % vec], &hi.x[3 % vec], c.x[3 % vec], s.x[3 % vec]);
    } else
#pragma unroll
        for (int i = 0; i < vec; i++) rotate_one(&lo.x[i], &hi.x[i], c.x[i], s.x[i]);
    store_piece<vec>(x + first, lo);
    store_piece<vec>(x + first + apart, hi);
    if (!pages) return;
    store_page<vec>(pages, bf16, at + first, lo);
    store_page<vec>(pages, bf16, at + first + apart, hi);
}

template <int vec>
static __device__ __forceinline__ void copy_piece(const float *from, void *pages, bool bf16,
                                                  int64_t at) {
    piece<vec> p;
    load_piece<vec>(p, from);
    store_page<vec>(pages, bf16, at, p);
}

/* Block (t, part): pieces part*ROPE_THREADS .. of token t, in the order q heads (pairs), k heads
 * (pairs, then what is not rotated), v heads. */
template <int vec> static __global__ void rope_kv_kernel(op_rope_kv a) {
    cu_next_begin();
    int t = (int)blockIdx.x, i = (int)(blockIdx.y * ROPE_THREADS + threadIdx.x);
    int d = a.head_dim, half = a.style == ROPE_NONE ? 0 : a.rope_dim / 2;
    int pairs = half / vec, rest = (d - 2 * half) / vec, flat = d / vec;
    float *row = a.qkv + t * a.qkv_stride;
    bool bf16 = a.kv_dt == DT_BF16;
    const float *cosines = a.cos, *sines = a.sin;
    if (half) {
        cosines += (int64_t)a.pos[t] * half;
        sines += (int64_t)a.pos[t] * half;
    }
    if (i < a.n_heads * pairs) {
        rotate_pairs<vec>(a.style, row + i / pairs * d, half, i % pairs * vec, cosines, sines, NULL,
                          false, 0);
        return;
    }
    i -= a.n_heads * pairs;
    int64_t slot = a.kv_slot[t];
    int64_t at0 = slot / a.page_tokens * a.n_kv_heads * a.page_tokens + slot % a.page_tokens;
    float *k = row + (int64_t)a.n_heads * d;
    if (i < a.n_kv_heads * (pairs + rest)) {
        int g = i / (pairs + rest), j = i % (pairs + rest);
        int64_t at = (at0 + (int64_t)g * a.page_tokens) * d;
        float *head = k + (int64_t)g * d;
        if (j < pairs)
            rotate_pairs<vec>(a.style, head, half, j * vec, cosines, sines, a.k_pages, bf16, at);
        else {
            int e = 2 * half + (j - pairs) * vec;
            copy_piece<vec>(head + e, a.k_pages, bf16, at + e);
        }
        return;
    }
    i -= a.n_kv_heads * (pairs + rest);
    if (i >= a.n_kv_heads * flat) return;
    int g = i / flat, e = i % flat * vec;
    int64_t at = (at0 + (int64_t)g * a.page_tokens) * d + e;
    copy_piece<vec>(k + ((int64_t)a.n_kv_heads + g) * d + e, a.v_pages, bf16, at);
}

/* The same for latent rows: q heads (pairs), the rope part of the kv row (pairs), the latent part
 * of it, which is only written (with NONE the whole row). */
template <int vec> static __global__ void latent_kv_kernel(op_latent_kv a) {
    cu_next_begin();
    int t = (int)blockIdx.x, i = (int)(blockIdx.y * ROPE_THREADS + threadIdx.x);
    int half = a.style == ROPE_NONE ? 0 : a.rope_dim / 2, width = a.latent + a.rope_dim;
    int pairs = half / vec, flat = (width - 2 * half) / vec;
    const float *cosines = a.cos, *sines = a.sin;
    if (half) {
        cosines += (int64_t)a.pos[t] * half;
        sines += (int64_t)a.pos[t] * half;
    }
    if (i < a.n_heads * pairs) {
        float *q = a.q + t * a.q_stride + i / pairs * a.q_head_stride + a.q_off;
        rotate_pairs<vec>(a.style, q, half, i % pairs * vec, cosines, sines, NULL, false, 0);
        return;
    }
    i -= a.n_heads * pairs;
    float *kv = a.kv + t * a.kv_stride;
    int64_t at = a.kv_slot[t] * width;
    bool bf16 = a.kv_dt == DT_BF16;
    if (i < pairs)
        rotate_pairs<vec>(a.style, kv + a.latent, half, i * vec, cosines, sines, a.pages, bf16,
                          at + a.latent);
    else if (i - pairs < flat)
        copy_piece<vec>(kv + (i - pairs) * vec, a.pages, bf16, at + (i - pairs) * vec);
}

/* The codes of n numbers and their scale, by a warp whose lanes may have written the numbers. */
static __device__ void store_codes(dtype dt, const float *from, int n, uint8_t *codes,
                                   uint16_t *scale) {
    int lane = (int)threadIdx.x % CU_WARP;
    uint32_t largest = 0;
    float inverse;
    for (int i = lane; i < n; i += CU_WARP) largest = kv8_largest(largest, from[i]);
    for (int d = CU_WARP / 2; d; d /= 2)
        largest = max(largest, __shfl_xor_sync(CU_FULL, largest, d));
    uint16_t s = kv8_scale(dt, largest, &inverse);
    if (lane == 0) *scale = s;
    if ((uintptr_t)codes % 4 == 0 && n % 4 == 0) {
        for (int i = 4 * lane; i < n; i += 4 * CU_WARP) {
            uint32_t four = 0;
#pragma unroll
            for (int j = 0; j < 4; j++)
                four |= (uint32_t)kv8_code(dt, from[i + j], inverse) << 8 * j;
            *reinterpret_cast<uint32_t *>(codes + i) = four;
        }
    } else
        for (int i = lane; i < n; i += CU_WARP) codes[i] = kv8_code(dt, from[i], inverse);
}

/* A warp's share of a rotation in place. */
static __device__ void rotate_head(rope_style style, float *x, int half, const float *cosines,
                                   const float *sines) {
    for (int j = (int)threadIdx.x % CU_WARP; j < half; j += CU_WARP)
        rotate_pairs<1>(style, x, half, j, cosines, sines, NULL, false, 0);
    __syncwarp(CU_FULL);
}

/* Block (t, part): warps are heads of token t: q, k, v. */
static __global__ void rope_kv8_kernel(op_rope_kv a) {
    cu_next_begin();
    int t = (int)blockIdx.x, d = a.head_dim, s = a.page_tokens;
    int h = (int)(blockIdx.y * ROPE_THREADS + threadIdx.x) / CU_WARP;
    int half = a.style == ROPE_NONE ? 0 : a.rope_dim / 2;
    if (h >= a.n_heads + 2 * a.n_kv_heads) return;
    float *x = a.qkv + t * a.qkv_stride + (int64_t)h * d;
    int64_t angles = half ? (int64_t)a.pos[t] * half : 0;
    if (h < a.n_heads + a.n_kv_heads) rotate_head(a.style, x, half, a.cos + angles, a.sin + angles);
    h -= a.n_heads;
    if (h < 0) return;
    uint8_t *pages = static_cast<uint8_t *>(h < a.n_kv_heads ? a.k_pages : a.v_pages);
    int64_t slot = a.kv_slot[t], head = slot / s * a.n_kv_heads + h % a.n_kv_heads;
    uint8_t *block = pages + head * ((int64_t)s * (d + KV8_SCALE_BYTES));
    int at = (int)(slot % s);
    store_codes(a.kv_dt, x, d, block + (int64_t)at * d,
                reinterpret_cast<uint16_t *>(block + (int64_t)s * d) + at);
}

/* The same for latent rows: q heads, then the kv row. */
static __global__ void latent_kv8_kernel(op_latent_kv a) {
    cu_next_begin();
    int t = (int)blockIdx.x, s = a.page_tokens, width = a.latent + a.rope_dim;
    int h = (int)(blockIdx.y * ROPE_THREADS + threadIdx.x) / CU_WARP;
    int half = a.style == ROPE_NONE ? 0 : a.rope_dim / 2;
    if (h > a.n_heads) return;
    int64_t angles = half ? (int64_t)a.pos[t] * half : 0;
    float *kv = a.kv + t * a.kv_stride;
    float *x = h < a.n_heads ? a.q + t * a.q_stride + h * a.q_head_stride + a.q_off : kv + a.latent;
    rotate_head(a.style, x, half, a.cos + angles, a.sin + angles);
    if (h < a.n_heads) return;
    int64_t slot = a.kv_slot[t];
    uint8_t *page = static_cast<uint8_t *>(a.pages) +
                    slot / s * ((int64_t)s * (width + KV8_LATENT_SCALES * KV8_SCALE_BYTES));
    int at = (int)(slot % s);
    uint8_t *codes = page + (int64_t)at * width;
    uint16_t *scales =
        reinterpret_cast<uint16_t *>(page + (int64_t)s * width) + at * KV8_LATENT_SCALES;
    store_codes(a.kv_dt, kv, a.latent, codes, scales);
    store_codes(a.kv_dt, kv + a.latent, a.rope_dim, codes + a.latent, scales + 1);
}

/* Blocks of warps for the heads of every token. */
static dim3 head_grid(int32_t n_tokens, int32_t n_heads) {
    const int warps = ROPE_THREADS / CU_WARP;
    return dim3((unsigned)n_tokens, (unsigned)((n_heads + warps - 1) / warps));
}

/* Every start of a piece is a multiple of 16 bytes: what the addresses are sums of. */
static bool in_fours(const void *p, int64_t stride, int64_t part) {
    return (uintptr_t)p % 16 == 0 && stride % 4 == 0 && part % 4 == 0;
}

void cuda_rope_kv(backend *b, const op_rope_kv *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_tokens <= 0) return;
    if (kv_is_8bit(a->kv_dt)) {
        CU_LAUNCH_NEXT(c, (rope_kv8_kernel), head_grid(a->n_tokens, a->n_heads + 2 * a->n_kv_heads),
                       ROPE_THREADS, 0, *a);
        cuda_launched(c, "rope_kv");
        return;
    }
    int half = a->style == ROPE_NONE ? 0 : a->rope_dim / 2;
    int unit = a->style == ROPE_HALVES ? half / 2 : half; /* runs of pairs that lie together */
    bool fours = in_fours(a->qkv, a->qkv_stride, a->head_dim) && in_fours(a->k_pages, 0, 0) &&
                 in_fours(a->v_pages, 0, 0) && unit % 4 == 0 &&
                 (half == 0 || (in_fours(a->cos, half, 0) && in_fours(a->sin, half, 0)));
    int vec = fours ? 4 : 1;
    int64_t n =
        ((int64_t)a->n_heads * half + (int64_t)a->n_kv_heads * (2 * a->head_dim - half)) / vec;
    dim3 grid((unsigned)a->n_tokens, (unsigned)((n + ROPE_THREADS - 1) / ROPE_THREADS));
    if (fours)
        CU_LAUNCH_NEXT(c, (rope_kv_kernel<4>), grid, ROPE_THREADS, 0, *a);
    else
        CU_LAUNCH_NEXT(c, (rope_kv_kernel<1>), grid, ROPE_THREADS, 0, *a);
    cuda_launched(c, "rope_kv");
}

void cuda_latent_kv(backend *b, const op_latent_kv *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_tokens <= 0) return;
    if (kv_is_8bit(a->kv_dt)) {
        CU_LAUNCH_NEXT(c, (latent_kv8_kernel), head_grid(a->n_tokens, a->n_heads + 1), ROPE_THREADS,
                       0, *a);
        cuda_launched(c, "latent_kv");
        return;
    }
    int half = a->style == ROPE_NONE ? 0 : a->rope_dim / 2, width = a->latent + a->rope_dim;
    bool fours = in_fours(a->q + a->q_off, a->q_stride, a->q_head_stride) &&
                 in_fours(a->kv, a->kv_stride, a->latent) && in_fours(a->pages, width, 0) &&
                 half % 4 == 0 &&
                 (half == 0 || (in_fours(a->cos, half, 0) && in_fours(a->sin, half, 0)));
    int vec = fours ? 4 : 1;
    int64_t n = ((int64_t)a->n_heads * half + width - half) / vec;
    dim3 grid((unsigned)a->n_tokens, (unsigned)((n + ROPE_THREADS - 1) / ROPE_THREADS));
    if (fours)
        CU_LAUNCH_NEXT(c, (latent_kv_kernel<4>), grid, ROPE_THREADS, 0, *a);
    else
        CU_LAUNCH_NEXT(c, (latent_kv_kernel<1>), grid, ROPE_THREADS, 0, *a);
    cuda_launched(c, "latent_kv");
}
