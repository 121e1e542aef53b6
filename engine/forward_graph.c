/* See forward_graph.h. */
#include "engine/forward_graph.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/forward_parts.h"

#define REFUSED_MOST 2 /* then a kind of step runs op by op for good */

/* What a recorded launch takes on the device: up to 4 KiB of arguments and its description. Not
 * measured. */
#define LAUNCH_BYTES ((size_t)4096)

static int32_t next_bucket(int32_t b) {
    if (b < 8) return 2 * b;
    int32_t step = 8;
    while (b >= 16 * step) step *= 2;
    return b + step;
}

int32_t forward_bucket(int32_t n, int32_t max_seqs) {
    int32_t b = 1;
    CHECK(n >= 1 && n <= max_seqs);
    while (b < n) b = next_bucket(b);
    return MIN(b, max_seqs);
}

int32_t forward_bucket_index(int32_t bucket) {
    int32_t i = 0;
    for (int32_t b = 1; b < bucket; b = next_bucket(b)) i++;
    return i;
}

int32_t forward_n_buckets(int32_t max_seqs) {
    return forward_bucket_index(max_seqs) + 1;
}

int32_t forward_bucket_of(const batch_plan *plan, int32_t max_seqs) {
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *s = &plan->seqs[i];
        if (s->n_tokens != 1 || s->prompt_out || s->pool_out) return 0;
    }
    return plan->n_seqs ? forward_bucket(plan->n_seqs, max_seqs) : 0;
}

/* Launches of a step, roughly: norms, products in parts, rotation, attention and merge, activation,
 * additions; sorting and products of experts; the heads of latent attention one by one; two for
 * each product with low-rank parts. */
static size_t launches_of(const arch *a, bool adapters) {
    size_t per_layer = adapters ? 16 + 2 * 6 : 16, all = 24;
    if (a->attn == ATTN_MLA) per_layer += 3 * (size_t)a->n_heads;
    for (int32_t l = 0; l < a->n_layers; l++)
        all += per_layer + (a->layers[l].mlp.kind == MLP_MOE ? 16 : 0);
    return all;
}

size_t forward_graph_bytes(const arch *a, int32_t max_seqs, bool adapters) {
    size_t each = launches_of(a, false) + (adapters ? launches_of(a, true) : 0);
    return (size_t)forward_n_buckets(max_seqs) * GRAPH_FORMS * each * LAUNCH_BYTES;
}

graph_room forward_graph_room(const arch *a, int32_t n_seqs, int32_t max_len) {
    return (graph_room){.n_seqs = n_seqs,
                        .n_heads = a->n_heads,
                        .n_kv_heads = a->attn == ATTN_MLA ? 1 : a->n_kv_heads,
                        .n_shapes = a->n_windows,
                        .max_len = max_len};
}

static int32_t n_kinds(int32_t max_seqs) {
    return forward_n_buckets(max_seqs) * GRAPH_FORMS * 4;
}

forward_graphs *forward_graphs_new(int32_t max_seqs) {
    forward_graphs *g = mem_calloc(1, sizeof *g);
    g->kinds = mem_calloc((size_t)n_kinds(max_seqs), sizeof *g->kinds);
    return g;
}

void forward_graphs_free(forward_graphs *g) {
    if (!g) return;
    mem_free(g->kinds);
    mem_free(g);
}

/* Bucket, form of attention, which rows ropes read, and whether there are low-rank parts: all that
 * launches depend on. */
static int32_t kind_of(const forward *f) {
    bool own = false, low = f->ad && f->ad->has_low;
    for (int32_t k = 0; k < f->a->n_ropes; k++) own |= f->ropes[k].own;
    int32_t bucket = forward_bucket_index(f->bucket);
    return (bucket * GRAPH_FORMS + f->graphs->form) * 4 + 2 * low + own;
}

/* An adapter with more low-rank parts than those before: steps with adapters launch more now. That
 * is rare enough for all recordings to go. */
static void follow_adapters(forward *f) {
    uint32_t now = f->ad ? adapter_step_launches(f->ad) : 0;
    if (now == 0 || now == f->graphs->adapter_launches) return;
    f->b->v->graphs->drop(f->b);
    f->graphs->adapter_launches = now;
}

/* True when it was recorded and launched. */
static bool record(forward *f, int32_t kind, void (*launch)(forward *f)) {
    const graphs *v = f->b->v->graphs;
    graph_state *s = &f->graphs->kinds[kind];
    if (s->refused >= REFUSED_MOST || !v->begin(f->b)) return false;
    launch(f);
    if (v->end(f->b, kind) && v->run(f->b, kind)) {
        f->graphs->n_recorded++;
        return true;
    }
    s->refused++;
    return false;
}

void forward_graph_step(forward *f, void (*launch)(forward *f)) {
    int32_t kind = kind_of(f);
    graph_state *s = &f->graphs->kinds[kind];
    follow_adapters(f);
    if (s->warm && (f->b->v->graphs->run(f->b, kind) || record(f, kind, launch))) {
        f->graphs->n_replayed++;
        return;
    }
    launch(f);
    s->warm = true;
}
