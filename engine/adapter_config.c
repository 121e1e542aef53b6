/* The keys are a closed list: each is either read below, known to matter for training only, or
 * refused unless it is off. A key of a later version of the format that is set is refused too: what
 * it changes is not known here.
 *
 * Patterns are Python regular expressions, nearly always plain names. */
#include "engine/adapter_config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/name_regex.h"

/* What a key may be. */
typedef enum key_use {
    USE_READ,     /* read below */
    USE_TRAINING, /* says nothing about the result */
    USE_OFF,      /* supported only when null, false or empty */
} key_use;

static const struct {
    const char *name;
    key_use use;
} keys[] = {
    {"peft_type", USE_READ},
    {"task_type", USE_READ},
    {"r", USE_READ},
    {"lora_alpha", USE_READ},
    {"use_rslora", USE_READ},
    {"use_dora", USE_READ},
    {"rank_pattern", USE_READ},
    {"alpha_pattern", USE_READ},
    {"target_modules", USE_READ},
    {"exclude_modules", USE_READ},
    {"layers_to_transform", USE_READ},
    {"init_lora_weights", USE_READ},
    {"init_r", USE_READ},
    {"num_virtual_tokens", USE_READ},
    {"num_transformer_submodules", USE_READ},
    {"token_dim", USE_READ},
    {"num_layers", USE_READ},
    /* The tensors say these: */
    {"bias", USE_TRAINING},
    {"lora_bias", USE_TRAINING},
    {"fan_in_fan_out", USE_TRAINING},
    {"modules_to_save", USE_TRAINING},
    {"feedforward_modules", USE_TRAINING},
    {"num_attention_heads", USE_TRAINING},
    {"prefix_projection", USE_TRAINING}, /* folded when saved */
    {"encoder_hidden_size", USE_TRAINING},
    {"encoder_num_layers", USE_TRAINING},
    {"encoder_dropout", USE_TRAINING},
    {"encoder_reparameterization_type", USE_TRAINING},
    {"auto_mapping", USE_TRAINING},
    {"base_model_name_or_path", USE_TRAINING},
    {"revision", USE_TRAINING},
    {"inference_mode", USE_TRAINING},
    {"peft_version", USE_TRAINING},
    {"lora_dropout", USE_TRAINING},
    {"loftq_config", USE_TRAINING},
    {"eva_config", USE_TRAINING},
    {"corda_config", USE_TRAINING},
    {"lora_ga_config", USE_TRAINING},
    {"megatron_core", USE_TRAINING},
    {"qalora_group_size", USE_TRAINING},
    {"runtime_config", USE_TRAINING},
    {"layers_pattern", USE_TRAINING},
    {"ensure_weight_tying", USE_READ},
    {"init_ia3_weights", USE_TRAINING},
    {"target_r", USE_TRAINING},
    {"tinit", USE_TRAINING},
    {"tfinal", USE_TRAINING},
    {"deltaT", USE_TRAINING},
    {"beta1", USE_TRAINING},
    {"beta2", USE_TRAINING},
    {"orth_reg_weight", USE_TRAINING},
    {"total_step", USE_TRAINING},
    {"prompt_tuning_init", USE_TRAINING},
    {"prompt_tuning_init_text", USE_TRAINING},
    {"prompt_tuning_init_state_dict_path", USE_TRAINING},
    {"tokenizer_name_or_path", USE_TRAINING},
    {"tokenizer_kwargs", USE_TRAINING},
    {"init_weights", USE_TRAINING},
    {"enable_lora", USE_TRAINING}, /* of early versions, for fused projections: always null */
    {"merge_weights", USE_TRAINING},
};

static key_use use_of(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (strcmp(name, keys[i].name) == 0) return keys[i].use;
    return USE_OFF;
}

static bool is_off(const json_t *v) {
    if (json_is_null(v) || json_is_false(v)) return true;
    if (json_is_string(v)) return json_string_length(v) == 0;
    if (json_is_number(v)) return json_number_value(v) == 0;
    return json_is_object(v) ? json_object_size(v) == 0
                             : json_array_size(v) == 0 && !json_is_true(v);
}

static status refuse(const adapter_config *c, const char *key, error *err) {
    strbuf value = {0};
    strbuf_add_js(&value, json_object_get(c->root, key));
    status st = error_set(err, ERR_UNSUPPORTED, "%s: %s: %.120s is not supported", c->path, key,
                          value.n ? value.p : "null");
    strbuf_done(&value);
    return st;
}

static status check_keys(const adapter_config *c, error *err) {
    const char *name;
    json_t *v;
    json_object_foreach(c->root, name, v) {
        if (use_of(name) == USE_OFF && !is_off(v)) return refuse(c, name, err);
    }
    return OK;
}

