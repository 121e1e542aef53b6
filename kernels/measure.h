/* Measurements on a device: a clock that sees what the device does and not the program's launches,
 * and the ceilings that figures are compared with. For benchmarks; no op needs it. */
#ifndef KERNELS_MEASURE_H
#define KERNELS_MEASURE_H

#include "kernels/backend.h"

/* run(ctx, 0) .. run(ctx, n-1) call ops and probes of the backend, nothing else: no copies, no
 * sync. The host data that they read stays until the measurement ends. */
typedef struct measure_plan {
    void (*run)(void *ctx, int i);
    void *ctx;
    int n, replays; /* both >= 1 */
} measure_plan;

/* READ: all of src, of which only a sum of its words is kept: dst has 8 bytes. COPY: src to dst.
 * Sizes are multiples of 16, memory is the backend's.
 * MATMUL: out[M,N] = a[M,K] . w[N,K]^T by the vendor's library, of a and w bf16 or f8_e4m3 (dt),
 * out bf16, rows without gaps. */
typedef enum probe_kind { PROBE_READ, PROBE_COPY, PROBE_MATMUL } probe_kind;
typedef struct probe_work {
    probe_kind kind;
    const void *src;
    void *dst;
    size_t bytes;
    int32_t m, n, k;
    dtype dt;
    const void *a, *w;
    void *out;
} probe_work;

#define MEASURE_STAMPS 512
typedef struct measure {
    /* Run the plan once, then `replays` times with a clock of the device around each: ret_us[i] is
     * the time of all n of replay i. *ret_graph: they were replayed as one captured graph, so that
     * launches cost the device almost nothing; false where the device would not capture them.
     * ERR_DEVICE as by sync. */
    status (*time)(backend *b, const measure_plan *p, double *ret_us, bool *ret_graph, error *err);
    /* Note when the device gets to here, behind all that was queued so far; 0 <= i <
     * MEASURE_STAMPS. Costs the program about a microsecond. */
    void (*stamp)(backend *b, int i);
    /* From stamp i to stamp j in us, both passed (waits for j). 0 after a failure. */
    double (*between)(backend *b, int i, int j);
    /* Begin a probe, ordered like an op. ERR_NOT_FOUND: the vendor's library is not there, and
     * where it was looked for. ERR_UNSUPPORTED: it has no product of this shape. */
    status (*probe)(backend *b, const probe_work *w, error *err);
} measure;

#endif
