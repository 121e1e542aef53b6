/* A backend: memory, packed weights and one function per op. CPU is built in; others are opened
 * by name. Ops come from one thread (the engine's); a call returns when its result is there or is
 * ordered before every later call on the same backend. Memory, copies and packing may come from
 * any thread; threads that load while others compute never touch the same memory. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "kernels/ops.h"

typedef struct backend backend;

#define BACKEND_MARKS 4

/* How activations would be rounded: quant_spec.act and act_group. */
typedef struct act_rounding {
    act_round act;
    int32_t act_group;
} act_rounding;

/* The largest calls that a program will make: what decides the memory that ops need beside their
 * arguments. Zero: no such calls. */
typedef struct op_bounds {
    int32_t n_tokens, n_seqs; /* rows of a product or of attention; sequences of a call */
    int32_t max_len;          /* positions of a sequence */
    int32_t n_rows, vocab;    /* of logsumexp and sample */
    int64_t n_edits;          /* of sample */
    int32_t n_heads, n_kv_heads, value_width; /* of attention; latent: one kv head, width L */
    const wmat *mats; /* [n_mats] matrices of products: n, k, dt, q; data is not read */
    int32_t n_mats;
    int32_t n_expert_layers, n_experts, top_k, width, ffn; /* of experts */
    bool gated;
    int32_t lora_rank; /* of lora beside the products */
} op_bounds;

