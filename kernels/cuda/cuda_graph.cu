/* Recorded steps (graphs.h) as CUDA graphs.
 *
 * Recording needs a stream of its own: threads that load adapters or move pages go on using the
 * main one meanwhile, and what they submit must not become part of a graph. So `stream`, which ops
 * launch on, is the recording one between begin and end; everything else uses `main`. Calls of the
 * recording thread that no graph can hold (copies, memory, scratch that grows) are refused, which
 * fails the recording and nothing else: the step then runs op by op.
 *
 * A graph holds the addresses of scratch: when scratch moves, all graphs go.
 *
 * Replays are ordered on the main stream like any launch. A failure on the device shows where any
 * shows: at the next wait. */
#include <pthread.h>

#include "kernels/cuda/cuda_backend.h"

extern "C" {
#include "engine/base/mem.h"
}

typedef struct graph {
    int64_t key;
    cudaGraphExec_t exec;
} graph;

struct cuda_graphs {
    cudaStream_t stream;
    pthread_t recorder;
    bool recording; /* atomic */
    bool failed;    /* the recording has */
    graph *all;     /* [n], room for cap */
    int n, cap;
};

bool cuda_recording(const cuda_backend *c) {
    const struct cuda_graphs *g = __atomic_load_n(&c->graphs, __ATOMIC_ACQUIRE);
    return g && __atomic_load_n(&g->recording, __ATOMIC_ACQUIRE) &&
           pthread_equal(g->recorder, pthread_self());
}

bool cuda_refuse(cuda_backend *c) {
    if (!cuda_recording(c)) return false;
    c->graphs->failed = true;
    return true;
}

bool cuda_recording_failed(const cuda_backend *c) {
    return cuda_recording(c) && c->graphs->failed;
}

static void drop_all(struct cuda_graphs *g) {
    for (int i = 0; i < g->n; i++) cudaGraphExecDestroy(g->all[i].exec);
    g->n = 0;
}

void cuda_graphs_drop(cuda_backend *c) {
    if (!c->graphs || !c->graphs->n) return;
    cudaStreamSynchronize(c->main); /* a launched one may still run */
    drop_all(c->graphs);
}

void cuda_graphs_free(cuda_backend *c) {
    struct cuda_graphs *g = c->graphs;
    if (!g) return;
    cuda_graphs_drop(c);
    mem_free(g->all);
    if (g->stream) cudaStreamDestroy(g->stream);
    mem_free(g);
    c->graphs = NULL;
}

static struct cuda_graphs *graphs_of(cuda_backend *c) {
    if (c->graphs) return c->graphs;
    struct cuda_graphs *g = (struct cuda_graphs *)mem_calloc(1, sizeof *g);
    if (cudaStreamCreateWithFlags(&g->stream, cudaStreamNonBlocking) != cudaSuccess)
        g->stream = NULL;
    __atomic_store_n(&c->graphs, g, __ATOMIC_RELEASE); /* other threads look: cuda_recording */
    return g;
}

static bool graph_begin(backend *b) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || c->sync_ops) return false; /* a wait cannot be recorded */
    struct cuda_graphs *g = graphs_of(c);
    /* The calls of other threads are none of this recording's business. */
    if (!g->stream ||
        cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    g->failed = false;
    g->recorder = pthread_self();
    __atomic_store_n(&g->recording, true, __ATOMIC_RELEASE);
    c->stream = g->stream;
    return true;
}

static void forget(struct cuda_graphs *g, int64_t key) {
    for (int i = 0; i < g->n; i++) {
        if (g->all[i].key != key) continue;
        cudaGraphExecDestroy(g->all[i].exec);
        g->all[i] = g->all[--g->n];
        return;
    }
}

static void keep(struct cuda_graphs *g, graph one) {
    if (g->n == g->cap) {
        g->cap = MAX(16, 2 * g->cap);
        g->all = (graph *)mem_realloc(g->all, (size_t)g->cap * sizeof *g->all);
    }
    g->all[g->n++] = one;
}

static bool graph_end(backend *b, int64_t key) {
    cuda_backend *c = cuda_of(b);
    struct cuda_graphs *g = c->graphs;
    cudaGraph_t made = NULL;
    graph one = {key, NULL};
    cudaError_t e = cudaStreamEndCapture(g->stream, &made);
    c->stream = c->main;
    bool ok = e == cudaSuccess && !g->failed && cuda_ready(c);
    __atomic_store_n(&g->recording, false, __ATOMIC_RELEASE);
    if (ok) ok = cudaGraphInstantiate(&one.exec, made, 0) == cudaSuccess;
    if (made) cudaGraphDestroy(made);
    cudaGetLastError();
    if (!ok) return false;
    forget(g, key);
    keep(g, one);
    return true;
}

static bool graph_run(backend *b, int64_t key) {
    cuda_backend *c = cuda_of(b);
    struct cuda_graphs *g = c->graphs;
    for (int i = 0; g && i < g->n; i++) {
        if (g->all[i].key != key) continue;
        if (!cuda_ready(c)) return true;
        cudaError_t e = cuda_fault(c, "graph") ? cudaErrorLaunchFailure
                                               : cudaGraphLaunch(g->all[i].exec, c->main);
        cuda_note(c, e, "graph");
        return true;
    }
    return false;
}

static void graph_drop(backend *b) {
    cuda_graphs_drop(cuda_of(b));
}

const graphs cuda_graph_calls = {
    cuda_graph_plan_bytes, cuda_graph_plan, graph_begin, graph_end, graph_run, graph_drop};