static status read_kind(adapter_config *c, error *err) {
    static const struct {
        const char *name;
        adapter_kind kind;
    } kinds[] = {
        {"LORA", ADAPTER_LORA},       {"ADALORA", ADAPTER_ADALORA},
        {"IA3", ADAPTER_IA3},         {"PROMPT_TUNING", ADAPTER_PROMPT},
        {"P_TUNING", ADAPTER_PROMPT}, {"PREFIX_TUNING", ADAPTER_PREFIX},
    };
    str type = js_get_str(c->root, "peft_type");
    if (!type.n)
        return error_set(err, ERR_FORMAT, "%s: peft_type is missing: not an adapter's config",
                         c->path);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!str_eqz(type, kinds[i].name)) continue;
        c->kind = kinds[i].kind;
        return OK;
    }
    return refuse(c, "peft_type", err);
}

/* Adapters of classifiers bring a head that gives no tokens. */
static status check_task(const adapter_config *c, error *err) {
    static const char *const tasks[] = {"CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"};
    str task = js_get_str(c->root, "task_type");
    if (!task.p) return OK;
    for (size_t i = 0; i < ARRAY_LEN(tasks); i++)
        if (str_eqz(task, tasks[i])) return OK;
    return refuse(c, "task_type", err);
}

/* Some initialisations take their part out of the base's weights; without that changed base the
 * stored A and B mean something else. */
static status check_init(const adapter_config *c, error *err) {
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal", "true", "false"};
    const json_t *v = js_get(c->root, "init_lora_weights");
    if (!v || json_is_boolean(v)) return OK;
    for (size_t i = 0; i < ARRAY_LEN(harmless); i++)
        if (str_eqz(js_str(v), harmless[i])) return OK;
    return refuse(c, "init_lora_weights", err);
}

static status read_count(const adapter_config *c, const char *key, int64_t fallback, int64_t lo,
                         int64_t hi, int32_t *ret, error *err) {
    const json_t *v = js_get(c->root, key);
    int64_t n = json_is_integer(v) ? json_integer_value(v) : fallback;
    if ((v && !json_is_integer(v)) || n < lo || n > hi)
        return error_set(err, ERR_FORMAT, "%s: %s must be a whole number from %lld to %lld",
                         c->path, key, (long long)lo, (long long)hi);
    *ret = (int32_t)n;
    return OK;
}

static status read_bool(const adapter_config *c, const char *key, bool *ret, error *err) {
    const json_t *v = js_get(c->root, key);
    if (v && !json_is_boolean(v))
        return error_set(err, ERR_FORMAT, "%s: %s must be true or false", c->path, key);
    *ret = json_is_true(v);
    return OK;
}

static status read_alpha(const adapter_config *c, const json_t *v, const char *key, double *ret,
                         error *err) {
    if (v && (!json_is_number(v) || !isfinite(json_number_value(v))))
        return error_set(err, ERR_FORMAT, "%s: %s must be a number", c->path, key);
    *ret = v ? json_number_value(v) : 8;
    return OK;
}

static status read_lora(adapter_config *c, error *err) {
    TRY(read_count(c, "r", 8, 1, 1 << 20, &c->r, err));
    TRY(read_count(c, "init_r", 12, 1, 1 << 20, &c->init_r, err));
    TRY(read_alpha(c, js_get(c->root, "lora_alpha"), "lora_alpha", &c->alpha, err));
    TRY(read_bool(c, "use_rslora", &c->rslora, err));
    TRY(read_bool(c, "use_dora", &c->dora, err));
    TRY(read_bool(c, "ensure_weight_tying", &c->tie, err));
    return check_init(c, err);
}

static status read_soft(adapter_config *c, error *err) {
    int32_t n = 0;
    TRY(read_count(c, "num_virtual_tokens", 0, 1, LIMIT_VIRTUAL_TOKENS, &c->n_virtual, err));
    TRY(read_count(c, "num_layers", 0, 0, LIMIT_LAYERS, &c->n_layers, err));
    TRY(read_count(c, "token_dim", 0, 0, 1 << 24, &c->token_dim, err));
    TRY(read_count(c, "num_transformer_submodules", 1, 1, 2, &n, err));
    if (n != 1) return refuse(c, "num_transformer_submodules", err);
    return is_off(json_object_get(c->root, "modules_to_save")) ? OK
                                                               : refuse(c, "modules_to_save", err);
}

static status read_all(adapter_config *c, str text, error *err) {
    status st = js_parse_unique(text, &c->root, err);
    if (st != OK) error_prefix(err, "%s", c->path);
    TRY(st);
    if (!json_is_object(c->root))
        return error_set(err, ERR_FORMAT, "%s: not a JSON object", c->path);
    TRY(read_kind(c, err));
    TRY(check_task(c, err));
    TRY(check_keys(c, err));
    if (c->kind == ADAPTER_PROMPT || c->kind == ADAPTER_PREFIX) return read_soft(c, err);
    return c->kind == ADAPTER_IA3 ? OK : read_lora(c, err);
}

