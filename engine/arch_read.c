/* Words, numbers and flags of a family, checked: the small readers of arch_build.h. */
#include <math.h>

#include "engine/arch_build.h"
#include "engine/base/mem.h"

status arch_choice(arch_builder *b, const json_t *node, const char *path, const char *fallback,
                   const char *const *words, int n, int *ret, error *err) {
    str w;
    TRY(arch_word(&b->e, node, path, fallback, &w, err));
    for (int k = 0; k < n; k++)
        if (str_eqz(w, words[k])) {
            *ret = k;
            return OK;
        }
    strbuf known = {0};
    for (int k = 0; k < n; k++) strbuf_addf(&known, "%s%s", k ? ", " : "", words[k]);
    status st =
        error_set(err, ERR_UNSUPPORTED, "%s: %s: \"" STR_FMT "\" is not supported; known: %s",
                  b->e.f->file, path, STR_ARG(w), known.p);
    strbuf_done(&known);
    return st;
}

status arch_number(arch_builder *b, const json_t *node, const char *path, double fallback,
                   float *ret, error *err) {
    value v;
    TRY(arch_node_value(&b->e, node, path, value_num(fallback), &v, err));
    if (v.kind == VAL_NONE) v = value_num(fallback);
    if ((v.kind != VAL_NUM && v.kind != VAL_BOOL) || !isfinite(v.num))
        return error_set(err, ERR_FORMAT, "%s: %s (%s) must be a finite number", b->e.config_path,
                         path, b->e.f->file);
    *ret = (float)v.num;
    return OK;
}

status arch_count(arch_builder *b, const json_t *node, const char *path, int32_t fallback,
                  int32_t min, int32_t max, int32_t *ret, error *err) {
    value v;
    TRY(arch_node_value(&b->e, node, path, value_num(fallback), &v, err));
    if (v.kind != VAL_NUM || v.num != floor(v.num) || v.num < min || v.num > max)
        return error_set(err, ERR_FORMAT, "%s: %s (%s) must be a whole number from %d to %d",
                         b->e.config_path, path, b->e.f->file, min, max);
    *ret = (int32_t)v.num;
    return OK;
}

status arch_flag(arch_builder *b, const json_t *node, const char *path, bool fallback, bool *ret,
                 error *err) {
    value v;
    TRY(arch_node_value(&b->e, node, path, value_bool(fallback), &v, err));
    *ret = value_true(v);
    return OK;
}

static const struct {
    const char *name;
    act_kind kind;
} act_names[] = {
    {"silu", ACT_SILU},
    {"swish", ACT_SILU},
    {"gelu", ACT_GELU},
    {"gelu_new", ACT_GELU_TANH},
    {"gelu_tanh", ACT_GELU_TANH},
    {"gelu_pytorch_tanh", ACT_GELU_TANH},
    {"gelu_fast", ACT_GELU_TANH},
    {"relu", ACT_RELU},
    {"relu2", ACT_RELU2},
    {"quick_gelu", ACT_QUICK_GELU},
    {"swiglu_oai", ACT_SWIGLU_OAI},
    {"tanh", ACT_TANH},
};

status arch_act(arch_builder *b, str name, act_kind *ret, error *err) {
    for (size_t i = 0; i < ARRAY_LEN(act_names); i++)
        if (str_eqz(name, act_names[i].name)) {
            *ret = act_names[i].kind;
            return OK;
        }
    return error_set(err, ERR_UNSUPPORTED, "%s: activation \"" STR_FMT "\" is not supported",
                     b->e.config_path, STR_ARG(name));
}
