/* Experts: pairs (token, choice) are sorted by expert on the device, each product is one launch
 * over all experts' rows, and the results are added token by token in the order of the choices.
 *
 * One block per expert sorts: it counts all pairs' experts, so that it knows where its own begin,
 * and then ranks its own in the order of the pairs. So the order is that of a stable sort without a
 * second launch or atomics on positions, at the cost of reading all ids once per expert; ids are
 * few bytes. The block also writes its part of the lists of row tiles that the products walk
 * (cuda_gemm.h): only experts that a token chose appear there, so that others are never read.
 *
 * Descriptions of the experts' matrices are copied to the device when a host array is seen for the
 * first time, and compared with it on every call. Experts of one layer may differ in their storage
 * type: a launch per kind of arithmetic leaves out the tiles of other kinds.
 *
 * Results of all pairs are kept until they are added, so a call with many tokens is cut into pieces
 * of at most PIECE_BYTES of them: large, since every piece reads all its experts again. Not timed
 * on a GPU; with few tokens five launches, each short, are expected to weigh more than the bytes
 * they move. */
#include <string.h>

#include "kernels/cuda/cu_num.h"
#include "kernels/cuda/cuda_gemm.h"

extern "C" {
#include "engine/base/check.h"
#include "kernels/feed.h"
}

#define PIECE_BYTES  ((int64_t)512 << 20)
#define PIECE_SHARE  64 /* of the device's memory, if that is less */
#define PIECE_TOKENS 32768
#define TABLE_ALIGN  ((size_t)256)
#define THREADS      256
#define WARPS        (THREADS / CU_WARP)

/* ---- Descriptions of matrices on the device ---- */

typedef struct table {
    struct table *next;
    const void *host; /* the array */
    int32_t n;
    void *copy; /* what it held; of a list of biases too */
    void *dev;  /* [n] gemm_w, or [n] pointers */
    size_t dev_bytes;
    bool own;              /* dev is an allocation */
    unsigned kinds;        /* bit gemm_kind: some have it */
    bool rounds;           /* some round activations */
    bool whole_groups;     /* of all int4 kinds */
    bool ordered;          /* some int4 kind has an order of columns */
    bool by_group, shifts; /* gemm_call's, of some matrix */
    bool sorted;           /* rows of some kinds are made for each pair, since experts may differ */
} table;

struct cuda_tables {
    table *first;
    char *block; /* what was reserved for tables */
    size_t block_bytes, used;
};

/* What the backend keeps for experts, made when it is asked for first. */
static struct cuda_tables *kept(cuda_backend *c) {
    if (!c->tables) c->tables = (struct cuda_tables *)mem_calloc(1, sizeof *c->tables);
    return c->tables;
}

void cuda_tables_free(cuda_backend *c) {
    table *t = c->tables ? c->tables->first : NULL;
    while (t) {
        table *next = t->next;
        if (t->own) c->base.v->mem_free(&c->base, t->dev, t->dev_bytes);
        mem_free(t->copy);
        mem_free(t);
        t = next;
    }
    if (c->tables && c->tables->block)
        c->base.v->mem_free(&c->base, c->tables->block, c->tables->block_bytes);
    mem_free(c->tables);
    c->tables = NULL;
}

/* Tables of a layer: up, gate and down, and biases of two. */
size_t cuda_experts_tables_need(const op_bounds *o) {
    size_t n = (size_t)o->n_experts;
    size_t layer = 3 * ALIGN_UP(n * sizeof(gemm_w), TABLE_ALIGN) +
                   2 * ALIGN_UP(n * sizeof(const float *), TABLE_ALIGN);
    return (size_t)o->n_expert_layers * layer;
}

status cuda_experts_reserve(cuda_backend *c, const op_bounds *o, error *err) {
    struct cuda_tables *k = kept(c);
    size_t bytes = cuda_experts_tables_need(o);
    void *p = NULL;
    if (bytes == 0 || k->block) return OK;
    TRY(c->base.v->mem_alloc(&c->base, bytes, &p, err));
    k->block = (char *)p;
    k->block_bytes = bytes;
    return OK;
}