typedef struct backend_vtbl {
    void (*close)(backend *b);
    /* The calling thread is the one that ops will come from; NULL: it makes no difference. */
    void (*enter)(backend *b);
    /* Memory of the backend, at least 64-byte aligned, zeroed. NULL ret on ERR_NOMEM. Where
     * host_memory is false the program must not touch it but by upload and download. */
    status (*mem_alloc)(backend *b, size_t bytes, void **ret, error *err);
    void (*mem_free)(backend *b, void *p, size_t bytes);
    /* Memory that both the program and the ops reach, for staging; zeroed. */
    status (*host_alloc)(backend *b, size_t bytes, void **ret, error *err);
    void (*host_free)(backend *b, void *p, size_t bytes);
    /* Bytes of the backend's memory; NULL where it is the host's. */
    status (*mem_info)(backend *b, size_t *ret_free, size_t *ret_total, error *err);
    /* Copies between the two, ordered with the ops. After upload src may be used again (where it
     * is host_alloc'ed: after the next download, sync, or wait for a later mark); after download
     * dst is filled. */
    void (*upload)(backend *b, void *dst, const void *src, size_t bytes);
    void (*download)(backend *b, void *dst, const void *src, size_t bytes);
    /* The same as download without the wait, into host_alloc'ed memory: dst is filled when a mark
     * set after it was waited for. mark(i) notes all that was queued so far, 0 <= i <
     * BACKEND_MARKS; wait(i) waits until what mark i noted is done, then i may be set again; its
     * failures are those of sync. */
    void (*fetch)(backend *b, void *dst, const void *src, size_t bytes);
    void (*mark)(backend *b, int i);
    status (*wait)(backend *b, int i, error *err);
    /* n pieces of `bytes` bytes, strides apart, from the backend's memory to host_alloc'ed memory
     * or the other way: ordered with the ops, and nobody waits. The program may touch the host's
     * side when it might after upload or fetch. */
    void (*copy_pieces)(backend *b, void *dst, size_t dst_stride, const void *src,
                        size_t src_stride, size_t bytes, int32_t n);
    /* From here to rejoin, copy_pieces runs beside the ops queued after this call, which must not
     * touch the same memory. It begins after all that is queued so far; what is queued after
     * rejoin begins after it. */
    void (*aside)(backend *b);
    void (*rejoin)(backend *b);
    /* Wait for all ops. The first failure of the device since it was opened, for good: the results
     * since then are worth nothing. */
    status (*sync)(backend *b, error *err);
    /* Bytes that a packed [n,k] matrix of storage type dt takes. */
    size_t (*wmat_bytes)(backend *b, int32_t n, int32_t k, dtype dt);
    /* Describe a matrix over memory of wmat_bytes() that the caller owns. */
    void (*wmat_init)(backend *b, wmat *w, int32_t n, int32_t k, dtype dt, void *data);
    /* Pack rows [row0, row0+n_rows) from row-major src (src_dt, row stride in elements), converting
     * to w->dt. Any range may be packed; different ranges may be packed by different threads at
     * once if they start at multiples of pack_rows. All rows are packed before the first gemm. */
    void (*wmat_pack)(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *src,
                      dtype src_dt, int64_t src_stride);
    int32_t pack_rows;
    bool embed_packed; /* embed reads rows of packed floats: a tied head needs no table beside it */
    /* The same for quantised storage (quant.h); spec is NULL for GGUF types. quant_pack takes
     * n_rows stored rows, one after another; any range, by any thread. quant_side writes what
     * belongs to all rows (order, table: NULL where the spec has none), before rows of a matrix
     * that has such are packed. */
    size_t (*quant_bytes)(backend *b, int32_t n, int32_t k, dtype dt, const quant_spec *spec);
    void (*quant_init)(backend *b, wmat *w, int32_t n, int32_t k, dtype dt, const quant_spec *spec,
                       void *data);
    void (*quant_pack)(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *rows);
    void (*quant_side)(backend *b, wmat *w, const int32_t *order, const float *table);
    /* The rounding of activations to int8 codes with which this backend multiplies matrices of k
     * columns of such storage fastest, by products of codes; ACT_ROUND_NONE: it does not, and f32
     * is as good. For specs that ask for no rounding themselves. The caller sets it in the spec of
     * quant_bytes and quant_init, or does not, which is exact. NULL: never. */
    act_rounding (*native_act)(backend *b, dtype dt, const quant_spec *spec, int32_t k);
    /* What gemm and experts make of rows of `a` before they multiply them by w: a product of rows
     * that are stored so is the same to the bit, and quicker. DT_F32: nothing. NULL: never. */
    dtype (*feed_dt)(backend *b, const wmat *w);
    /* Bytes of the backend's memory that ops take beside their arguments in calls within the
     * bounds: part of a memory plan, asked before anything is allocated. */
    size_t (*scratch_bytes)(backend *b, const op_bounds *o);
    /* Take them now: within the bounds no op allocates afterwards. Beyond them ops go on to take
     * what they need, at the cost of a wait. Both NULL where ops need nothing. */
    status (*reserve)(backend *b, const op_bounds *o, error *err);
    /* Let large 16-bit products be the vendor's library's from now on; a row's bits then depend on
     * the batch and the run. ERR_NOT_FOUND: the library is not there. NULL: there is none. */
    status (*use_library)(backend *b, error *err);
    const struct loading *loading; /* loading.h; NULL: wmat_pack and upload are all there is */
    const char *kernels; /* what serves which op, as a table for people; NULL: rows of the CPU */
    const struct measure *measure; /* measure.h; NULL: the host's clock is good enough */
    const struct graphs *graphs;   /* graphs.h; NULL: ops are launched one by one */
#define OP(name, tol32, tol16, what) void (*name)(backend * b, const op_##name *a);
#include "kernels/ops.def"
#undef OP
    /* fn(ctx, i, member) for every i < n, by at most `most` threads at once; member < most tells
     * them apart. Work of the program's own on rows in its memory, between ops. NULL: there is
     * nobody but the caller. */
    void (*spread)(backend *b, int32_t n, int32_t most,
                   void (*fn)(void *ctx, int32_t i, int member), void *ctx);
    /* Optional: NULL where the host samples from logits that it fetches. */
    void (*sample)(backend *b, const op_sample *a);
} backend_vtbl;

struct backend {
    const backend_vtbl *v;
    const char *name; /* "cpu" */
    char device[96];  /* for people: "2 threads, avx512-bf16" */
    char layout[32];  /* where host_memory: packed bytes are the same for the same text and build */
    int n_threads;
    bool host_memory; /* mem_alloc gives ordinary memory */
};

/* Each thread on a CPU of its own. Auto: where the memory is in several nodes and there is a thread
 * for every usable CPU; elsewhere the kernel does as well, and several programs get along better.
 */
typedef enum cpu_pinning { PIN_AUTO, PIN_ON, PIN_OFF } cpu_pinning;

typedef struct cpu_options {
    int n_threads;   /* 0: one per usable CPU */
    const char *isa; /* NULL or "auto": best; else a level's name (select.h) */
    cpu_pinning pin;
} cpu_options;

/* Open the CPU backend. ERR_INVALID for an unknown or unusable isa, naming what this CPU has. */
NODISCARD status backend_cpu_open(const cpu_options *o, backend **ret, error *err);
void backend_close(backend *b); /* takes NULL */
/* Which row serves which op, as a table for people (--print-kernels). */
void backend_print_kernels(const backend *b, strbuf *out);

#endif
