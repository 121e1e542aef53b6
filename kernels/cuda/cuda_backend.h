/* The inside of the CUDA backend: what its .cu files share. One object per device; ops are launched
 * on one stream by one thread.
 *
 * Memory layouts (the backend's own business, backend.h):
 *   wmat of f32, f16, bf16   [N][ld] row-major, ld = K rounded up to 16 bytes, the padding zero
 *   wmat of quantised types  cuda_quant_layout.h
 *   KV pages                 [P][G][S][D], keys and values alike
 *   latent pages             [P][S][L+R]
 *
 * A failing launch or call is kept in `failed`; ops after it do nothing, and sync reports it. */
#ifndef KERNELS_CUDA_CUDA_BACKEND_H
#define KERNELS_CUDA_CUDA_BACKEND_H

#include "kernels/cuda/cu.h"
#include "kernels/cuda/cu_pdl.h"

extern "C" {
#include "kernels/graphs.h"
#include "kernels/measure.h"
}

typedef struct cuda_backend {
    backend base;
    int device;
    int n_sms, cc;       /* cc: 80, 89, 90 ... */
    size_t smem_max;     /* dynamic shared memory that a block can have */
    size_t total_bytes;  /* of the device's memory */
    cudaStream_t stream; /* of ops: main, or what a graph is recorded on */
    cudaStream_t main;   /* of all else; other threads may use no other */
    cudaEvent_t marks[BACKEND_MARKS];
    cudaStream_t load_stream; /* of weights on their way (cuda_loading.cu), NULL before the first */
    cudaError_t failed;       /* first failure */
    const char *failed_in;    /* the op or call */
    bool early;               /* kernels may begin beside the one before: cu_pdl.h */
    bool sync_ops;            /* wait after every op, so that a failure names its op */
    void *ws;                 /* scratch of the op under way */
    size_t ws_bytes;
    struct cuda_staging *staging;
    const char *fault; /* tests: "NAME:N": the N-th use of the op or call of that name fails */
    int fault_left;
    struct cuda_columns *columns; /* orders of columns (cuda_quant_pack.cu) */
    struct cuda_tables *tables;   /* descriptions of experts (cuda_experts.cu) */
    struct cuda_probes *probes;   /* what measurements keep (cuda_probe.cu) */
    struct cuda_library *library; /* of large products, NULL: not asked for (cuda_library.cu) */
    cudaEvent_t *stamps;          /* [MEASURE_STAMPS], NULL before the first (cuda_time.cu) */
    struct cuda_attn *attn;       /* plans of attention, NULL before the first; cuda_attention.cu */
    struct cuda_attn_fixed *attn_fixed; /* the same for graphs; cuda_attn_graph.cu */
    struct cuda_graphs *graphs;         /* cuda_graph.cu */
    struct cuda_pieces *pieces;         /* copies beside the ops, NULL before the first */
} cuda_backend;

static inline cuda_backend *cuda_of(backend *b) {
    return (cuda_backend *)b;
}
/* Leading dimension (elements) of a matrix of floats. */
static inline int64_t cuda_ld(dtype dt, int32_t k) {
    int64_t per = 16 / (int64_t)dtype_bytes(dt);
    return (k + per - 1) / per * per;
}

/* Scratch for one op, at least 256-byte aligned, valid until the next call; NULL after a failure:
 * the op then returns at once. */
void *cuda_scratch(cuda_backend *c, size_t bytes);
/* Let scratch have at least so many bytes from now on. */
status cuda_scratch_reserve(cuda_backend *c, size_t bytes, error *err);
/* Before a launch with `bytes` of dynamic shared memory of a kernel that has `fixed` of its own:
 * let it have all that there is, not just these, since calls with fewer would take it back from
 * graphs and backends that were promised more. False after a failure. */
bool cuda_allow_shared(cuda_backend *c, const void *kernel, size_t bytes, size_t fixed);
/* True when nothing failed so far. Every op begins with it and ends with cuda_launched. */
bool cuda_ready(const cuda_backend *c);
/* Take note of a launch error (and wait, with sync_ops). */
void cuda_launched(cuda_backend *c, const char *op);
/* Note the result of a runtime call; true when it succeeded. Any thread. */
bool cuda_note(cuda_backend *c, cudaError_t e, const char *what);
/* True where a test wants this use of `what` to fail. */
bool cuda_fault(cuda_backend *c, const char *what);

/* Pinned memory through which ordinary memory reaches the device (cuda_staging.cu). NULL and *ret
 * on failure. */