/* Room for a table: reserved, else memory of its own. False where there is none. */
static bool place_table(cuda_backend *c, table *t) {
    struct cuda_tables *k = kept(c);
    size_t bytes = ALIGN_UP(t->dev_bytes, TABLE_ALIGN);
    t->own = k->block_bytes - k->used < bytes;
    if (t->own) return c->base.v->mem_alloc(&c->base, t->dev_bytes, &t->dev, NULL) == OK;
    t->dev = k->block + k->used;
    k->used += bytes;
    return true;
}

static table *table_of(cuda_backend *c, const void *host, int32_t n, size_t each, size_t dev_each) {
    table **at = &kept(c)->first;
    while (*at && ((*at)->host != host || (*at)->n != n || (*at)->dev_bytes != n * dev_each))
        at = &(*at)->next;
    if (*at) return *at;
    table *t = (table *)mem_calloc(1, sizeof *t);
    t->host = host, t->n = n, t->dev_bytes = n * dev_each;
    if (!place_table(c, t)) {
        mem_free(t);
        cuda_note(c, cudaErrorMemoryAllocation, "experts");
        return NULL;
    }
    t->copy = mem_calloc((size_t)n, each);
    t->next = c->tables->first;
    return c->tables->first = t;
}

/* The device's copy of matrices, NULL after a failure. */
static const table *matrices(cuda_backend *c, const wmat *w, int32_t n) {
    table *t = table_of(c, w, n, sizeof *w, sizeof(gemm_w));
    if (!t || memcmp(t->copy, w, (size_t)n * sizeof *w) == 0) return t;
    gemm_w *g = (gemm_w *)mem_calloc((size_t)n, sizeof *g);
    t->kinds = 0, t->rounds = t->ordered = t->by_group = t->shifts = t->sorted = false;
    t->whole_groups = true;
    for (int32_t i = 0; i < n; i++) {
        g[i] = gemm_w_of(&w[i]);
        t->kinds |= 1u << g[i].kind;
        t->rounds |= g[i].q.act != ACT_ROUND_NONE;
        if (g[i].is_codes) t->whole_groups &= g[i].q.group % 128 == 0;
        t->ordered |= gemm_is_int4(g[i].kind) && g[i].q.has_order;
        t->by_group |= gemm_by_group(&g[i]);
        t->shifts |= gemm_shifts(&g[i]);
        t->sorted |= gemm_is_bytes(g[i].kind) || t->ordered;
    }
    c->base.v->upload(&c->base, t->dev, g, t->dev_bytes);
    mem_free(g);
    if (!cuda_ready(c)) return NULL; /* a recording takes no upload */
    memcpy(t->copy, w, (size_t)n * sizeof *w);
    return t;
}

static const float *const *biases(cuda_backend *c, const float *const *host, int32_t n) {
    if (!host) return NULL;
    table *t = table_of(c, host, n, sizeof *host, sizeof *host);
    if (!t) return NULL;
    if (memcmp(t->copy, host, t->dev_bytes) != 0) {
        c->base.v->upload(&c->base, t->dev, host, t->dev_bytes);
        if (!cuda_ready(c)) return NULL;
        memcpy(t->copy, host, t->dev_bytes);
    }
    return (const float *const *)t->dev;
}

/* ---- Sorting ---- */

/* Rows of an expert are cut into tiles of `tokens`; up to three products, each with its own. */
enum { LIST_UP, LIST_DOWN, N_LISTS };

typedef struct sorting {
    const int32_t *ids; /* [n_pairs] */
    int32_t n_pairs, top_k;
    int32_t *token, *expert; /* [n_pairs] of the pair at a place */
    int32_t *place;          /* [n_pairs] of a pair */
    gemm_tile *tiles[N_LISTS];
    int32_t tokens[N_LISTS];
    int32_t *n_tiles; /* [N_LISTS] */
} sorting;

/* Sum over the block, in every thread. */
static __device__ __forceinline__ int32_t block_sum(int32_t x, int32_t *shared) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(CU_FULL, x, d);
    __syncthreads();
    if (threadIdx.x % CU_WARP == 0) shared[threadIdx.x / CU_WARP] = x;
    __syncthreads();
    int32_t sum = 0;
    for (int i = 0; i < WARPS; i++) sum += shared[i];
    return sum;
}

