/* From a family and a config.json to the layer program.
 *
 * Order: dimensions, words that choose a kind, then per layer the two branches (arch_attn.c,
 * arch_mlp.c) with the norms around them, and while doing so the tensor list (arch_tensor.c).
 * Nothing is read from the weights but the names. */
#include "engine/arch.h"

#include <math.h>
#include <stdio.h>

#include "conf/limits.h"
#include "engine/arch_build.h"
#include "engine/arch_rope.h"
#include "engine/base/mem.h"

/* The model as a whole */

static status check_heads(arch_builder *b, error *err) {
    const arch *a = b->a;
    if (a->n_heads % a->n_kv_heads != 0)
        return error_set(err, ERR_FORMAT, "%s: %d attention heads are no multiple of %d kv heads",
                         b->e.config_path, a->n_heads, a->n_kv_heads);
    if (a->attn == ATTN_GQA && (a->head_dim > ATTN_MAX_WIDTH || a->head_dim % 2))
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: head width %d is not supported (even, at most %d)", b->e.config_path,
                         a->head_dim, ATTN_MAX_WIDTH);
    if ((int64_t)(a->n_heads + 2 * a->n_kv_heads) * a->head_dim > ARCH_WIDTH_MAX)
        return error_set(err, ERR_FORMAT, "%s: %d heads of width %d are too wide", b->e.config_path,
                         a->n_heads, a->head_dim);
    return OK;
}

static status resolve_dims(arch_builder *b, error *err) {
    arch *a = b->a;
    arch_eval *e = &b->e;
    TRY(arch_dim(e, "L", 1, LIMIT_LAYERS, &a->n_layers, err));
    TRY(arch_dim(e, "H", 1, ARCH_WIDTH_MAX, &a->hidden, err));
    TRY(arch_dim(e, "nh", 1, 65536, &a->n_heads, err));
    TRY(arch_dim(e, "nkv", 1, 65536, &a->n_kv_heads, err));
    TRY(arch_dim(e, "hd", 1, 65536, &a->head_dim, err));
    TRY(arch_dim(e, "ff", 1, ARCH_WIDTH_MAX, &a->ffn, err));
    TRY(arch_dim(e, "V", 1, LIMIT_VOCAB, &a->vocab, err));
    TRY(arch_dim(e, "ctx", 1, INT32_MAX / 64, &a->ctx_max, err));
    return OK;
}

static status resolve_mask(arch_builder *b, error *err) {
    static const char *const masks[] = {"causal", "bidir", "prefix"};
    const json_t *node = arch_node(&b->e, "attn.mask");
    int mask;
    if (json_is_object(node)) node = js_get(node, "kind");
    TRY(arch_choice(b, node, "attn.mask", "causal", masks, 3, &mask, err));
    b->a->mask = (attn_mask)mask;
    return OK;
}

static status resolve_positions(arch_builder *b, error *err) {
    static const char *const kinds[] = {"default", "offset", "glm2d"};
    const json_t *node = arch_node(&b->e, "positions");
    int kind;
    TRY(arch_choice(b, json_is_object(node) ? js_get(node, "kind") : node, "positions.kind",
                    "default", kinds, 3, &kind, err));
    b->a->positions = (pos_kind)kind;
    if (kind == POS_OFFSET)
        TRY(arch_count(b, js_get(node, "by"), "positions.by", 0, 0, 65536, &b->a->pos_offset, err));
    if (kind == POS_GLM2D && b->a->mask != MASK_PREFIX)
        return error_set(err, ERR_FORMAT, "%s: positions glm2d need attn.mask prefix",
                         b->e.f->file);
    return OK;
}

static status resolve_kinds(arch_builder *b, error *err) {
    static const char *const attns[] = {"gqa", "mla"};
    static const char *const norms[] = {"rms", "rms_plus1", "layer", "layer_nobias",
                                        "layer_noparam"};
    double eps;
    int norm, attn;
    TRY(arch_choice(b, arch_node(&b->e, "norm.kind"), "norm.kind", "rms", norms, ARRAY_LEN(norms),
                    &norm, err));
    TRY(arch_choice(b, arch_node(&b->e, "attn.kind"), "attn.kind", "gqa", attns, 2, &attn, err));
    TRY(arch_real(&b->e, "norm.eps", 1e-6, &eps, err));
    if (!(eps >= 0 && eps < 1))
        return error_set(err, ERR_FORMAT, "%s: norm epsilon %g is not in [0, 1)", b->e.config_path,
                         eps);
    b->a->norm = norm >= 2 ? NORM_LAYER : NORM_RMS;
    b->a->eps = (float)eps;
    b->a->attn = (attn_kind)attn;
    if (attn == ATTN_MLA) TRY(arch_resolve_mla_dims(b, err));
    TRY(check_heads(b, err));
    TRY(resolve_mask(b, err));
    TRY(resolve_positions(b, err));
    if (attn == ATTN_MLA && b->a->mask != MASK_CAUSAL)
        return arch_unsupported(&b->e, "attn.mask", "a mask with latent attention", err);
    return arch_resolve_alibi(b, err);
}

