/* What GGUF metadata becomes: a table from keys to the names of Hugging Face configs, and the few
 * values that need more than another name. A key may get several names where families differ.
 *
 * Values that the format keeps per layer (arrays) must be the same for all layers, but for the
 * pattern of windows, which becomes layer_types. */
#include <math.h>
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/gguf.h"

/* Before each key stands the architecture and a dot. */
static const struct {
    const char *key, *name;
} names[] = {
    {"vocab_size", "vocab_size"},
    {"context_length", "max_position_embeddings"},
    {"embedding_length", "hidden_size"},
    {"block_count", "num_hidden_layers"},
    {"feed_forward_length", "intermediate_size"},
    {"use_parallel_residual", "use_parallel_residual"},
    {"attention.head_count", "num_attention_heads"},
    {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},
    {"attention.layer_norm_epsilon", "layer_norm_eps"},
    {"attention.layer_norm_epsilon", "layer_norm_epsilon"},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
    {"attention.sliding_window", "sliding_window"},
    {"attention.scale", "attention_multiplier"},
    {"attention.clamp_kqv", "clip_qkv"},
    {"attention.max_alibi_bias", "max_alibi_bias"},
    {"attention.causal", "causal"},
    {"attention.q_lora_rank", "q_lora_rank"},
    {"attention.kv_lora_rank", "kv_lora_rank"},
    {"attn_logit_softcapping", "attn_logit_softcapping"},
    {"final_logit_softcapping", "final_logit_softcapping"},
    {"logit_scale", "logit_scale"},
    {"embedding_scale", "embedding_multiplier"},
    {"residual_scale", "residual_multiplier"},
    {"expert_count", "num_experts"},
    {"expert_count", "num_local_experts"},
    {"expert_count", "n_routed_experts"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"},
    {"expert_shared_count", "n_shared_experts"},
    {"expert_group_count", "n_group"},
    {"expert_group_used_count", "topk_group"},
    {"expert_weights_scale", "routed_scaling_factor"},
    {"expert_weights_norm", "norm_topk_prob"},
    {"leading_dense_block_count", "first_k_dense_replace"},
    {"rope.dimension_count", "rope_dim"},
    {"rope.freq_base", "rope_theta"},
    {"rope.freq_base_swa", "rope_local_base_freq"},
};

#define ROPE_FACTORS_MAX 4096

typedef struct reader {
    const gguf *g; /* [n_parts]; keys are those of the first */
    int32_t n_parts;
    const char *path;
    str arch;
    json_t *out;
    error *err;
} reader;

/* "llama.attention.head_count" */
static const gguf_value *find(const reader *r, const char *key) {
    char full[192];
    snprintf(full, sizeof full, STR_FMT ".%s", STR_ARG(r->arch), key);
    return gguf_find(r->g, full);
}

static status bad(const reader *r, const char *key, const char *what) {
    return error_set(r->err, ERR_FORMAT, "%s: key \"" STR_FMT ".%s\" %s", r->path, STR_ARG(r->arch),
                     key, what);
}

static json_t *element(const gguf_value *v, uint64_t i) {
    int64_t x;
    double f;
    if (v->kind == GGUF_BOOL) return json_boolean(v->p[i] != 0);
    if (gguf_i64(v, i, &x)) return json_integer(x);
    return gguf_f64(v, i, &f) && isfinite(f) ? json_real(f) : NULL;
}

/* One value for all layers. */
static status shared_value(const reader *r, const char *key, const gguf_value *v, json_t **ret) {
    if (v->n > LIMIT_LAYERS) return bad(r, key, "has more values than a model has layers");
    json_t *first = v->n ? element(v, 0) : NULL;
    if (!first) return bad(r, key, "holds no finite number");
    for (uint64_t i = 1; i < v->n; i++) {
        json_t *x = element(v, i);
        bool same = x && json_equal(x, first);
        json_decref(x);
        if (same) continue;
        json_decref(first);
        return error_set(r->err, ERR_UNSUPPORTED,
                         "%s: key \"" STR_FMT ".%s\" differs between layers: not supported",
                         r->path, STR_ARG(r->arch), key);
    }
    *ret = first;
    return OK;
}

static status copy_names(reader *r) {
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const gguf_value *v = find(r, names[i].key);
        json_t *x = NULL;
        if (!v) continue;
        TRY(shared_value(r, names[i].key, v, &x));
        json_object_set_new(r->out, names[i].name, x);
    }
    return OK;
}

static double real(const reader *r, const char *key, double fallback) {
    const gguf_value *v = find(r, key);
    double x;
    return v && !v->is_array && gguf_f64(v, 0, &x) && isfinite(x) ? x : fallback;
}

static int64_t whole(const reader *r, const char *key, int64_t fallback) {
    const gguf_value *v = find(r, key);
    int64_t x;
    return v && !v->is_array && gguf_i64(v, 0, &x) ? x : fallback;
}

static const gguf_tensor *find_tensor(const reader *r, const char *name, const gguf **ret_part) {
    for (int32_t i = 0; i < r->n_parts; i++) {
        const gguf_tensor *t = gguf_find_tensor(&r->g[i], name);
        if (ret_part) *ret_part = &r->g[i];
        if (t) return t;
    }
    return NULL;
}

