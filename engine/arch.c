/* From a family and a config.json to the layer program.
 *
 * Order: dimensions, words that choose a kind (each checked against what forward.c runs), then per
 * layer the attention, the rope and the first mlp alternative whose `if` holds, and while doing
 * so the tensor list. Nothing is read from the weights but the names. */
#include "engine/arch.h"

#include <math.h>
#include <stdio.h>

#include "conf/limits.h"
#include "engine/arch_eval.h"
#include "engine/arch_rope.h"
#include "engine/base/mem.h"

#define WIDTH_MAX    (1 << 24)
#define HEAD_DIM_MAX 256 /* what the attention kernels hold in registers and on the stack */

typedef struct builder {
    arch_eval e;
    arch *a;
    error *err;
    int32_t n_cap;
} builder;

static status require_word(builder *b, const char *path, const char *fallback,
                           const char *supported, error *err) {
    str w;
    TRY(arch_word(&b->e, arch_node(&b->e, path), path, fallback, &w, err));
    if (str_eqz(w, supported)) return OK;
    char word[64];
    snprintf(word, sizeof word, STR_FMT, STR_ARG(w));
    return arch_unsupported(&b->e, path, word, err);
}

static status resolve_dims(builder *b, error *err) {
    arch *a = b->a;
    arch_eval *e = &b->e;
    TRY(arch_dim(e, "L", 1, LIMIT_LAYERS, &a->n_layers, err));
    TRY(arch_dim(e, "H", 1, WIDTH_MAX, &a->hidden, err));
    TRY(arch_dim(e, "nh", 1, 65536, &a->n_heads, err));
    TRY(arch_dim(e, "nkv", 1, 65536, &a->n_kv_heads, err));
    TRY(arch_dim(e, "hd", 1, 65536, &a->head_dim, err));
    TRY(arch_dim(e, "ff", 1, WIDTH_MAX, &a->ffn, err));
    TRY(arch_dim(e, "V", 1, LIMIT_VOCAB, &a->vocab, err));
    TRY(arch_dim(e, "ctx", 1, INT32_MAX / 64, &a->ctx_max, err));
    if (a->n_heads % a->n_kv_heads != 0)
        return error_set(err, ERR_FORMAT, "%s: %d attention heads are no multiple of %d kv heads",
                         e->config_path, a->n_heads, a->n_kv_heads);
    if (a->head_dim > HEAD_DIM_MAX || a->head_dim % 2)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: head width %d is not supported (even, at most %d)", e->config_path,
                         a->head_dim, HEAD_DIM_MAX);
    if ((int64_t)(a->n_heads + 2 * a->n_kv_heads) * a->head_dim > WIDTH_MAX)
        return error_set(err, ERR_FORMAT, "%s: %d heads of width %d are too wide", e->config_path,
                         a->n_heads, a->head_dim);
    return OK;
}

static status resolve_kinds(builder *b, error *err) {
    double eps;
    TRY(require_word(b, "residual.kind", "pre", "pre", err));
    TRY(require_word(b, "norm.kind", "rms", "rms", err));
    TRY(require_word(b, "attn.kind", "gqa", "gqa", err));
    TRY(require_word(b, "attn.mask", "causal", "causal", err));
    TRY(arch_real(&b->e, "norm.eps", 1e-6, &eps, err));
    if (!(eps >= 0 && eps < 1))
        return error_set(err, ERR_FORMAT, "%s: norm epsilon %g is not in [0, 1)", b->e.config_path,
                         eps);
    b->a->norm = NORM_RMS;
    b->a->eps = (float)eps;
    return arch_check_runs(&b->e, err);
}

/* Takes the name. */
static void add_tensor(builder *b, char *name, weight_slot slot, int32_t row0, int32_t rows,
                       int32_t cols) {
    arch *a = b->a;
    if (a->n_tensors == b->n_cap) {
        b->n_cap = MAX(64, 2 * b->n_cap);
        a->tensors = mem_realloc(a->tensors, (size_t)b->n_cap * sizeof *a->tensors);
    }
    a->tensors[a->n_tensors++] = (arch_tensor){name, slot, b->e.layer, row0, rows, cols};
}

static status need_tensor(builder *b, const json_t *ref, const char *path, weight_slot slot,
                          int32_t row0, int32_t rows, int32_t cols, error *err) {
    char *name;
    TRY(arch_tensor_name(&b->e, ref, path, &name, err));
    if (!name) return error_set(err, ERR_FORMAT, "%s: %s is missing", b->e.f->file, path);
    add_tensor(b, name, slot, row0, rows, cols);
    return OK;
}