/* One layer */

/* per_layer: the `set` of every alternative whose `if` holds here, later ones over earlier. */
static status layer_overrides(arch_builder *b, json_t **ret, error *err) {
    const json_t *list = js_get(b->e.f->root, "per_layer");
    json_t *all = json_object();
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *p = json_array_get(list, k);
        value cond;
        status st =
            arch_node_value(&b->e, js_get(p, "if"), "per_layer[].if", value_bool(true), &cond, err);
        if (st != OK) {
            json_decref(all);
            return st;
        }
        if (value_true(cond)) json_object_update(all, js_get(p, "set"));
    }
    *ret = all;
    return OK;
}

typedef enum residual_kind {
    RES_PRE,
    RES_POST,
    RES_PARALLEL,
    RES_SANDWICH,
    RES_POST_BRANCH,
    RES_DEEPNORM
} residual_kind;

/* The norms of one branch, by the residual's kind. */
static status resolve_branch(arch_builder *b, residual_kind kind, bool is_mlp, arch_branch *r,
                             error *err) {
    int32_t width = b->a->hidden;
    const char *in = is_mlp ? "norms.mlp_in" : "norms.attn_in";
    const char *out = is_mlp ? "norms.mlp_out" : "norms.attn_out";
    bool has = false, from_norm;
    if (kind != RES_POST_BRANCH)
        TRY(arch_add_norm(b, arch_node(&b->e, in), in, is_mlp ? W_MLP_NORM : W_ATTN_NORM, width,
                          &has, err));
    if (kind == RES_SANDWICH || kind == RES_POST_BRANCH)
        TRY(arch_add_norm(b, arch_node(&b->e, out), out, is_mlp ? W_MLP_OUT_NORM : W_ATTN_OUT_NORM,
                          width, &r->out_norm, err));
    bool need = kind != RES_POST_BRANCH && !(kind == RES_PARALLEL && is_mlp);
    if ((need && !has) || ((kind == RES_SANDWICH || kind == RES_POST_BRANCH) && !r->out_norm))
        return error_set(err, ERR_FORMAT, "%s: %s is missing", b->e.f->file, has ? out : in);
    r->in_norm = has && kind != RES_POST;
    r->post_norm = has && kind == RES_POST;
    TRY(arch_flag(b, arch_node(&b->e, "residual.from_norm"), "residual.from_norm",
                  kind == RES_DEEPNORM, &from_norm, err));
    r->from_norm = from_norm && r->in_norm;
    TRY(arch_number(b, arch_node(&b->e, "residual.alpha"), "residual.alpha", 1, &r->alpha, err));
    return arch_number(b, arch_node(&b->e, "residual.branch_scale"), "residual.branch_scale", 1,
                       &r->scale, err);
}

static status resolve_layer_parts(arch_builder *b, arch_layer *l, error *err) {
    static const char *const kinds[] = {"pre",      "post",        "parallel",
                                        "sandwich", "post_branch", "deepnorm"};
    int kind;
    TRY(arch_choice(b, arch_node(&b->e, "residual.kind"), "residual.kind", "pre", kinds,
                    ARRAY_LEN(kinds), &kind, err));
    TRY(resolve_branch(b, (residual_kind)kind, false, &l->attn_branch, err));
    TRY(arch_resolve_attn(b, l, err));
    TRY(resolve_branch(b, (residual_kind)kind, true, &l->mlp_branch, err));
    l->parallel = kind == RES_PARALLEL;
    l->shared_norm = l->parallel && !l->mlp_branch.in_norm;
    if (l->parallel && (l->attn_branch.from_norm || l->mlp_branch.from_norm))
        return error_set(err, ERR_FORMAT, "%s: residual.from_norm does not go with parallel",
                         b->e.f->file);
    return arch_resolve_mlp(b, l, err);
}

static status resolve_layer(arch_builder *b, int32_t i, error *err) {
    json_t *set;
    b->e.layer = i;
    TRY(layer_overrides(b, &set, err));
    b->e.override = set;
    status st = resolve_layer_parts(b, &b->a->layers[i], err);
    b->e.override = NULL;
    b->e.layer = -1;
    json_decref(set);
    return st;
}

/* Both ends */

