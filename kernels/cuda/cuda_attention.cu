/* Attention, the part on the host: which kernels serve a call, the plan of its division
 * (cuda_attn_plan.h) and the launches.
 *
 * A plan depends on the sequences, which are the same for all layers of a step, and on the shape,
 * which differs between a few kinds of layers (windows). So the latest few plans are kept, in
 * device memory too, each with a copy of the sequences that it was made from: a call whose
 * sequences and shape are those, byte for byte, uses it again. Comparing costs less than a
 * microsecond; that a step began need not be known. Uploads are ordered with the launches, so a
 * plan's memory can be written again as soon as it is replaced. Where the launches may not depend
 * on the plan (graphs.h), cuda_attn_graph.cu does all this. */
#include "kernels/cuda/cuda_attention.h"

#include <string.h>

#include "kernels/kv8.h"

extern "C" {
#include "engine/base/check.h"
}

#define PLANS      4
#define KERNELS    32
#define TILE_LEAST 8                    /* rows of the smallest kind of tile, or fewer */
#define STATES_MAX ((int64_t)256 << 20) /* bytes of states in one call */

typedef struct kept_plan {
    attn_shape shape;
    attn_seq *seqs; /* [n], room for cap */
    int32_t n, cap;
    attn_plan plan;
    void *dev; /* items, then merges */
    size_t dev_bytes;
    uint64_t used; /* when, counted in calls; 0: holds none */
} kept_plan;

/* Per backend; made by the first call. */
struct cuda_attn {
    kept_plan plans[PLANS];
    uint64_t calls;
    const void *allowed[KERNELS]; /* more than 48 KB of shared memory */
};

static cuda_attn *attn_of(cuda_backend *c) {
    if (!c->attn) c->attn = static_cast<cuda_attn *>(mem_calloc(1, sizeof *c->attn));
    return c->attn;
}

void cuda_attn_done(cuda_backend *c) {
    attn_fixed_done(c);
    if (!c->attn) return;
    for (int i = 0; i < PLANS; i++) {
        kept_plan *k = &c->attn->plans[i];
        attn_plan_done(&k->plan);
        mem_free(k->seqs);
        if (k->dev) c->base.v->mem_free(&c->base, k->dev, k->dev_bytes);
    }
    mem_free(c->attn);
    c->attn = NULL;
}

/* Let a kernel have more than 48 KB of shared memory: all that there is, so that backends of one
 * device do not undo each other's. */
bool attn_allow(cuda_backend *c, const void *kernel, size_t bytes) {
    if (bytes <= 48 * 1024) return true;
    cuda_attn *s = attn_of(c);
    int i = 0;
    while (i < KERNELS - 1 && s->allowed[i] && s->allowed[i] != kernel) i++;
    if (s->allowed[i] == kernel) return true;
    s->allowed[i] = kernel;
    return cuda_note(
        c,
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c->smem_max),
        "shared memory of attention");
}

static bool same_plan(const kept_plan *k, const attn_shape *shape, const attn_seqs *seqs) {
    return k->used && k->n == seqs->n && memcmp(&k->shape, shape, sizeof *shape) == 0 &&
           memcmp(k->seqs, seqs->host, (size_t)k->n * sizeof *k->seqs) == 0;
}

/* Device memory for a plan, and the plan into it. */
static bool upload_plan(cuda_backend *c, kept_plan *k) {
    size_t items = k->plan.items.n * sizeof(attn_item),
           merges = k->plan.merges.n * sizeof(attn_merge);
    if (items + merges > k->dev_bytes) {
        size_t bytes = ALIGN_UP(2 * (items + merges), (size_t)4096);
        error err;
        if (k->dev) c->base.v->mem_free(&c->base, k->dev, k->dev_bytes);
        k->dev = NULL;
        k->dev_bytes = 0;
        if (c->base.v->mem_alloc(&c->base, bytes, &k->dev, &err) != OK)
            return cuda_note(c, cudaErrorMemoryAllocation, "memory for the plan of attention");
        k->dev_bytes = bytes;
    }
    c->base.v->upload(&c->base, k->dev, k->plan.items.p, items);
    if (merges)
        c->base.v->upload(&c->base, static_cast<char *>(k->dev) + items, k->plan.merges.p, merges);
    return cuda_ready(c);
}

/* The plan for a call: kept, or in place of the one not used for longest. NULL after a failure. */
static kept_plan *plan_of(cuda_backend *c, const attn_shape *shape, const attn_seqs *seqs) {
    cuda_attn *s = attn_of(c);
    kept_plan *oldest = &s->plans[0];
    s->calls++;
    for (int i = 0; i < PLANS; i++) {
        kept_plan *k = &s->plans[i];
        if (same_plan(k, shape, seqs)) {
            k->used = s->calls;
            return k;
        }
        if (k->used < oldest->used) oldest = k;
    }
    oldest->used = 0;
    if (seqs->n > oldest->cap) {
        oldest->cap = MAX(seqs->n, 2 * oldest->cap);
        oldest->seqs = static_cast<attn_seq *>(
            mem_realloc(oldest->seqs, (size_t)oldest->cap * sizeof *oldest->seqs));
    }
    memcpy(oldest->seqs, seqs->host, (size_t)seqs->n * sizeof *oldest->seqs);
    oldest->n = seqs->n;
    oldest->shape = *shape;
    attn_plan_make(shape, oldest->seqs, oldest->n, &oldest->plan);
    if (!upload_plan(c, oldest)) return NULL;
    oldest->used = s->calls;
    return oldest;
}

