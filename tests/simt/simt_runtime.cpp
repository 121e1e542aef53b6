/* The runtime of the emulated device: streams, events, copies, graphs, errors, settings.
 *
 * Nothing is done before somebody waits for it: a stream is a list of work that runs when the
 * program waits for the stream, for one of its events, or for all. So a program that reads a result
 * too early, or changes pinned memory while a copy from it is under way, is found out
 * (SIMT_EAGER=1 runs everything at once, for a debugger). One lock guards it all; work runs on the
 * thread that waits. */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/simt/simt_inside.h"

/* ---- Settings, faults, errors ---- */

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
struct locked {
    locked() { pthread_mutex_lock(&mutex); }
    ~locked() { pthread_mutex_unlock(&mutex); }
};

static unsigned long long env_number(const char *name, unsigned long long otherwise) {
    const char *s = getenv(name);
    return s && *s ? strtoull(s, nullptr, 0) : otherwise;
}

const simt_settings *settings(void) {
    static simt_settings s;
    static bool ready;
    if (ready) return &s;
    const char *order = getenv("SIMT_ORDER");
    s.order = ORDER_FORWARD;
    if (order && !strcmp(order, "reverse")) s.order = ORDER_REVERSE;
    if (order && !strcmp(order, "shuffle")) s.order = ORDER_SHUFFLE;
    if (order && s.order == ORDER_FORWARD && strcmp(order, "forward") != 0)
        simt_fail("SIMT_ORDER is \"%s\"; it can be forward, reverse or shuffle", order);
    s.seed = env_number("SIMT_SEED", 1);
    s.device_bytes = env_number("SIMT_DEVICE_BYTES", 4ull << 30);
    s.smem_max = env_number("SIMT_SMEM", 99 << 10);
    s.n_sms = (int)env_number("SIMT_SMS", 4);
    s.cc = (int)env_number("SIMT_CC", 89);
    s.eager = env_number("SIMT_EAGER", 0) != 0;
    s.host_pointers = env_number("SIMT_HOST_POINTERS", 0) != 0;
    ready = true;
    return &s;
}

/* SIMT_FAIL=malloc:N, launch:N or lost:N. */
static struct {
    char text[64];
    unsigned long long malloc_at, launch_at, lost_at;
    unsigned long long n_mallocs, n_launches;
} faults;
static cudaError_t last_error, sticky;

static void read_faults(void) {
    const char *f = getenv("SIMT_FAIL");
    if (!f) f = "";
    if (strcmp(f, faults.text) == 0) return;
    memset(&faults, 0, sizeof faults);
    sticky = last_error = cudaSuccess;
    snprintf(faults.text, sizeof faults.text, "%s", f);
    if (sscanf(f, "malloc:%llu", &faults.malloc_at) == 1) return;
    if (sscanf(f, "launch:%llu", &faults.launch_at) == 1) return;
    if (sscanf(f, "lost:%llu", &faults.lost_at) == 1) return;
    if (*f) simt_fail("SIMT_FAIL is \"%s\"; it can be malloc:N, launch:N or lost:N", f);
}

static cudaError_t note(cudaError_t e) {
    if (sticky) e = sticky;
    if (e) last_error = e;
    return e;
}

cudaError_t cudaGetLastError(void) {
    locked l;
    cudaError_t e = sticky ? sticky : last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void) {
    locked l;
    return sticky ? sticky : last_error;
}

static const struct {
    cudaError_t e;
    const char *name, *text;
} error_names[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
};

const char *cudaGetErrorName(cudaError_t e) {
    for (auto &n : error_names)
        if (n.e == e) return n.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t e) {
    for (auto &n : error_names)
        if (n.e == e) return n.text;
    return "unrecognized error code";
}

/* ---- Faults of memory ---- */

static struct sigaction old_segv, old_bus;