/* "x.weight" -> "x.bias". */
static char *bias_name(const char *weight) {
    str s = str_z(weight);
    if (str_ends(s, STR(".weight"))) s.n -= strlen(".weight");
    strbuf b = {0};
    strbuf_addf(&b, STR_FMT ".bias", STR_ARG(s));
    return strbuf_take(&b);
}

/* The bias of the tensor added last, if the family's rule says that it has one. `rule`: true,
 * false, an expression, "auto" (there is a tensor of that name), or one of them per projection. */
static status maybe_bias(builder *b, const json_t *rule, const char *part, const char *path,
                         weight_slot slot, bool *ret, error *err) {
    if (json_is_object(rule)) rule = js_get(rule, part);
    arch_tensor t = b->a->tensors[b->a->n_tensors - 1];
    char *name = bias_name(t.name);
    status st = OK;
    value v = value_bool(false);
    if (str_eqz(js_str(rule), "auto"))
        v = value_bool(b->e.names.has(b->e.names.ctx, name));
    else
        st = arch_node_value(&b->e, rule, path, v, &v, err);
    if (st == OK && value_true(v)) {
        add_tensor(b, name, slot, t.row0, t.rows, 0);
        *ret = true;
    } else
        mem_free(name);
    return st;
}

static status resolve_qk_norm(builder *b, arch_layer *l, error *err) {
    const json_t *n = arch_node(&b->e, "attn.qk_norm");
    if (!n) return OK;
    TRY(require_word(b, "attn.qk_norm.kind", "rms", "rms", err));
    TRY(require_word(b, "attn.qk_norm.per", "head", "head", err));
    TRY(need_tensor(b, js_get(n, "q"), "attn.qk_norm.q", W_Q_NORM, 0, b->a->head_dim, 0, err));
    TRY(need_tensor(b, js_get(n, "k"), "attn.qk_norm.k", W_K_NORM, 0, b->a->head_dim, 0, err));
    l->qk_norm = true;
    return OK;
}

static status resolve_attn(builder *b, arch_layer *l, error *err) {
    arch *a = b->a;
    int32_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
    const struct {
        const char *part, *path;
        weight_slot slot, bias;
        int32_t row0, rows, cols;
        bool *has_bias;
    } parts[] = {
        {"q", "attn.q", W_QKV, W_QKV_BIAS, 0, q, a->hidden, &l->qkv_bias},
        {"k", "attn.k", W_QKV, W_QKV_BIAS, q, kv, a->hidden, &l->qkv_bias},
        {"v", "attn.v", W_QKV, W_QKV_BIAS, q + kv, kv, a->hidden, &l->qkv_bias},
        {"o", "attn.o", W_O, W_O_BIAS, 0, a->hidden, q, &l->o_bias},
    };
    const json_t *bias = arch_node(&b->e, "attn.bias");
    for (size_t k = 0; k < ARRAY_LEN(parts); k++) {
        TRY(need_tensor(b, arch_node(&b->e, parts[k].path), parts[k].path, parts[k].slot,
                        parts[k].row0, parts[k].rows, parts[k].cols, err));
        TRY(maybe_bias(b, bias, parts[k].part, "attn.bias", parts[k].bias, parts[k].has_bias, err));
    }
    double scale, window;
    TRY(arch_real(&b->e, "attn.scale", 1 / sqrt(a->head_dim), &scale, err));
    TRY(arch_real(&b->e, "attn.window", 0, &window, err));
    if (!(window >= 0 && window <= INT32_MAX) || window != floor(window))
        return error_set(err, ERR_FORMAT, "%s: attention window %g is no whole number >= 0",
                         b->e.config_path, window);
    l->scale = (float)scale;
    l->window = (int32_t)window;
    return resolve_qk_norm(b, l, err);
}

static const char *const act_names[][2] = {
    {"silu", "silu"},           {"swish", "silu"},          {"gelu", "gelu"},
    {"gelu_new", "gelu_tanh"},  {"gelu_tanh", "gelu_tanh"}, {"gelu_pytorch_tanh", "gelu_tanh"},
    {"gelu_fast", "gelu_tanh"}, {"relu", "relu"},
};

static status act_of(builder *b, str name, act_kind *ret, error *err) {
    static const char *const kinds[ACT_COUNT] = {"silu", "gelu", "gelu_tanh", "relu"};
    for (size_t i = 0; i < ARRAY_LEN(act_names); i++)
        for (int k = 0; k < ACT_COUNT && str_eqz(name, act_names[i][0]); k++)
            if (strcmp(act_names[i][1], kinds[k]) == 0) {
                *ret = (act_kind)k;
                return OK;
            }
    return error_set(err, ERR_UNSUPPORTED, "%s: activation \"" STR_FMT "\" is not supported",
                     b->e.config_path, STR_ARG(name));
}

