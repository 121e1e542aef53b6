/* The attention branch of a layer: grouped-query attention over packed q, k, v, or multi-head
 * latent attention (DeepSeek), whose cache holds one latent row a token and whose up-projections
 * are split by head so that they can be absorbed into q and the output. */
#include <math.h>
#include <stdio.h>

#include "engine/arch_build.h"
#include "engine/arch_rope.h"
#include "engine/base/mem.h"

#define LATENT_MAX 1024 /* latent and rotated width together: op_latent_attention */

static status add_projection(arch_builder *b, const char *path, const char *part, weight_slot slot,
                             int32_t row0, int32_t rows, int32_t cols, error *err) {
    const json_t *ref = arch_node(&b->e, path);
    arch_place at = {.slot = slot, .row0 = row0, .rows = rows, .cols = cols};
    TRY(arch_add_tensor(b, ref, path, at, NULL, err));
    return arch_add_bias(b, arch_node(&b->e, "attn.bias"), part, "attn.bias", ref, err);
}

/* {h} in a name: one tensor a head. */
static status add_head_norms(arch_builder *b, const json_t *ref, const char *path, weight_slot slot,
                             int32_t heads, int32_t width, error *err) {
    bool has = false;
    if (!strstr(js_str(ref).p ? js_str(ref).p : "", "{h}"))
        return arch_add_norm(b, ref, path, slot, heads * width, &has, err);
    TRY(arch_check_items(b, heads, "normed heads", err));
    for (int32_t h = 0; h < heads; h++) {
        b->e.head = h;
        arch_place at = {.slot = slot, .row0 = h * width, .rows = width};
        status st = arch_add_tensor(b, ref, path, at, NULL, err);
        b->e.head = -1;
        TRY(st);
    }
    return OK;
}

static status resolve_qk_norm(arch_builder *b, arch_attn *t, error *err) {
    static const char *const pers[] = {"head", "full", "head_weights"};
    static const char *const kinds[] = {"rms", "rms_plus1", "layer", "layer_nobias"};
    const json_t *n = arch_node(&b->e, "attn.qk_norm");
    const arch *a = b->a;
    int per, kind;
    bool on, after;
    if (!n) return OK;
    TRY(arch_flag(b, js_get(n, "if"), "attn.qk_norm.if", true, &on, err));
    if (!on) return OK;
    TRY(arch_choice(b, js_get(n, "per"), "attn.qk_norm.per", "head", pers, 3, &per, err));
    TRY(arch_choice(b, js_get(n, "kind"), "attn.qk_norm.kind", "rms", kinds, 4, &kind, err));
    TRY(arch_flag(b, js_get(n, "after_rope"), "attn.qk_norm.after_rope", false, &after, err));
    if (after) return arch_unsupported(&b->e, "attn.qk_norm.after_rope", "true", err);
    t->qk_norm = (qk_norm_kind)(QK_PER_HEAD + per);
    t->qk_norm_kind = kind >= 2 ? NORM_LAYER : NORM_RMS;
    const struct {
        const char *key, *path;
        weight_slot slot;
        int32_t heads;
    } sides[] = {{"q", "attn.qk_norm.q", W_Q_NORM, a->n_heads},
                 {"k", "attn.qk_norm.k", W_K_NORM, a->n_kv_heads}};
    for (int i = 0; i < 2; i++) {
        const json_t *ref = js_get(n, sides[i].key);
        arch_place at = {.slot = sides[i].slot,
                         .rows = per == 0 ? a->head_dim : sides[i].heads * a->head_dim,
                         .xform = kind == 1 ? XFORM_PLUS_ONE : XFORM_NONE};
        if (per == 2)
            TRY(add_head_norms(b, ref, sides[i].path, sides[i].slot, sides[i].heads, a->head_dim,
                               err));
        else
            TRY(arch_add_tensor(b, ref, sides[i].path, at, NULL, err));
        if (kind == 2 && per != 2)
            TRY(arch_add_bias(b, json_true(), NULL, sides[i].path, ref, err));
    }
    return OK;
}