static void on_fault(int sig, siginfo_t *info, void *) {
    char what[200] = "";
    const char *p = (const char *)info->si_addr;
    char where[8];
    block_where(where, sizeof where);
    sigaction(sig, sig == SIGSEGV ? &old_segv : &old_bus, nullptr); /* the next one is theirs */
    if (memory_is_device(p)) {
        memory_describe(p, what, sizeof what);
        simt_fail("%s at device address %p: %s", where[0] ? "access" : "the host's access", p,
                  what);
    }
    if (block_on_stack(p)) simt_fail("the thread's stack is full (%p)", p);
    if (!where[0]) return;
    simt_fail("access to address %p, which is not memory", p);
}

static void watch_faults(void) {
    static bool done;
    if (done) return;
    done = true;
    stack_t have;
    if (sigaltstack(nullptr, &have) == 0 && (have.ss_flags & SS_DISABLE)) {
        stack_t own = {};
        own.ss_size = 64 << 10;
        own.ss_sp = malloc(own.ss_size);
        if (own.ss_sp) sigaltstack(&own, nullptr);
    }
    struct sigaction a = {};
    a.sa_sigaction = on_fault;
    a.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &a, &old_segv);
    sigaction(SIGBUS, &a, &old_bus);
}

/* ---- Streams ---- */

struct simt_graph {
    simt_work *first = nullptr, *last = nullptr;
    int users = 1;
};
struct simt_stream {
    simt_work *first = nullptr, *last = nullptr;
    uint64_t submitted = 0, done = 0;
    bool blocking = true; /* waits for and is waited for by the legacy stream */
    simt_graph *capture = nullptr;
    cudaStreamCaptureMode mode; /* of the capture */
    pthread_t capturer;
    bool broken = false; /* the capture is */
    simt_stream *next = nullptr;
    int users = 1; /* the program and events that were recorded on it */
};
struct simt_event {
    simt_stream *stream = nullptr; /* NULL: never recorded, done */
    uint64_t at = 0;
    double ms = 0; /* when it was passed */
};
static simt_stream legacy;
static simt_stream *all_streams = &legacy;

static void stream_drop(simt_stream *s) {
    if (s && --s->users == 0) delete s;
}

static void run_one(simt_stream *s) {
    simt_work *w = s->first;
    s->first = w->next;
    if (!s->first) s->last = nullptr;
    s->done++;
    w->run();
    if (!w->kept) delete w;
}

static void run_until(simt_stream *s, uint64_t at) {
    if (s->done >= at) return;
    memory_open();
    while (s->done < at && s->first) run_one(s);
    memory_close();
}

static void run_all(simt_stream *s) {
    run_until(s, s->submitted);
}

static void run_blocking(void) {
    for (simt_stream *s = all_streams; s; s = s->next)
        if (s->blocking) run_all(s);
}

static void run_everything(void) {
    for (simt_stream *s = all_streams; s; s = s->next) run_all(s);
}

static simt_stream *stream_of(cudaStream_t s) {
    return s ? s : &legacy;
}

/* Calls that no capture allows (allocations, waits): the capture of any thread in global mode, of
 * the calling one in thread-local mode, comes to nothing, and so does the call. */
static bool breaks_capture(void) {
    bool any = false;
    for (simt_stream *s = all_streams; s; s = s->next) {
        bool hit =
            s->capture && s->mode != cudaStreamCaptureModeRelaxed &&
            (s->mode == cudaStreamCaptureModeGlobal || pthread_equal(s->capturer, pthread_self()));
        s->broken |= hit;
        any |= hit;
    }
    return any;
}

#define QUEUE_MAX 10000 /* then it runs even if nobody waits */

static void submit(cudaStream_t handle, simt_work *w) {
    simt_stream *s = stream_of(handle);
    if (s->capture) {
        simt_graph *g = s->capture;
        w->kept = true;
        *(g->last ? &g->last->next : &g->first) = w;
        g->last = w;
        return;
    }
    if (s == &legacy) run_blocking();
    if (s->blocking && s != &legacy) run_all(&legacy);
    *(s->last ? &s->last->next : &s->first) = w;
    s->last = w;
    s->submitted++;
    if (settings()->eager || s->submitted - s->done > QUEUE_MAX) run_all(s);
}

