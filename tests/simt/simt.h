/* CUDA C for a host compiler: what kernels/cuda/cu.h includes in place of <cuda_runtime.h> where
 * PAGODA_SIMT is defined. g++ then compiles the same .cu files that nvcc does, and their kernels
 * run on the host: a thread of a block is a fiber, the blocks of a grid run one after another, and
 * every barrier and warp operation is checked (simt_block.cpp).
 *
 * `__shared__` variables are thread-local statics: nothing else in a module of kernels is, so that
 * the module's thread-local segment is the block's static shared memory and can be poisoned whole
 * at the begin of a block. */
#ifndef TESTS_SIMT_SIMT_H
#define TESTS_SIMT_SIMT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <tuple>
#include <type_traits>

#include "tests/simt/simt_cuda.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __shared__      static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)

/* ---- Threads ---- */

static constexpr int warpSize = 32;

struct simt_self {
    uint3 thread;
    uint3 block;
};
#pragma GCC visibility push(hidden)
extern simt_self *simt_now; /* the running thread */
extern dim3 simt_block_dim, simt_grid_dim;
extern unsigned char *simt_dyn_shared;
extern size_t simt_dyn_bytes;
#pragma GCC visibility pop

#define threadIdx (simt_now->thread)
#define blockIdx  (simt_now->block)
#define blockDim  simt_block_dim
#define gridDim   simt_grid_dim

#define CU_DYN_SHARED(type, name) type *name = reinterpret_cast<type *>(simt_dyn_shared)

/* Something that no GPU would do or that hardware leaves undefined: says the kernel, block and
 * thread and ends the program. */
[[noreturn]] void simt_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

enum simt_barrier_kind { SIMT_SYNC, SIMT_COUNT, SIMT_AND, SIMT_OR };
int simt_barrier(simt_barrier_kind kind, int predicate);

static inline void __syncthreads(void) {
    simt_barrier(SIMT_SYNC, 0);
}
static inline int __syncthreads_count(int p) {
    return simt_barrier(SIMT_COUNT, p);
}
static inline int __syncthreads_and(int p) {
    return simt_barrier(SIMT_AND, p);
}
static inline int __syncthreads_or(int p) {
    return simt_barrier(SIMT_OR, p);
}
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}
static inline void __threadfence_system(void) {}
static inline void __nanosleep(unsigned) {}
static inline void __trap(void) {
    simt_fail("__trap");
}

/* ---- Operations of a warp ----
 * Each lane brings a record and waits; the last lane of the mask runs it for all. */

struct simt_op {
    void (*run)(simt_op *const lanes[32], uint32_t mask);
    const char *name;
    uint32_t mask;
};
void simt_warp_op(simt_op *mine);
static inline int simt_lane(void) {
    return (int)((simt_now->thread.x +
                  simt_block_dim.x * (simt_now->thread.y + simt_block_dim.y * simt_now->thread.z)) %
                 32);
}

/* run over records of type T: each(mine, lanes, lane). */
#define SIMT_LANES(mask, lane)                                                                     \
    for (uint32_t left_ = (mask), lane = 0;                                                        \
         left_ && (lane = (uint32_t)__builtin_ctz(left_), true); left_ &= left_ - 1)

template <class T> struct simt_shuffle : simt_op {
    T value, result;
    int from; /* lane to read */
    static void all(simt_op *const lanes[32], uint32_t mask) {
        SIMT_LANES(mask, i) {
            simt_shuffle *s = (simt_shuffle *)lanes[i];
            if (!(mask >> s->from & 1))
                simt_fail("%s of lane %u reads lane %d, which is not in its mask %08x", s->name, i,
                          s->from, mask);
            s->result = ((simt_shuffle *)lanes[s->from])->value;
        }
    }
};
template <class T>
static inline T simt_shuffle_from(const char *name, uint32_t mask, T value, int from) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    simt_shuffle<T> s;
    s.run = simt_shuffle<T>::all, s.name = name, s.mask = mask;
    s.value = value, s.from = from;
    simt_warp_op(&s);
    return s.result;
}
template <class T> static inline T __shfl_sync(uint32_t mask, T v, int src, int width = 32) {
    int lane = simt_lane();
    return simt_shuffle_from("__shfl_sync", mask, v, (lane & ~(width - 1)) | (src & (width - 1)));
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T v, int lane_mask, int width = 32) {
    int lane = simt_lane(), from = lane ^ lane_mask;
    if (from > (lane | (width - 1))) from = lane;
    return simt_shuffle_from("__shfl_xor_sync", mask, v, from & 31);
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T v, unsigned delta, int width = 32) {
    int lane = simt_lane(), from = lane - (int)delta;
    if (from < (lane & ~(width - 1))) from = lane;
    return simt_shuffle_from("__shfl_up_sync", mask, v, from);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T v, unsigned delta, int width = 32) {
    int lane = simt_lane(), from = lane + (int)delta;
    if (from > (lane | (width - 1))) from = lane;
    return simt_shuffle_from("__shfl_down_sync", mask, v, from);
}

