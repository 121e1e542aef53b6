/* Two generations of config.json say the same in different places; both end in one rope_spec. */
#include "engine/arch_rope.h"

#include <math.h>

#include "engine/base/mem.h"

/* The object with the scaling's keys for e->layer, NULL when there is none; *ret_theta is set when
 * it is stored there or beside. */
static const json_t *config_rope(const arch_eval *e, double *ret_theta) {
    const json_t *p = js_get(e->config, "rope_parameters");
    if (json_is_object(p)) {
        str type = js_str(json_array_get(js_get(e->config, "layer_types"), (size_t)e->layer));
        const json_t *nested = type.n ? json_object_getn(p, type.p, type.n) : NULL;
        if (json_is_object(nested)) p = nested;
        *ret_theta = js_get_real(p, "rope_theta", js_get_real(e->config, "rope_theta", *ret_theta));
        return p;
    }
    *ret_theta = js_get_real(e->config, "rope_theta", *ret_theta);
    p = js_get(e->config, "rope_scaling");
    return json_is_object(p) ? p : NULL;
}

static status positive(const arch_eval *e, const char *key, double x, error *err) {
    if (x > 0 && isfinite(x)) return OK;
    return error_set(err, ERR_FORMAT, "%s: rope scaling needs \"%s\" > 0, found %g", e->config_path,
                     key, x);
}

static status whole(const arch_eval *e, const char *key, double x, int32_t *ret, error *err) {
    if (!(x >= 1 && x <= INT32_MAX / 64) || x != floor(x))
        return error_set(err, ERR_FORMAT, "%s: rope scaling needs \"%s\", a whole number, found %g",
                         e->config_path, key, x);
    *ret = (int32_t)x;
    return OK;
}

static double yarn_mscale(double scale, double m) {
    return scale <= 1 ? 1 : 0.1 * m * log(scale) + 1;
}

static double yarn_attention(const json_t *p, double factor) {
    double given = js_get_real(p, "attention_factor", 0);
    double m = js_get_real(p, "mscale", 0), all = js_get_real(p, "mscale_all_dim", 0);
    if (given != 0) return given;
    return m != 0 && all != 0 ? yarn_mscale(factor, m) / yarn_mscale(factor, all)
                              : yarn_mscale(factor, 1);
}

static status read_factors(const arch_eval *e, const json_t *p, const char *key, int32_t n,
                           float **ret, error *err) {
    const json_t *list = js_get(p, key);
    if ((int32_t)json_array_size(list) != n)
        return error_set(err, ERR_FORMAT,
                         "%s: rope scaling needs \"%s\" with %d numbers, found %zu", e->config_path,
                         key, n, json_array_size(list));
    *ret = mem_alloc((size_t)n * sizeof **ret);
    for (int32_t i = 0; i < n; i++) {
        double x = json_number_value(json_array_get(list, (size_t)i));
        TRY(positive(e, key, x, err));
        (*ret)[i] = (float)x;
    }
    return OK;
}

/* cos and sin grow with the stretch: sqrt(1 + ln(factor) / ln(original positions)). */
static status read_longrope(const arch_eval *e, const json_t *p, double orig, rope_spec *r,
                            error *err) {
    if (orig == 0) orig = r->ctx;
    TRY(whole(e, "original_max_position_embeddings", orig, &r->ctx_orig, err));
    if (r->factor == 0) r->factor = r->ctx / orig;
    TRY(positive(e, "factor", r->factor, err));
    r->attention_factor = js_get_real(p, "attention_factor", 0);
    if (r->attention_factor == 0)
        r->attention_factor = r->factor <= 1 ? 1 : sqrt(1 + log(r->factor) / log(r->ctx_orig));
    TRY(positive(e, "attention_factor", r->attention_factor, err));
    TRY(read_factors(e, p, "short_factor", r->dim / 2, &r->factors, err));
    return read_factors(e, p, "long_factor", r->dim / 2, &r->long_factors, err);
}

