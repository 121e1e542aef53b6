/* Comparing rows with the reference: matrices with guards and poison, comparison, reporting.
 * A check prints one line when it fails and goes on; the program ends with the counts. */
#ifndef TESTS_KERNELS_CHECKKERN_H
#define TESTS_KERNELS_CHECKKERN_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/mem.h"
#include "kernels/backend.h"

typedef struct check_ctx {
    backend *ref;       /* isa ref, one thread */
    backend *be[3];     /* the level under test with 1, 2 and 3 (--threads) threads; a device: the
                         * same */
    int n_threads;      /* of be[2]; 0: 3 */
    int n_be;           /* 3, or 1 where it is a device */
    const char *isa;    /* the level's or device's name */
    const char *only;   /* the op to check, NULL for all */
    bool device, small; /* small: fewer and smaller shapes, for an emulated device */
    uint64_t seed;
    bool full;   /* more shapes, slower */
    int n_draws; /* of each distribution */
    int n_passed, n_failed;
} check_ctx;

/* Memory whose end, rounded up to 4 bytes, lies against an unmapped page: reading past it ends the
 * program. Ops of all backends reach it; for a real device it is its host_alloc, without fence.
 * All that an op's pointers lead to comes from here, but for what ops.h marks host. */
void *fenced_alloc(size_t bytes);
/* The same for packed weights and pages, 64-byte aligned where a device wants that. */
void *packed_alloc(size_t bytes);
void fenced_free(void *p);   /* takes NULL */
void fences_for(backend *b); /* from here on memory is for b; NULL or a CPU: ordinary */
/* Wait for what was called; a device that failed ends the program. */
void check_wait(backend *b);
/* Run an op and wait. */
#define CALL(b, op, args) ((b)->v->op((b), (args)), check_wait(b))
/* Whether an op is to be checked. */
bool check_wanted(const check_ctx *c, const char *op);

/* f32 rows inside a larger buffer: everything that is not an element of a row is a guard, and the
 * last element of the last row is fenced. */
typedef struct mat {
    int32_t rows, width;
    int64_t stride;
    float *p;    /* row 0 */
    float *base; /* the buffer */
    size_t n;    /* its floats; 0: a view, without guards */
} mat;
mat mat_new(int32_t rows, int32_t width, int64_t stride); /* all poison: a NaN of known bits */
/* A stride for rows of this width: rows that can begin at 16 bytes do, others do not, since kernels
 * may treat the two differently. */
static inline int64_t mat_stride(int32_t width) {
    return width + (width % 4 ? 3 : 4);
}
void mat_free(mat *m);
void mat_random(check_ctx *c, mat *m, float scale); /* roughly normal */
void mat_copy(mat *to, const mat *from);            /* elements of the rows */
bool mat_guards_ok(const mat *m);
mat mat_rows(const mat *m, int32_t row0, int32_t n); /* a view */

/* Next random numbers of the run. */
double check_uniform(check_ctx *c);
int32_t check_int(check_ctx *c, int32_t from, int32_t to); /* inclusive */

/* Count one case; on failure print what was compared. Format as printf: the case's name. */
bool check_that(check_ctx *c, bool ok, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* NaN and infinities at the same places, then ||got-want|| / ||want|| <= tol; guards of got. */
bool check_close(check_ctx *c, const mat *want, const mat *got, double tol, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* Rows [row0, row0+got->rows) of want are the rows of got, bit for bit. */
bool check_same(check_ctx *c, const mat *want, int32_t row0, const mat *got, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Tokens of some sequences, sequence after sequence, and the pages that they lie in: handed out in
 * random order. */
#define PAGING_SEQS 6
typedef struct paging {
    int32_t n_seqs, len[PAGING_SEQS], first[PAGING_SEQS]; /* first token */
    int32_t n_tokens, n_pages;
    int32_t *pages;             /* page ids, sequence after sequence */
    int32_t page0[PAGING_SEQS]; /* first of each */
    int32_t *pos;               /* [T] */
    int64_t *slot;              /* [T] */
    float *cosines, *sines;     /* [max_pos,rope_dim/2] */
} paging;
paging paging_new(check_ctx *c, int32_t n_seqs, const int32_t *len, int32_t page_tokens,
                  int32_t rope_dim);
void paging_free(paging *p);
/* Rows pos0 .. pos0+n-1 of sequence i; row0 counts in the buffer of all tokens. */
attn_seq paging_rows(const paging *p, int32_t i, int32_t pos0, int32_t n, int32_t prefix);

/* A copy where ops read it; fenced_free. */
attn_seq *seqs_dev(int32_t n, const attn_seq *seqs);

/* A packed copy of w for a backend, in three uneven ranges, on packed_alloc. */
wmat wmat_new(backend *b, const mat *w, dtype dt);
void wmat_free(wmat *w);

/* A quantised matrix of random values on fenced memory, and the same values as f32 weights. spec:
 * of codes, read for those alone. */
void quant_wmats_new(check_ctx *c, backend *b, dtype dt, quant_spec spec, int32_t n, int32_t k,
                     wmat *ret_quant, wmat *ret_values);

/* Tolerance of an op from ops.def: narrow where a 16-bit type takes part. */
double check_tol(const char *op, bool narrow);
/* Of attention over keys and values in eight bits, where both sides read the same stored values:
 * but a key that is rotated with other roundings may fall to the neighbouring code. */
#define CHECK_KV8_TOL 1e-2

void check_gemm(check_ctx *c);
void check_feed(check_ctx *c);
void check_quant(check_ctx *c);
void check_attention(check_ctx *c);
void check_latent(check_ctx *c);
void check_lora(check_ctx *c);
void check_experts(check_ctx *c);
void check_ops(check_ctx *c);
void check_sample(check_ctx *c);
void check_quantize(check_ctx *c);

#endif