static status choose_mlp(builder *b, const json_t **ret, error *err) {
    const json_t *list = js_get(b->e.f->root, "mlp");
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *m = json_array_get(list, k);
        value cond;
        TRY(arch_node_value(&b->e, js_get(m, "if"), "mlp[].if", value_bool(true), &cond, err));
        if (!value_true(cond)) continue;
        *ret = m;
        return OK;
    }
    return error_set(err, ERR_FORMAT, "%s: mlp: no alternative fits layer %d", b->e.f->file,
                     b->e.layer);
}

static status resolve_mlp(builder *b, arch_layer *l, error *err) {
    const json_t *m = NULL;
    str kind, act;
    arch *a = b->a;
    TRY(choose_mlp(b, &m, err));
    TRY(arch_word(&b->e, js_get(m, "kind"), "mlp[].kind", "glu", &kind, err));
    if (!str_eqz(kind, "glu")) {
        char word[64];
        snprintf(word, sizeof word, STR_FMT, STR_ARG(kind));
        return arch_unsupported(&b->e, "mlp[].kind", word, err);
    }
    TRY(arch_word(&b->e, js_get(m, "act"), "mlp[].act", "silu", &act, err));
    TRY(act_of(b, act, &l->act, err));
    l->gated = true;
    const json_t *bias = js_get(m, "bias");
    TRY(need_tensor(b, js_get(m, "gate"), "mlp[].gate", W_UP, 0, a->ffn, a->hidden, err));
    TRY(maybe_bias(b, bias, "gate", "mlp[].bias", W_UP_BIAS, &l->up_bias, err));
    TRY(need_tensor(b, js_get(m, "up"), "mlp[].up", W_UP, a->ffn, a->ffn, a->hidden, err));
    TRY(maybe_bias(b, bias, "up", "mlp[].bias", W_UP_BIAS, &l->up_bias, err));
    TRY(need_tensor(b, js_get(m, "down"), "mlp[].down", W_DOWN, 0, a->hidden, a->ffn, err));
    return maybe_bias(b, bias, "down", "mlp[].bias", W_DOWN_BIAS, &l->down_bias, err);
}