struct simt_vote : simt_op {
    uint64_t value;
    uint32_t result;
};
/* Each lane's result from all lanes' values, in ascending order of lanes. */
void simt_ballot(simt_op *const lanes[32], uint32_t mask);
void simt_match(simt_op *const lanes[32], uint32_t mask);
void simt_add(simt_op *const lanes[32], uint32_t mask);
void simt_max_u(simt_op *const lanes[32], uint32_t mask);
void simt_min_u(simt_op *const lanes[32], uint32_t mask);
void simt_max_i(simt_op *const lanes[32], uint32_t mask);
void simt_min_i(simt_op *const lanes[32], uint32_t mask);
void simt_or(simt_op *const lanes[32], uint32_t mask);
void simt_and(simt_op *const lanes[32], uint32_t mask);

static inline uint32_t simt_vote_of(const char *name,
                                    void (*run)(simt_op *const lanes[32], uint32_t mask),
                                    uint32_t mask, uint64_t value) {
    simt_vote v;
    v.run = run, v.name = name, v.mask = mask, v.value = value;
    simt_warp_op(&v);
    return v.result;
}
static inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    simt_vote_of("__syncwarp", simt_ballot, mask, 0);
}
static inline uint32_t __ballot_sync(uint32_t mask, int p) {
    return simt_vote_of("__ballot_sync", simt_ballot, mask, p != 0);
}
static inline int __any_sync(uint32_t mask, int p) {
    return simt_vote_of("__any_sync", simt_ballot, mask, p != 0) != 0;
}
static inline int __all_sync(uint32_t mask, int p) {
    return simt_vote_of("__all_sync", simt_ballot, mask, p == 0) == 0;
}
template <class T> static inline uint32_t __match_any_sync(uint32_t mask, T v) {
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    return simt_vote_of("__match_any_sync", simt_match, mask, bits);
}
static inline unsigned __reduce_add_sync(uint32_t mask, unsigned v) {
    return simt_vote_of("__reduce_add_sync", simt_add, mask, v);
}
static inline int __reduce_add_sync(uint32_t mask, int v) {
    return (int)simt_vote_of("__reduce_add_sync", simt_add, mask, (uint32_t)v);
}
static inline unsigned __reduce_max_sync(uint32_t mask, unsigned v) {
    return simt_vote_of("__reduce_max_sync", simt_max_u, mask, v);
}
static inline int __reduce_max_sync(uint32_t mask, int v) {
    return (int)simt_vote_of("__reduce_max_sync", simt_max_i, mask, (uint32_t)v);
}
static inline unsigned __reduce_min_sync(uint32_t mask, unsigned v) {
    return simt_vote_of("__reduce_min_sync", simt_min_u, mask, v);
}
static inline int __reduce_min_sync(uint32_t mask, int v) {
    return (int)simt_vote_of("__reduce_min_sync", simt_min_i, mask, (uint32_t)v);
}
static inline unsigned __reduce_or_sync(uint32_t mask, unsigned v) {
    return simt_vote_of("__reduce_or_sync", simt_or, mask, v);
}
static inline unsigned __reduce_and_sync(uint32_t mask, unsigned v) {
    return simt_vote_of("__reduce_and_sync", simt_and, mask, v);
}

/* ---- Atomics: one fiber runs at a time ---- */

#define SIMT_ATOMIC(name, expr)                                                                    \
    template <class T> static inline T name(T *p, std::common_type_t<T> v) {                       \
        T old = *p;                                                                                \
        *p = (expr);                                                                               \
        return old;                                                                                \
    }
SIMT_ATOMIC(atomicAdd, (T)(old + v))
SIMT_ATOMIC(atomicSub, (T)(old - v))
SIMT_ATOMIC(atomicMax, old > v ? old : v)
SIMT_ATOMIC(atomicMin, old < v ? old : v)
SIMT_ATOMIC(atomicExch, v)
SIMT_ATOMIC(atomicOr, (T)(old | v))
SIMT_ATOMIC(atomicAnd, (T)(old &v))
SIMT_ATOMIC(atomicXor, (T)(old ^ v))
SIMT_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
SIMT_ATOMIC(atomicDec, old == 0 || old > v ? v : old - 1)
template <class T>
static inline T atomicCAS(T *p, std::common_type_t<T> want, std::common_type_t<T> v) {
    T old = *p;
    if (old == want) *p = v;
    return old;
}