static status read_scaling(const arch_eval *e, const json_t *p, rope_spec *r, error *err) {
    str type = js_get_str(p, "rope_type");
    if (!type.n) type = js_get_str(p, "type");
    if (!type.n || str_eqz(type, "default")) return OK;
    r->scaling = str_eqz(type, "linear")     ? SCALE_LINEAR
                 : str_eqz(type, "dynamic")  ? SCALE_DYNAMIC
                 : str_eqz(type, "llama3")   ? SCALE_LLAMA3
                 : str_eqz(type, "yarn")     ? SCALE_YARN
                 : str_eqz(type, "longrope") ? SCALE_LONGROPE
                 : str_eqz(type, "su")       ? SCALE_LONGROPE
                                             : SCALE_NONE;
    if (r->scaling == SCALE_NONE)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: rope scaling \"" STR_FMT "\" is not supported; known: linear, "
                         "dynamic, llama3, yarn, longrope",
                         e->config_path, STR_ARG(type));
    double orig = js_get_real(p, "original_max_position_embeddings",
                              js_get_real(e->config, "original_max_position_embeddings", 0));
    if (orig == 0 && r->scaling == SCALE_YARN) orig = r->ctx;
    bool from_ctx = r->scaling == SCALE_YARN || r->scaling == SCALE_LONGROPE;
    r->factor = js_get_real(p, "factor", from_ctx && orig > 0 ? r->ctx / orig : 0);
    TRY(positive(e, "factor", r->factor, err));
    if (r->scaling == SCALE_LONGROPE) return read_longrope(e, p, orig, r, err);
    if (r->scaling == SCALE_LLAMA3 || r->scaling == SCALE_YARN)
        TRY(whole(e, "original_max_position_embeddings", orig, &r->ctx_orig, err));
    if (r->scaling == SCALE_LLAMA3) {
        r->low_freq_factor = js_get_real(p, "low_freq_factor", 0);
        r->high_freq_factor = js_get_real(p, "high_freq_factor", 0);
        TRY(positive(e, "low_freq_factor", r->low_freq_factor, err));
        TRY(positive(e, "high_freq_factor", r->high_freq_factor, err));
        if (r->high_freq_factor <= r->low_freq_factor)
            return error_set(err, ERR_FORMAT, "%s: high_freq_factor must exceed low_freq_factor",
                             e->config_path);
    }
    if (r->scaling == SCALE_YARN) {
        r->beta_fast = js_get_real(p, "beta_fast", 0);
        r->beta_slow = js_get_real(p, "beta_slow", 0);
        if (r->beta_fast == 0) r->beta_fast = 32;
        if (r->beta_slow == 0) r->beta_slow = 1;
        TRY(positive(e, "beta_fast", r->beta_fast, err));
        TRY(positive(e, "beta_slow", r->beta_slow, err));
        r->truncate = js_get_bool(p, "truncate", true);
        r->attention_factor = yarn_attention(p, r->factor);
        TRY(positive(e, "attention_factor", r->attention_factor, err));
    }
    return OK;
}

static status check_spec(const arch_eval *e, const arch *a, const rope_spec *r, error *err) {
    int32_t unit = r->style == ROPE_HALVES ? 4 : 2;
    if (r->dim < unit || r->dim % unit || r->dim > a->head_dim)
        return error_set(err, ERR_FORMAT,
                         "%s: rotated width %d must be a multiple of %d and from %d to the head "
                         "width %d",
                         e->config_path, r->dim, unit, unit, a->head_dim);
    if (r->style == ROPE_HALVES && r->dim != a->head_dim)
        return error_set(err, ERR_FORMAT, "%s: two rotations must fill the head", e->f->file);
    if ((r->scaling == SCALE_DYNAMIC || r->scaling == SCALE_QWEN_NTK) && r->dim == 2)
        return error_set(err, ERR_FORMAT, "%s: dynamic rope scaling needs heads wider than 2",
                         e->config_path);
    if (!(r->theta > 1 && isfinite(r->theta)))
        return error_set(err, ERR_FORMAT, "%s: rope_theta must be a number > 1, found %g",
                         e->config_path, r->theta);
    return OK;
}

static status read_style(arch_builder *b, rope_spec *r, error *err) {
    static const char *const styles[] = {"half", "pair"};
    int style;
    TRY(arch_choice(b, arch_node(&b->e, "rope.style"), "rope.style", "half", styles, 2, &style,
                    err));
    r->style = style == 1 ? ROPE_PAIR : ROPE_HALF;
    if (json_array_size(arch_node(&b->e, "rope.sections")) == 0) return OK;
    if (b->a->positions != POS_GLM2D || style != 0)
        return error_set(err, ERR_FORMAT, "%s: rope.sections need positions glm2d and style half",
                         b->e.f->file);
    r->style = ROPE_HALVES;
    return OK;
}

