/* Products of a model by the library. It proposes algorithms by an estimate that is often good and
 * sometimes far off, so the first few are timed once for a shape, and the best is kept in memory
 * while the program runs. Which one wins, and so the order in which a row is summed, depends on the
 * number of rows and on the timing: whoever asks for the library gives up that a row has the same
 * bits in every batch and every run. */
#include "engine/base/mem.h"
#include "kernels/cuda/cublaslt_calls.h"

#define PROPOSALS 6
#define ALIGNED   16u

static int32_t bucket_of(int32_t m) {
    int32_t b = 1;
    while (b < m && b < 1 << 30) b *= 2;
    return b;
}

static const lt_choice *find(const cublaslt *lt, const lt_gemm *g) {
    int32_t bucket = bucket_of(g->m);
    for (int32_t i = 0; i < lt->n_chosen; i++) {
        const lt_choice *c = &lt->chosen[i];
        if (c->bucket == bucket && c->n == g->n && c->k == g->k && c->dt == g->dt &&
            c->bias == (g->bias != NULL))
            return c;
    }
    return NULL;
}

bool cublaslt_knows(const cublaslt *lt, const lt_gemm *g) {
    return find(lt, g) != NULL;
}

static void forget(cublaslt *lt, lt_product *p) {
    if (p->out) lt->call.layout_destroy(p->out);
    if (p->a) lt->call.layout_destroy(p->a);
    if (p->w) lt->call.layout_destroy(p->w);
    if (p->desc) lt->call.desc_destroy(p->desc);
    *p = (lt_product){0};
}

/* Column-major, as cublaslt.c says. */
static int describe(cublaslt *lt, const lt_gemm *g, lt_product *p) {
    int32_t transposed = TRANSPOSED;
    uint32_t epilogue = EPILOGUE_BIAS;
    int type = g->dt == DT_BF16 ? TYPE_BF16 : TYPE_F16;
    uint64_t m = (uint64_t)g->m, n = (uint64_t)g->n, k = (uint64_t)g->k;
    *p = (lt_product){.m = g->m, .n = g->n, .k = g->k, .dt = g->dt};
    int e = lt->call.desc_create(&p->desc, COMPUTE_F32, TYPE_F32);
    if (!e) e = lt->call.desc_set(p->desc, DESC_TRANSPOSE_A, &transposed, sizeof transposed);
    if (!e && g->bias) e = lt->call.desc_set(p->desc, DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (!e && g->bias) e = lt->call.desc_set(p->desc, DESC_BIAS, &g->bias, sizeof g->bias);
    if (!e) e = lt->call.layout_create(&p->w, type, k, n, g->w_ld);
    if (!e) e = lt->call.layout_create(&p->a, type, k, m, g->a_ld);
    if (!e) e = lt->call.layout_create(&p->out, TYPE_F32, n, m, g->out_ld);
    return e;
}

static int propose(cublaslt *lt, const lt_product *p, lt_proposal ret[PROPOSALS]) {
    void *preference = NULL;
    size_t bytes = CUBLASLT_WORKSPACE;
    uint32_t aligned = ALIGNED;
    int n = 0, e = lt->call.prefer_create(&preference);
    if (e) return 0;
    e = lt->call.prefer_set(preference, PREFER_WORKSPACE, &bytes, sizeof bytes);
    for (int i = PREFER_ALIGN_A; i <= PREFER_ALIGN_D && !e; i++)
        e = lt->call.prefer_set(preference, i, &aligned, sizeof aligned);
    if (!e)
        e = lt->call.propose(lt->handle, p->desc, p->w, p->a, p->out, p->out, preference, PROPOSALS,
                             ret, &n);
    lt->call.prefer_destroy(preference);
    return e ? 0 : n;
}

/* One launch. */
typedef struct lt_launch {
    cublaslt *lt;
    const lt_gemm *g;
    const lt_product *p;
    const lt_algo *algo;
    void *workspace, *stream;
} lt_launch;

static int launch(void *arg) {
    const lt_launch *l = arg;
    const float one = 1, more = l->g->accumulate ? 1 : 0;
    return l->lt->call.matmul(l->lt->handle, l->p->desc, &one, l->g->w, l->p->w, l->g->a, l->p->a,
                              &more, l->g->out, l->p->out, l->g->out, l->p->out, l->algo,
                              l->workspace, CUBLASLT_WORKSPACE, l->stream);
}

/* The index of the quickest of n, -1 where none runs. */
static int quickest(lt_launch *l, const lt_proposal *all, int n, const lt_clock *clock) {
    int best = -1;
    double least = 0;
    for (int i = 0; i < n; i++) {
        if (all[i].state != 0) continue;
        if (!clock) return i;
        l->algo = &all[i].algo;
        if (launch(l) != 0) continue; /* and what is done once is done */
        double us = clock->us(clock->ctx, launch, l);
        if (best < 0 || us < least) best = i, least = us;
    }
    return best;
}

void cublaslt_choose(cublaslt *lt, void *stream, const lt_gemm *g, void *workspace,
                     const lt_clock *clock) {
    lt_choice c = {bucket_of(g->m), g->n, g->k, g->dt, g->bias != NULL, true, {{0}}};
    lt_gemm trial = *g;
    lt_proposal all[PROPOSALS] = {0};
    lt_product p;
    if (clock) trial.out = clock->out, trial.out_ld = g->n, trial.accumulate = false;
    if (describe(lt, &trial, &p) == 0) {
        lt_launch l = {lt, &trial, &p, NULL, workspace, stream};
        int best = quickest(&l, all, propose(lt, &p, all), clock);
        c.none = best < 0;
        if (best >= 0) c.algo = all[best].algo;
    }
    forget(lt, &p);
    lt->chosen = mem_realloc(lt->chosen, (size_t)(lt->n_chosen + 1) * sizeof *lt->chosen);
    lt->chosen[lt->n_chosen++] = c;
}

bool cublaslt_gemm(cublaslt *lt, void *stream, const lt_gemm *g, void *workspace) {
    const lt_choice *c = find(lt, g);
    lt_product p;
    if (!c || c->none) return false;
    int e = describe(lt, g, &p);
    lt_launch l = {lt, g, &p, &c->algo, workspace, stream};
    if (!e) e = launch(&l);
    forget(lt, &p);
    return e == 0;
}
