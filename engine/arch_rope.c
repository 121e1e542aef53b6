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

static status read_scaling(const arch_eval *e, const json_t *p, rope_spec *r, error *err) {
    str type = js_get_str(p, "rope_type");
    if (!type.n) type = js_get_str(p, "type");
    if (!type.n || str_eqz(type, "default")) return OK;
    r->scaling = str_eqz(type, "linear")    ? SCALE_LINEAR
                 : str_eqz(type, "dynamic") ? SCALE_DYNAMIC
                 : str_eqz(type, "llama3")  ? SCALE_LLAMA3
                 : str_eqz(type, "yarn")    ? SCALE_YARN
                                            : SCALE_NONE;
    if (r->scaling == SCALE_NONE)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s: rope scaling \"" STR_FMT "\" is not supported; known: linear, "
                         "dynamic, llama3, yarn",
                         e->config_path, STR_ARG(type));
    double orig = js_get_real(p, "original_max_position_embeddings",
                              js_get_real(e->config, "original_max_position_embeddings", 0));
    if (orig == 0 && r->scaling == SCALE_YARN) orig = r->ctx;
    r->factor = js_get_real(p, "factor", r->scaling == SCALE_YARN && orig > 0 ? r->ctx / orig : 0);
    TRY(positive(e, "factor", r->factor, err));
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
    if (r->dim < 2 || r->dim % 2 || r->dim > a->head_dim)
        return error_set(err, ERR_FORMAT,
                         "%s: rotated width %d must be even and from 2 to the head width %d",
                         e->config_path, r->dim, a->head_dim);
    if (r->scaling == SCALE_DYNAMIC && r->dim == 2)
        return error_set(err, ERR_FORMAT, "%s: dynamic rope scaling needs heads wider than 2",
                         e->config_path);
    if (!(r->theta > 1 && isfinite(r->theta)))
        return error_set(err, ERR_FORMAT, "%s: rope_theta must be a number > 1, found %g",
                         e->config_path, r->theta);
    return OK;
}

status arch_rope_resolve(arch_eval *e, const arch *a, rope_spec *ret, error *err) {
    rope_spec r = {.style = ROPE_NONE, .ctx = a->ctx_max, .attention_factor = 1};
    bool on, from_config;
    double dim;
    str style;
    *ret = r;
    TRY(arch_bool(e, "rope.if", true, &on, err));
    if (!on || !arch_node(e, "rope")) return OK;
    TRY(arch_word(e, arch_node(e, "rope.style"), "rope.style", "half", &style, err));
    if (!str_eqz(style, "half")) return arch_unsupported(e, "rope.style", "pair", err);
    r.style = ROPE_HALF;
    TRY(arch_real(e, "rope.dim", a->head_dim, &dim, err));
    TRY(arch_real(e, "rope.theta", 10000, &r.theta, err));
    TRY(arch_bool(e, "rope.from_config", false, &from_config, err));
    const json_t *p = from_config ? config_rope(e, &r.theta) : NULL;
    if (e->override && js_get(e->override, "rope.theta"))
        TRY(arch_real(e, "rope.theta", 10000, &r.theta, err));
    double partial =
        js_get_real(p, "partial_rotary_factor", js_get_real(e->config, "partial_rotary_factor", 1));
    dim = from_config ? floor(dim * partial) : dim;
    r.dim = dim >= 0 && dim <= 65536 && dim == floor(dim) ? (int32_t)dim : -1;
    bool scaled = !(e->override && js_get(e->override, "rope.scaling"));
    if (p && scaled) TRY(read_scaling(e, p, &r, err));
    TRY(check_spec(e, a, &r, err));
    *ret = r;
    return OK;
}

/* linear and dynamic stretch the config's positions, yarn those of the original training; llama3
 * configs state the stretched length themselves. */
int32_t arch_rope_ctx(const arch *a, int32_t ctx) {
    double most = ctx;
    for (int32_t i = 0; i < a->n_ropes; i++) {
        const rope_spec *r = &a->ropes[i];
        double reach = r->scaling == SCALE_LINEAR || r->scaling == SCALE_DYNAMIC ? r->factor * ctx
                       : r->scaling == SCALE_YARN ? r->factor * r->ctx_orig
                                                  : ctx;
        most = MAX(most, reach);
    }
    return (int32_t)MIN(most, (double)(INT32_MAX / 64));
}