/* Places of expert e's pairs, from `first` on in the order of the pairs. */
static __device__ __forceinline__ void place_pairs(const sorting &s, int32_t e, int32_t first,
                                                   int32_t *shared) {
    int lane = threadIdx.x % CU_WARP, warp = threadIdx.x / CU_WARP;
    for (int32_t base = 0; base < s.n_pairs; base += THREADS) {
        int32_t i = base + threadIdx.x;
        bool mine = i < s.n_pairs && s.ids[i] == e;
        uint32_t with = __ballot_sync(CU_FULL, mine);
        __syncthreads(); /* the counts of the round before have been read */
        if (lane == 0) shared[warp] = __popc(with);
        __syncthreads();
        int32_t at = first;
        for (int w = 0; w < WARPS; w++) {
            if (w < warp) at += shared[w];
            first += shared[w];
        }
        if (!mine) continue;
        at += __popc(with & ((1u << lane) - 1));
        s.place[i] = at;
        s.token[at] = i / s.top_k;
        s.expert[at] = e;
    }
}

/* Block e: expert e. */
static __global__ void __launch_bounds__(THREADS) sort_kernel(const sorting s) {
    __shared__ int32_t count[ROUTE_MAX_EXPERTS], shared[WARPS];
    int32_t e = blockIdx.x, n_experts = gridDim.x;
    for (int32_t i = threadIdx.x; i < n_experts; i += THREADS) count[i] = 0;
    __syncthreads();
    for (int32_t i = threadIdx.x; i < s.n_pairs; i += THREADS) atomicAdd(&count[s.ids[i]], 1);
    __syncthreads();
    int32_t before = 0, n = count[e];
    for (int32_t i = threadIdx.x; i < e; i += THREADS) before += count[i];
    int32_t first = block_sum(before, shared);
    for (int l = 0; l < N_LISTS; l++) {
        int32_t tokens = s.tokens[l], mine = (n + tokens - 1) / tokens;
        before = 0;
        for (int32_t i = threadIdx.x; i < e; i += THREADS)
            before += (count[i] + tokens - 1) / tokens;
        int32_t at = block_sum(before, shared);
        for (int32_t i = threadIdx.x; i < mine; i += THREADS) {
            int32_t left = n - i * tokens;
            gemm_tile t = {e, first + i * tokens, left < tokens ? left : tokens};
            s.tiles[l][at + i] = t;
        }
        if (e == n_experts - 1 && threadIdx.x == 0) s.n_tiles[l] = at + mine;
    }
    if (n > 0) place_pairs(s, e, first, shared);
}

/* out[t] = (out[t] +) the weighted results in the order of the choices; a thread per element. */
static __global__ void __launch_bounds__(THREADS)
    combine_kernel(const float *result, const int32_t *place, const float *weights, int32_t top_k,
                   int32_t width, float *out, int64_t out_stride, bool accumulate) {
    int32_t i = blockIdx.x * THREADS + threadIdx.x;
    int64_t t = blockIdx.y;
    if (i >= width) return;
    float v = accumulate ? out[t * out_stride + i] : 0;
    for (int32_t j = 0; j < top_k; j++) {
        int64_t at = place[t * top_k + j];
        v = fmaf(weights[t * top_k + j], result[at * width + i], v);
    }
    out[t * out_stride + i] = v;
}

/* ---- The networks ---- */

/* A call, and where a piece of it keeps what. */
typedef struct run {
    cuda_backend *c;
    const op_experts *a;
    const table *up, *gate, *down;
    const float *const *up_bias, *const *down_bias;
    int32_t most; /* tokens of a piece */
    int64_t mid;  /* width of mid */
    sorting s;
    float *mid_rows, *results; /* [n_pairs, mid], [n_pairs, C] */
    float *acts;               /* [n_pairs, max(C,F)] rounded activations; those of 16 bits */
    void *scratch;             /* of the products */
} run;

