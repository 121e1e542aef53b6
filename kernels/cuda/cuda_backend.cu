/* The object: device, stream, memory, copies, the first failure.
 *
 * Everything goes to one stream, whichever thread asks: copies of loader threads and ops are
 * ordered by it, and nothing waits but download, wait, sync and a scratch that grows. The stream is
 * no legacy stream, so nothing outside it is ordered with it. While a thread records a graph its
 * ops go to a stream of their own, which runs nothing (cuda_graph.cu).
 *
 * A failing call is noted once, for good; from then on ops and copies do nothing, so that the
 * program reaches its next sync quickly and reads the sentence there. A download after a failure
 * gives zeros: what the program computes until then from ids and counts stays in bounds. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "kernels/device_plugin.h"
}

#define CC_LEAST     80
#define EARLY_LEAST  90                 /* cu_pdl.h */
#define LOADERS_MOST 8                  /* threads that read and pack weights */
#define SHARED_FREE  ((size_t)48 << 10) /* shared memory that need not be asked for */
#define GIB(x)       ((double)(x) / 1073741824.0)

static pthread_mutex_t note_lock = PTHREAD_MUTEX_INITIALIZER;

static void set_device(const cuda_backend *c) {
    int now;
    if (cudaGetDevice(&now) != cudaSuccess || now != c->device) cudaSetDevice(c->device);
}

static void fail(cuda_backend *c, cudaError_t e, const char *what) {
    pthread_mutex_lock(&note_lock);
    if (c->failed == cudaSuccess) {
        c->failed_in = what;
        __atomic_store_n(&c->failed, e, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&note_lock);
}

bool cuda_note(cuda_backend *c, cudaError_t e, const char *what) {
    if (e == cudaSuccess) return true;
    if (!cuda_refuse(c)) fail(c, e, what); /* else the step will be launched again, op by op */
    return false;
}

bool cuda_ready(const cuda_backend *c) {
    set_device(c);
    return __atomic_load_n(&c->failed, __ATOMIC_ACQUIRE) == cudaSuccess &&
           !cuda_recording_failed(c);
}

bool cuda_fault(cuda_backend *c, const char *what) {
    size_t n = strlen(what);
    if (!c->fault || strncmp(c->fault, what, n) != 0 || c->fault[n] != ':') return false;
    return __atomic_sub_fetch(&c->fault_left, 1, __ATOMIC_RELAXED) == 0;
}

/* A failure that a test wants does not spare a recording: it is for good. */
static bool launch_fault(cuda_backend *c, const char *op) {
    if (!c->fault || !cuda_fault(c, op)) return false;
    fail(c, cudaErrorLaunchFailure, op);
    return true;
}

void cuda_launched(cuda_backend *c, const char *op) {
    cudaError_t e = cudaGetLastError();
    if (launch_fault(c, op)) return;
    if (e == cudaSuccess && c->sync_ops) e = cudaStreamSynchronize(c->stream);
    cuda_note(c, e, op);
}

void *cuda_scratch(cuda_backend *c, size_t bytes) {
    if (!cuda_ready(c)) return NULL;
    bool refused = cuda_fault(c, "scratch");
    if (bytes <= c->ws_bytes && !refused) return c->ws;
    if (cuda_refuse(c)) return NULL;
    cuda_graphs_drop(c);
    size_t want = ALIGN_UP(bytes + bytes / 4, (size_t)65536);
    void *p = NULL;
    if (!cuda_note(c, cudaStreamSynchronize(c->main), "scratch")) return NULL;
    cudaFree(c->ws);
    c->ws = NULL;
    c->ws_bytes = 0;
    cudaError_t e = refused ? cudaErrorMemoryAllocation : cudaMalloc(&p, want);
    if (!cuda_note(c, e, "scratch")) return NULL;
    c->ws = p;
    c->ws_bytes = want;
    return p;
}

status cuda_scratch_reserve(cuda_backend *c, size_t bytes, error *err) {
    void *p = NULL;
    if (bytes <= c->ws_bytes) return OK;
    TRY(c->base.v->mem_alloc(&c->base, bytes, &p, err));
    cuda_graphs_drop(c); /* they hold its address */
    c->base.v->mem_free(&c->base, c->ws, c->ws_bytes);
    c->ws = p;
    c->ws_bytes = bytes;
    return OK;
}

bool cuda_allow_shared(cuda_backend *c, const void *kernel, size_t bytes, size_t fixed) {
    if (bytes + fixed <= SHARED_FREE) return true;
    size_t most = c->smem_max - MIN(c->smem_max, ALIGN_UP(fixed, (size_t)1024));
    return cuda_note(
        c, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)most),
        "shared memory");
}