/* Bytes of states that a call may have: a small part of the memory of any card. 64 MB, those of 16
 * GB, are enough to cut a batch of 256 sequences of 4k with 32 heads of 128. */
static int64_t states_bytes(const cuda_backend *c) {
    return MIN(STATES_MAX, (int64_t)(c->total_bytes / 256));
}

/* States are counted for every row and chunk of its keys; sums are those of 16-bit results. */
size_t cuda_attention_need(const cuda_backend *c, const op_bounds *o) {
    if (o->n_heads == 0) return 0;
    double chunks = CEIL_DIV(o->max_len, ATTN_CHUNK);
    double all = (double)o->n_tokens * o->n_heads * chunks * attn_state_floats(o->value_width) * 4;
    size_t sums = (size_t)o->n_tokens * (size_t)o->n_heads * (size_t)o->value_width * 4;
    return (size_t)MIN((double)states_bytes(c), all) + sums;
}

/* Items and merges of one plan: tiles, and what cutting makes of them, which has a state each. */
static size_t plan_need(const cuda_backend *c, const op_bounds *o) {
    if (o->n_heads == 0) return 0;
    int64_t rows = (int64_t)o->n_tokens * (o->n_heads / o->n_kv_heads);
    int64_t tiles = o->n_seqs + rows / TILE_LEAST;
    int64_t states = states_bytes(c) / (attn_state_floats(o->value_width) * 4) / o->n_kv_heads;
    int64_t cut = MIN(states, tiles * CEIL_DIV(o->max_len, ATTN_CHUNK));
    size_t bytes = (size_t)(tiles + cut) * sizeof(attn_item) + (size_t)tiles * sizeof(attn_merge);
    return ALIGN_UP(bytes, (size_t)4096);
}

size_t cuda_attention_plans_need(const cuda_backend *c, const op_bounds *o) {
    return PLANS * plan_need(c, o);
}

status cuda_attention_reserve(cuda_backend *c, const op_bounds *o, error *err) {
    size_t bytes = plan_need(c, o);
    for (int i = 0; i < PLANS && bytes; i++) {
        kept_plan *k = &attn_of(c)->plans[i];
        if (k->dev_bytes >= bytes) continue;
        void *p = NULL;
        TRY(c->base.v->mem_alloc(&c->base, bytes, &p, err));
        if (k->dev) c->base.v->mem_free(&c->base, k->dev, k->dev_bytes);
        k->dev = p;
        k->dev_bytes = bytes;
        k->used = 0; /* what it held is gone */
    }
    return OK;
}

static attn_args args_of(const op_attention *op, int32_t value_width) {
    bool bf16 = op->kv_dt != DT_F32, codes = kv_is_8bit(op->kv_dt),
         latent = op->k_pages == op->v_pages;
    attn_args a = {};
    a.seqs = op->seqs.dev;
    a.page_table = op->seqs.page_table;
    a.group = op->n_heads / op->n_kv_heads;
    a.n_kv_heads = op->n_kv_heads;
    a.width = op->head_dim;
    a.value_width = value_width;
    a.page_tokens = op->page_tokens;
    a.window = op->window;
    a.q = op->q;
    a.out = op->out;
    a.out_dt = op->out_dt;
    a.q_stride = op->q_stride;
    a.out_stride = op->out_stride;
    a.slope_unit = bf16 ? ATTN_LOG2E : 1;
    a.unit = bf16 ? 1 : ATTN_LOG2E;
    a.cap = op->softcap > 0 ? op->softcap * a.slope_unit : 0;
    a.fold = op->softcap > 0 ? op->scale / op->softcap : op->scale * a.slope_unit;
    a.slopes = op->alibi_slopes;
    a.sinks = op->sinks;
    a.k = op->k_pages;
    a.v = op->v_pages;
    a.f8 = op->kv_dt == DT_F8_E4M3;
    a.split = value_width;
    a.head_bytes = (int64_t)kv_page_bytes(op->kv_dt, op->page_tokens, op->head_dim,
                                          latent ? KV8_LATENT_SCALES : 1);
    a.aligned = bf16 && op->head_dim % (codes ? 16 : 8) == 0 && (uintptr_t)op->k_pages % 16 == 0 &&
                (uintptr_t)op->v_pages % 16 == 0;
    a.state_floats = attn_state_floats(value_width);
    return a;
}

