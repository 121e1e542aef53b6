/* The largest calls of ops that a model's steps make, for the memory plan (backend.h). Maxima over
 * layers are taken member by member: for models whose layers are alike, which is nearly all, that
 * is exact, for others an upper bound. */
#include "engine/base/mem.h"
#include "engine/engine_internal.h"

static void add_experts(const arch *a, op_bounds *o) {
    for (int32_t l = 0; l < a->n_layers; l++) {
        const arch_mlp *m = &a->layers[l].mlp;
        if (m->kind != MLP_MOE) continue;
        o->n_expert_layers++;
        o->n_experts = MAX(o->n_experts, m->n_experts);
        o->top_k = MAX(o->top_k, m->top_k);
        o->ffn = MAX(o->ffn, m->ffn);
        o->gated |= m->gated;
    }
    o->width = o->n_expert_layers ? a->hidden : 0;
}

op_bounds engine_bounds(const engine *e, int32_t max_len) {
    const arch *a = e->a;
    bool gqa = a->attn == ATTN_GQA;
    op_bounds o = {.n_tokens = e->max_tokens,
                   .n_seqs = e->max_seqs,
                   .max_len = max_len,
                   .n_heads = a->n_heads,
                   .n_kv_heads = gqa ? a->n_kv_heads : 1,
                   .value_width = gqa ? a->head_dim : a->latent,
                   .mats = e->w.mats,
                   .n_mats = e->w.n_mats};
    if (a->has_head) {
        o.n_rows = forward_rows_at_once(e->b->host_memory, a->vocab, e->max_picks);
        o.vocab = a->vocab;
        o.n_edits = e->b->v->sample ? sample_device_edits(a->vocab) : 0;
    }
    add_experts(a, &o);
    if (e->adapters_max > 0) o.lora_rank = adapter_step_rank(&e->w, e->lora_rank_max);
    return o;
}