static void backend_free(backend *b) {
    cuda_backend *c = cuda_of(b);
    set_device(c);
    cuda_tables_free(c);
    cuda_columns_free(c);
    cuda_probes_free(c);
    cuda_stamps_free(c);
    cuda_library_free(c);
    if (c->main) {
        cudaStreamSynchronize(c->main);
        cuda_attn_done(c);
        cuda_graphs_free(c);
        cuda_pieces_free(c);
        cudaStreamDestroy(c->main);
    }
    for (int i = 0; i < BACKEND_MARKS; i++)
        if (c->marks[i]) cudaEventDestroy(c->marks[i]);
    if (c->load_stream) cudaStreamDestroy(c->load_stream);
    cuda_staging_free(c->staging);
    cudaFree(c->ws);
    mem_free(c);
}

static status mem_info(backend *b, size_t *ret_free, size_t *ret_total, error *err) {
    cuda_backend *c = cuda_of(b);
    set_device(c);
    cudaError_t e = cudaMemGetInfo(ret_free, ret_total);
    if (e == cudaSuccess) return OK;
    return error_set(err, ERR_DEVICE, "cuda:%d does not tell its memory: %s", c->device,
                     cudaGetErrorString(e));
}

/* A sentence with numbers for a refused allocation. */
static status refused(cuda_backend *c, size_t bytes, cudaError_t e, error *err) {
    size_t left = 0, total = 0;
    cudaGetLastError(); /* it is told here, not by the next launch */
    cudaMemGetInfo(&left, &total);
    return error_set(err, e == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE,
                     "cuda:%d refused %zu bytes of its memory (%.2f of %.2f GiB are free): %s",
                     c->device, bytes, GIB(left), GIB(total), cudaGetErrorString(e));
}

static status device_alloc(backend *b, size_t bytes, void **ret, error *err) {
    cuda_backend *c = cuda_of(b);
    void *p = NULL;
    set_device(c);
    size_t want = MAX(bytes, (size_t)1);
    if (cuda_refuse(c)) return refused(c, bytes, cudaErrorStreamCaptureUnsupported, err);
    cudaError_t e = cuda_fault(c, "mem_alloc") ? cudaErrorMemoryAllocation : cudaMalloc(&p, want);
    if (e != cudaSuccess) return refused(c, bytes, e, err);
    cuda_note(c, cudaMemsetAsync(p, 0, want, c->main), "mem_alloc");
    *ret = p;
    return OK;
}

static void device_free(backend *b, void *p, size_t bytes) {
    set_device(cuda_of(b));
    cudaFree(p);
}

static status pinned_alloc(backend *b, size_t bytes, void **ret, error *err) {
    cuda_backend *c = cuda_of(b);
    void *p = NULL;
    set_device(c);
    size_t want = MAX(bytes, (size_t)1);
    cudaError_t e = cuda_fault(c, "host_alloc")
                        ? cudaErrorMemoryAllocation
                        : cudaHostAlloc(&p, want, cudaHostAllocPortable | cudaHostAllocMapped);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return error_set(err, e == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE,
                         "the system refused %zu bytes of pinned memory for cuda:%d: %s", bytes,
                         c->device, cudaGetErrorString(e));
    }
    memset(p, 0, want);
    *ret = p;
    return OK;
}

static void pinned_free(backend *b, void *p, size_t bytes) {
    set_device(cuda_of(b));
    cudaFreeHost(p);
}

/* From ordinary memory the call returns when the runtime has taken the bytes, from pinned memory
 * at once. */
static void upload(backend *b, void *dst, const void *src, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    if (!bytes || !cuda_ready(c) || cuda_refuse(c)) return;
    cudaError_t e = cuda_fault(c, "upload")
                        ? cudaErrorLaunchFailure
                        : cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, c->main);
    cuda_note(c, e, "upload");
}

static void download(backend *b, void *dst, const void *src, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    if (!bytes) return;
    if (cuda_ready(c) && !cuda_refuse(c)) {
        cudaError_t e = cuda_fault(c, "download")
                            ? cudaErrorLaunchFailure
                            : cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, c->main);
        if (cuda_note(c, e, "download") && cuda_note(c, cudaStreamSynchronize(c->main), "download"))
            return;
    }
    memset(dst, 0, bytes);
}