/* {p}: the first candidate under which the embedding (or the head) exists. */
static status choose_prefix(arch_builder *b, error *err) {
    const json_t *list = js_get(b->e.f->root, "prefix");
    for (size_t k = 0; k < json_array_size(list); k++) {
        char *name;
        b->e.prefix = json_string_value(json_array_get(list, k));
        if (!b->e.prefix) b->e.prefix = "";
        TRY(arch_tensor_name(&b->e, arch_node(&b->e, "embed.tok"), "embed.tok", &name, err));
        bool there = name && b->e.names.has(b->e.names.ctx, name);
        mem_free(name);
        if (there) return OK;
    }
    if (json_array_size(list)) b->e.prefix = json_string_value(json_array_get(list, 0));
    return OK;
}

static status resolve_pos_embed(arch_builder *b, error *err) {
    arch *a = b->a;
    const json_t *pos = arch_node(&b->e, "embed.pos"), *type = arch_node(&b->e, "embed.type");
    if (pos) {
        arch_place at = {.slot = W_POS_EMBED, .cols = a->hidden};
        TRY(arch_count(b, js_get(pos, "offset"), "embed.pos.offset", 0, 0, 65536,
                       &a->pos_embed_offset, err));
        TRY(arch_count(b, js_get(pos, "rows"), "embed.pos.rows", a->ctx_max + a->pos_embed_offset,
                       1, INT32_MAX / 64, &a->pos_embed_rows, err));
        at.rows = a->pos_embed_rows;
        TRY(arch_add_tensor(b, js_get(pos, "tensor"), "embed.pos", at, &a->pos_embed, err));
    }
    if (type) {
        int32_t rows;
        arch_place at = {.slot = W_TYPE_EMBED, .rows = a->hidden};
        TRY(arch_count(b, js_get(type, "rows"), "embed.type.rows", 2, 1, 65536, &rows, err));
        TRY(arch_add_tensor(b, js_get(type, "tensor"), "embed.type", at, &a->type_embed, err));
        if (a->type_embed) /* row 0 of [rows, C] */
            a->tensors[a->n_tensors - 1].src_rows = (int64_t)rows * a->hidden;
    }
    return OK;
}

static status resolve_embed(arch_builder *b, error *err) {
    arch *a = b->a;
    const json_t *proj = arch_node(&b->e, "embed.proj_in");
    value width = value_num(a->hidden);
    if (js_get(js_get(b->e.f->root, "vars"), "E"))
        TRY(arch_dim(&b->e, "E", 1, ARCH_WIDTH_MAX, &a->embed_width, err));
    else
        a->embed_width = (int32_t)width.num;
    TRY(arch_number(b, arch_node(&b->e, "embed.scale"), "embed.scale", 1, &a->embed_scale, err));
    arch_place at = {.slot = W_PROJ_IN, .rows = a->hidden, .cols = a->embed_width};
    TRY(arch_add_tensor(b, proj, "embed.proj_in", at, &a->proj_in, err));
    if (a->embed_width != a->hidden && !a->proj_in)
        return error_set(err, ERR_FORMAT, "%s: embedding width %d is not the hidden width %d",
                         b->e.config_path, a->embed_width, a->hidden);
    TRY(arch_add_norm(b, arch_node(&b->e, "embed.norm"), "embed.norm", W_EMBED_NORM, a->hidden,
                      &a->embed_norm, err));
    return resolve_pos_embed(b, err);
}

/* The embedding and the head, either of which may stand for both when they are tied. */
static status resolve_tables(arch_builder *b, error *err) {
    arch *a = b->a;
    char *embed = NULL, *head = NULL;
    static const char *const head_norms[] = {"none", "l2_rows"};
    const json_t *tied_node = arch_node(&b->e, "final.tied");
    bool tied;
    int norm;
    TRY(arch_flag(b, tied_node, "final.tied", false, &tied, err));
    TRY(arch_choice(b, arch_node(&b->e, "final.head_norm"), "final.head_norm", "none", head_norms,
                    2, &norm, err));
    TRY(arch_tensor_name(&b->e, arch_node(&b->e, "embed.tok"), "embed.tok", &embed, err));
    status st = arch_tensor_name(&b->e, arch_node(&b->e, "final.head"), "final.head", &head, err);
    if (st == OK && !embed)
        st = error_set(err, ERR_FORMAT, "%s: embed.tok is missing", b->e.f->file);
    if (st != OK) {
        mem_free(embed);
        return st;
    }
    tensor_names n = b->e.names;
    a->has_head = head || tied;
    a->head_name = head ? mem_strdup(head) : NULL;
    a->tied = a->has_head && (tied || !n.has(n.ctx, head));
    bool only_head = a->tied && head && !n.has(n.ctx, embed) && n.has(n.ctx, head);
    /* Tied and both stored: they hold the same numbers, so read the embedding's for both. */
    const char *table = only_head ? head : embed, *out = a->tied ? table : head;
    arch_tensor t = {.name = mem_strdup(table),
                     .slot = W_EMBED,
                     .layer = -1,
                     .rows = a->vocab,
                     .cols = a->embed_width,
                     .src_rows = a->vocab,
                     .view = {0, a->vocab, a->vocab}};
    arch_push_tensor(b, t);
    if (a->has_head) {
        t.name = mem_strdup(out);
        t.slot = W_HEAD;
        t.xform = norm == 1 ? XFORM_L2_ROWS : XFORM_NONE;
        arch_push_tensor(b, t);
        if (a->tied && head && strcmp(out, head) != 0) a->ignore[a->n_ignore++] = mem_strdup(head);
        st = arch_add_bias(b, arch_node(&b->e, "final.head_bias"), NULL, "final.head_bias", NULL,
                           err);
    }
    mem_free(embed);
    mem_free(head);
    return st;
}

