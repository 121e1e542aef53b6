/* Attention whose launches depend on the number of sequences alone (graphs.h).
 *
 * A graph keeps the grids and arguments of its recording, but the division of a step's attention
 * changes with every chunk that a sequence grows by. So the division is data: the grid has a block
 * for every item that there may be (attn_fixed_most), and those behind the step's own number end at
 * once, which is a fraction of a microsecond for a round of blocks. Whether there are merges at all
 * is the one thing that stays a matter of launches (GRAPH_FORMS): batches of short sequences have
 * none, and would pay for an empty kernel per layer.
 *
 * The engine asks for the division before the step, when no call has said what it is for. So calls
 * are remembered by their shape: the first step of a kind divides when it is called, as without
 * graphs, and later ones find it done. Not yet timed on a GPU. */
#include <string.h>

#include "kernels/cuda/cuda_attention.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/graphs.h"
}

#define SHAPES      8
#define ROWS_LEAST  8 /* of any kernel's tile */
#define PER_SM_MOST 4 /* blocks of any kernel */

typedef struct fixed_shape {
    attn_shape shape; /* without the bounds of a room */
    int32_t state_bytes;
    attn_plan plan;
    bool ready; /* the place of this step holds the division */
} fixed_shape;

struct cuda_attn_fixed {
    fixed_shape shapes[SHAPES];
    int32_t n;
    bool cut; /* some division of the step has merges */
};

static struct cuda_attn_fixed *fixed_of(cuda_backend *c) {
    if (!c->attn_fixed)
        c->attn_fixed = (struct cuda_attn_fixed *)mem_calloc(1, sizeof *c->attn_fixed);
    return c->attn_fixed;
}

void attn_fixed_done(cuda_backend *c) {
    for (int32_t i = 0; c->attn_fixed && i < c->attn_fixed->n; i++)
        attn_plan_done(&c->attn_fixed->shapes[i].plan);
    mem_free(c->attn_fixed);
    c->attn_fixed = NULL;
}

/* Bytes of one shape's division: of the finest tiles and most blocks that any kernel has, since
 * room is asked for before the kernels are known. */
static size_t stride_of(const cuda_backend *c, const graph_room *r) {
    attn_shape s = {};
    s.group = r->n_heads / r->n_kv_heads;
    s.n_kv_heads = r->n_kv_heads;
    for (int w = 0; w < ATTN_WIDTHS; w++) {
        s.tile_rows[w] = ROWS_LEAST;
        s.slots[w] = c->n_sms * PER_SM_MOST;
    }
    return ALIGN_UP(attn_fixed_bytes(attn_fixed_most(&s, r->n_seqs)), (size_t)16);
}

/* The shape as it is in a room: what bounds the division. */
static attn_shape bounded(const fixed_shape *f, const graph_room *r) {
    attn_shape s = f->shape;
    int64_t chunks = CEIL_DIV(r->max_len, ATTN_CHUNK);
    int64_t all = chunks > 1 ? chunks * r->n_seqs * s.group * s.n_kv_heads : 0;
    s.states_max = MIN(all, s.states_max);
    s.items_max = attn_fixed_most(&s, r->n_seqs).items;
    return s;
}

size_t cuda_graph_plan_bytes(backend *b, const graph_room *r) {
    return stride_of(cuda_of(b), r) * (size_t)r->n_shapes;
}

static void divide(fixed_shape *f, const graph_room *r, const attn_seq *seqs, void *to) {
    attn_shape s = bounded(f, r);
    attn_plan_make(&s, seqs, r->n_seqs, &f->plan);
    attn_fixed_write(&f->plan, attn_fixed_most(&s, r->n_seqs), to);
    f->ready = true;
}

int32_t cuda_graph_plan(backend *b, const graph_room *r, const attn_seq *seqs, void *host) {
    cuda_backend *c = cuda_of(b);
    struct cuda_attn_fixed *k = fixed_of(c);
    size_t stride = stride_of(c, r);
    k->cut = false;
    memset(host, 0, stride * (size_t)r->n_shapes);
    for (int32_t i = 0; i < k->n; i++) {
        k->shapes[i].ready = false;
        if (i >= r->n_shapes) continue;
        divide(&k->shapes[i], r, seqs, (char *)host + (size_t)i * stride);
        k->cut |= k->shapes[i].plan.merges.n > 0;
    }
    return k->cut;
}

/* The shape's number; -1: there is no room for it. */
static int32_t find(struct cuda_attn_fixed *k, const graph_room *r, const attn_shape *shape,
                    int32_t state_bytes) {
    for (int32_t i = 0; i < k->n; i++)
        if (k->shapes[i].state_bytes == state_bytes &&
            memcmp(&k->shapes[i].shape, shape, sizeof *shape) == 0) /* shape_of has cleared it */
            return i < r->n_shapes ? i : -1;
    if (k->n == MIN(SHAPES, r->n_shapes)) return -1;
    k->shapes[k->n].shape = *shape;
    k->shapes[k->n].state_bytes = state_bytes;
    return k->n++;
}

/* The first call of a shape in a step that did not know of it. */
static void divide_now(cuda_backend *c, fixed_shape *f, const op_attention *op, void *dev) {
    size_t bytes = stride_of(c, op->seqs.room);
    void *host = mem_calloc(1, bytes);
    divide(f, op->seqs.room, op->seqs.host, host);
    c->base.v->upload(&c->base, dev, host, bytes);
    f->ready = cuda_ready(c); /* a recording takes no upload: the step is launched again */
    mem_free(host);
}

bool attn_run_fixed(cuda_backend *c, const op_attention *op, attn_args *a, const attn_shape *shape,
                    const attn_launch launch[ATTN_WIDTHS]) {
    const graph_room *r = op->seqs.room;
    struct cuda_attn_fixed *k = fixed_of(c);
    CHECK(r && r->n_seqs == op->seqs.n && r->n_heads == a->group * a->n_kv_heads &&
          r->n_kv_heads == a->n_kv_heads);
    int32_t i = find(k, r, shape, a->state_floats * (int32_t)sizeof(float));
    if (i < 0) return false;
    fixed_shape *f = &k->shapes[i];
    attn_shape s = bounded(f, r);
    attn_width w = attn_fixed_width(&s);
    const attn_launch *l = &launch[w];
    attn_most most = attn_fixed_most(&s, r->n_seqs);
    char *dev = (char *)const_cast<void *>(op->seqs.plan) + (size_t)i * stride_of(c, r);
    CHECK(attn_fixed_bytes(most) <= stride_of(c, r));
    if (!f->ready) divide_now(c, f, op, dev);
    /* asked for in any form, so that it does not move */
    int64_t long_rows = r->max_len > ATTN_CHUNK ? r->n_seqs : 0;
    if (!attn_scratch(c, op, s.states_max, long_rows, a)) return true;
    if (!cuda_ready(c) || !attn_allow(c, l->kernel, l->smem)) return true;
    attn_fixed *head = (attn_fixed *)dev;
    a->items = (const attn_item *)(head + 1);
    a->n_live = &head->n_items;
    a->stages = l->stages;
    l->run(c, a, (unsigned)most.items * (unsigned)a->n_kv_heads, l->smem);
    if (!k->cut && !f->plan.merges.n) return true;
    a->merges = (const attn_merge *)(dev + attn_fixed_merges_at(most));
    a->n_live = &head->n_merges;
    attn_run_merges(c, a, (unsigned)most.merges * (unsigned)a->n_kv_heads,
                    (unsigned)MIN(s.group, s.tile_rows[w]));
    return true;
}