status adapter_config_parse(str text, const char *path, adapter_config *ret, error *err) {
    adapter_config c = {.path = mem_strdup(path)};
    status st = read_all(&c, text, err);
    if (st == OK)
        *ret = c;
    else
        adapter_config_done(&c);
    return st;
}

status adapter_config_read(const char *path, adapter_config *ret, error *err) {
    strbuf text = {0};
    status st = file_read(path, LIMIT_CONFIG_BYTES, &text, err);
    if (st == OK) st = adapter_config_parse(strbuf_str(&text), path, ret, err);
    strbuf_done(&text);
    return st;
}

void adapter_config_done(adapter_config *c) {
    json_decref(c->root);
    mem_free(c->path);
    *c = (adapter_config){0};
}

const char *adapter_kind_name(adapter_kind k) {
    static const char *const names[] = {"lora",          "adalora",       "ia3",
                                        "prompt_tuning", "prefix_tuning", "p_tuning_v2"};
    return names[k];
}

/* Does `pattern` fit the whole name, or what follows one of its dots? Written out as the peft
 * library does. */
static status pattern_fits(const adapter_config *c, const char *key, const char *pattern,
                           const char *module, bool *ret, error *err) {
    strbuf whole = {0};
    name_regex *re = NULL;
    strbuf_addf(&whole, "(.*\\.)?(%s)$", pattern);
    status st = name_regex_new(strbuf_str(&whole), &re, err);
    if (st != OK) error_prefix(err, "%s: %s", c->path, key);
    strbuf_done(&whole);
    TRY(st);
    *ret = name_regex_match(re, str_z(module));
    name_regex_free(re);
    return OK;
}

/* The value of the first pattern of `key` that fits, NULL: none. */
static status pattern_value(const adapter_config *c, const char *key, const char *module,
                            const json_t **ret, error *err) {
    const char *pattern;
    json_t *v;
    *ret = NULL;
    json_object_foreach(js_get(c->root, key), pattern, v) {
        bool fits = false;
        TRY(pattern_fits(c, key, pattern, module, &fits, err));
        if (!fits) continue;
        *ret = v;
        return OK;
    }
    return OK;
}

static status check_rank(const adapter_config *c, const char *module, int32_t rank, error *err) {
    const json_t *v;
    TRY(pattern_value(c, "rank_pattern", module, &v, err));
    int64_t want = v ? json_integer_value(v) : c->r;
    if (want == rank) return OK;
    return error_set(err, ERR_FORMAT, "%s: module %s has rank %d in its tensors, %lld in %s",
                     c->path, module, rank, (long long)want, v ? "rank_pattern" : "r");
}

status adapter_config_scale(const adapter_config *c, const char *module, int32_t rank, double *ret,
                            error *err) {
    if (c->kind == ADAPTER_ADALORA) { /* ranknum stays at the initial rank when ranks shrink */
        *ret = (c->alpha > 0 ? c->alpha : c->init_r) / (c->init_r + 1e-5);
        return OK;
    }
    const json_t *v;
    double alpha = c->alpha;
    TRY(check_rank(c, module, rank, err));
    TRY(pattern_value(c, "alpha_pattern", module, &v, err));
    if (v) TRY(read_alpha(c, v, "alpha_pattern", &alpha, err));
    *ret = alpha / (c->rslora ? sqrt(rank) : rank);
    return OK;
}

static bool ends_with_path(const char *module, str name) {
    str m = str_z(module);
    return str_ends(m, name) && name.n && (m.n == name.n || m.p[m.n - name.n - 1] == '.');
}

static bool has_layer(const json_t *layers, int32_t layer) {
    if (!layers) return true;
    if (json_is_integer(layers)) return json_integer_value(layers) == layer;
    for (size_t i = 0; i < json_array_size(layers); i++)
        if (json_integer_value(json_array_get(layers, i)) == layer) return true;
    return false;
}

bool adapter_config_targets(const adapter_config *c, const char *module, int32_t layer) {
    const json_t *targets = js_get(c->root, "target_modules");
    if (!json_is_array(targets) || !is_off(json_object_get(c->root, "exclude_modules")))
        return false;
    if (layer >= 0 && !has_layer(js_get(c->root, "layers_to_transform"), layer)) return false;
    for (size_t i = 0; i < json_array_size(targets); i++)
        if (ends_with_path(module, js_str(json_array_get(targets, i)))) return true;
    return false;
}