/* ---- Vectors ---- */

#define SIMT_VECTORS(t, name, a2, a4)                                                              \
    struct name##1 {                                                                               \
        t x;                                                                                       \
    };                                                                                             \
    struct __align__(a2) name##2 {                                                                 \
        t x, y;                                                                                    \
    };                                                                                             \
    struct __align__(a4) name##4 {                                                                 \
        t x, y, z, w;                                                                              \
    };                                                                                             \
    static inline name##2 make_##name##2(t x, t y) {                                               \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##4 make_##name##4(t x, t y, t z, t w) {                                     \
        return {x, y, z, w};                                                                       \
    }
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(signed char, char, 2, 4)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(long long, longlong, 16, 16)
SIMT_VECTORS(unsigned long long, ulonglong, 16, 16)
SIMT_VECTORS(double, double, 16, 16)
struct float3 {
    float x, y, z;
};
struct int3 {
    int x, y, z;
};
static inline float3 make_float3(float x, float y, float z) {
    return {x, y, z};
}
static inline int3 make_int3(int x, int y, int z) {
    return {x, y, z};
}
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) {
    return {x, y, z};
}

template <class T> static inline T __ldg(const T *p) {
    return *p;
}
template <class T> static inline T __ldca(const T *p) {
    return *p;
}
template <class T> static inline T __ldcg(const T *p) {
    return *p;
}
template <class T> static inline T __ldcs(const T *p) {
    return *p;
}
template <class T> static inline T __ldlu(const T *p) {
    return *p;
}
template <class T> static inline T __ldcv(const T *p) {
    return *p;
}
template <class T> static inline void __stcg(T *p, T v) {
    *p = v;
}
template <class T> static inline void __stcs(T *p, T v) {
    *p = v;
}
template <class T> static inline void __stwt(T *p, T v) {
    *p = v;
}
template <class T> static inline void __stwb(T *p, T v) {
    *p = v;
}

/* ---- Numbers ---- */