/* One product over sorted rows: kind and a are open. */
static gemm_call product_of(const run *r, const table *w, int list, int32_t n, int32_t k) {
    gemm_call g = {};
    g.m = r->s.n_pairs, g.n = n, g.columns = k;
    g.experts = (const gemm_w *)w->dev;
    g.whole_groups = w->whole_groups;
    g.by_group = w->by_group, g.shifts = w->shifts;
    g.tiles = r->s.tiles[list];
    g.n_tiles = r->s.n_tiles + list;
    g.most_tiles = gemm_row_tiles(g.m, r->a->n_experts, r->s.tokens[list]);
    return g;
}

/* What all kinds of a table round activations to; f32 where they differ. */
static dtype kinds_feed(unsigned kinds) {
    dtype dt = DT_COUNT;
    for (int kind = 0; kind < GEMM_KINDS; kind++) {
        if (!(kinds >> kind & 1)) continue;
        dtype one = gemm_is_bytes((gemm_kind)kind) ? DT_F32 : gemm_feed_dt((gemm_kind)kind);
        dt = dt == DT_COUNT || dt == one ? one : DT_F32;
    }
    return dt;
}

/* The smallest row tile that the kinds of a table ask for serves all of them. */
static int32_t tile_tokens(const run *r, const table *w, int32_t n_pairs, int32_t n, int32_t k) {
    int32_t tokens = INT32_MAX;
    for (int kind = 0; kind < GEMM_KINDS; kind++) {
        if (!(w->kinds >> kind & 1)) continue;
        gemm_call g = {};
        g.kind = (gemm_kind)kind;
        g.m = n_pairs, g.n = n, g.k = gemm_k_of(g.kind, k);
        gemm_plan p = gemm_choose(r->c, &g, r->a->n_experts);
        tokens = MIN(tokens, p.tokens);
    }
    return tokens;
}

/* Bytes that a product may want beside its rows, whatever its kind. */
static size_t product_scratch(int64_t rows, int32_t k, dtype dt) {
    gemm_call bytes = {};
    bytes.kind = GEMM_F8, bytes.k = gemm_k_of(GEMM_F8, k), bytes.columns = k, bytes.by_group = true;
    size_t each = (size_t)gemm_round_ld(k) * (dt == DT_F32 ? 2 : sizeof(float));
    size_t size = ALIGN_UP((size_t)rows * each, (size_t)256);
    return MAX(size, gemm_act_bytes(&bytes, (int32_t)rows));
}

/* Launch g for each kind of its matrices; a has a_rows rows. */
static void products(const run *r, const table *w, const gemm_call *all, int32_t a_rows) {
    for (int kind = 0; kind < GEMM_KINDS; kind++) {
        if (!(w->kinds >> kind & 1)) continue;
        gemm_call g = *all;
        g.kind = (gemm_kind)kind;
        g.k = gemm_k_of(g.kind, g.columns);
        g.ordered = gemm_is_int4(g.kind) && w->ordered;
        g.rounds =
            (kind == GEMM_CODES || gemm_is_values(g.kind)) && w->rounds && !feed_is_codes(g.in.dt);
        int32_t rows = a_rows;
        if (gemm_is_bytes(g.kind) || g.ordered) {
            rows = g.m;
            g.row_expert = r->s.expert;
        }
        gemm_plan p = gemm_choose(r->c, &g, r->a->n_experts);
        if (g.rounds) {
            if (gemm_widens(&g)) gemm_widen(r->c, &g, rows, (float *)r->scratch);
            rows = g.m;
            gemm_round_acts(r->c, &g, rows, r->s.expert, r->acts);
            g.in = {r->acts, g.k, DT_F32, NULL}, g.a_row = NULL;
        }
        gemm_product(r->c, &g, &p, rows, r->scratch);
    }
}

/* mid[:, col0 .. col0+n) = w . x of each row's token. */
static void up_product(const run *r, const table *w, const gemm_rows *x, int32_t n_tokens,
                       int32_t n, int32_t col0) {
    gemm_call g = product_of(r, w, LIST_UP, n, r->a->width);
    g.in = *x;
    g.a_row = r->s.token;
    g.out = r->mid_rows + col0, g.out_stride = r->mid;
    g.biases = r->up_bias, g.bias_skip = col0;
    products(r, w, &g, n_tokens);
}