static void fetch(backend *b, void *dst, const void *src, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    if (!bytes || !cuda_ready(c) || cuda_refuse(c)) return;
    cudaError_t e = cuda_fault(c, "download")
                        ? cudaErrorLaunchFailure
                        : cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, c->main);
    cuda_note(c, e, "download");
}

static void mark(backend *b, int i) {
    cuda_backend *c = cuda_of(b);
    CHECK(i >= 0 && i < BACKEND_MARKS);
    if (cuda_ready(c) && !cuda_refuse(c))
        cuda_note(c, cudaEventRecord(c->marks[i], c->main), "mark");
}

/* OK, or the first failure in words. */
static status told(cuda_backend *c, error *err) {
    if (cuda_ready(c)) return OK;
    pthread_mutex_lock(&note_lock); /* for failed_in */
    const char *where = c->failed_in;
    pthread_mutex_unlock(&note_lock);
    return error_set(err, c->failed == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_DEVICE,
                     "cuda:%d failed in %s: %s (%s)", c->device, where,
                     cudaGetErrorString(c->failed), cudaGetErrorName(c->failed));
}

static status wait_mark(backend *b, int i, error *err) {
    cuda_backend *c = cuda_of(b);
    CHECK(i >= 0 && i < BACKEND_MARKS);
    if (cuda_ready(c)) cuda_note(c, cudaEventSynchronize(c->marks[i]), "the wait for its results");
    return told(c, err);
}

static status sync(backend *b, error *err) {
    cuda_backend *c = cuda_of(b);
    if (cuda_ready(c)) cuda_note(c, cudaStreamSynchronize(c->main), "the wait for its results");
    return told(c, err);
}

static size_t wmat_bytes(backend *b, int32_t n, int32_t k, dtype dt) {
    CHECK(n > 0 && k > 0 && dtype_is_float(dt));
    return (size_t)n * (size_t)cuda_ld(dt, k) * dtype_bytes(dt);
}

static void wmat_init(backend *b, wmat *w, int32_t n, int32_t k, dtype dt, void *data) {
    memset(w, 0, sizeof *w);
    w->n = n;
    w->k = k;
    w->dt = dt;
    w->data = data;
    w->bytes = wmat_bytes(b, n, k, dt);
}

static const measure cuda_measure = {cuda_time, cuda_stamp, cuda_between, cuda_probe};

static const backend_vtbl vtbl = {
    .close = backend_free,
    .enter = NULL,
    .mem_alloc = device_alloc,
    .mem_free = device_free,
    .host_alloc = pinned_alloc,
    .host_free = pinned_free,
    .mem_info = mem_info,
    .upload = upload,
    .download = download,
    .fetch = fetch,
    .mark = mark,
    .wait = wait_mark,
    .copy_pieces = cuda_copy_pieces,
    .aside = cuda_aside,
    .rejoin = cuda_rejoin,
    .sync = sync,
    .wmat_bytes = wmat_bytes,
    .wmat_init = wmat_init,
    .wmat_pack = cuda_wmat_pack,
    .pack_rows = 1,
    .embed_packed = false,
    .quant_bytes = cuda_quant_bytes,
    .quant_init = cuda_quant_init,
    .quant_pack = cuda_quant_pack,
    .quant_side = cuda_quant_side,
    .native_act = NULL,
    .feed_dt = cuda_feed_dt,
    .scratch_bytes = cuda_scratch_bytes,
    .reserve = cuda_reserve,
    .use_library = cuda_use_library,
    .loading = &cuda_load_slots,
    .kernels = cuda_kernels,
    .measure = &cuda_measure,
    .graphs = &cuda_graph_calls,
#define OP(name, tol32, tol16, what) .name = cuda_##name,
#include "kernels/ops.def"
#undef OP
    .spread = NULL,
    .sample = cuda_sample,
};

/* Why there is no device: without a driver the runtime only says that it is insufficient. */
static status count_devices(int *ret, error *err) {
    int n = 0, driver = 0, runtime = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n > 0) {
        *ret = n;
        return OK;
    }
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (e == cudaErrorInsufficientDriver && driver == 0)
        return error_set(err, ERR_UNAVAILABLE,
                         "no CUDA device: the NVIDIA driver's library libcuda.so.1 is not on this "
                         "machine");
    if (e == cudaErrorInsufficientDriver)
        return error_set(err, ERR_UNAVAILABLE,
                         "the NVIDIA driver is for CUDA %d.%d at most, this build needs %d.%d",
                         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (e == cudaSuccess || e == cudaErrorNoDevice)
        return error_set(err, ERR_UNAVAILABLE,
                         "no CUDA device: the NVIDIA driver is there but sees no GPU");
    return error_set(err, ERR_UNAVAILABLE, "no CUDA device: %s (%s)", cudaGetErrorString(e),
                     cudaGetErrorName(e));
}

