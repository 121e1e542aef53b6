/* Which type each buffer between a producer and its products has.
 *
 * Not asked for: the normed q of latent attention (its norm is in place), the outputs of products
 * that feed products (latent attention's values to W_O), and rows of the head, which embeddings
 * read too. Products round those themselves. */
#include "engine/forward_feed.h"

#include "engine/base/mem.h"

/* The matrices of a slot, all items and parts, read the buffer too. DT_COUNT: no reader so far. */
static void reads(const weights *w, int32_t layer, weight_slot slot, int32_t n_items, dtype *io) {
    const weight *m = weights_at(w, layer, slot);
    for (int32_t i = 0; m && i < n_items; i++)
        for (int32_t k = 0; k < m[i].n_parts; k++) {
            dtype one = w->b->v->feed_dt ? w->b->v->feed_dt(w->b, &m[i].m[k]) : DT_F32;
            *io = *io == DT_COUNT || *io == one ? one : DT_F32;
        }
}

static dtype settled(dtype dt) {
    return dt == DT_COUNT ? DT_F32 : dt;
}

static void attn_reads(const arch *a, const weights *w, int32_t l, dtype *io) {
    if (a->attn == ATTN_GQA) {
        reads(w, l, W_QKV, 1, io);
        return;
    }
    reads(w, l, a->q_rank ? W_Q_A : W_Q_B, 1, io);
    reads(w, l, W_KV_A, 1, io);
}

static void mlp_reads(const arch *a, const weights *w, int32_t l, dtype *io) {
    const arch_mlp *m = &a->layers[l].mlp;
    if (m->kind == MLP_NONE) return;
    if (m->kind != MLP_MOE) {
        reads(w, l, W_UP, 1, io);
        return;
    }
    reads(w, l, W_ROUTER, 1, io);
    reads(w, l, W_EXPERT_GATE, m->n_experts, io);
    reads(w, l, W_EXPERT_UP, m->n_experts, io);
    if (!m->shared_ffn) return;
    reads(w, l, W_SHARED_UP, 1, io);
    if (m->shared_gate) reads(w, l, W_SHARED_GATE, 1, io);
}

/* The activation of a shared net with a gate is scaled in place, in f32. */
static dtype act_feed(const arch *a, const weights *w, int32_t l) {
    const arch_mlp *m = &a->layers[l].mlp;
    dtype dt = DT_COUNT;
    if (m->kind == MLP_MOE && m->shared_ffn && !m->shared_gate)
        reads(w, l, W_SHARED_DOWN, 1, &dt);
    else if (m->kind == MLP_DENSE)
        reads(w, l, W_DOWN, 1, &dt);
    return settled(dt);
}

/* Attention stores no codes. Latent: heads are columns [h*L, (h+1)*L) of its rows. */
static dtype att_feed(const arch *a, const weights *w, int32_t l) {
    dtype dt = DT_COUNT;
    if (a->attn == ATTN_GQA)
        reads(w, l, W_O, 1, &dt);
    else
        reads(w, l, W_V_UP, a->n_heads, &dt);
    return dtype_is_float(settled(dt)) ? settled(dt) : DT_F32;
}

layer_feeds layer_feeds_of(const arch *a, const weights *w, int32_t l) {
    const arch_layer *y = &a->layers[l];
    dtype attn = DT_COUNT, mlp = DT_COUNT;
    attn_reads(a, w, l, &attn);
    mlp_reads(a, w, l, y->parallel && y->shared_norm ? &attn : &mlp);
    layer_feeds f = {settled(attn), settled(mlp), att_feed(a, w, l), act_feed(a, w, l)};
    if (y->parallel) return f;
    /* What is not the output of a norm, or is added to the stream later, is f32. */
    if (!y->attn_branch.in_norm || y->attn_branch.from_norm) f.attn_in = DT_F32;
    if (!y->mlp_branch.in_norm || y->mlp_branch.from_norm) f.mlp_in = DT_F32;
    return f;
}
