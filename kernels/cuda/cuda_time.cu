/* The device's clock. What is timed is captured into a graph and replayed, since the launches of
 * small kernels one by one are slower than the kernels. The plain run before it grows scratch,
 * loads modules and lets libraries choose: none of that may happen in a capture. Where a capture is
 * refused all the same (an op that has to copy from ordinary memory, say), the plan is launched
 * plainly between the events, and the caller is told. */
#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
}

typedef struct stopwatch {
    cudaEvent_t from, to;
    cudaGraphExec_t exec; /* NULL: plain launches */
} stopwatch;

static void run_all(const measure_plan *p) {
    for (int i = 0; i < p->n; i++) p->run(p->ctx, i);
}

/* A refused capture leaves notes of failure behind that mean nothing; what is really wrong shows
 * again in the plain launches. */
static void capture(cuda_backend *c, const measure_plan *p, stopwatch *w) {
    cudaGraph_t graph = NULL;
    if (cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeRelaxed) != cudaSuccess) {
        cudaGetLastError();
        return;
    }
    run_all(p);
    cudaError_t e = cudaStreamEndCapture(c->stream, &graph);
    if (e == cudaSuccess && cuda_ready(c)) e = cudaGraphInstantiate(&w->exec, graph, 0);
    if (e != cudaSuccess) w->exec = NULL;
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    __atomic_store_n(&c->failed, cudaSuccess, __ATOMIC_RELEASE);
}

static cudaError_t replay(cuda_backend *c, const measure_plan *p, const stopwatch *w,
                          double *ret_us) {
    float ms = 0;
    cudaError_t e = cudaEventRecord(w->from, c->stream);
    if (e == cudaSuccess && w->exec) e = cudaGraphLaunch(w->exec, c->stream);
    if (!w->exec) run_all(p);
    if (e == cudaSuccess) e = cudaEventRecord(w->to, c->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(c->stream);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, w->from, w->to);
    *ret_us = 1e3 * ms;
    return e;
}

status cuda_time(backend *b, const measure_plan *p, double *ret_us, bool *ret_graph, error *err) {
    cuda_backend *c = cuda_of(b);
    stopwatch w = {NULL, NULL, NULL};
    bool wait = c->sync_ops;
    c->sync_ops = false; /* a wait cannot be captured */
    run_all(p);
    status st = b->v->sync(b, err);
    if (st == OK) {
        cudaError_t e = cudaEventCreateWithFlags(&w.from, cudaEventDefault);
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&w.to, cudaEventDefault);
        if (e == cudaSuccess) capture(c, p, &w);
        double warm;
        for (int i = -1; i < p->replays && e == cudaSuccess && cuda_ready(c); i++)
            e = replay(c, p, &w, i < 0 ? &warm : &ret_us[i]);
        cuda_note(c, e, "a measurement");
        st = b->v->sync(b, err);
    }
    *ret_graph = w.exec != NULL;
    if (w.exec) cudaGraphExecDestroy(w.exec);
    if (w.from) cudaEventDestroy(w.from);
    if (w.to) cudaEventDestroy(w.to);
    c->sync_ops = wait;
    return st;
}

void cuda_stamp(backend *b, int i) {
    cuda_backend *c = cuda_of(b);
    CHECK(i >= 0 && i < MEASURE_STAMPS);
    if (!cuda_ready(c)) return;
    if (!c->stamps) c->stamps = (cudaEvent_t *)mem_calloc(MEASURE_STAMPS, sizeof *c->stamps);
    cudaError_t e = cudaSuccess;
    if (!c->stamps[i]) e = cudaEventCreateWithFlags(&c->stamps[i], cudaEventDefault);
    if (e == cudaSuccess) e = cudaEventRecord(c->stamps[i], c->main);
    cuda_note(c, e, "a stamp");
}

double cuda_between(backend *b, int i, int j) {
    cuda_backend *c = cuda_of(b);
    float ms = 0;
    CHECK(c->stamps && c->stamps[i] && c->stamps[j]);
    if (!cuda_ready(c)) return 0;
    cudaError_t e = cudaEventSynchronize(c->stamps[j]);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, c->stamps[i], c->stamps[j]);
    return cuda_note(c, e, "a stamp") ? 1e3 * ms : 0;
}

void cuda_stamps_free(cuda_backend *c) {
    for (int i = 0; c->stamps && i < MEASURE_STAMPS; i++)
        if (c->stamps[i]) cudaEventDestroy(c->stamps[i]);
    mem_free(c->stamps);
    c->stamps = NULL;
}