static attn_shape shape_of(const cuda_backend *c, const attn_args *a,
                           const attn_launch launch[ATTN_WIDTHS]) {
    attn_shape s;
    memset(&s, 0, sizeof s); /* compared as bytes */
    s.group = a->group;
    s.n_kv_heads = a->n_kv_heads;
    s.window = a->window;
    for (int w = 0; w < ATTN_WIDTHS; w++) {
        s.tile_rows[w] = launch[w].tile_rows;
        s.slots[w] = attn_slots(c->n_sms, c->cc, (int64_t)launch[w].smem, launch[w].per_sm);
    }
    s.states_max = states_bytes(c) / (a->state_floats * (int64_t)sizeof(float));
    return s;
}

/* Rows of the call that have more than one chunk, or all up to the last of them. */
static int64_t long_rows(const attn_seqs *seqs) {
    int64_t n = 0;
    for (int32_t i = 0; i < seqs->n; i++) {
        const attn_seq *s = &seqs->host[i];
        if (MAX(s->pos0 + s->n_rows, s->prefix) > ATTN_CHUNK)
            n = MAX(n, (int64_t)s->row0 + s->n_rows);
    }
    return n;
}

bool attn_scratch(cuda_backend *c, const op_attention *op, int64_t n_states, int64_t n_rows,
                  attn_args *a) {
    size_t states = (size_t)n_states * (size_t)a->state_floats, sums = 0;
    a->sums = static_cast<float *>(op->out), a->sums_stride = op->out_stride;
    if (op->out_dt != DT_F32) {
        a->sums_stride = (int64_t)op->n_heads * a->value_width;
        sums = (size_t)(n_rows * a->sums_stride);
    }
    if (states + sums == 0) return true;
    a->states = static_cast<float *>(cuda_scratch(c, (states + sums) * sizeof(float)));
    if (op->out_dt != DT_F32) a->sums = a->states + states;
    return a->states != NULL;
}

static void run_items(cuda_backend *c, const kept_plan *k, attn_args *a, attn_width w,
                      const attn_launch *l) {
    int32_t n = k->plan.n_items[w];
    if (n == 0 || !attn_allow(c, l->kernel, l->smem)) return;
    a->items = static_cast<const attn_item *>(k->dev) + (w == ATTN_WIDE ? k->plan.n_items[0] : 0);
    a->stages = l->stages;
    l->run(c, a, (unsigned)n * (unsigned)a->n_kv_heads, l->smem);
}

void attn_run(cuda_backend *c, const op_attention *op, int32_t value_width,
              const attn_launch launch[ATTN_WIDTHS], const char *name) {
    CHECK(dtype_is_float(op->out_dt));
    CHECK(kv_dtype_ok(op->kv_dt));
    CHECK(op->page_tokens > 0 && op->page_tokens % 16 == 0);
    CHECK(op->n_kv_heads > 0 && op->n_heads % op->n_kv_heads == 0);
    if (!cuda_ready(c) || op->seqs.n <= 0) return;
    attn_args a = args_of(op, value_width);
    attn_shape shape = shape_of(c, &a, launch);
    if (op->seqs.plan && attn_run_fixed(c, op, &a, &shape, launch)) {
        cuda_launched(c, name);
        return;
    }
    const kept_plan *k = plan_of(c, &shape, &op->seqs);
    if (!k) return;
    int64_t n_states = k->plan.n_states * (int64_t)a.n_kv_heads;
    if (!attn_scratch(c, op, n_states, long_rows(&op->seqs), &a)) return;
    for (int w = 0; w < ATTN_WIDTHS; w++) run_items(c, k, &a, (attn_width)w, &launch[w]);
    if (k->plan.merges.n) {
        a.merges = reinterpret_cast<const attn_merge *>(static_cast<const attn_item *>(k->dev) +
                                                        k->plan.items.n);
        attn_run_merges(c, &a, (unsigned)k->plan.merges.n * (unsigned)a.n_kv_heads,
                        (unsigned)k->plan.merge_rows);
    }
    cuda_launched(c, name);
}

void cuda_attention(backend *b, const op_attention *op) {
    cuda_backend *c = cuda_of(b);
    CHECK(op->head_dim > 0 && op->head_dim % 2 == 0 && op->head_dim <= ATTN_MAX_WIDTH);
    attn_launch launch[ATTN_WIDTHS];
    if (op->kv_dt == DT_F32)
        launch[ATTN_NARROW] = launch[ATTN_WIDE] = attn_pick_f32(op->head_dim);
    else {
        bool codes = kv_is_8bit(op->kv_dt);
        launch[ATTN_NARROW] = attn_pick_group(op->head_dim, ATTN_NARROW, codes, c->smem_max);
        launch[ATTN_WIDE] = op->head_dim <= 128
                                ? attn_pick_prefill(op->head_dim, codes)
                                : attn_pick_group(op->head_dim, ATTN_WIDE, codes, c->smem_max);
    }
    attn_run(c, op, op->head_dim, launch, "attention");
}