/* A tensor of F32 as a list of numbers, NULL when it is absent. */
static json_t *tensor_list(const reader *r, const char *name) {
    const gguf *part = NULL;
    const gguf_tensor *t = find_tensor(r, name, &part);
    if (!t || t->type != 0 || t->n_dims != 1 || t->ne[0] > ROPE_FACTORS_MAX) return NULL;
    json_t *list = json_array();
    for (int64_t i = 0; i < t->ne[0]; i++) {
        float x;
        memcpy(&x, part->bytes + t->off + 4 * (uint64_t)i, 4);
        json_array_append_new(list, json_real(isfinite(x) ? (double)x : 0));
    }
    return list;
}

/* yarn: yarn_log_multiplier is 0.1 * mscale_all_dim of DeepSeek's configs, yarn_attn_factor their
 * attention_factor (1 where nobody set it); attn_factor multiplies either. */
static void set_yarn(const reader *r, json_t *s, double factor) {
    double log_mul = real(r, "rope.scaling.yarn_log_multiplier", 0);
    double attn = real(r, "rope.scaling.attn_factor", 1);
    double whole_factor = real(r, "rope.scaling.yarn_attn_factor", 1);
    if (whole_factor == 1 && factor > 1) whole_factor = 0.1 * log(factor) + 1;
    if (log_mul != 0) {
        json_object_set_new(s, "mscale", json_real(log_mul * 10));
        json_object_set_new(s, "mscale_all_dim", json_real(log_mul * 10));
    } else if (attn > 0 && whole_factor > 0)
        json_object_set_new(s, "attention_factor", json_real(attn * whole_factor));
    json_object_set_new(s, "beta_fast", json_real(real(r, "rope.scaling.yarn_beta_fast", 32)));
    json_object_set_new(s, "beta_slow", json_real(real(r, "rope.scaling.yarn_beta_slow", 1)));
    if (str_eqz(r->arch, "gpt-oss")) json_object_set_new(s, "truncate", json_false());
}

static void set_longrope(const reader *r, json_t *s) {
    double attn = real(r, "rope.scaling.attn_factor", 0);
    json_object_set_new(s, "long_factor", tensor_list(r, "rope_factors_long.weight"));
    json_object_set_new(s, "short_factor", tensor_list(r, "rope_factors_short.weight"));
    if (attn > 0) json_object_set_new(s, "attention_factor", json_real(attn));
}

static status set_rope_scaling(reader *r) {
    gguf_strings it = gguf_strings_of(find(r, "rope.scaling.type"));
    str type = {0};
    double factor = real(r, "rope.scaling.factor", real(r, "rope.scale_linear", 0));
    int64_t orig = whole(r, "rope.scaling.original_context_length", 0);
    bool lists = find_tensor(r, "rope_factors_long.weight", NULL) != NULL;
    if (gguf_next(&it, &type) && str_eqz(type, "none")) type = (str){0};
    if (lists) type = STR("longrope");
    if (!type.n && factor > 0 && factor != 1) type = STR("linear");
    if (!type.n) return OK;
    if (!str_eqz(type, "linear") && !str_eqz(type, "yarn") && !str_eqz(type, "longrope"))
        return bad(r, "rope.scaling.type", "is none of none, linear, yarn and longrope");
    json_t *s = json_object();
    json_object_set_new(r->out, "rope_scaling", s);
    json_object_set_new(s, "rope_type", json_stringn(type.p, type.n));
    if (factor > 0) json_object_set_new(s, "factor", json_real(factor));
    if (lists && orig <= 0) orig = whole(r, "context_length", 0);
    if (orig > 0) json_object_set_new(s, "original_max_position_embeddings", json_integer(orig));
    if (str_eqz(type, "yarn")) set_yarn(r, s, factor);
    if (lists) set_longrope(r, s);
    return OK;
}

/* Latent attention: the widths of a head's parts. Newer files keep the widths of the unfolded
 * projections under *_mla, next to those of the cache. */
static void set_latent(reader *r) {
    int64_t rope = whole(r, "rope.dimension_count", 0);
    int64_t key = whole(r, "attention.key_length_mla", whole(r, "attention.key_length", 0));
    int64_t width = whole(r, "attention.value_length_mla", whole(r, "attention.value_length", 0));
    if (!find(r, "attention.kv_lora_rank")) return;
    if (rope < 0 || key < rope) rope = 0;
    json_object_set_new(r->out, "qk_rope_head_dim", json_integer(rope));
    json_object_set_new(r->out, "qk_nope_head_dim", json_integer(key - rope));
    if (width) json_object_set_new(r->out, "v_head_dim", json_integer(width));
    json_object_set_new(r->out, "head_dim", json_integer(key));
}

/* Some converters leave the width of a head to those who read the output projection. */
static void set_head_dim(reader *r) {
    const gguf_tensor *t = find_tensor(r, "blk.0.attn_output.weight", NULL);
    int64_t heads = json_integer_value(js_get(r->out, "num_attention_heads"));
    if (js_get(r->out, "head_dim") || find(r, "attention.kv_lora_rank") || !t || heads < 1) return;
    json_object_set_new(r->out, "head_dim", json_integer(t->ne[0] / heads));
}