static status describe(int index, cudaDeviceProp *p, error *err) {
    cudaError_t e = cudaGetDeviceProperties(p, index);
    if (e != cudaSuccess)
        return error_set(err, ERR_INVALID, "cuda:%d: %s", index, cudaGetErrorString(e));
    if (p->major * 10 + p->minor >= CC_LEAST) return OK;
    return error_set(err, ERR_UNSUPPORTED,
                     "cuda:%d (%s) has compute capability %d.%d, pagoda needs 8.0 (Ampere) or "
                     "later",
                     index, p->name, p->major, p->minor);
}

static status device_info_get(int index, device_info *ret, error *err) {
    cudaDeviceProp p;
    memset(ret, 0, sizeof *ret);
    status st = describe(index, &p, err);
    if (st == ERR_INVALID) return st;
    snprintf(ret->name, sizeof ret->name, "%.95s", p.name);
    ret->cc = p.major * 10 + p.minor;
    ret->total_bytes = p.totalGlobalMem;
    cudaDriverGetVersion(&ret->driver);
    cudaRuntimeGetVersion(&ret->runtime);
    if (st != OK) return st;
    cudaError_t e = cudaSetDevice(index);
    if (e == cudaSuccess) e = cudaMemGetInfo(&ret->free_bytes, &ret->total_bytes);
    if (e == cudaSuccess) return OK;
    cudaGetLastError();
    return error_set(err, ERR_UNSUPPORTED, "cuda:%d (%s) cannot be used: %s", index, p.name,
                     cudaGetErrorString(e));
}

static void read_switches(cuda_backend *c) {
    const char *sync_ops = getenv("PAGODA_CUDA_SYNC"), *fault = getenv("PAGODA_CUDA_FAULT");
    const char *early = getenv("PAGODA_CUDA_PDL");
    c->sync_ops = sync_ops && strcmp(sync_ops, "1") == 0;
    c->early = c->cc >= EARLY_LEAST && !(early && strcmp(early, "0") == 0);
    const char *colon = fault ? strchr(fault, ':') : NULL;
    if (!colon) return;
    c->fault = fault;
    c->fault_left = atoi(colon + 1);
}

static cudaError_t start(cuda_backend *c) {
    cudaError_t e = cudaSetDevice(c->device);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&c->main, cudaStreamNonBlocking);
    c->stream = c->main;
    for (int i = 0; i < BACKEND_MARKS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->marks[i], cudaEventDisableTiming);
    if (e == cudaSuccess) c->staging = cuda_staging_new(&e);
    return e;
}

static status open_device(int index, backend **ret, error *err) {
    cudaDeviceProp p;
    TRY(describe(index, &p, err));
    cuda_backend *c = (cuda_backend *)mem_calloc(1, sizeof *c);
    c->base.v = &vtbl;
    c->base.name = "cuda";
    c->base.n_threads = MIN(cpu_count(), LOADERS_MOST);
    c->device = index;
    c->n_sms = p.multiProcessorCount;
    c->cc = p.major * 10 + p.minor;
    c->smem_max = p.sharedMemPerBlockOptin;
    c->total_bytes = p.totalGlobalMem;
    read_switches(c);
    snprintf(c->base.device, sizeof c->base.device, "cuda:%d, %.48s, %d SMs, %.1f GiB", index,
             p.name, c->n_sms, GIB(p.totalGlobalMem));
    cudaError_t e = start(c);
    if (e != cudaSuccess) {
        error_set(err, ERR_UNAVAILABLE, "cuda:%d (%s) cannot be opened: %s", index, p.name,
                  cudaGetErrorString(e));
        backend_free(&c->base);
        return ERR_UNAVAILABLE;
    }
    *ret = &c->base;
    return OK;
}

extern "C" __attribute__((visibility("default"))) const device_plugin pagoda_cuda_plugin;
const device_plugin pagoda_cuda_plugin = {DEVICE_PLUGIN_ABI, PAGODA_VERSION, count_devices,
                                          device_info_get, open_device};