/* The activation is stored as the down product rounds it, where all experts' do that alike and
 * rows of its width can be read by 16 bytes; else in place. */
static gemm_rows activate(const run *r) {
    const op_experts *a = r->a;
    dtype dt = r->down->rounds ? DT_F32 : kinds_feed(r->down->kinds);
    op_act act = {};
    act.kind = a->act, act.gated = a->gated;
    act.n_rows = r->s.n_pairs, act.width = a->ffn;
    act.in = r->mid_rows, act.in_stride = r->mid;
    act.out = r->mid_rows, act.out_stride = r->mid;
    if (dt != DT_F32 && a->ffn % 8 == 0)
        act.out = r->acts, act.out_stride = a->ffn, act.out_dt = dt;
    cuda_act(&r->c->base, &act);
    return {act.out, act.out_stride, act.out_dt, NULL};
}

static void down_product(const run *r, const gemm_rows *mid) {
    gemm_call g = product_of(r, r->down, LIST_DOWN, r->a->width, r->a->ffn);
    g.in = *mid;
    g.out = r->results, g.out_stride = r->a->width;
    g.biases = r->down_bias;
    products(r, r->down, &g, g.m);
}

static void run_piece(run *r, int32_t t0, int32_t n) {
    const op_experts *a = r->a;
    cuda_backend *c = r->c;
    int32_t f = a->ffn, up_n = a->gated && !a->gate ? 2 * f : f;
    gemm_rows x = {(const char *)a->x + t0 * a->x_stride * (int64_t)dtype_bytes(a->x_dt),
                   a->x_stride, a->x_dt, a->x_scale ? a->x_scale + t0 : NULL};
    r->s.ids = a->ids + (int64_t)t0 * a->top_k;
    r->s.n_pairs = n * a->top_k;
    r->s.tokens[LIST_UP] = tile_tokens(r, r->up, r->s.n_pairs, up_n, a->width);
    if (r->gate)
        r->s.tokens[LIST_UP] =
            MIN(r->s.tokens[LIST_UP], tile_tokens(r, r->gate, r->s.n_pairs, f, a->width));
    r->s.tokens[LIST_DOWN] = tile_tokens(r, r->down, r->s.n_pairs, a->width, f);
    CU_LAUNCH(sort_kernel, dim3((unsigned)a->n_experts), dim3(THREADS), 0, c->stream, r->s);
    cuda_launched(c, "experts");
    if (r->gate) up_product(r, r->gate, &x, n, f, 0);
    up_product(r, r->up, &x, n, up_n, r->gate ? f : 0);
    gemm_rows mid = activate(r);
    down_product(r, &mid);
    CU_LAUNCH(combine_kernel, dim3((unsigned)CEIL_DIV(a->width, THREADS), (unsigned)n),
              dim3(THREADS), 0, c->stream, r->results, r->s.place,
              a->weights + (int64_t)t0 * a->top_k, a->top_k, a->width, a->out + t0 * a->out_stride,
              a->out_stride, a->accumulate);
    cuda_launched(c, "experts");
}

/* Tokens of a piece of n. */
static int32_t piece_of(const cuda_backend *c, const op_experts *a, int32_t n) {
    int64_t mid = a->gated ? 2 * (int64_t)a->ffn : a->ffn;
    int64_t bytes = MIN(PIECE_BYTES, (int64_t)(c->total_bytes / PIECE_SHARE));
    int64_t token_bytes = (int64_t)a->top_k * (a->width + mid) * (int64_t)sizeof(float);
    return (int32_t)MIN(MIN(PIECE_TOKENS, MAX(1, bytes / token_bytes)), n);
}

/* Places of what pieces of `most` tokens need, one after another; the last is the end. sorted: rows
 * are made for each pair. */
