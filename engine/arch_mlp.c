/* The feed-forward branch of a layer: plain, gated, or experts behind a router. The first
 * alternative of `mlp` whose `if` holds serves the layer. */
#include <math.h>
#include <stdio.h>

#include "engine/arch_build.h"

#define EXPERTS_MAX 4096

static status choose(arch_builder *b, const json_t **ret, error *err) {
    const json_t *list = js_get(b->e.f->root, "mlp");
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *m = json_array_get(list, k);
        bool holds;
        TRY(arch_flag(b, js_get(m, "if"), "mlp[].if", true, &holds, err));
        if (!holds) continue;
        *ret = m;
        return OK;
    }
    return error_set(err, ERR_FORMAT, "%s: mlp: no alternative fits layer %d", b->e.f->file,
                     b->e.layer);
}

/* The slots of one feed-forward net. */
typedef struct net {
    weight_slot gate, up, down; /* gate and up may be one slot: gate above up */
    int32_t item, n_items, ffn;
    bool gated;
} net;

/* Biases of gate and up are one vector, gate above up, also where the matrices are apart. */
static status add_up_bias(arch_builder *b, const json_t *rule, const char *part, const json_t *ref,
                          const net *n, error *err) {
    int32_t before = b->a->n_tensors;
    TRY(arch_add_bias(b, rule, part, "mlp[].bias", ref, err));
    if (b->a->n_tensors == before) return OK;
    arch_tensor *t = &b->a->tensors[before];
    t->slot = (weight_slot)(n->up + 1);
    t->row0 = n->gated && part[0] == 'u' ? n->ffn : 0;
    return OK;
}

static status add_net(arch_builder *b, const json_t *refs, const json_t *bias, const net *n,
                      error *err) {
    int32_t hidden = b->a->hidden;
    arch_place at = {.item = n->item, .n_items = n->n_items, .slot = n->gate, .cols = hidden};
    at.rows = n->ffn;
    if (n->gated) {
        TRY(arch_add_tensor(b, js_get(refs, "gate"), "mlp[].gate", at, NULL, err));
        TRY(add_up_bias(b, bias, "gate", js_get(refs, "gate"), n, err));
    }
    at.slot = n->up;
    at.row0 = n->gated && n->gate == n->up ? n->ffn : 0;
    TRY(arch_add_tensor(b, js_get(refs, "up"), "mlp[].up", at, NULL, err));
    TRY(add_up_bias(b, bias, "up", js_get(refs, "up"), n, err));
    at = (arch_place){
        .item = n->item, .n_items = n->n_items, .slot = n->down, .rows = hidden, .cols = n->ffn};
    TRY(arch_add_tensor(b, js_get(refs, "down"), "mlp[].down", at, NULL, err));
    return arch_add_bias(b, bias, "down", "mlp[].bias", js_get(refs, "down"), err);
}

static status resolve_routing(arch_builder *b, const json_t *m, arch_mlp *l, error *err) {
    static const char *const scores[] = {"softmax", "sigmoid", "softmax_topk"};
    static const char *const groups[] = {"none", "max", "top2_sum"};
    const json_t *g = js_get(m, "groups");
    int score, group;
    TRY(arch_count(b, js_get(m, "n"), "mlp[].n", 0, 1, EXPERTS_MAX, &l->n_experts, err));
    TRY(arch_count(b, js_get(m, "topk"), "mlp[].topk", 0, 1, l->n_experts, &l->top_k, err));
    TRY(arch_choice(b, js_get(m, "score"), "mlp[].score", "softmax", scores, 3, &score, err));
    TRY(arch_flag(b, js_get(m, "renorm"), "mlp[].renorm", false, &l->renorm, err));
    TRY(arch_number(b, js_get(m, "scale"), "mlp[].scale", 1, &l->route_scale, err));
    TRY(arch_choice(b, js_get(g, "score"), "mlp[].groups.score", "none", groups, 3, &group, err));
    TRY(arch_count(b, js_get(g, "n"), "mlp[].groups.n", 1, 1, l->n_experts, &l->n_groups, err));
    TRY(arch_count(b, js_get(g, "topk"), "mlp[].groups.topk", 1, 1, l->n_groups, &l->top_groups,
                   err));
    l->score = (score_kind)score;
    l->group_score = (group_kind)group;
    if (group != GROUP_NONE &&
        (l->n_experts % l->n_groups || l->n_experts / l->n_groups * l->top_groups < l->top_k))
        return error_set(err, ERR_FORMAT,
                         "%s: %d experts in %d groups, of which %d are taken, cannot give %d",
                         b->e.config_path, l->n_experts, l->n_groups, l->top_groups, l->top_k);
    return OK;
}

