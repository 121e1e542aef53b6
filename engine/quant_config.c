/* One reader per method, each a list of the keys that decide how bytes are read. Keys that only
 * tell how the weights were made (damping, calibration data) are passed over; variants whose bytes
 * are something else are refused by name before any tensor is missed. */
#include "engine/quant_config.h"

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"

#define STATES_MAX (1 << 17) /* of all expressions: each is run over each module's name */

typedef struct reader {
    const char *path;
    const json_t *q;
    quant_config *c;
    error *err;
} reader;

static const char *const method_names[] = {"gptq", "awq",          "compressed-tensors",
                                           "fp8",  "bitsandbytes", "mxfp4"};

const char *quant_method_name(quant_method m) {
    return method_names[m];
}

static status refuse(const reader *r, const char *key, const json_t *v, const char *known) {
    strbuf text = {0};
    if (v)
        strbuf_add_js(&text, v);
    else
        strbuf_addz(&text, "nothing");
    status st =
        error_set(r->err, ERR_UNSUPPORTED, "%s: quantization_config.%s: %.120s, expected %s",
                  r->path, key, text.p, known);
    strbuf_done(&text);
    return st;
}

/* Member by its first name or the older second one. */
static const json_t *get2(const json_t *q, const char *key, const char *older) {
    const json_t *v = js_get(q, key);
    return v || !older ? v : js_get(q, older);
}

static bool is_word(const json_t *v, const char *word) {
    str s = js_str(v);
    return s.n == strlen(word) && strncasecmp(s.p, word, s.n) == 0;
}

static quant_rule *add_rule(quant_config *c) {
    c->rules = mem_realloc(c->rules, (size_t)(c->n_rules + 1) * sizeof *c->rules);
    c->rules[c->n_rules] = (quant_rule){0};
    return &c->rules[c->n_rules++];
}

static status add_pattern(const reader *r, name_pattern **list, int32_t *n, str text, bool is_regex,
                          const char *key) {
    name_pattern p;
    if (name_pattern_init(&p, text, is_regex, r->err) != OK) {
        error_prefix(r->err, "%s: quantization_config.%s", r->path, key);
        return ERR_UNSUPPORTED;
    }
    size_t states = p.regex ? name_regex_states(p.regex) : 0;
    if (states > STATES_MAX - r->c->n_states) {
        name_pattern_done(&p);
        return error_set(r->err, ERR_UNSUPPORTED,
                         "%s: quantization_config.%s: the patterns have more than %d states",
                         r->path, key, STATES_MAX);
    }
    r->c->n_states += states;
    *list = mem_realloc(*list, (size_t)(*n + 1) * sizeof **list);
    (*list)[(*n)++] = p;
    return OK;
}

/* A list of names: absent, null or strings; "re:" begins an expression. */
static status read_names(const reader *r, const char *key, const json_t *v, name_pattern **list,
                         int32_t *n) {
    if (!v) return OK;
    if (!json_is_array(v)) return refuse(r, key, v, "a list of names");
    for (size_t i = 0; i < json_array_size(v); i++) {
        str s = js_str(json_array_get(v, i));
        if (!s.p) return refuse(r, key, json_array_get(v, i), "a name");
        bool is_regex = str_starts(s, STR("re:"));
        TRY(add_pattern(r, list, n, is_regex ? str_cut(s, 3, s.n) : s, is_regex, key));
    }
    return OK;
}

static status read_plain(const reader *r, const char *key) {
    return read_names(r, key, js_get(r->q, key), &r->c->plain, &r->c->n_plain);
}

static status read_group(const reader *r, const char *key, const json_t *v, int32_t otherwise,
                         int32_t *ret) {
    *ret = otherwise;
    if (!v) return OK;
    json_int_t g = json_integer_value(v);
    if (!json_is_integer(v) || g < -1 || g == 0 || g > INT32_MAX)
        return refuse(r, key, v, "-1 or a positive number");
    *ret = (int32_t)g;
    return OK;
}

