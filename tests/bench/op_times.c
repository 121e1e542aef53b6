/* The backend's table of functions is replaced by one whose ops read the clock around those of the
 * first. */
#include "tests/bench/op_times.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"

enum { KINDS_MAX = 64 };

/* An op; of products, those of one shape. */
typedef struct op_kind {
    const char *name;
    int32_t n, k;
    int64_t calls;
    uint64_t ns;
} op_kind;

static backend_vtbl timed;
static const backend_vtbl *real;
static op_kind kinds[KINDS_MAX];
static int32_t n_kinds, depth;

static void note(const char *name, int32_t n, int32_t k, uint64_t ns) {
    int32_t i = 0;
    while (i < n_kinds && !(kinds[i].name == name && kinds[i].n == n && kinds[i].k == k)) i++;
    if (i == KINDS_MAX) return;
    if (i == n_kinds) kinds[n_kinds++] = (op_kind){name, n, k, 0, 0};
    kinds[i].calls++;
    kinds[i].ns += ns;
}

/* The shape that tells calls of an op apart. */
static const wmat *weights_of(const char *name, const void *args) {
    return strcmp(name, "gemm") == 0 ? ((const op_gemm *)args)->w : NULL;
}

#define OP(op, tol32, tol16, what)                                                                 \
    static void timed_##op(backend *b, const op_##op *a) {                                         \
        uint64_t start = clock_ns();                                                               \
        depth++;                                                                                   \
        real->op(b, a);                                                                            \
        const wmat *w = weights_of(#op, a);                                                        \
        if (--depth == 0) note(#op, w ? w->n : 0, w ? w->k : 0, clock_ns() - start);               \
    }
#include "kernels/ops.def"
#undef OP

void op_times_watch(backend *b) {
    real = b->v;
    timed = *b->v;
#define OP(op, tol32, tol16, what) timed.op = timed_##op;
#include "kernels/ops.def"
#undef OP
    b->v = &timed;
}

void op_times_clear(void) {
    n_kinds = 0;
}

static int by_time(const void *a, const void *b) {
    const op_kind *x = a, *y = b;
    return x->ns > y->ns ? -1 : x->ns < y->ns;
}

static void line(const char *name, double calls, double ms, double step_ms) {
    printf("    %-24s %8.1f calls %9.3f ms %6.2f %%\n", name, calls, ms, 100 * ms / step_ms);
}

void op_times_print(int32_t n_steps, double step_ms) {
    double all = 0;
    qsort(kinds, (size_t)n_kinds, sizeof *kinds, by_time);
    for (int32_t i = 0; i < n_kinds; i++) {
        const op_kind *o = &kinds[i];
        double ms = (double)o->ns * 1e-6 / n_steps;
        char name[64];
        if (o->n)
            snprintf(name, sizeof name, "%s %dx%d", o->name, o->n, o->k);
        else
            snprintf(name, sizeof name, "%s", o->name);
        line(name, (double)o->calls / n_steps, ms, step_ms);
        all += ms;
    }
    line("between ops", 0, step_ms - all, step_ms);
}