static status resolve_scores(arch_builder *b, arch_attn *t, error *err) {
    double scale, window, softcap, clip, logn, beta;
    arch_eval *e = &b->e;
    TRY(arch_real(e, "attn.scale", 1 / sqrt(b->a->head_dim), &scale, err));
    TRY(arch_real(e, "attn.window", 0, &window, err));
    TRY(arch_real(e, "attn.softcap", 0, &softcap, err));
    TRY(arch_real(e, "attn.clip_qkv", 0, &clip, err));
    TRY(arch_real(e, "attn.logn.base", 0, &logn, err));
    TRY(arch_real(e, "attn.logn.beta", 0, &beta, err));
    if (!(window >= 0 && window <= INT32_MAX) || window != floor(window))
        return error_set(err, ERR_FORMAT, "%s: attention window %g is no whole number >= 0",
                         e->config_path, window);
    if (!(softcap >= 0 && clip >= 0 && isfinite(softcap) && isfinite(clip) && isfinite(scale)))
        return error_set(err, ERR_FORMAT, "%s: attention scale, softcap and clip must be finite",
                         e->config_path);
    if (!(logn == 0 || (logn >= 2 && logn <= INT32_MAX)))
        return error_set(err, ERR_FORMAT, "%s: logn base %g is out of range", e->config_path, logn);
    if (!(beta >= 0 && beta <= 1e6) || (beta > 0 && logn == 0))
        return error_set(err, ERR_FORMAT, "%s: logn beta %g needs a base and 0 to 1e6",
                         e->config_path, beta);
    t->scale = (float)scale;
    t->window = (int32_t)window;
    t->softcap = (float)softcap;
    t->clip = (float)clip;
    t->logn_base = (int32_t)logn;
    t->logn_beta = (float)beta;
    return OK;
}

/* Takes what r owns. */
static int32_t rope_index(arch *a, rope_spec *r) {
    for (int32_t i = 0; i < a->n_ropes; i++)
        if (rope_spec_equal(&a->ropes[i], r)) {
            rope_spec_done(r);
            return i;
        }
    a->ropes = mem_realloc(a->ropes, (size_t)(a->n_ropes + 1) * sizeof *a->ropes);
    a->ropes[a->n_ropes] = *r;
    return a->n_ropes++;
}

static status resolve_gqa(arch_builder *b, arch_attn *t, error *err) {
    const arch *a = b->a;
    int32_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
    TRY(add_projection(b, "attn.q", "q", W_QKV, 0, q, a->hidden, err));
    TRY(add_projection(b, "attn.k", "k", W_QKV, q, kv, a->hidden, err));
    TRY(add_projection(b, "attn.v", "v", W_QKV, q + kv, kv, a->hidden, err));
    TRY(add_projection(b, "attn.o", "o", W_O, 0, a->hidden, q, err));
    arch_place sinks = {.slot = W_SINKS, .rows = a->n_heads};
    TRY(arch_add_tensor(b, arch_node(&b->e, "attn.sinks"), "attn.sinks", sinks, &t->sinks, err));
    return resolve_qk_norm(b, t, err);
}

/* Both halves of kv_b by head: keys transposed, because they multiply q from the other side. */
static status resolve_mla(arch_builder *b, error *err) {
    const arch *a = b->a;
    int32_t q_rows = a->n_heads * (a->nope_width + a->rope_width);
    int32_t q_cols = a->q_rank ? a->q_rank : a->hidden;
    bool has = false;
    if (a->q_rank) {
        TRY(add_projection(b, "attn.q_a", "q_a", W_Q_A, 0, a->q_rank, a->hidden, err));
        TRY(arch_add_norm(b, arch_node(&b->e, "attn.q_a_norm"), "attn.q_a_norm", W_Q_A_NORM,
                          a->q_rank, &has, err));
    }
    const char *q = a->q_rank ? "attn.q_b" : "attn.q";
    TRY(add_projection(b, q, q + 5, W_Q_B, 0, q_rows, q_cols, err));
    TRY(add_projection(b, "attn.kv_latent", "kv_a", W_KV_A, 0, a->latent, a->hidden, err));
    TRY(add_projection(b, "attn.k_rope", "kv_a", W_KV_A, a->latent, a->rope_width, a->hidden, err));
    TRY(arch_add_norm(b, arch_node(&b->e, "attn.kv_a_norm"), "attn.kv_a_norm", W_KV_A_NORM,
                      a->latent, &has, err));
    TRY(arch_check_items(b, a->n_heads, "heads", err));
    for (int32_t h = 0; h < a->n_heads; h++) {
        arch_place k = {W_K_UP, h, a->n_heads, 0, a->latent, a->nope_width, XFORM_NONE, true};
        arch_place v = {W_V_UP, h, a->n_heads, 0, a->v_width, a->latent, XFORM_NONE, false};
        TRY(arch_add_tensor(b, arch_node(&b->e, "attn.k_nope"), "attn.k_nope", k, NULL, err));
        TRY(arch_add_tensor(b, arch_node(&b->e, "attn.v"), "attn.v", v, NULL, err));
    }
    return add_projection(b, "attn.o", "o", W_O, 0, a->hidden, a->n_heads * a->v_width, err);
}

