/* What the parts of bench_gpu share: random data on the device, cases, ceilings, the report. */
#ifndef TESTS_GPU_GPU_BENCH_H
#define TESTS_GPU_GPU_BENCH_H

#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "kernels/measure.h"

/* What a case's target is a fraction of, or its unit. */
typedef enum goal {
    GOAL_NONE,
    GOAL_READ,   /* fraction of the read-only stream */
    GOAL_COPY,   /* fraction of the copy, bytes read and written */
    GOAL_BF16,   /* fraction of the bf16 product's peak */
    GOAL_TFLOPS, /* at least */
    GOAL_US      /* at most, of one launch */
} goal;

typedef struct gpu_bench {
    backend *be;
    bool tiny, quick;
    const char *line;                       /* only cases of this line; NULL: all */
    double read_gbs, copy_gbs, bf16_tflops; /* of this run; 0: not measured */
    float *normals;                         /* numbers of a normal distribution, N(0,1) */
    uint16_t *normals16;                    /* the same as bf16 */
    size_t n_normals;
    uint64_t n_drawn; /* of buffers, for their places in the pool */
    strbuf json;      /* elements of "cases" */
    int n_cases, n_failed, n_met, n_with_goal;
} gpu_bench;

/* One case: run(ctx, i) is launch i. */
typedef struct gpu_case {
    const char *line; /* "G6" */
    char name[96];
    double bytes, flops; /* of one launch: the fewest bytes, the products and sums */
    goal goal;
    double target;
    void (*run)(void *ctx, int i);
    void *ctx;
    float *out; /* poisoned before; all of it must be finite after. NULL: nothing to look at */
    size_t n_out;
    double beside_us; /* of the vendor's library on the same shape; 0: none */
} gpu_case;

/* True when cases of the line are asked for. */
bool bench_wants(const gpu_bench *g, const char *line);
/* Time and report a case; the median in us, 0 where it failed. */
double bench_case(gpu_bench *g, const gpu_case *c);
/* Report a case that cannot be timed. */
void bench_absent(gpu_bench *g, const char *line, const char *name, const char *why);

/* Memory of the device; a refusal ends the program. */
void *bench_alloc(gpu_bench *g, size_t bytes);
void bench_free(gpu_bench *g, void *p, size_t bytes);
/* The same with numbers of N(0,1) in it: f32, bf16 or, with DT_U8 bytes of any value. */
void *bench_normal(gpu_bench *g, size_t n, dtype dt);
void *bench_upload(gpu_bench *g, const void *src, size_t bytes);
/* n codes of 8 bits, of E4M3 and of I8 alike numbers near one or 50 and none of them special. */
void *bench_codes(gpu_bench *g, size_t n);

/* How many buffers of so many bytes are rotated so that none is found in the L2 cache. */
int bench_copies(const gpu_bench *g, size_t bytes);
/* The median of a probe in us; 0 and a reported line where it cannot run. */
double bench_probe(gpu_bench *g, const char *name, const probe_work *w);

void bench_ceilings(gpu_bench *g);
void bench_gemms(gpu_bench *g);
void bench_attentions(gpu_bench *g);
void bench_rows(gpu_bench *g);

#endif