/* GPTQ */

static status gptq_bits(const reader *r, const char *key, const json_t *v, quant_scheme *s) {
    json_int_t bits = json_integer_value(v);
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8) return refuse(r, key, v, "2, 3, 4 or 8");
    s->bits = (int)bits;
    return OK;
}

/* "-:expression" leaves modules as they are, "+:expression" or a bare one overrides keys. */
static status gptq_dynamic(const reader *r, const quant_scheme *base) {
    const char *name;
    json_t *v;
    const json_t *dynamic = js_get(r->q, "dynamic");
    if (dynamic && !json_is_object(dynamic) && !json_is_false(dynamic))
        return refuse(r, "dynamic", dynamic, "an object of name patterns");
    json_object_foreach((json_t *)dynamic, name, v) {
        str pattern = str_z(name);
        bool minus = str_starts(pattern, STR("-:")), plus = str_starts(pattern, STR("+:"));
        if (minus || plus) pattern = str_cut(pattern, 2, pattern.n);
        quant_rule *rule = add_rule(r->c);
        rule->plain = minus;
        rule->scheme = *base;
        TRY(add_pattern(r, &rule->names, &rule->n_names, pattern, true, "dynamic"));
        const json_t *bits = js_get(v, "bits"), *group = js_get(v, "group_size");
        if (bits) TRY(gptq_bits(r, "dynamic.bits", bits, &rule->scheme));
        TRY(read_group(r, "dynamic.group_size", group, base->group, &rule->scheme.group));
    }
    return OK;
}

static status read_gptq(const reader *r) {
    quant_scheme s = {.format = FORMAT_PACKED};
    const json_t *format = get2(r->q, "checkpoint_format", "format");
    if (js_get_bool(r->q, "is_marlin_format", false))
        return refuse(r, "is_marlin_format", json_true(), "false: the marlin layout is not read");
    if (format && !is_word(format, "gptq") && !is_word(format, "gptq_v2"))
        return refuse(r, "checkpoint_format", format, "\"gptq\" or \"gptq_v2\"");
    s.plus_one = !format || !is_word(format, "gptq_v2");
    TRY(gptq_bits(r, "bits", get2(r->q, "bits", "w_bit"), &s));
    TRY(read_group(r, "group_size", js_get(r->q, "group_size"), -1, &s.group));
    TRY(gptq_dynamic(r, &s));
    quant_rule *all = add_rule(r->c);
    all->all = true;
    all->scheme = s;
    return OK;
}

/* AWQ */

static status read_awq(const reader *r) {
    quant_scheme s = {.format = FORMAT_PACKED};
    const json_t *bits = get2(r->q, "bits", "w_bit"), *version = get2(r->q, "version", "format");
    if (json_integer_value(bits) != 4) return refuse(r, "bits", bits, "4");
    if (version && !is_word(version, "gemm")) return refuse(r, "version", version, "\"gemm\"");
    if (is_word(js_get(r->q, "backend"), "llm-awq"))
        return refuse(r, "backend", js_get(r->q, "backend"), "\"autoawq\"");
    if (!js_get_bool(r->q, "zero_point", true))
        return refuse(r, "zero_point", json_false(), "true");
    s.bits = 4;
    TRY(read_group(r, "group_size", get2(r->q, "group_size", "q_group_size"), 128, &s.group));
    quant_rule *all = add_rule(r->c);
    all->all = true;
    all->scheme = s;
    return read_plain(r, "modules_to_not_convert");
}

/* FP8, with blocks or one scale for a matrix or row */

static status read_block(const reader *r, const char *key, const json_t *v, quant_scheme *s) {
    if (!v) return OK;
    json_int_t n = json_integer_value(json_array_get(v, 0));
    json_int_t k = json_integer_value(json_array_get(v, 1));
    if (json_array_size(v) != 2 || n < 1 || k < 1 || n > INT32_MAX || k > INT32_MAX)
        return refuse(r, key, v, "two positive numbers");
    s->block_n = (int32_t)n;
    s->block_k = (int32_t)k;
    return OK;
}