/* Which scaling: the layer's or family's word, else what config.json says. */
static status choose_scaling(arch_builder *b, const json_t *p, rope_spec *r, error *err) {
    static const char *const words[] = {"config", "none", "qwen_ntk", "linear", "dynamic"};
    static const rope_scaling kinds[] = {SCALE_NONE, SCALE_NONE, SCALE_QWEN_NTK, SCALE_LINEAR,
                                         SCALE_DYNAMIC};
    arch_eval *e = &b->e;
    const json_t *node = e->override ? js_get(e->override, "rope.scaling") : NULL;
    int word;
    TRY(arch_choice(b, node ? node : arch_node(e, "rope.scaling"), "rope.scaling", "config", words,
                    ARRAY_LEN(words), &word, err));
    if (word == 0 && p) return read_scaling(e, p, r, err);
    if (word >= 2) {
        double ctx;
        TRY(arch_real(e, "rope.ctx", r->ctx, &ctx, err));
        TRY(whole(e, "rope.ctx", ctx, &r->ctx, err));
        TRY(arch_real(e, "rope.factor", 1, &r->factor, err));
        TRY(positive(e, "rope.factor", r->factor, err));
    }
    r->scaling = kinds[word];
    return OK;
}

/* Factors stored as a tensor of the model: the first layer's rope adds it, and the place is filled
 * when the weights are there. */
static status factor_tensor(arch_builder *b, rope_spec *r, error *err) {
    const json_t *n = arch_node(&b->e, "rope.factors");
    bool has = b->a->n_ropes && b->a->ropes[0].weight_factors;
    status st = OK;
    if (!n) return OK;
    if (b->a->n_ropes == 0) {
        int32_t layer = b->e.layer;
        arch_place at = {.slot = W_ROPE_FACTORS, .rows = r->dim / 2};
        b->e.layer = -1;
        st = arch_add_tensor(b, js_get(n, "tensor"), "rope.factors", at, &has, err);
        b->e.layer = layer;
    }
    r->weight_factors = has;
    return st;
}

static status resolve(arch_builder *b, rope_spec *r, error *err) {
    bool from_config;
    double dim, partial;
    arch_eval *e = &b->e;
    TRY(read_style(b, r, err));
    TRY(arch_real(e, "rope.dim", b->a->head_dim, &dim, err));
    TRY(arch_real(e, "rope.theta", 10000, &r->theta, err));
    TRY(arch_real(e, "rope.partial", 1, &partial, err));
    TRY(arch_bool(e, "rope.from_config", false, &from_config, err));
    TRY(arch_bool(e, "rope.fp16_inv_freq", false, &r->fp16_freq, err));
    const json_t *p = from_config ? config_rope(e, &r->theta) : NULL;
    if (e->override && js_get(e->override, "rope.theta"))
        TRY(arch_real(e, "rope.theta", 10000, &r->theta, err));
    if (from_config)
        partial = js_get_real(p, "partial_rotary_factor",
                              js_get_real(e->config, "partial_rotary_factor", partial));
    dim = floor(dim * partial);
    r->dim = dim >= 0 && dim <= 65536 ? (int32_t)dim : -1;
    TRY(check_spec(e, b->a, r, err));
    TRY(choose_scaling(b, p, r, err));
    TRY(check_spec(e, b->a, r, err));
    return factor_tensor(b, r, err);
}

status arch_rope_resolve(arch_builder *b, rope_spec *ret, error *err) {
    rope_spec r = {.style = ROPE_NONE, .ctx = b->a->ctx_max, .attention_factor = 1};
    bool on;
    *ret = r;
    TRY(arch_bool(&b->e, "rope.if", true, &on, err));
    if (!on || !arch_node(&b->e, "rope")) return OK;
    status st = resolve(b, &r, err);
    if (st == OK)
        *ret = r;
    else
        rope_spec_done(&r);
    return st;
}

/* linear and dynamic stretch the config's positions, yarn those of the original training; llama3
 * configs state the stretched length themselves. */
int32_t arch_rope_ctx(const arch *a, int32_t ctx) {
    double most = ctx;
    for (int32_t i = 0; i < a->n_ropes; i++) {
        const rope_spec *r = &a->ropes[i];
        double reach = r->scaling == SCALE_LINEAR || r->scaling == SCALE_DYNAMIC
                           ? r->factor * r->ctx
                       : r->scaling == SCALE_YARN     ? r->factor * r->ctx_orig
                       : r->scaling == SCALE_LONGROPE ? (double)r->ctx
                                                      : ctx;
        most = MAX(most, reach);
    }
    return (int32_t)MIN(most, (double)(INT32_MAX / 64));
}