/* per_layer: the `set` of every alternative whose `if` holds here, later ones over earlier. */
static status layer_overrides(builder *b, json_t **ret, error *err) {
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

static int32_t rope_index(arch *a, const rope_spec *r) {
    for (int32_t i = 0; i < a->n_ropes; i++)
        if (rope_spec_equal(&a->ropes[i], r)) return i;
    a->ropes = mem_realloc(a->ropes, (size_t)(a->n_ropes + 1) * sizeof *a->ropes);
    a->ropes[a->n_ropes] = *r;
    return a->n_ropes++;
}

static status resolve_layer_parts(builder *b, arch_layer *l, error *err) {
    int32_t width = b->a->hidden;
    rope_spec r;
    TRY(need_tensor(b, arch_node(&b->e, "norms.attn_in"), "norms.attn_in", W_ATTN_NORM, 0, width, 0,
                    err));
    TRY(resolve_attn(b, l, err));
    TRY(arch_rope_resolve(&b->e, b->a, &r, err));
    l->rope = r.style == ROPE_NONE ? -1 : rope_index(b->a, &r);
    TRY(need_tensor(b, arch_node(&b->e, "norms.mlp_in"), "norms.mlp_in", W_MLP_NORM, 0, width, 0,
                    err));
    return resolve_mlp(b, l, err);
}

static status resolve_layer(builder *b, int32_t i, error *err) {
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

/* {p}: the first candidate under which the embedding (or the head) exists. */
static status choose_prefix(builder *b, error *err) {
    const json_t *list = js_get(b->e.f->root, "prefix");
    for (size_t k = 0; k < json_array_size(list); k++) {
        char *name;
        b->e.prefix = json_string_value(json_array_get(list, k));
        if (!b->e.prefix) b->e.prefix = "";
        TRY(arch_tensor_name(&b->e, arch_node(&b->e, "embed.tok"), "embed.tok", &name, err));
        bool found = name && b->e.names.has(b->e.names.ctx, name);
        mem_free(name);
        if (found) return OK;
    }
    if (json_array_size(list)) b->e.prefix = json_string_value(json_array_get(list, 0));
    return OK;
}

/* Tied weights are stored under either name or both; the head is tied when the config says so or
 * when its tensor is not there. */
static status resolve_ends(builder *b, error *err) {
    arch *a = b->a;
    char *tok, *head;
    bool tied;
    TRY(arch_bool(&b->e, "final.tied", false, &tied, err));
    TRY(arch_tensor_name(&b->e, arch_node(&b->e, "embed.tok"), "embed.tok", &tok, err));
    status st = arch_tensor_name(&b->e, arch_node(&b->e, "final.head"), "final.head", &head, err);
    if (st != OK || !tok || !head) {
        mem_free(tok);
        if (st == OK) mem_free(head);
        return st != OK ? st
                        : error_set(err, ERR_FORMAT, "%s: embed.tok or final.head is missing",
                                    b->e.f->file);
    }
    bool has_tok = b->e.names.has(b->e.names.ctx, tok);
    bool has_head = b->e.names.has(b->e.names.ctx, head);
    const char *tok_from = !has_tok && has_head && tied ? head : tok;
    const char *head_from = !has_head || (tied && has_tok) ? tok : head;
    a->tied = strcmp(tok_from, head_from) == 0;
    add_tensor(b, mem_strdup(tok_from), W_EMBED, 0, a->vocab, a->hidden);
    add_tensor(b, mem_strdup(head_from), W_HEAD, 0, a->vocab, a->hidden);
    if (a->tied && has_tok && has_head) { /* a second copy: may stay unused */
        a->ignore = mem_realloc(a->ignore, (size_t)(a->n_ignore + 1) * sizeof *a->ignore);
        a->ignore[a->n_ignore++] = mem_strdup(head);
    }
    mem_free(tok);
    mem_free(head);
    return need_tensor(b, arch_node(&b->e, "final.norm"), "final.norm", W_FINAL_NORM, 0, a->hidden,
                       0, err);
}

static status resolve_ignore(builder *b, error *err) {
    const json_t *list = js_get(b->e.f->root, "ignore");
    arch *a = b->a;
    a->ignore = mem_calloc(json_array_size(list) + 1, sizeof *a->ignore);
    for (size_t k = 0; k < json_array_size(list); k++) {
        char *name;
        TRY(arch_tensor_name(&b->e, json_array_get(list, k), "ignore", &name, err));
        if (name) a->ignore[a->n_ignore++] = name;
    }
    return OK;
}

static status resolve_all(builder *b, error *err) {
    TRY(resolve_dims(b, err));
    TRY(choose_prefix(b, err));
    TRY(resolve_kinds(b, err));
    TRY(resolve_ignore(b, err));
    b->a->layers = mem_calloc((size_t)b->a->n_layers, sizeof *b->a->layers);
    for (int32_t i = 0; i < b->a->n_layers; i++) TRY(resolve_layer(b, i, err));
    TRY(resolve_ends(b, err));
    b->a->ctx_max = arch_rope_ctx(b->a, b->a->ctx_max);
    return OK;
}

status arch_resolve(const family *f, const json_t *config, const char *config_path,
                    tensor_names names, arch **ret, error *err) {
    builder *b = mem_calloc(1, sizeof *b);
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
    mem_free(a->tensors);
    mem_free(a->ignore);
    mem_free(a->ropes);
    mem_free(a->layers);
    mem_free(a);
}

void arch_slot_shape(const arch *a, int32_t l, weight_slot slot, int32_t *ret_rows,
                     int32_t *ret_cols) {
    const arch_layer *y = l >= 0 ? &a->layers[l] : NULL;
    int32_t q = a->n_heads * a->head_dim, qkv = q + 2 * a->n_kv_heads * a->head_dim;
    int32_t up = y && y->gated ? 2 * a->ffn : a->ffn, rows = 0, cols = 0;
    switch (slot) {
    case W_EMBED:
    case W_HEAD: rows = a->vocab, cols = a->hidden; break;
    case W_QKV: rows = qkv, cols = a->hidden; break;
    case W_O: rows = a->hidden, cols = q; break;
    case W_UP: rows = up, cols = a->hidden; break;
    case W_DOWN: rows = a->hidden, cols = a->ffn; break;
    case W_ATTN_NORM:
    case W_MLP_NORM:
    case W_FINAL_NORM: rows = a->hidden; break;
    case W_QKV_BIAS: rows = y->qkv_bias ? qkv : 0; break;
    case W_Q_NORM:
    case W_K_NORM: rows = y->qk_norm ? a->head_dim : 0; break;
    case W_O_BIAS: rows = y->o_bias ? a->hidden : 0; break;
    case W_UP_BIAS: rows = y->up_bias ? up : 0; break;
    case W_DOWN_BIAS: rows = y->down_bias ? a->hidden : 0; break;
    case W_SLOT_COUNT: break;
    }
    *ret_rows = rows;
    *ret_cols = cols;
}

const char *weight_slot_name(weight_slot slot) {
    static const char *const names[W_SLOT_COUNT] = {
        "embed",    "attn_norm", "qkv",     "qkv_bias", "q_norm",    "k_norm",     "o",   "o_bias",
        "mlp_norm", "up",        "up_bias", "down",     "down_bias", "final_norm", "head"};
    return names[slot];
}