enum { N_PARTS = 10 };
static void lay_out(const op_experts *a, int32_t most, bool rounds, bool sorted,
                    size_t at[N_PARTS + 1]) {
    size_t tokens = (size_t)most, pairs = tokens * (size_t)a->top_k, c = (size_t)a->width;
    size_t tiles = (pairs + (size_t)a->n_experts) * sizeof(gemm_tile),
           ids = pairs * sizeof(int32_t);
    size_t mid = a->gated ? 2 * (size_t)a->ffn : (size_t)a->ffn;
    size_t acts = pairs * (rounds ? MAX(c, (size_t)a->ffn) * sizeof(float) : (size_t)a->ffn * 2);
    size_t scratch = MAX(product_scratch(sorted ? (int64_t)pairs : most, a->width, a->x_dt),
                         product_scratch((int64_t)pairs, a->ffn, DT_F32));
    size_t bytes[N_PARTS] = {
        N_LISTS * sizeof(int32_t), tiles, tiles,  ids, ids, ids, pairs * mid * sizeof(float),
        pairs * c * sizeof(float), acts,  scratch};
    at[0] = 0;
    for (size_t i = 0; i < N_PARTS; i++) at[i + 1] = at[i] + ALIGN_UP(bytes[i], (size_t)256);
}

size_t cuda_experts_need(const cuda_backend *c, const op_bounds *o) {
    if (o->n_experts == 0) return 0;
    op_experts a = {};
    a.n_experts = o->n_experts, a.top_k = o->top_k;
    a.width = o->width, a.ffn = o->ffn, a.gated = o->gated;
    a.x_dt = DT_BF16; /* which may be made wider, and so takes the most */
    bool rounds = false, sorted = false;
    for (int32_t i = 0; i < o->n_mats; i++) {
        const wmat *w = &o->mats[i];
        gemm_kind kind = cuda_quant_kind(c, w->k, w->dt, &w->q);
        rounds |= w->q.act != ACT_ROUND_NONE;
        sorted |= gemm_is_bytes(kind) || (gemm_is_int4(kind) && w->q.has_order);
    }
    size_t at[N_PARTS + 1];
    lay_out(&a, piece_of(c, &a, o->n_tokens), rounds, sorted, at);
    return at[N_PARTS];
}

/* Cut scratch for pieces of r->most tokens; false after a failure. */
static bool cut(run *r) {
    bool rounds = r->up->rounds || r->down->rounds || (r->gate && r->gate->rounds);
    bool sorted = r->up->sorted || (r->gate && r->gate->sorted);
    size_t at[N_PARTS + 1];
    lay_out(r->a, r->most, rounds, sorted, at);
    char *ws = (char *)cuda_scratch(r->c, at[N_PARTS]);
    if (!ws) return false;
    r->s.n_tiles = (int32_t *)ws;
    r->s.tiles[LIST_UP] = (gemm_tile *)(ws + at[1]);
    r->s.tiles[LIST_DOWN] = (gemm_tile *)(ws + at[2]);
    r->s.token = (int32_t *)(ws + at[3]);
    r->s.expert = (int32_t *)(ws + at[4]);
    r->s.place = (int32_t *)(ws + at[5]);
    r->mid_rows = (float *)(ws + at[6]);
    r->results = (float *)(ws + at[7]);
    r->acts = (float *)(ws + at[8]);
    r->scratch = ws + at[9];
    return true;
}

void cuda_experts(backend *b, const op_experts *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_tokens <= 0) return;
    CHECK(a->top_k > 0 && a->n_experts > 0 && a->n_experts <= ROUTE_MAX_EXPERTS);
    CHECK(feed_is_type(a->x_dt) && (!a->gate || a->gated));
    run r = {};
    r.c = c, r.a = a;
    r.up = matrices(c, a->up, a->n_experts);
    r.down = matrices(c, a->down, a->n_experts);
    if (a->gate) r.gate = matrices(c, a->gate, a->n_experts);
    r.up_bias = biases(c, a->up_bias, a->n_experts);
    r.down_bias = biases(c, a->down_bias, a->n_experts);
    r.mid = a->gated ? 2 * (int64_t)a->ffn : a->ffn;
    r.s.top_k = a->top_k;
    r.most = piece_of(c, a, a->n_tokens);
    if (!cuda_ready(c) || !cut(&r)) return;
    for (int32_t t0 = 0; t0 < a->n_tokens; t0 += r.most)
        run_piece(&r, t0, MIN(r.most, a->n_tokens - t0));
}
