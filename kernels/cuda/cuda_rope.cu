/* Rotary embedding in place, and the write of keys and values into pages.
 *
 * One thread does one piece of one token: `vec` pairs of a query head (rotated in place), of a key
 * head (rotated in place and written to the page), or `vec` elements that are only written to the
 * page. Every piece is apart from all others, so the op is one pass: bytes read once, written once;
 * vec is 4 (16-byte accesses) where the shapes, strides and pointers of the call allow it, else 1.
 * Both compute an element by the same two operations, so the choice changes no bit.
 *
 * Limit: memory bandwidth at many tokens, the launch at few. Not yet timed on a GPU. */
#include "kernels/cuda/cu.h"
#include "kernels/cuda/cu_num.h"
#include "kernels/cuda/cuda_attention.h"
#include "kernels/cuda/cuda_backend.h"

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

/* Every start of a piece is a multiple of 16 bytes: what the addresses are sums of. */
static bool in_fours(const void *p, int64_t stride, int64_t part) {
    return (uintptr_t)p % 16 == 0 && stride % 4 == 0 && part % 4 == 0;
}

void cuda_rope_kv(backend *b, const op_rope_kv *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_tokens <= 0) return;
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