status arch_resolve_attn(arch_builder *b, arch_layer *l, error *err) {
    rope_spec r;
    TRY(resolve_scores(b, &l->attn, err));
    TRY(b->a->attn == ATTN_MLA ? resolve_mla(b, err) : resolve_gqa(b, &l->attn, err));
    TRY(arch_rope_resolve(b, &r, err));
    l->attn.rope = r.style == ROPE_NONE ? -1 : rope_index(b->a, &r);
    if (b->a->attn == ATTN_MLA && l->attn.rope < 0)
        return error_set(err, ERR_FORMAT, "%s: latent attention needs a rope", b->e.f->file);
    return OK;
}

status arch_resolve_mla_dims(arch_builder *b, error *err) {
    arch *a = b->a;
    arch_eval *e = &b->e;
    double eps;
    TRY(arch_dim(e, "kvl", 1, LATENT_MAX, &a->latent, err));
    TRY(arch_dim(e, "dr", 2, LATENT_MAX, &a->rope_width, err));
    TRY(arch_dim(e, "dn", 1, 65536, &a->nope_width, err));
    TRY(arch_dim(e, "dv", 1, 65536, &a->v_width, err));
    TRY(arch_dim(e, "ql", 0, ARCH_WIDTH_MAX, &a->q_rank, err));
    TRY(arch_real(e, "attn.lora_norm_eps", a->eps, &eps, err));
    if (!(eps >= 0 && eps < 1))
        return error_set(err, ERR_FORMAT, "%s: attn.lora_norm_eps %g is not in [0, 1)", e->f->file,
                         eps);
    if (a->latent + a->rope_width > LATENT_MAX)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: latent width %d and rotated width %d are over %d together",
                         e->config_path, a->latent, a->rope_width, LATENT_MAX);
    a->latent_eps = (float)eps;
    return OK;
}

/* Slopes of "bloom": powers of 2^(-8/c) for the c heads of the largest power of two, then every
 * second power of the next finer series. "mpt" orders the finer series odd first, then even. */
static float slope(int32_t heads, int32_t h, double max_bias, bool mpt) {
    int32_t c = 1;
    while (2 * c <= heads) c *= 2;
    if (mpt && c != heads) {
        int32_t odd = (2 * c + 1) / 2, k = h < odd ? 2 * h : 2 * (h - odd) + 1;
        return (float)pow(2, -max_bias / (2 * c) * (k + 1));
    }
    return (float)(h < c ? pow(2, -max_bias / c * (h + 1))
                         : pow(2, -max_bias / (2 * c) * (2 * (h - c) + 1)));
}

status arch_resolve_alibi(arch_builder *b, error *err) {
    static const char *const orders[] = {"bloom", "mpt"};
    const json_t *n = arch_node(&b->e, "alibi");
    arch *a = b->a;
    bool on, scaled;
    int order;
    float max_bias, scale;
    if (!n) return OK;
    TRY(arch_flag(b, js_get(n, "if"), "alibi.if", true, &on, err));
    TRY(arch_flag(b, js_get(n, "scaled"), "alibi.scaled", false, &scaled, err));
    TRY(arch_choice(b, js_get(n, "slopes"), "alibi.slopes", "bloom", orders, 2, &order, err));
    TRY(arch_number(b, js_get(n, "max_bias"), "alibi.max_bias", 8, &max_bias, err));
    TRY(arch_number(b, arch_node(&b->e, "attn.scale"), "attn.scale", 1 / sqrt(a->head_dim), &scale,
                    err));
    if (!on) return OK;
    a->alibi = mem_alloc((size_t)a->n_heads * sizeof *a->alibi);
    for (int32_t h = 0; h < a->n_heads; h++)
        a->alibi[h] = slope(a->n_heads, h, max_bias, order == 1) * (scaled ? scale : 1);
    return OK;
}