/* Activations in E4M3 too: by blocks of 128 columns where weights have blocks. */
static status fp8_activations(const reader *r, quant_scheme *s) {
    const json_t *v = js_get(r->q, "activation_scheme");
    if (v && !is_word(v, "dynamic") && !is_word(v, "static"))
        return refuse(r, "activation_scheme", v, "\"dynamic\" or \"static\"");
    bool blocks = s->block_k == ACT_GROUP;
    if (is_word(v, "static"))
        s->act = ACT_ROUND_FP8_STATIC;
    else if (s->block_k == 0 || blocks)
        s->act = blocks ? ACT_ROUND_FP8_GROUP : ACT_ROUND_FP8_TOKEN;
    return OK;
}

static status read_fp8(const reader *r) {
    quant_scheme s = {.format = FORMAT_FP8, .bits = 8};
    const json_t *fmt = js_get(r->q, "fmt");
    if (fmt && !is_word(fmt, "e4m3") && !is_word(fmt, "float8_e4m3fn"))
        return refuse(r, "fmt", fmt, "\"e4m3\"");
    TRY(read_block(r, "weight_block_size", js_get(r->q, "weight_block_size"), &s));
    TRY(fp8_activations(r, &s));
    quant_rule *all = add_rule(r->c);
    all->all = true;
    all->scheme = s;
    r->c->kv_scales = js_get(r->q, "kv_cache_scheme") != NULL;
    TRY(read_plain(r, "ignored_layers"));
    return read_plain(r, "modules_to_not_convert");
}

static status read_listed(const reader *r, const char *key) {
    add_rule(r->c)->all = true;
    return read_plain(r, key);
}

/* compressed-tensors */

static status ct_format(const reader *r, const json_t *v, const json_t *weights,
                        quant_format *ret) {
    static const struct {
        const char *name;
        quant_format format;
    } formats[] = {{"dense", FORMAT_PLAIN},
                   {"pack-quantized", FORMAT_PACKED},
                   {"int-quantized", FORMAT_INT8},
                   {"float-quantized", FORMAT_FP8},
                   {"mxfp8-quantized", FORMAT_FP8},
                   {"nvfp4-pack-quantized", FORMAT_FP4},
                   {"mxfp4-pack-quantized", FORMAT_FP4}};
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (is_word(v, formats[i].name)) {
            *ret = formats[i].format;
            return OK;
        }
    if (is_word(v, "naive-quantized")) {
        *ret = is_word(js_get(weights, "type"), "float") ? FORMAT_FP8 : FORMAT_INT8;
        return OK;
    }
    return refuse(r, "format", v,
                  "pack-quantized, int-quantized, float-quantized, nvfp4-pack-quantized, "
                  "mxfp4-pack-quantized or mxfp8-quantized");
}

/* Activations in E4M3: per token, by group of 128 or by a scale of the tensor. Others (MXFP8's
 * power-of-two scales, 4 bits) are computed unrounded. */
static act_round ct_float_activations(const json_t *a, const quant_scheme *s) {
    const json_t *strategy = js_get(a, "strategy");
    bool dynamic = json_is_true(js_get(a, "dynamic"));
    if (s->format != FORMAT_FP8 || js_get_int(a, "num_bits", 8) != 8) return ACT_ROUND_NONE;
    if (!dynamic) return is_word(strategy, "tensor") ? ACT_ROUND_FP8_STATIC : ACT_ROUND_NONE;
    if (!strategy || is_word(strategy, "token")) return ACT_ROUND_FP8_TOKEN;
    bool groups = is_word(strategy, "group") && js_get_int(a, "group_size", 0) == ACT_GROUP;
    return groups ? ACT_ROUND_FP8_GROUP : ACT_ROUND_NONE;
}