/* attention.sliding_window_pattern: true per layer with a window, or the period of layers without
 * one. */
static status set_windows(reader *r) {
    const gguf_value *v = find(r, "attention.sliding_window_pattern");
    int64_t n = json_integer_value(js_get(r->out, "num_hidden_layers")), period = 0, x = 0;
    if (!v) return OK;
    if (n > LIMIT_LAYERS) return bad(r, "block_count", "is over the bound on layers");
    if (v->is_array ? (int64_t)v->n < n : !gguf_i64(v, 0, &period) || period < 0)
        return bad(r, "attention.sliding_window_pattern", "has no entry for each layer");
    if (!v->is_array && period < 1) return OK;
    json_t *list = json_array();
    json_object_set_new(r->out, "layer_types", list);
    for (int64_t i = 0; i < n; i++) {
        bool window = v->is_array ? gguf_i64(v, (uint64_t)i, &x) && x : (i + 1) % period != 0;
        json_array_append_new(list, json_string(window ? "sliding_attention" : "full_attention"));
    }
    return OK;
}

static void set_ids(reader *r) {
    static const char *const ends[] = {"eos", "eot", "eom"};
    char key[64];
    json_t *eos = json_array();
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ends[i]);
        int64_t id = gguf_get_int(r->g, key, -1);
        if (id >= 0) json_array_append_new(eos, json_integer(id));
    }
    json_object_set_new(r->out, "eos_token_id", eos);
    int64_t bos = gguf_get_int(r->g, "tokenizer.ggml.bos_token_id", -1);
    if (bos >= 0) json_object_set_new(r->out, "bos_token_id", json_integer(bos));
}

/* Rows of the embedding are the vocabulary, whatever the metadata says. */
static void set_tables(reader *r) {
    const gguf_tensor *t = find_tensor(r, "token_embd.weight", NULL);
    const gguf_tensor *types = find_tensor(r, "token_types.weight", NULL);
    if (t) json_object_set_new(r->out, "vocab_size", json_integer(t->ne[1]));
    if (types) json_object_set_new(r->out, "type_vocab_size", json_integer(types->ne[1]));
    json_object_set_new(r->out, "tie_word_embeddings",
                        json_boolean(!find_tensor(r, "output.weight", NULL)));
}

static const char *word_of(const reader *r, const char *key, const char *const *words, int64_t n) {
    int64_t kind = whole(r, key, 0);
    return kind > 0 && kind < n ? words[kind] : NULL;
}

static void set_words(reader *r) {
    static const char *const scores[] = {NULL, "softmax", "sigmoid", "softmax_topk"};
    static const char *const pools[] = {NULL, "mean", "first", "last"};
    const char *score = word_of(r, "expert_gating_func", scores, ARRAY_LEN(scores));
    const char *pool = word_of(r, "pooling_type", pools, ARRAY_LEN(pools));
    if (score) json_object_set_new(r->out, "scoring_func", json_string(score));
    if (pool) json_object_set_new(r->out, "pooling", json_string(pool));
}

/* Layers of the file that only predict further tokens are none of the model. */
static void drop_predictors(reader *r) {
    int64_t next = whole(r, "nextn_predict_layers", 0);
    int64_t n = json_integer_value(js_get(r->out, "num_hidden_layers"));
    if (next > 0 && next < n)
        json_object_set_new(r->out, "num_hidden_layers", json_integer(n - next));
}

static status fill(reader *r) {
    char name[96];
    snprintf(name, sizeof name, "gguf-" STR_FMT, STR_ARG(r->arch));
    json_t *list = json_array();
    json_object_set_new(r->out, "architectures", list);
    if (json_array_append_new(list, json_string(name)) != 0)
        return error_set(r->err, ERR_FORMAT, "%s: general.architecture is no text", r->path);
    TRY(copy_names(r));
    drop_predictors(r);
    TRY(set_rope_scaling(r));
    set_latent(r);
    set_head_dim(r);
    set_words(r);
    TRY(set_windows(r));
    set_ids(r);
    set_tables(r);
    return OK;
}

status gguf_config(const gguf *parts, int32_t n_parts, const char *path, json_t **ret, error *err) {
    str type = gguf_get_str(parts, "general.type");
    reader r = {.g = parts,
                .n_parts = n_parts,
                .path = path,
                .arch = gguf_get_str(parts, "general.architecture"),
                .err = err};
    if (type.n && !str_eqz(type, "model"))
        return error_set(err, ERR_UNSUPPORTED, "%s: general.type \"" STR_FMT "\" is no model", path,
                         STR_ARG(type));
    if (r.arch.n == 0 || r.arch.n > 64)
        return error_set(err, ERR_FORMAT, "%s: key \"general.architecture\" is missing", path);
    r.out = json_object();
    status st = fill(&r);
    if (st == OK)
        *ret = r.out;
    else
        json_decref(r.out);
    return st;
}