static status resolve_final(arch_builder *b, error *err) {
    arch *a = b->a;
    arch_eval *e = &b->e;
    TRY(arch_add_norm(b, arch_node(e, "final.norm"), "final.norm", W_FINAL_NORM, a->hidden,
                      &a->final_norm, err));
    arch_place at = {.slot = W_PROJ_OUT, .rows = a->embed_width, .cols = a->hidden};
    TRY(arch_add_tensor(b, arch_node(e, "final.proj_out"), "final.proj_out", at, &a->proj_out,
                        err));
    TRY(arch_number(b, arch_node(e, "final.pre_head_scale"), "final.pre_head_scale", 1,
                    &a->pre_head_scale, err));
    TRY(arch_number(b, arch_node(e, "final.logit_scale"), "final.logit_scale", 1, &a->logit_scale,
                    err));
    TRY(arch_number(b, arch_node(e, "final.softcap"), "final.softcap", 0, &a->logit_softcap, err));
    return resolve_tables(b, err);
}

static status resolve_ignore(arch_builder *b, error *err) {
    const json_t *list = js_get(b->e.f->root, "ignore");
    arch *a = b->a;
    a->ignore = mem_calloc(json_array_size(list) + 2, sizeof *a->ignore);
    for (size_t k = 0; k < json_array_size(list); k++) {
        char *name;
        TRY(arch_tensor_name(&b->e, json_array_get(list, k), "ignore", &name, err));
        if (name) a->ignore[a->n_ignore++] = name;
    }
    return OK;
}

static int32_t count_windows(const arch *a) {
    int32_t n = 0;
    for (int32_t l = 0; l < a->n_layers; l++) {
        bool is_new = true;
        for (int32_t k = 0; k < l && is_new; k++)
            is_new = a->layers[k].attn.window != a->layers[l].attn.window;
        n += is_new;
    }
    return n;
}

static status resolve_all(arch_builder *b, error *err) {
    TRY(resolve_dims(b, err));
    TRY(choose_prefix(b, err));
    TRY(resolve_kinds(b, err));
    TRY(resolve_ignore(b, err));
    TRY(resolve_embed(b, err));
    b->a->layers = mem_calloc((size_t)b->a->n_layers, sizeof *b->a->layers);
    for (int32_t i = 0; i < b->a->n_layers; i++) TRY(resolve_layer(b, i, err));
    b->a->n_windows = count_windows(b->a);
    TRY(resolve_final(b, err));
    bool stretch;
    TRY(arch_bool(&b->e, "rope.stretch", true, &stretch, err));
    if (stretch) b->a->ctx_max = arch_rope_ctx(b->a, b->a->ctx_max);
    return OK;
}

status arch_resolve(const family *f, const json_t *config, const char *config_path,
                    tensor_names names, arch **ret, error *err) {
    arch_builder *b = mem_calloc(1, sizeof *b);
    arch *a = b->a = mem_calloc(1, sizeof *a);
    memcpy(a->family, f->name, sizeof a->family);
    str name = js_str(json_array_get(js_get(config, "architectures"), 0));
    if (!name.n) name = js_get_str(config, "model_type");
    if (name.n) memcpy(a->architecture, name.p, MIN(name.n, sizeof a->architecture - 1));
    status st = arch_eval_init(&b->e, f, config, config_path, names, err);
    if (st == OK) st = resolve_all(b, err);
    if (st == OK)
        *ret = a;
    else
        arch_free(a);
    mem_free(b);
    return st;
}

void arch_free(arch *a) {
    if (!a) return;
    for (int32_t i = 0; i < a->n_tensors; i++) mem_free(a->tensors[i].name);
    for (int32_t i = 0; i < a->n_ignore; i++) mem_free(a->ignore[i]);
    for (int32_t i = 0; i < a->n_ropes; i++) rope_spec_done(&a->ropes[i]);
    mem_free(a->tensors);
    mem_free(a->ignore);
    mem_free(a->head_name);
    mem_free(a->ropes);
    mem_free(a->layers);
    mem_free(a->alibi);
    mem_free(a);
}