template <class To, class From> static inline To simt_bits(From f) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps the size");
    To t;
    memcpy(&t, &f, sizeof t);
    return t;
}
static inline unsigned __float_as_uint(float x) {
    return simt_bits<unsigned>(x);
}
static inline int __float_as_int(float x) {
    return simt_bits<int>(x);
}
static inline float __uint_as_float(unsigned x) {
    return simt_bits<float>(x);
}
static inline float __int_as_float(int x) {
    return simt_bits<float>(x);
}
static inline long long __double_as_longlong(double x) {
    return simt_bits<long long>(x);
}
static inline double __longlong_as_double(long long x) {
    return simt_bits<double>(x);
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x) {
    return __builtin_popcountll(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x) {
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x) {
    return __builtin_ffsll(x);
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline int __mulhi(int a, int b) {
    return (int)((long long)a * b >> 32);
}
unsigned __brev(unsigned x);
unsigned __byte_perm(unsigned a, unsigned b, unsigned s);
int __dp4a(int a, int b, int c);
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)((((unsigned long long)hi << 32) | lo) << (n & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
    return (unsigned)((((unsigned long long)hi << 32) | lo) >> (n & 31));
}

static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline float __fdiv_rn(float a, float b) {
    return a / b;
}
static inline float __frcp_rn(float a) {
    return 1.0f / a;
}
static inline float __fsqrt_rn(float a) {
    return sqrtf(a);
}
static inline float __frsqrt_rn(float a) {
    return 1.0f / sqrtf(a);
}
static inline float __fadd_rn(float a, float b) {
    return a + b;
}
static inline float __fsub_rn(float a, float b) {
    return a - b;
}
static inline float __fmul_rn(float a, float b) {
    return a * b;
}
static inline float __fmaf_rn(float a, float b, float c) {
    return fmaf(a, b, c);
}
static inline double __dadd_rn(double a, double b) {
    return a + b;
}
static inline double __dmul_rn(double a, double b) {
    return a * b;
}
static inline float __saturatef(float x) {
    return x > 0 ? (x < 1 ? x : 1) : 0;
}
static inline int __float2int_rn(float x) {
    return (int)nearbyintf(x);
}
static inline int __float2int_rz(float x) {
    return (int)x;
}
static inline int __float2int_rd(float x) {
    return (int)floorf(x);
}
static inline int __float2int_ru(float x) {
    return (int)ceilf(x);
}
static inline unsigned __float2uint_rn(float x) {
    return (unsigned)nearbyintf(x);
}
static inline float __int2float_rn(int x) {
    return (float)x;
}
static inline float __uint2float_rn(unsigned x) {
    return (float)x;
}
/* The C library has functions of these names. */
#define __expf(x)    expf(x)
#define __exp2f(x)   exp2f(x)
#define __exp10f(x)  exp10f(x)
#define __logf(x)    logf(x)
#define __log2f(x)   log2f(x)
#define __log10f(x)  log10f(x)
#define __sinf(x)    sinf(x)
#define __cosf(x)    cosf(x)
#define __powf(x, y) powf(x, y)
#define __tanhf(x)   tanhf(x)

float simt_from_f16(uint16_t h);
uint16_t simt_to_f16(float x); /* to nearest even; too large is infinite */

#define SIMT_MIN_MAX(t)                                                                            \
    static inline t min(t a, t b) {                                                                \
        return b < a ? b : a;                                                                      \
    }                                                                                              \
    static inline t max(t a, t b) {                                                                \
        return a < b ? b : a;                                                                      \
    }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
static inline float min(float a, float b) {
    return fminf(a, b);
}
static inline float max(float a, float b) {
    return fmaxf(a, b);
}
static inline double min(double a, double b) {
    return fmin(a, b);
}
static inline double max(double a, double b) {
    return fmax(a, b);
}
static inline unsigned min(int a, unsigned b) {
    return min((unsigned)a, b);
}
static inline unsigned min(unsigned a, int b) {
    return min(a, (unsigned)b);
}
static inline unsigned max(int a, unsigned b) {
    return max((unsigned)a, b);
}
static inline unsigned max(unsigned a, int b) {
    return max(a, (unsigned)b);
}

/* ---- Launches ---- */

/* One entry of a stream. Run once, or as often as its graph is launched. */
struct simt_work {
    simt_work *next = nullptr;
    bool kept = false; /* by a graph: not deleted after it ran */
    virtual void run() = 0;
    virtual bool is_launch() const { return false; }
    virtual ~simt_work() {}
};
struct simt_launch : simt_work {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t smem;
    bool early = false;      /* may begin beside the kernel before: cu_pdl.h */
    virtual void call() = 0; /* the kernel, as the running thread */
    void run() override;     /* all blocks */
    bool is_launch() const override { return true; }
};
template <class... P> struct simt_kernel : simt_launch {
    void (*f)(P...);
    std::tuple<std::remove_cv_t<P>...> args;
    template <class... A>
    simt_kernel(void (*k)(P...), A &&...a) : f(k), args(static_cast<P>(a)...) {}
    void call() override { std::apply(f, args); }
};
/* Checks the configuration and queues or captures; failures are cudaGetLastError's. */
void simt_submit(simt_launch *l, dim3 grid, dim3 block, size_t smem, cudaStream_t s);
/* A pointer argument that is not memory of the device or pinned is reported (README.md). */
void simt_check_pointer(const char *kernel, int arg, const void *p);

template <class T> static inline void simt_check_arg(const char *name, int i, const T &a) {
    if constexpr (std::is_pointer_v<T>) simt_check_pointer(name, i, (const void *)a);
}
template <class... P, class... A>
static inline void simt_launch_kernel(bool early, const char *name, void (*k)(P...), dim3 grid,
                                      dim3 block, size_t smem, cudaStream_t s, A &&...a) {
    static_assert(sizeof...(P) == sizeof...(A), "a kernel is launched with all its arguments");
    auto *l = new simt_kernel<P...>(k, a...);
    l->name = name, l->kernel = (const void *)k, l->early = early;
    int i = 0;
    std::apply([&](const auto &...x) { (simt_check_arg(name, i++, x), ...); }, l->args);
    simt_submit(l, grid, block, smem, s);
}
#define CU_LAUNCH(kernel, grid, block, smem, stream, ...)                                          \
    simt_launch_kernel(false, #kernel, kernel, (grid), (block), (smem), (stream), ##__VA_ARGS__)
#define CU_LAUNCH_EARLY(kernel, grid, block, smem, stream, ...)                                    \
    simt_launch_kernel(true, #kernel, kernel, (grid), (block), (smem), (stream), ##__VA_ARGS__)
/* The calling thread waits for the kernels before this one, whose launch may be early: a thread of
 * such a kernel that returns without having waited is reported. */
void cu_next_begin(void);

#endif
