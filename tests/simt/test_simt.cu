/* The emulation's own tests: kernels with known results, and kernels with errors, each in a process
 * of its own that must end with the right sentence. */
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/cu_mma.h"
#include "kernels/cuda/cu_num.h"

static int n_failed;
#define CHECK_THAT(ok)                                                                             \
    do {                                                                                           \
        if (!(ok)) printf("FAIL %s:%d: %s\n", __FILE__, __LINE__, #ok), n_failed++;                \
    } while (0)
#define MUST(call) CHECK_THAT((call) == cudaSuccess)

template <class T> static T *on_device(const T *from, size_t n) {
    T *p;
    MUST(cudaMalloc(&p, n * sizeof(T)));
    if (from) MUST(cudaMemcpy(p, from, n * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}
template <class T> static void to_host(T *to, const T *from, size_t n) {
    MUST(cudaMemcpy(to, from, n * sizeof(T), cudaMemcpyDeviceToHost));
}

/* ---- Kernels with known results ---- */

__global__ void sum_kernel(const float *in, int n, float *out) {
    __shared__ float parts[32];
    float s = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) s += in[blockIdx.x * n + i];
    s = cu_warp_sum(s);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = s;
    __syncthreads();
    s = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
    if (threadIdx.x < 32) s = cu_warp_sum(s);
    if (threadIdx.x == 0) out[blockIdx.x] = s;
}

static void test_sum(void) {
    enum { ROWS = 5, N = 1000 };
    static float in[ROWS * N], out[ROWS];
    for (int i = 0; i < ROWS * N; i++) in[i] = (float)(i % 97);
    float *d_in = on_device(in, ROWS * N), *d_out = on_device<float>(NULL, ROWS);
    CU_LAUNCH(sum_kernel, ROWS, 128, 0, 0, d_in, N, d_out);
    MUST(cudaGetLastError());
    to_host(out, d_out, ROWS);
    for (int r = 0; r < ROWS; r++) {
        float want = 0; /* exact: small integers */
        for (int i = 0; i < N; i++) want += in[r * N + i];
        CHECK_THAT(out[r] == want);
    }
    cudaFree(d_in), cudaFree(d_out);
}

__global__ void lanes_kernel(int *out) {
    int lane = (int)(threadIdx.x + threadIdx.y * blockDim.x) % 32;
    int *o = out + (threadIdx.x + threadIdx.y * blockDim.x) * 12;
    o[0] = __shfl_sync(CU_FULL, lane * 10, 7);
    o[1] = __shfl_sync(CU_FULL, lane * 10, 1, 8);
    o[2] = __shfl_xor_sync(CU_FULL, lane, 5);
    o[3] = __shfl_up_sync(CU_FULL, lane, 3);
    o[4] = __shfl_down_sync(CU_FULL, lane, 3);
    o[5] = (int)__ballot_sync(CU_FULL, lane % 3 == 0);
    o[6] = __any_sync(CU_FULL, lane == 31) + 2 * __all_sync(CU_FULL, lane < 31);
    o[7] = (int)__shfl_xor_sync(CU_FULL, 1ll << 40 | lane, 1) - lane;
    o[8] = __reduce_max_sync(CU_FULL, -lane);
    o[9] = (int)__match_any_sync(CU_FULL, lane / 8);
    o[10] = lane < 4 ? (int)__shfl_xor_sync(0xfu, lane, 2) : -1;
    o[11] = __syncthreads_count(lane == 2);
}

static void test_lanes(void) {
    enum { T = 96 };
    static int out[T * 12];
    int *d = on_device<int>(NULL, T * 12);
    CU_LAUNCH(lanes_kernel, 1, dim3(16, 6), 0, 0, d);
    MUST(cudaGetLastError());
    to_host(out, d, T * 12);
    for (int i = 0; i < T; i++) {
        int lane = i % 32, *o = out + i * 12;
        CHECK_THAT(o[0] == 70 && o[1] == (lane / 8 * 8 + 1) * 10 && o[2] == (lane ^ 5));
        CHECK_THAT(o[3] == (lane < 3 ? lane : lane - 3) && o[4] == (lane > 28 ? lane : lane + 3));
        CHECK_THAT(o[5] == 0x49249249 && o[6] == 1 && o[7] == (lane ^ 1) - lane && o[8] == 0);
        CHECK_THAT(o[9] == (int)(0xffu << lane / 8 * 8) && o[10] == (lane < 4 ? lane ^ 2 : -1));
        CHECK_THAT(o[11] == 3);
    }
    cudaFree(d);
}

/* One product of a warp: A [16,K] and B [N,K] row-major in shared memory through ldmatrix. */
template <bool bf16> __global__ void mma_kernel(const uint16_t *a, const uint16_t *b, float *d) {
    __shared__ __align__(16) uint16_t sa[16][24], sb[8][24]; /* rows 48 bytes apart */
    int lane = (int)threadIdx.x;
    for (int i = lane; i < 32; i += 32) cu_copy16_async(&sa[i / 2][i % 2 * 8], a + i * 8, true);
    if (lane < 16) cu_copy16_async(&sb[lane / 2][lane % 2 * 8], b + lane * 8, true);
    cu_copy_commit();
    cu_copy_wait<0>();
    __syncwarp();
    uint32_t fa[4], fb[4];
    cu_ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
    cu_ldmatrix_x4(fb, &sb[lane % 8][lane / 8 % 2 * 8]);
    float acc[4] = {1, 1, 1, 1};
    if (bf16)
        cu_mma_bf16(acc, fa, fb);
    else
        cu_mma_f16(acc, fa, fb);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

static void test_mma(bool bf16) {
    uint16_t a[16 * 16], b[8 * 16];
    float fa[16 * 16], fb[8 * 16], out[16 * 8];
    for (int i = 0; i < 256; i++) fa[i] = (float)(i * 37 % 29 - 14) * 0.25f;
    for (int i = 0; i < 128; i++) fb[i] = (float)(i * 53 % 31 - 15) * 0.5f;
    for (int i = 0; i < 256; i++) a[i] = bf16 ? cu_to_bf16(fa[i]) : cu_to_f16(fa[i]);
    for (int i = 0; i < 128; i++) b[i] = bf16 ? cu_to_bf16(fb[i]) : cu_to_f16(fb[i]);
    uint16_t *da = on_device(a, 256), *db = on_device(b, 128);
    float *dd = on_device<float>(NULL, 128);
    if (bf16)
        CU_LAUNCH((mma_kernel<true>), 1, 32, 0, 0, da, db, dd);
    else
        CU_LAUNCH((mma_kernel<false>), 1, 32, 0, 0, da, db, dd);
    to_host(out, dd, 128);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            float want = 1; /* exact: multiples of 1/8 */
            for (int k = 0; k < 16; k++) want += fa[m * 16 + k] * fb[n * 16 + k];
            CHECK_THAT(out[m * 8 + n] == want);
        }
    cudaFree(da), cudaFree(db), cudaFree(dd);
}

template <class D> __global__ void mma32_kernel(const int8_t *a, const int8_t *b, D *d) {
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t fa[4], fb[2];
    for (int i = 0; i < 4; i++) memcpy(&fa[i], a + (g + i % 2 * 8) * 32 + t * 4 + i / 2 * 16, 4);
    for (int i = 0; i < 2; i++) memcpy(&fb[i], b + g * 32 + t * 4 + i * 16, 4);
    D acc[4] = {-5, -5, -5, -5};
    if constexpr (sizeof(D) == sizeof(int32_t) && D(0.5) == 0)
        cu_mma_s8(acc, fa, fb);
    else
        cu_mma_e4m3(acc, fa, fb);
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = acc[i];
}

template <class D, class F> static void test_mma32(F value) {
    int8_t a[16 * 32], b[8 * 32];
    D out[16 * 8];
    for (int i = 0; i < 512; i++) a[i] = (int8_t)((i * 91 + 7) & 0xbf);
    for (int i = 0; i < 256; i++) b[i] = (int8_t)((i * 57 + 3) & 0xbf);
    int8_t *da = on_device(a, 512), *db = on_device(b, 256);
    D *dd = on_device<D>(NULL, 128);
    CU_LAUNCH((mma32_kernel<D>), 1, 32, 0, 0, da, db, dd);
    to_host(out, dd, 128);
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            D want = -5;
            for (int k = 0; k < 32; k++) want += value(a[m * 32 + k]) * value(b[n * 32 + k]);
            CHECK_THAT(out[m * 8 + n] == want);
        }
    cudaFree(da), cudaFree(db), cudaFree(dd);
}

/* A byte without its bit of 64 as E4M3, below 2: sums of the products fit a float. */
static float e4m3(int8_t x) {
    int e = x >> 3 & 15, m = x & 7;
    float v = e ? ldexpf((float)(8 + m), e - 10) : ldexpf((float)m, -9);
    return x < 0 ? -v : v;
}

/* trans: what a lane reads of a matrix is what it would read of the transposed one. */
__global__ void trans_kernel(uint32_t *out) {
    CU_DYN_SHARED(uint16_t, m);
    int lane = (int)threadIdx.x;
    for (int i = lane; i < 4 * 64; i += 32) {
        int at = i % 64;
        m[i] = (uint16_t)i;
        m[256 + i] = (uint16_t)(i / 64 * 64 + at % 8 * 8 + at / 8);
    }
    __syncwarp();
    uint32_t r[4], t[4];
    cu_ldmatrix_x4_trans(r, m + lane * 8);
    cu_ldmatrix_x4(t, m + 256 + lane * 8);
    for (int i = 0; i < 4; i++) out[lane * 8 + i] = r[i], out[lane * 8 + 4 + i] = t[i];
}

static void test_trans(void) {
    uint32_t out[32 * 8];
    uint32_t *d = on_device<uint32_t>(NULL, 32 * 8);
    CU_LAUNCH(trans_kernel, 1, 32, 1024, 0, d);
    to_host(out, d, 32 * 8);
    for (int l = 0; l < 32; l++) {
        CHECK_THAT(memcmp(out + l * 8, out + l * 8 + 4, 16) == 0);
        uint32_t first = (uint32_t)(l % 4 * 2 * 8 + l / 4); /* row 2*(l%4), column l/4 */
        CHECK_THAT(out[l * 8] == (first | (first + 8) << 16));
    }
    cudaFree(d);
}

/* What the destination holds before and after the wait, by group; the last is zeros. */
__global__ void copy_kernel(const float4 *src, float *out) {
    __shared__ float4 to[3];
    if (threadIdx.x == 0) {
        for (int i = 0; i < 3; i++) {
            cu_copy16_async(&to[i], i == 2 ? NULL : src + i, i != 2);
            cu_copy_commit();
        }
        out[0] = to[0].x;
        cu_copy_wait<2>();
        out[1] = to[0].w, out[2] = to[1].x;
        cu_copy_wait<0>();
        out[3] = to[1].x, out[4] = to[2].y;
    }
}

static void test_copy(void) {
    float src[8] = {1, 2, 3, 4, 5, 6, 7, 8}, out[5];
    float *ds = on_device(src, 8), *dd = on_device<float>(NULL, 5);
    CU_LAUNCH(copy_kernel, 1, 32, 0, 0, (const float4 *)ds, dd);
    to_host(out, dd, 5);
    CHECK_THAT(isnan(out[0]) && out[1] == 4 && isnan(out[2]) && out[3] == 5 && out[4] == 0);
    cudaFree(ds), cudaFree(dd);
}

/* Blocks see fresh poison, whatever the one before left. */
__global__ void poison_kernel(float *out) {
    __shared__ float s[4];
    CU_DYN_SHARED(float, d);
    if (threadIdx.x == 0) {
        out[blockIdx.x * 2] = s[3], out[blockIdx.x * 2 + 1] = d[5];
        s[3] = d[5] = 1;
    }
}

static void test_poison(void) {
    float out[6];
    float *d = on_device<float>(NULL, 6);
    CU_LAUNCH(poison_kernel, 3, 32, 24, 0, d);
    to_host(out, d, 6);
    for (int i = 0; i < 6; i++) CHECK_THAT(isnan(out[i]));
    cudaFree(d);
}

static void test_f16(void) {
    for (uint32_t h = 0; h < 65536; h++) {
        float f = simt_from_f16((uint16_t)h);
        if ((h & 0x7c00) == 0x7c00 && (h & 0x3ff)) {
            CHECK_THAT(isnan(f) && isnan(simt_from_f16(simt_to_f16(f))));
            continue;
        }
        double want = ldexp((h & 0x7c00) ? 1024 + (h & 0x3ff) : (h & 0x3ff),
                            (int)((h & 0x7c00) ? (h >> 10 & 31) - 25 : -24));
        if ((h & 0x7fff) == 0x7c00) want = INFINITY;
        CHECK_THAT(fabsf(f) == (float)want && (signbit(f) != 0) == (h >> 15 != 0));
        CHECK_THAT(simt_to_f16(f) == h);
        if ((h & 0x7fff) >= 0x7bff) continue;
        float next = simt_from_f16((uint16_t)(h + 1)), half = (f + next) / 2;
        CHECK_THAT(simt_to_f16(half) == ((h & 1) ? h + 1 : h)); /* ties to even */
        CHECK_THAT(simt_to_f16(nextafterf(half, next)) == h + 1);
        CHECK_THAT(simt_to_f16(nextafterf(half, f)) == h);
    }
    CHECK_THAT(simt_to_f16(65519.996f) == 0x7bff && simt_to_f16(65520.0f) == 0x7c00);
}

/* ---- The runtime ---- */

__global__ void add_kernel(float *x, float v) {
    x[threadIdx.x] += v;
}

/* Nothing runs before somebody waits, and a captured launch runs when its graph does. */
static void test_streams(void) {
    cudaStream_t s;
    MUST(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    float *pinned, *d;
    MUST(cudaMallocHost(&pinned, 32 * 4));
    MUST(cudaMalloc(&d, 32 * 4));
    MUST(cudaMemsetAsync(d, 0, 32 * 4, s));
    CU_LAUNCH(add_kernel, 1, 32, 0, s, d, 1.5f);
    MUST(cudaMemcpyAsync(pinned, d, 32 * 4, cudaMemcpyDeviceToHost, s));
    CHECK_THAT(isnan(pinned[3]));
    MUST(cudaStreamSynchronize(s));
    CHECK_THAT(pinned[3] == 1.5f && pinned[31] == 1.5f);

    cudaGraph_t g;
    cudaGraphExec_t x;
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CU_LAUNCH(add_kernel, 1, 32, 0, s, d, 1.0f);
    CU_LAUNCH(add_kernel, 1, 32, 0, s, d, 0.25f);
    MUST(cudaStreamEndCapture(s, &g));
    MUST(cudaGraphInstantiate(&x, g, 0));
    MUST(cudaGraphDestroy(g));
    for (int i = 0; i < 3; i++) MUST(cudaGraphLaunch(x, s));
    MUST(cudaMemcpyAsync(pinned, d, 32 * 4, cudaMemcpyDeviceToHost, s));
    MUST(cudaStreamSynchronize(s));
    CHECK_THAT(pinned[0] == 1.5f + 3 * 1.25f);
    MUST(cudaGraphExecDestroy(x));

    cudaEvent_t e;
    cudaStream_t other;
    MUST(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    MUST(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    CU_LAUNCH(add_kernel, 1, 32, 0, s, d, 1.0f);
    MUST(cudaEventRecord(e, s));
    MUST(cudaStreamWaitEvent(other, e));
    MUST(cudaMemcpyAsync(pinned, d, 32 * 4, cudaMemcpyDeviceToHost, other));
    MUST(cudaStreamSynchronize(other));
    CHECK_THAT(pinned[0] == 1.5f + 3 * 1.25f + 1);
    MUST(cudaStreamDestroy(other));
    MUST(cudaStreamDestroy(s));
    MUST(cudaEventSynchronize(e)); /* outlives its stream */
    MUST(cudaEventDestroy(e));
    cudaFree(d), cudaFreeHost(pinned);
}

__global__ void add_from(float *d, const float *by, float and_by) {
    d[threadIdx.x] += *by + and_by;
}

/* A graph keeps the arguments of its capture; what they point at is read when it is launched. */
static void test_graphs(void) {
    cudaStream_t s, other;
    cudaGraph_t g = NULL;
    cudaGraphExec_t x;
    void *none;
    float zero = 0, first = 1, second = 10, got[32];
    MUST(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    MUST(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    float *d = on_device<float>(NULL, 32), *by = on_device<float>(NULL, 1), in_args = 100;
    MUST(cudaMemset(d, 0, 32 * 4));
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CU_LAUNCH(add_from, 1, 32, 0, s, d, by, in_args);
    in_args = 7;
    CU_LAUNCH(add_kernel, 1, 32, 0, other, d, 0.5f); /* not of the capture */
    MUST(cudaStreamEndCapture(s, &g));
    MUST(cudaGraphInstantiate(&x, g, 0));
    MUST(cudaGraphDestroy(g));
    MUST(cudaStreamSynchronize(other));
    MUST(cudaMemcpy(got, d, sizeof got, cudaMemcpyDeviceToHost));
    CHECK_THAT(got[0] == 0.5f && got[31] == 0.5f); /* capturing runs nothing */
    MUST(cudaMemcpyAsync(by, &first, 4, cudaMemcpyHostToDevice, s));
    MUST(cudaGraphLaunch(x, s));
    MUST(cudaMemcpyAsync(by, &second, 4, cudaMemcpyHostToDevice, s));
    MUST(cudaGraphLaunch(x, s));
    MUST(cudaMemcpyAsync(by, &zero, 4, cudaMemcpyHostToDevice, s));
    MUST(cudaStreamSynchronize(s));
    MUST(cudaMemcpy(got, d, sizeof got, cudaMemcpyDeviceToHost));
    CHECK_THAT(got[0] == 0.5f + 101 + 110 && got[31] == got[0]);
    MUST(cudaGraphExecDestroy(x));

    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_THAT(cudaMalloc(&none, 64) == cudaErrorStreamCaptureUnsupported);
    CHECK_THAT(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureInvalidated && g == NULL);
    MUST(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK_THAT(cudaStreamSynchronize(s) == cudaErrorStreamCaptureUnsupported);
    CHECK_THAT(cudaStreamEndCapture(s, &g) == cudaErrorStreamCaptureInvalidated);
    cudaGetLastError();
    MUST(cudaMalloc(&none, 64));
    MUST(cudaStreamDestroy(s));
    MUST(cudaStreamDestroy(other));
    cudaFree(none), cudaFree(d), cudaFree(by);
}

__global__ void patient(float *p) {
    cu_next_begin();
    p[threadIdx.x] = 2;
}

static void test_early(void) {
    float *d = on_device<float>(NULL, 64), got[64];
    CU_LAUNCH_EARLY(patient, 2, 32, 0, 0, d);
    MUST(cudaMemcpy(got, d, sizeof got, cudaMemcpyDeviceToHost));
    CHECK_THAT(got[0] == 2 && got[31] == 2);
    cudaFree(d);
}

static void test_limits(void) {
    float *d = on_device<float>(NULL, 2048);
    CU_LAUNCH(add_kernel, 1, 1025, 0, 0, d, 1.0f);
    CHECK_THAT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CU_LAUNCH(add_kernel, dim3(1, 65536), 32, 0, 0, d, 1.0f);
    CHECK_THAT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CU_LAUNCH(add_kernel, 0, 32, 0, 0, d, 1.0f);
    CHECK_THAT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    CU_LAUNCH(add_kernel, 1, 32, 49153, 0, d, 1.0f);
    CHECK_THAT(cudaGetLastError() == cudaErrorInvalidValue);
    auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    MUST(cudaFuncSetAttribute(add_kernel, attribute, 99 << 10));
    CU_LAUNCH(add_kernel, 1, 32, 99 << 10, 0, d, 1.0f);
    MUST(cudaGetLastError());
    CHECK_THAT(cudaFuncSetAttribute(add_kernel, attribute, (99 << 10) + 1) != cudaSuccess);
    cudaGetLastError();
    float host[4];
    CHECK_THAT(cudaMemcpy(d + 2040, host, 36, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    cudaGetLastError();
    void *p;
    CHECK_THAT(cudaMalloc(&p, (size_t)1 << 50) == cudaErrorMemoryAllocation);
    cudaGetLastError();
    size_t before, after, total;
    MUST(cudaMemGetInfo(&before, &total));
    cudaFree(d);
    MUST(cudaMemGetInfo(&after, &total));
    CHECK_THAT(after == before + 8192);
}

static void test_faults(void) {
    void *p;
    float *d = on_device<float>(NULL, 32);
    setenv("SIMT_FAIL", "malloc:2", 1);
    MUST(cudaSetDevice(0));
    MUST(cudaMalloc(&p, 100));
    CHECK_THAT(cudaMalloc(&p, 100) == cudaErrorMemoryAllocation);
    CHECK_THAT(cudaGetLastError() == cudaErrorMemoryAllocation);
    MUST(cudaMalloc(&p, 100));
    setenv("SIMT_FAIL", "launch:1", 1);
    MUST(cudaSetDevice(0));
    CU_LAUNCH(add_kernel, 1, 32, 0, 0, d, 1.0f);
    CHECK_THAT(cudaGetLastError() == cudaErrorLaunchOutOfResources);
    MUST(cudaDeviceSynchronize());
    setenv("SIMT_FAIL", "lost:1", 1);
    MUST(cudaSetDevice(0));
    MUST(cudaDeviceSynchronize());
    CU_LAUNCH(add_kernel, 1, 32, 0, 0, d, 1.0f);
    CHECK_THAT(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
    CHECK_THAT(cudaMalloc(&p, 100) == cudaErrorIllegalAddress);
    CHECK_THAT(cudaGetLastError() == cudaErrorIllegalAddress);
    CHECK_THAT(cudaGetLastError() == cudaErrorIllegalAddress);
    unsetenv("SIMT_FAIL");
    MUST(cudaSetDevice(0));
    MUST(cudaDeviceSynchronize());
}

/* ---- Errors that must be reported ---- */

__global__ void half_barrier(int n) {
    if ((int)threadIdx.x < n) __syncthreads();
}
__global__ void lost_lane(int *out) {
    int v = 0;
    if (threadIdx.x != 9) v = __shfl_xor_sync(CU_FULL, 1, 1);
    out[threadIdx.x] = v;
}
__global__ void mixed_ops(int *out) {
    if (threadIdx.x & 1)
        out[threadIdx.x] = __shfl_xor_sync(CU_FULL, 1, 1);
    else
        out[threadIdx.x] = __any_sync(CU_FULL, 1);
}
__global__ void write_at(float *p, int64_t at) {
    if (threadIdx.x == 3) p[at] = 1;
}
__global__ void read_wide(const float *p, float *out) {
    float4 v = *(const float4 *)p;
    out[0] = v.x;
}
__global__ void shared_index(float *out, int at) {
    __shared__ float s[40];
    s[threadIdx.x + (unsigned)at] = 1;
    out[threadIdx.x] = s[threadIdx.x];
}
__global__ void dyn_write(int at) {
    CU_DYN_SHARED(float, d);
    d[at] = 1;
}
__global__ void copy_misaligned(const float *src) {
    __shared__ __align__(16) float s[8];
    cu_copy16_async(s, src, true);
}
__global__ void row_misaligned(uint32_t *out) {
    __shared__ __align__(16) uint16_t s[32 * 9];
    uint32_t r[4];
    cu_ldmatrix_x4(r, s + threadIdx.x * 9);
    out[0] = r[0];
}
__global__ void deep(int n, volatile char *p) {
    volatile char here[3000];
    here[n] = 1;
    if (n > 0) deep(n - 1, here);
    if (p) p[0] = here[0];
}

__global__ void hasty(float *p) {
    if (threadIdx.x == 5) return;
    cu_next_begin();
    p[threadIdx.x] = 1;
}

static float *device_floats;
static void bad_haste(void) {
    CU_LAUNCH_EARLY(hasty, 1, 32, 0, 0, device_floats);
}
static void bad_graph(void) {
    cudaStream_t s;
    cudaGraph_t g;
    cudaGraphExec_t x;
    float *p;
    cudaStreamCreate(&s);
    cudaMalloc(&p, 4096);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    CU_LAUNCH(write_at, 1, 32, 0, s, p, 0);
    cudaStreamEndCapture(s, &g);
    cudaGraphInstantiate(&x, g, 0);
    cudaFree(p);
    cudaGraphLaunch(x, s);
}
static void bad_half_barrier(void) {
    CU_LAUNCH(half_barrier, 1, 64, 0, 0, 40);
}
static void bad_lost_lane(void) {
    CU_LAUNCH(lost_lane, 1, 32, 0, 0, (int *)device_floats);
}
static void bad_mixed(void) {
    CU_LAUNCH(mixed_ops, 1, 32, 0, 0, (int *)device_floats);
}
static void bad_partial_warp(void) {
    CU_LAUNCH(lanes_kernel, 1, 24, 0, 0, (int *)device_floats);
}
static void bad_write_behind(void) {
    CU_LAUNCH(write_at, 1, 32, 0, 0, device_floats, 64);
}
static void bad_write_before(void) {
    CU_LAUNCH(write_at, 1, 32, 0, 0, device_floats, -1023);
}
static void bad_host_read(void) {
    printf("%g\n", device_floats[2]);
}
static void bad_freed(void) {
    float *p;
    cudaMalloc(&p, 4096);
    CU_LAUNCH(write_at, 1, 32, 0, 0, p, 0);
    cudaFree(p);
    CU_LAUNCH(write_at, 1, 32, 0, 0, device_floats, p - device_floats);
}
#if !defined(__SANITIZE_ADDRESS__)
static void bad_alignment(void) {
    CU_LAUNCH(read_wide, 1, 32, 0, 0, device_floats + 1, device_floats);
}
static void bad_index(void) {
    CU_LAUNCH(shared_index, 1, 32, 0, 0, device_floats, 20);
}
#endif
static void bad_dyn_near(void) {
    CU_LAUNCH(dyn_write, 1, 1, 24, 0, 6);
}
static void bad_dyn_far(void) {
    CU_LAUNCH(dyn_write, 1, 1, 24, 0, 40);
}
static void bad_copy(void) {
    CU_LAUNCH(copy_misaligned, 1, 32, 0, 0, device_floats + 2);
}
static void bad_row(void) {
    CU_LAUNCH(row_misaligned, 1, 32, 0, 0, (uint32_t *)device_floats);
}
static void bad_stack(void) {
    CU_LAUNCH(deep, 1, 1, 0, 0, 300, (volatile char *)NULL);
}
static void bad_pointer(void) {
    float on_stack[4];
    CU_LAUNCH(write_at, 1, 32, 0, 0, on_stack, 0);
}
static void bad_slack(void) {
    float *p;
    cudaMalloc(&p, 40); /* its 256 bytes end at a page: the rest is guarded until it is freed */
    CU_LAUNCH(write_at, 1, 32, 0, 0, p, 11);
    cudaFree(p);
}

static void bad_reuse(void) {
    float *pinned;
    cudaStream_t s;
    cudaMallocHost(&pinned, 16);
    cudaStreamCreate(&s);
    pinned[0] = 1;
    cudaMemcpyAsync(device_floats, pinned, 16, cudaMemcpyHostToDevice, s);
    pinned[0] = 2;
}

static void must_report(const char *name, void (*bad)(void), const char *sentence) {
    int ends[2];
    char said[4096] = "";
    size_t n = 0;
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        cudaMalloc(&device_floats, 64 * sizeof(float));
        bad();
        cudaDeviceSynchronize();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t got;
         n < sizeof said - 1 && (got = read(ends[0], said + n, sizeof said - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    int st;
    waitpid(child, &st, 0);
    if (WIFSIGNALED(st) && strstr(said, sentence)) return;
    printf("FAIL %s: status %d, said \"%s\", expected \"%s\"\n", name, st, said, sentence);
    n_failed++;
}

static void test_reports(void) {
    must_report("half_barrier", bad_half_barrier, "of 64 threads 40 wait at __syncthreads");
    must_report("lost_lane", bad_lost_lane, "31 wait at an operation of their warp");
    must_report("mixed", bad_mixed, "is at __");
    must_report("partial_warp", bad_partial_warp, "lanes that the block of 24 threads does not");
    must_report("write_behind", bad_write_behind, "thread (3,0,0): access at device address");
    must_report("write_behind", bad_write_behind, "0 bytes behind an allocation of 256 bytes");
    must_report("write_before", bad_write_before, "before an allocation of 256 bytes");
    must_report("host_read", bad_host_read, "the host's access at device address");
    must_report("freed", bad_freed, "behind an allocation of 256 bytes");
    must_report("dyn_near", bad_dyn_near, "byte 24 of 24 of the dynamic shared memory");
    must_report("dyn_far", bad_dyn_far, "kernel dyn_write");
    must_report("copy", bad_copy, "not 16-byte aligned");
    must_report("row", bad_row, "is not 16-byte aligned");
    must_report("stack", bad_stack, "the thread's stack is full");
    must_report("reuse", bad_reuse, "was changed while a copy of 16 bytes from it was under way");
    must_report("haste", bad_haste, "thread (5,0,0): this thread ends without having waited");
    must_report("graph", bad_graph, "access at device address");
    must_report("pointer", bad_pointer, "argument 0: ");
    must_report("slack", bad_slack, "byte 44 of an allocation of 40 bytes");
#if !defined(__SANITIZE_ADDRESS__)
    must_report("alignment", bad_alignment, "is not aligned to 16 bytes");
    must_report("index", bad_index, "is outside of 'float [40]'");
#endif
}

int main(void) {
    test_reports(); /* first: its children begin without a device */
    test_sum();
    test_lanes();
    test_mma(true);
    test_mma(false);
    test_mma32<int32_t>([](int8_t x) -> int32_t { return x; });
    test_mma32<float>(e4m3);
    test_trans();
    test_copy();
    test_poison();
    test_f16();
    test_streams();
    test_graphs();
    test_early();
    test_limits();
    test_faults();
    printf("%s\n", n_failed ? "failed" : "passed");
    return n_failed != 0;
}