static status resolve_router(arch_builder *b, const json_t *m, const arch_mlp *l, error *err) {
    bool has;
    arch_place at = {.slot = W_ROUTER, .rows = l->n_experts, .cols = b->a->hidden};
    const json_t *ref = js_get(m, "router");
    TRY(arch_add_tensor(b, ref, "mlp[].router", at, NULL, err));
    TRY(arch_add_bias(b, js_get(m, "router_lin_bias"), NULL, "mlp[].router_lin_bias", ref, err));
    at = (arch_place){.slot = W_ROUTER_SELECT, .rows = l->n_experts};
    return arch_add_tensor(b, js_get(m, "router_bias"), "mlp[].router_bias", at, &has, err);
}

static status resolve_shared(arch_builder *b, const json_t *s, arch_mlp *l, error *err) {
    bool on;
    TRY(arch_flag(b, js_get(s, "if"), "mlp[].shared.if", true, &on, err));
    if (!s || !on) return OK;
    TRY(arch_count(b, js_get(s, "ff"), "mlp[].shared.ff", 0, 1, ARCH_WIDTH_MAX, &l->shared_ffn,
                   err));
    net n = {W_SHARED_UP, W_SHARED_UP, W_SHARED_DOWN, 0, 0, l->shared_ffn, l->gated};
    TRY(add_net(b, s, js_get(s, "bias"), &n, err));
    arch_place at = {.slot = W_SHARED_GATE, .rows = 1, .cols = b->a->hidden};
    return arch_add_tensor(b, js_get(s, "sigmoid_gate"), "mlp[].shared.sigmoid_gate", at,
                           &l->shared_gate, err);
}

static status resolve_moe(arch_builder *b, const json_t *m, arch_mlp *l, error *err) {
    l->kind = MLP_MOE;
    TRY(arch_flag(b, js_get(m, "gated"), "mlp[].gated", true, &l->gated, err));
    TRY(resolve_routing(b, m, l, err));
    TRY(resolve_router(b, m, l, err));
    TRY(arch_check_items(b, l->n_experts, "experts", err));
    for (int32_t x = 0; x < l->n_experts; x++) {
        net n = {W_EXPERT_GATE, W_EXPERT_UP, W_EXPERT_DOWN, x, l->n_experts, l->ffn, l->gated};
        b->e.expert = x;
        status st = add_net(b, js_get(m, "experts"), js_get(m, "bias"), &n, err);
        b->e.expert = -1;
        TRY(st);
    }
    return resolve_shared(b, js_get(m, "shared"), l, err);
}

status arch_resolve_mlp(arch_builder *b, arch_layer *y, error *err) {
    static const char *const kinds[] = {"plain", "glu", "moe", "none"};
    arch_mlp *l = &y->mlp;
    const json_t *m = NULL;
    int kind;
    str act;
    TRY(choose(b, &m, err));
    TRY(arch_choice(b, js_get(m, "kind"), "mlp[].kind", "glu", kinds, 4, &kind, err));
    if (kind == 3) return OK;
    TRY(arch_word(&b->e, js_get(m, "act"), "mlp[].act", "silu", &act, err));
    TRY(arch_act(b, act, &l->act, err));
    TRY(arch_count(b, js_get(m, "ff"), "mlp[].ff", b->a->ffn, 1, ARCH_WIDTH_MAX, &l->ffn, err));
    if (kind == 2) return resolve_moe(b, m, l, err);
    l->kind = MLP_DENSE;
    l->gated = kind == 1;
    net n = {W_UP, W_UP, W_DOWN, 0, 0, l->ffn, l->gated};
    return add_net(b, m, js_get(m, "bias"), &n, err);
}