template <class F> struct simt_call : simt_work {
    F f;
    explicit simt_call(F g) : f(g) {}
    void run() override { f(); }
};
template <class F> static void submit_call(cudaStream_t s, F f) {
    submit(s, new simt_call<F>(f));
}

/* For libraries that are made to work on this device (fake_cublaslt.c): f runs when its turn on the
 * stream comes, and may touch memory of the device. */
extern "C" __attribute__((visibility("default"))) void simt_submit(cudaStream_t s,
                                                                   void (*f)(void *), void *ctx) {
    locked l;
    submit_call(s, [f, ctx] { f(ctx); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned flags) {
    locked l;
    simt_stream *s = new simt_stream;
    s->blocking = !(flags & cudaStreamNonBlocking);
    s->next = all_streams;
    all_streams = *ret = s;
    return note(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *ret) {
    return cudaStreamCreateWithFlags(ret, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *ret, unsigned flags, int) {
    return cudaStreamCreateWithFlags(ret, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
    locked l;
    if (!s) return note(cudaErrorInvalidResourceHandle);
    run_all(s);
    for (simt_stream **p = &all_streams; *p; p = &(*p)->next)
        if (*p == s) {
            *p = s->next;
            break;
        }
    stream_drop(s);
    return note(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    locked l;
    simt_stream *s = stream_of(handle);
    if (s->capture) {
        s->broken = true;
        return note(cudaErrorStreamCaptureUnsupported);
    }
    if (s == &legacy) run_blocking();
    run_all(s);
    return note(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    locked l;
    simt_stream *s = stream_of(handle);
    if (sticky || s->done == s->submitted) return note(cudaSuccess);
    run_until(s, s->done + 1); /* so that who asks often enough is served */
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void) {
    locked l;
    if (breaks_capture()) return note(cudaErrorStreamCaptureUnsupported);
    run_everything();
    return note(cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    locked l;
    simt_stream *of = e->stream;
    uint64_t at = e->at;
    if (of && of != stream_of(s)) submit_call(s, [of, at] { run_until(of, at); });
    return note(cudaSuccess);
}

/* ---- Events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned) {
    *ret = new simt_event;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *ret) {
    return cudaEventCreateWithFlags(ret, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    locked l;
    if (e->stream) run_until(e->stream, e->at); /* its mark is in a queue */
    stream_drop(e->stream);
    delete e;
    return note(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    locked l;
    if (stream_of(s)->capture) return note(cudaErrorStreamCaptureUnsupported);
    submit_call(s, [e] {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        e->ms = (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
    });
    stream_of(s)->users++;
    stream_drop(e->stream);
    e->stream = stream_of(s);
    e->at = e->stream->submitted;
    return note(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    locked l;
    if (e->stream) run_until(e->stream, e->at);
    return note(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
    locked l;
    if (!e->stream || e->stream->done >= e->at) return note(cudaSuccess);
    run_until(e->stream, e->stream->done + 1);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ret_ms, cudaEvent_t from, cudaEvent_t to) {
    locked l;
    if (!from->stream || !to->stream) return note(cudaErrorInvalidResourceHandle);
    if (from->stream->done < from->at || to->stream->done < to->at) return note(cudaErrorNotReady);
    *ret_ms = (float)(to->ms - from->ms);
    return note(cudaSuccess);
}

/* ---- Graphs: the work itself, run as often as it is launched ---- */

static void graph_drop(simt_graph *g) {
    if (--g->users) return;
    while (g->first) {
        simt_work *w = g->first;
        g->first = w->next;
        delete w;
    }
    delete g;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
    locked l;
    if (!s || s->capture) return note(cudaErrorStreamCaptureUnsupported);
    s->capture = new simt_graph;
    s->mode = mode;
    s->capturer = pthread_self();
    s->broken = false;
    return note(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *ret) {
    locked l;
    if (!s || !s->capture) return note(cudaErrorInvalidValue);
    simt_graph *made = s->capture;
    s->capture = nullptr;
    *ret = s->broken ? nullptr : made;
    if (s->broken) graph_drop(made);
    return note(s->broken ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t g, unsigned long long) {
    locked l;
    g->users++;
    *ret = g;
    return note(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
    locked l;
    if (sticky) return note(sticky);
    for (simt_work *w = g->first; w; w = w->next) {
        faults.n_launches += w->is_launch();
        if (w->is_launch() && faults.n_launches == faults.launch_at)
            return note(cudaErrorLaunchOutOfResources);
        if (w->is_launch() && faults.n_launches == faults.lost_at) {
            sticky = cudaErrorIllegalAddress; /* noticed by whatever comes next */
            return cudaSuccess;
        }
    }
    g->users++;
    submit_call(s, [g] {
        for (simt_work *w = g->first; w; w = w->next) w->run();
        graph_drop(g);
    });
    return note(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
    locked l;
    graph_drop(g);
    return note(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    return cudaGraphExecDestroy(g);
}

/* ---- Launches ---- */

struct smem_limit {
    const void *f;
    size_t bytes;
};
static smem_limit smem_limits[4096];
static int n_smem_limits;

static size_t smem_limit_of(const void *f) {
    for (int i = 0; i < n_smem_limits; i++)
        if (smem_limits[i].f == f) return smem_limits[i].bytes;
    return 48 << 10;
}

cudaError_t simt_func_set_attribute(const void *f, cudaFuncAttribute attr, int value) {
    locked l;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize) return note(cudaSuccess);
    if (value < 0 || (size_t)value > settings()->smem_max) return note(cudaErrorInvalidValue);
    int i = 0;
    while (i < n_smem_limits && smem_limits[i].f != f) i++;
    if (i == 4096) simt_fail("more than 4096 kernels have a limit of shared memory");
    if (i == n_smem_limits) n_smem_limits++;
    smem_limits[i] = {f, (size_t)value};
    return note(cudaSuccess);
}

cudaError_t simt_func_get_attributes(cudaFuncAttributes *ret, const void *f) {
    locked l;
    memset(ret, 0, sizeof *ret);
    ret->maxThreadsPerBlock = 1024;
    ret->numRegs = 128;
    ret->binaryVersion = ret->ptxVersion = settings()->cc;
    ret->maxDynamicSharedSizeBytes = (int)smem_limit_of(f);
    return note(cudaSuccess);
}

static cudaError_t check_launch(const simt_launch *l) {
    dim3 g = l->grid, b = l->block;
    if (!g.x || !g.y || !g.z || !b.x || !b.y || !b.z) return cudaErrorInvalidConfiguration;
    if (g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) return cudaErrorInvalidConfiguration;
    if (b.x > 1024 || b.y > 1024 || b.z > 64) return cudaErrorInvalidConfiguration;
    if ((uint64_t)b.x * b.y * b.z > 1024) return cudaErrorInvalidConfiguration;
    if (l->smem > smem_limit_of(l->kernel)) return cudaErrorInvalidValue;
    return cudaSuccess;
}

void simt_launch::run() {
    block_run_grid(this);
}

void simt_submit(simt_launch *k, dim3 grid, dim3 block, size_t smem, cudaStream_t s) {
    locked l;
    watch_faults();
    k->grid = grid, k->block = block, k->smem = smem;
    cudaError_t e = check_launch(k);
    if (stream_of(s)->capture && !e && !sticky) { /* counted when the graph is launched */
        submit(s, k);
        return;
    }
    faults.n_launches++;
    if (!e && faults.n_launches == faults.launch_at) e = cudaErrorLaunchOutOfResources;
    if (e || sticky) {
        note(e);
        delete k;
        return;
    }
    if (faults.n_launches == faults.lost_at) { /* noticed by whatever comes next */
        sticky = cudaErrorIllegalAddress;
        delete k;
        return;
    }
    submit(s, k);
}

/* ---- Memory ---- */

struct pinned {
    char *at;
    size_t bytes;
    char *map; /* NULL: registered */
    size_t map_bytes;
    pinned *next;
    int n_due, n_done; /* copies into it: submitted and not yet run, run */
};
static pinned *all_pinned;

static pinned *pinned_of(const void *p, size_t n) {
    for (pinned *h = all_pinned; h; h = h->next)
        if ((const char *)p >= h->at && (const char *)p + n <= h->at + h->bytes) return h;
    return nullptr;
}

void simt_check_pointer(const char *kernel, int arg, const void *p) {
    locked l;
    if (!p || settings()->host_pointers || memory_host_view(p, 0) || pinned_of(p, 0)) return;
    char what[200] = "memory of the host that is not pinned";
    if (memory_is_device(p)) memory_describe(p, what, sizeof what);
    simt_fail("kernel %s, argument %d: %p is %s", kernel, arg, p, what);
}

cudaError_t cudaMalloc(void **ret, size_t bytes) {
    locked l;
    watch_faults();
    *ret = nullptr;
    if (sticky) return note(sticky);
    if (breaks_capture()) return note(cudaErrorStreamCaptureUnsupported);
    if (++faults.n_mallocs == faults.malloc_at) return note(cudaErrorMemoryAllocation);
    if (bytes == 0) return note(cudaSuccess);
    *ret = memory_alloc(bytes);
    return note(*ret ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void *p) {
    locked l;
    if (p && breaks_capture()) return note(cudaErrorStreamCaptureUnsupported);
    run_everything();
    if (p && !memory_free(p)) return note(cudaErrorInvalidValue);
    return note(cudaSuccess);
}

cudaError_t cudaHostAlloc(void **ret, size_t bytes, unsigned) {
    locked l;
    *ret = nullptr;
    if (sticky) return note(sticky);
    if (++faults.n_mallocs == faults.malloc_at) return note(cudaErrorMemoryAllocation);
    if (bytes == 0) return note(cudaSuccess);
    size_t take = (bytes + 255) / 256 * 256, pages = (take + 4095) / 4096 * 4096 + 4096;
    char *map = (char *)mmap(nullptr, pages, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return note(cudaErrorMemoryAllocation);
    mprotect(map + pages - 4096, 4096, PROT_NONE);
    char *at = map + pages - 4096 - take;
    memset(at, 0xff, bytes);
    all_pinned = new pinned{at, bytes, map, pages, all_pinned};
    *ret = at;
    return note(cudaSuccess);
}

cudaError_t cudaMallocHost(void **ret, size_t bytes) {
    return cudaHostAlloc(ret, bytes, cudaHostAllocDefault);
}

static cudaError_t pinned_drop(void *p, bool registered) {
    run_everything();
    for (pinned **at = &all_pinned; *at; at = &(*at)->next) {
        pinned *h = *at;
        if (h->at != p || (h->map == nullptr) != registered) continue;
        *at = h->next;
        if (h->map) munmap(h->map, h->map_bytes);
        delete h;
        return cudaSuccess;
    }
    return registered ? cudaErrorHostMemoryNotRegistered : cudaErrorInvalidValue;
}

cudaError_t cudaFreeHost(void *p) {
    locked l;
    return note(p ? pinned_drop(p, false) : cudaSuccess);
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned) {
    locked l;
    if (!p || !bytes) return note(cudaErrorInvalidValue);
    if (pinned_of(p, 1)) return note(cudaErrorHostMemoryAlreadyRegistered);
    all_pinned = new pinned{(char *)p, bytes, nullptr, 0, all_pinned, 0, 0};
    return note(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *p) {
    locked l;
    return note(pinned_drop(p, true));
}

cudaError_t cudaHostGetDevicePointer(void **ret, void *host, unsigned) {
    locked l;
    if (!pinned_of(host, 0)) return note(cudaErrorInvalidValue);
    *ret = host;
    return note(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *ret, const void *p) {
    locked l;
    bool device = memory_host_view(p, 0) != nullptr, host = pinned_of(p, 0) != nullptr;
    memset(ret, 0, sizeof *ret);
    ret->type = device ? cudaMemoryTypeDevice
                : host ? cudaMemoryTypeHost
                       : cudaMemoryTypeUnregistered;
    ret->devicePointer = device || host ? (void *)p : nullptr;
    ret->hostPointer = device ? nullptr : (void *)p;
    return note(cudaSuccess);
}

/* ---- Copies ---- */

enum place { DEVICE, PINNED, PAGEABLE, NOWHERE };

static place place_of(const void *p, size_t n) {
    if (memory_is_device(p)) return memory_host_view(p, n) ? DEVICE : NOWHERE;
    return pinned_of(p, n) ? PINNED : PAGEABLE;
}

static char *reach(const void *p, size_t n) {
    return memory_is_device(p) ? (char *)memory_host_view(p, n) : (char *)p;
}

static void copy_now(void *dst, const void *src, size_t n) {
    char *to = reach(dst, n), *from = reach(src, n);
    if (!to || !from) simt_fail("a copy of %zu bytes: its device memory was freed", n);
    memmove(to, from, n);
}

static bool direction_ok(cudaMemcpyKind kind, place dst, place src) {
    if (settings()->host_pointers) return true;
    switch (kind) {
    case cudaMemcpyHostToHost: return dst != DEVICE && src != DEVICE;
    case cudaMemcpyHostToDevice: return dst == DEVICE && src != DEVICE;
    case cudaMemcpyDeviceToHost: return dst != DEVICE && src == DEVICE;
    case cudaMemcpyDeviceToDevice: return dst == DEVICE && src == DEVICE;
    case cudaMemcpyDefault: return true;
    }
    return false;
}

/* Of bytes, to see that they are still the same. */
static uint64_t sum_of(const void *p, size_t n) {
    const unsigned char *at = (const unsigned char *)p;
    uint64_t h = n, word;
    for (; n >= 8; n -= 8, at += 8) {
        memcpy(&word, at, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; n; n--, at++) h = (h ^ *at) * 0x100000001b3u;
    return h;
}

/* The program must leave the source as it is; earlier work of streams may still fill it. */
static void copy_pinned(cudaStream_t s, void *dst, const void *src, size_t n) {
    pinned *from = pinned_of(src, n);
    int n_done = from->n_due ? -1 : from->n_done;
    uint64_t sum = from->n_due ? 0 : sum_of(src, n);
    submit_call(s, [dst, src, n, sum, from, n_done] {
        if (n_done == from->n_done && sum_of(src, n) != sum)
            simt_fail("pinned memory %p was changed while a copy of %zu bytes from it was under "
                      "way",
                      src, n);
        copy_now(dst, src, n);
    });
}

static void copy_into_pinned(cudaStream_t s, void *dst, const void *src, size_t n) {
    pinned *to = pinned_of(dst, n);
    to->n_due++;
    submit_call(s, [dst, src, n, to] {
        copy_now(dst, src, n);
        to->n_due--;
        to->n_done++;
    });
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, cudaMemcpyKind kind,
                            cudaStream_t s) {
    locked l;
    if (sticky) return note(sticky);
    if (n == 0) return note(cudaSuccess);
    place to = place_of(dst, n), from = place_of(src, n);
    if (to == NOWHERE || from == NOWHERE || !direction_ok(kind, to, from))
        return note(cudaErrorInvalidValue);
    if (from == PAGEABLE && !stream_of(s)->capture) { /* staged before the call returns */
        void *staged = malloc(n);
        if (!staged) return note(cudaErrorMemoryAllocation);
        memcpy(staged, src, n);
        submit_call(s, [dst, staged, n] {
            copy_now(dst, staged, n);
            free(staged);
        });
    } else if (from == PINNED && to == DEVICE && !stream_of(s)->capture) {
        copy_pinned(s, dst, src, n);
    } else if (to == PINNED && !stream_of(s)->capture) {
        copy_into_pinned(s, dst, src, n);
    } else {
        submit_call(s, [dst, src, n] { copy_now(dst, src, n); });
    }
    if (to == PAGEABLE && !stream_of(s)->capture) run_all(stream_of(s));
    return note(cudaSuccess);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, cudaMemcpyKind kind) {
    locked l;
    cudaError_t e = cudaMemcpyAsync(dst, src, n, kind, nullptr);
    run_all(&legacy);
    return e;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t s) {
    locked l;
    if (width > dst_pitch || width > src_pitch) return note(cudaErrorInvalidValue);
    for (size_t i = 0; i < height; i++) {
        cudaError_t e = cudaMemcpyAsync((char *)dst + i * dst_pitch,
                                        (const char *)src + i * src_pitch, width, kind, s);
        if (e) return e;
    }
    return note(cudaSuccess);
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t n, cudaStream_t s) {
    locked l;
    if (sticky) return note(sticky);
    if (n == 0) return note(cudaSuccess);
    place to = place_of(dst, n);
    if (to == NOWHERE || (to != DEVICE && !settings()->host_pointers))
        return note(cudaErrorInvalidValue);
    submit_call(s, [dst, byte, n] {
        if (!memory_is_device(dst))
            memset(dst, byte, n);
        else if (!memory_fill(dst, byte, n))
            simt_fail("a memset of %zu bytes: its memory was freed", n);
    });
    return note(cudaSuccess);
}

cudaError_t cudaMemset(void *dst, int byte, size_t n) {
    locked l;
    cudaError_t e = cudaMemsetAsync(dst, byte, n, nullptr);
    run_all(&legacy);
    return e;
}

/* ---- The device ---- */

cudaError_t cudaDriverGetVersion(int *ret) {
    *ret = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *ret) {
    *ret = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *ret) {
    *ret = (int)env_number("SIMT_DEVICES", 1);
    return *ret > 0 ? cudaSuccess : cudaErrorNoDevice;
}

static bool is_device(int device) {
    int n;
    return cudaGetDeviceCount(&n) == cudaSuccess && device >= 0 && device < n;
}

cudaError_t cudaSetDevice(int device) {
    locked l;
    read_faults();
    return note(is_device(device) ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaSetDeviceFlags(unsigned) {
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *ret) {
    *ret = 0;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void) {
    return cudaDeviceSynchronize();
}

cudaError_t cudaMemGetInfo(size_t *ret_free, size_t *ret_total) {
    locked l;
    *ret_total = memory_total();
    *ret_free = memory_total() - memory_used();
    return note(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    locked l;
    if (!is_device(device)) return note(cudaErrorInvalidDevice);
    const simt_settings *s = settings();
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated device");
    p->totalGlobalMem = s->device_bytes;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = s->smem_max;
    p->sharedMemPerMultiprocessor = s->smem_max + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 1536;
    p->maxBlocksPerMultiProcessor = 24;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = s->cc / 10, p->minor = s->cc % 10;
    p->multiProcessorCount = s->n_sms;
    p->clockRate = p->memoryClockRate = 1000000;
    p->memoryBusWidth = 128;
    p->l2CacheSize = 4 << 20;
    p->canMapHostMemory = p->unifiedAddressing = p->concurrentKernels = 1;
    p->asyncEngineCount = 1;
    return note(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *ret, cudaDeviceAttr attr, int device) {
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e) return e;
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock: *ret = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *ret = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrWarpSize: *ret = 32; break;
    case cudaDevAttrClockRate: *ret = p.clockRate; break;
    case cudaDevAttrMultiProcessorCount: *ret = p.multiProcessorCount; break;
    case cudaDevAttrIntegrated: *ret = 0; break;
    case cudaDevAttrCanMapHostMemory: *ret = 1; break;
    case cudaDevAttrMemoryClockRate: *ret = p.memoryClockRate; break;
    case cudaDevAttrGlobalMemoryBusWidth: *ret = p.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *ret = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *ret = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrUnifiedAddressing: *ret = 1; break;
    case cudaDevAttrComputeCapabilityMajor: *ret = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *ret = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *ret = (int)p.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *ret = (int)p.sharedMemPerBlockOptin; break;
    default: return note(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *ret, int len, int device) {
    if (!is_device(device)) return cudaErrorInvalidDevice;
    snprintf(ret, (size_t)len, "0000:00:%02x.0", device);
    return cudaSuccess;
}