/* Integer units want 8-bit activations: their rounding is part of the model. */
static status ct_activations(const reader *r, const json_t *a, quant_scheme *s) {
    const char *key = "config_groups.input_activations";
    if (!a) return OK;
    if (is_word(js_get(a, "type"), "float")) {
        s->act = ct_float_activations(a, s);
        return OK;
    }
    if (js_get_int(a, "num_bits", 8) != 8) return refuse(r, key, a, "8 bits or floats");
    bool dynamic = json_is_true(js_get(a, "dynamic"));
    const json_t *strategy = js_get(a, "strategy");
    if (dynamic && (!strategy || is_word(strategy, "token")) && js_get_bool(a, "symmetric", true))
        s->act = ACT_ROUND_INT8_TOKEN;
    else if (!dynamic && (!strategy || is_word(strategy, "tensor")))
        s->act = ACT_ROUND_INT8_STATIC;
    else
        return refuse(r, key, a, "symmetric per token if dynamic, else per tensor");
    return OK;
}

static status ct_weights(const reader *r, const json_t *w, quant_scheme *s) {
    const char *key = "config_groups.weights";
    bool is_float = is_word(js_get(w, "type"), "float");
    s->bits = (int)js_get_int(w, "num_bits", 8);
    s->symmetric = js_get_bool(w, "symmetric", true);
    int want = s->format == FORMAT_FP4 ? 4 : 8;
    bool fits = s->format == FORMAT_PACKED
                    ? !is_float && (s->bits == 2 || s->bits == 3 || s->bits == 4 || s->bits == 8)
                    : s->bits == want && is_float == (s->format != FORMAT_INT8);
    if (!fits) return refuse(r, key, w, "the bits and type of its format");
    TRY(read_group(r, "config_groups.weights.group_size", js_get(w, "group_size"), 0, &s->group));
    if (is_word(js_get(w, "strategy"), "block"))
        TRY(read_block(r, "config_groups.weights.block_structure", js_get(w, "block_structure"),
                       s));
    return OK;
}

static status ct_group(const reader *r, const json_t *group) {
    const json_t *weights = js_get(group, "weights"), *targets = js_get(group, "targets");
    const json_t *format =
        js_get(group, "format") ? js_get(group, "format") : js_get(r->q, "format");
    quant_rule *rule = add_rule(r->c);
    TRY(read_names(r, "config_groups.targets", targets, &rule->names, &rule->n_names));
    for (int32_t i = 0; i < rule->n_names; i++)
        rule->all |= !rule->names[i].regex && strcmp(rule->names[i].text, "Linear") == 0;
    TRY(ct_format(r, format, weights, &rule->scheme.format));
    if (!weights || rule->scheme.format == FORMAT_PLAIN) {
        rule->plain = true;
        return OK;
    }
    TRY(ct_weights(r, weights, &rule->scheme));
    return ct_activations(r, js_get(group, "input_activations"), &rule->scheme);
}

static status read_compressed(const reader *r) {
    const char *name;
    json_t *group;
    const json_t *groups = js_get(r->q, "config_groups");
    const json_t *sparse = js_get(js_get(r->q, "sparsity_config"), "format");
    if (sparse && !is_word(sparse, "dense"))
        return refuse(r, "sparsity_config", sparse, "\"dense\"");
    if (json_object_size(js_get(js_get(r->q, "transform_config"), "config_groups")))
        return refuse(r, "transform_config", js_get(r->q, "transform_config"), "none");
    if (!json_object_size(groups)) return refuse(r, "config_groups", groups, "groups of modules");
    json_object_foreach((json_t *)groups, name, group) TRY(ct_group(r, group));
    r->c->kv_scales = js_get(r->q, "kv_cache_scheme") != NULL;
    return read_plain(r, "ignore");
}

/* All methods */