struct cuda_staging *cuda_staging_new(cudaError_t *ret);
void cuda_staging_free(struct cuda_staging *s);

/* cuda_pieces.cu */
void cuda_copy_pieces(backend *b, void *dst, size_t dst_stride, const void *src, size_t src_stride,
                      size_t bytes, int32_t n);
void cuda_aside(backend *b);
void cuda_rejoin(backend *b);
void cuda_pieces_free(cuda_backend *c);

extern const struct loading cuda_load_slots; /* cuda_loading.cu */
/* Packing, from any thread: backend.h. */
void cuda_wmat_pack(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *src,
                    dtype src_dt, int64_t src_stride);
size_t cuda_quant_bytes(backend *b, int32_t n, int32_t k, dtype dt, const quant_spec *spec);
void cuda_quant_init(backend *b, wmat *w, int32_t n, int32_t k, dtype dt, const quant_spec *spec,
                     void *data);
void cuda_quant_pack(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *rows);
void cuda_quant_side(backend *b, wmat *w, const int32_t *order, const float *table);
/* Bytes to the device, behind what was put before (cuda_staging.cu). Any thread. */
void cuda_put_bytes(cuda_backend *c, void *dst, const void *src, size_t n);
/* Orders of columns that packing keeps (cuda_quant_pack.cu). */
void cuda_columns_free(cuda_backend *c);
dtype cuda_feed_dt(backend *b, const wmat *w); /* cuda_gemm.cu */

/* Recording (cuda_graph.cu). Is this thread recording? */
bool cuda_recording(const cuda_backend *c);
/* True where this thread is recording, which then fails: for what cannot be recorded. */
bool cuda_refuse(cuda_backend *c);
bool cuda_recording_failed(const cuda_backend *c);
void cuda_graphs_drop(cuda_backend *c); /* takes a backend without graphs */
void cuda_graphs_free(cuda_backend *c);
size_t cuda_graph_plan_bytes(backend *b, const graph_room *r);
int32_t cuda_graph_plan(backend *b, const graph_room *r, const attn_seq *seqs, void *host);
extern const graphs cuda_graph_calls;

/* Free what cuda_experts keeps; takes a backend that kept nothing. */
void cuda_tables_free(cuda_backend *c);
/* Free c->attn, before memory goes. */
void cuda_attn_done(cuda_backend *c);

/* Memory of ops beside their arguments: backend.h, cuda_reserve.cu. */
size_t cuda_scratch_bytes(backend *b, const op_bounds *o);
status cuda_reserve(backend *b, const op_bounds *o, error *err);
/* Scratch of the largest call within the bounds; of cuda_gemm: of any call with m rows. */
size_t cuda_gemm_need(const cuda_backend *c, const wmat *w, int32_t m);
size_t cuda_experts_need(const cuda_backend *c, const op_bounds *o);
size_t cuda_lora_need(const op_bounds *o);
size_t cuda_attention_need(const cuda_backend *c, const op_bounds *o);
size_t cuda_logsumexp_need(int32_t n_rows, int32_t vocab);
size_t cuda_sample_need(int32_t n_rows, int32_t vocab, int64_t n_edits);
/* What the two keep between calls. */
size_t cuda_attention_plans_need(const cuda_backend *c, const op_bounds *o);
status cuda_attention_reserve(cuda_backend *c, const op_bounds *o, error *err);
size_t cuda_experts_tables_need(const op_bounds *o);
status cuda_experts_reserve(cuda_backend *c, const op_bounds *o, error *err);

extern const char cuda_kernels[]; /* cuda_table.cu */

status cuda_use_library(backend *b, error *err);
void cuda_library_free(cuda_backend *c); /* takes a backend that uses none */

/* Measurements: measure.h. */
status cuda_time(backend *b, const measure_plan *p, double *ret_us, bool *ret_graph, error *err);
status cuda_probe(backend *b, const probe_work *w, error *err);
void cuda_stamp(backend *b, int i);
double cuda_between(backend *b, int i, int j);
void cuda_stamps_free(cuda_backend *c); /* takes a backend that has none */
void cuda_probes_free(cuda_backend *c); /* takes a backend that measured nothing */

/* One function per op of ops.def. */
#define OP(name, tol32, tol16, what) void cuda_##name(backend *b, const op_##name *a);
#include "kernels/ops.def"
#undef OP
void cuda_sample(backend *b, const op_sample *a);

#endif