static status read_method(const reader *r, const json_t *method) {
    if (is_word(method, "gptq")) {
        r->c->method = QUANT_GPTQ;
        return read_gptq(r);
    }
    if (is_word(method, "awq")) {
        r->c->method = QUANT_AWQ;
        return read_awq(r);
    }
    if (is_word(method, "compressed-tensors")) {
        r->c->method = QUANT_COMPRESSED;
        return read_compressed(r);
    }
    if (is_word(method, "fp8") || is_word(method, "fbgemm_fp8")) {
        r->c->method = QUANT_FP8;
        return read_fp8(r);
    }
    if (is_word(method, "bitsandbytes")) {
        r->c->method = QUANT_BNB;
        return read_listed(r, "llm_int8_skip_modules");
    }
    if (is_word(method, "mxfp4")) {
        r->c->method = QUANT_MXFP4;
        return read_listed(r, "modules_to_not_convert");
    }
    return refuse(r, "quant_method", method,
                  "gptq, awq, compressed-tensors, fp8, bitsandbytes or mxfp4");
}

static status parse_as(const char *path, const json_t *q, const char *method, quant_config **ret,
                       error *err) {
    if (!json_is_object(q))
        return error_set(err, ERR_FORMAT, "%s: quantization_config is no object", path);
    quant_config *c = mem_calloc(1, sizeof *c);
    reader r = {path, q, c, err};
    c->path = mem_strdup(path);
    if (!method && js_get(q, "config_groups")) method = "compressed-tensors";
    json_t *given = json_incref(js_get(q, "quant_method"));
    if (!given && method) given = json_string(method);
    status st = read_method(&r, given);
    json_decref(given);
    if (st == OK)
        *ret = c;
    else
        quant_config_free(c);
    return st;
}

status quant_config_parse(const char *path, const json_t *q, quant_config **ret, error *err) {
    return parse_as(path, q, NULL, ret, err);
}

/* A file of its own beside config.json. */
static status read_beside(const char *dir, const char *name, const char *method, quant_config **ret,
                          error *err) {
    char *path = path_join(dir, name);
    json_t *root = NULL;
    status st = OK;
    if (file_exists(path)) {
        st = js_parse_file(path, LIMIT_CONFIG_BYTES, &root, err);
        if (st == OK) st = parse_as(path, root, method, ret, err);
        json_decref(root);
    }
    mem_free(path);
    return st;
}

status quant_config_read(const char *model_dir, const char *config_path, const json_t *config,
                         quant_config **ret, error *err) {
    const json_t *q = get2(config, "quantization_config", "compression_config");
    *ret = NULL;
    if (q) return parse_as(config_path, q, NULL, ret, err);
    if (!dir_exists(model_dir)) return OK;
    TRY(read_beside(model_dir, "quantize_config.json", "gptq", ret, err));
    return *ret ? OK : read_beside(model_dir, "quant_config.json", "awq", ret, err);
}

void quant_config_free(quant_config *q) {
    if (!q) return;
    for (int32_t i = 0; i < q->n_rules; i++) {
        for (int32_t k = 0; k < q->rules[i].n_names; k++) name_pattern_done(&q->rules[i].names[k]);
        mem_free(q->rules[i].names);
    }
    for (int32_t i = 0; i < q->n_plain; i++) name_pattern_done(&q->plain[i]);
    mem_free(q->rules);
    mem_free(q->plain);
    mem_free(q->path);
    mem_free(q);
}

const quant_scheme *quant_config_scheme(const quant_config *q, const char *module) {
    for (int32_t i = 0; i < q->n_plain; i++) {
        bool is = q->method == QUANT_COMPRESSED ? name_pattern_is(&q->plain[i], module)
                                                : name_pattern_in(&q->plain[i], module);
        if (is) return NULL;
    }
    const quant_rule *all = NULL;
    for (int32_t i = 0; i < q->n_rules; i++) {
        const quant_rule *r = &q->rules[i];
        for (int32_t k = 0; k < r->n_names; k++)
            if (name_pattern_is(&r->names[k], module)) return r->plain ? NULL : &r->scheme;
        if (r->all && !all) all = r;
    }
    return all && !all->plain ? &all->scheme : NULL;
}
