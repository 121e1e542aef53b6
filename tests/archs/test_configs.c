/* Every configs/NAME.json, which has the keys and values of a published model's config.json,
 * against the dimensions that configs/expected.json states for it. No weights: the tensors that a
 * family asks for are taken to be there. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/arch.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/model_config.h"
#include "engine/quant_config.h"

#define ROOT "tests/archs/configs"

static int n_failed;

static void same(const char *name, const char *what, double got, double want) {
    if (got == want) return;
    n_failed++;
    fprintf(stderr, "%s: %s is %.17g, expected %.17g\n", name, what, got, want);
}

static void check_dims(const char *name, const arch *a, const json_t *want) {
    const struct {
        const char *key;
        int32_t got;
    } dims[] = {{"layers", a->n_layers},     {"hidden", a->hidden},     {"heads", a->n_heads},
                {"kv_heads", a->n_kv_heads}, {"head_dim", a->head_dim}, {"ffn", a->ffn},
                {"vocab", a->vocab},         {"ctx", a->ctx_max},       {"latent", a->latent}};
    for (size_t i = 0; i < ARRAY_LEN(dims); i++)
        same(name, dims[i].key, dims[i].got, (double)js_get_int(want, dims[i].key, 0));
    same(name, "embed_width", a->embed_width,
         (double)js_get_int(want, "embed_width", js_get_int(want, "hidden", 0)));
    same(name, "tied", a->tied, js_get_bool(want, "tied", false));
    if (js_get(want, "params"))
        same(name, "params", (double)arch_n_params(a), (double)js_get_int(want, "params", 0));
}

static void check_layers(const char *name, const arch *a, const json_t *want) {
    int32_t n_moe = 0, n_windows = 0, window = 0;
    const arch_mlp *moe = NULL;
    for (int32_t l = 0; l < a->n_layers; l++) {
        const arch_layer *y = &a->layers[l];
        if (y->mlp.kind == MLP_MOE) n_moe++, moe = &y->mlp;
        if (y->attn.window) n_windows++, window = y->attn.window;
    }
    same(name, "moe_layers", n_moe, (double)js_get_int(want, "moe_layers", 0));
    same(name, "experts", moe ? moe->n_experts : 0, (double)js_get_int(want, "experts", 0));
    same(name, "top_k", moe ? moe->top_k : 0, (double)js_get_int(want, "top_k", 0));
    same(name, "expert_ffn", moe ? moe->ffn : 0, (double)js_get_int(want, "expert_ffn", 0));
    same(name, "window", window, (double)js_get_int(want, "window", 0));
    same(name, "window_layers", n_windows, (double)js_get_int(want, "window_layers", 0));
    const json_t *grows = js_get(want, "q_grows");
    if (grows) {
        const arch_attn *y = &a->layers[0].attn;
        same(name, "q grows from", y->logn_base, (double)js_get_int(grows, "base", 0));
        same(name, "q grows by", y->logn_beta, (float)js_get_real(grows, "beta", 0));
    }
}

/* What no dimension tells; checked where expected.json states it. */
static void check_behaviour(const char *name, const arch *a, const json_t *want) {
    static const char *const acts[] = {"silu",  "gelu", "gelu_tanh", "relu",      "quick_gelu",
                                       "relu2", "tanh", "sigmoid",   "swiglu_oai"};
    const arch_layer *y = &a->layers[a->n_layers - 1];
    const struct {
        const char *key;
        double got;
    } values[] = {{"eps", a->eps},
                  {"logit_scale", a->logit_scale},
                  {"qk_norm", y->attn.qk_norm != QK_NONE},
                  {"parallel", y->parallel},
                  {"route_scale", y->mlp.route_scale},
                  {"renorm", y->mlp.renorm},
                  {"shared_ffn", y->mlp.shared_ffn}};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        const json_t *w = js_get(want, values[i].key);
        double x = json_is_boolean(w) ? json_is_true(w) : json_number_value(w);
        if (w) same(name, values[i].key, values[i].got, (float)x);
    }
    str act = js_get_str(want, "act");
    if (act.n && !str_eqz(act, acts[y->mlp.act])) {
        n_failed++;
        fprintf(stderr, "%s: activation is %s\n", name, acts[y->mlp.act]);
    }
}

/* The first layer's rope. */
static void check_rope(const char *name, const arch *a, const json_t *want) {
    static const char *const kinds[] = {"none", "linear",   "dynamic", "llama3",
                                        "yarn", "longrope", "qwen_ntk"};
    const json_t *w = js_get(want, "rope");
    int32_t k = a->layers[0].attn.rope;
    same(name, "has a rope", k >= 0, json_is_object(w));
    if (k < 0 || !json_is_object(w)) return;
    const rope_spec *r = &a->ropes[k];
    same(name, "rope width", r->dim, (double)js_get_int(w, "width", 0));
    same(name, "rope theta", r->theta, js_get_real(w, "theta", 0));
    if (!str_eqz(js_get_str(w, "scaling"), kinds[r->scaling])) {
        n_failed++;
        fprintf(stderr, "%s: rope scaling is %s\n", name, kinds[r->scaling]);
    }
    if (r->scaling != SCALE_NONE && r->scaling != SCALE_LONGROPE)
        same(name, "rope factor", r->factor, js_get_real(w, "factor", 0));
}

/* What quantization_config says of a projection and of the head. */
static void check_quant(const char *name, const char *path, const json_t *config,
                        const json_t *want) {
    const json_t *q = js_get(config, "quantization_config"), *w = js_get(want, "quant");
    quant_config *ret = NULL;
    error err;
    same(name, "is quantised", json_is_object(q), json_is_object(w));
    if (!json_is_object(q) || !json_is_object(w)) return;
    if (quant_config_parse(path, q, &ret, &err) != OK) {
        n_failed++;
        fprintf(stderr, "%s: %s\n", name, err.text);
        return;
    }
    if (!str_eqz(js_get_str(w, "method"), quant_method_name(ret->method))) {
        n_failed++;
        fprintf(stderr, "%s: quantised by %s\n", name, quant_method_name(ret->method));
    }
    const quant_scheme *s = quant_config_scheme(ret, "model.layers.0.self_attn.q_proj");
    same(name, "bits", s ? s->bits : 0, (double)js_get_int(w, "bits", 0));
    same(name, "group", s ? s->group : 0, (double)js_get_int(w, "group", 0));
    same(name, "the head is plain", !quant_config_scheme(ret, "lm_head"),
         js_get_bool(w, "plain_head", false));
    quant_config_free(ret);
}

static void check_config(const family_set *families, const char *name, const json_t *want) {
    char path[256];
    json_t *config = NULL;
    const family *f;
    arch *a = NULL;
    error err;
    snprintf(path, sizeof path, ROOT "/%s.json", name);
    status st = model_config_read(path, &config, &err);
    if (st == OK) st = family_match(families, config, path, &f, &err);
    if (st == OK)
        st = arch_resolve(f, config, path, (tensor_names){arch_assumed_tensor, NULL}, &a, &err);
    if (js_get(want, "refused")) {
        str reason = js_get_str(want, "refused");
        if (st == OK && js_get(config, "quantization_config")) {
            quant_config *q = NULL;
            st = quant_config_parse(path, js_get(config, "quantization_config"), &q, &err);
            quant_config_free(q);
        }
        if (st != ERR_UNSUPPORTED || str_find(str_z(err.text), reason, 0) < 0) {
            n_failed++;
            fprintf(stderr, "%s: not refused, or with other words: %s\n", name,
                    st == OK ? "" : err.text);
        }
    } else if (st != OK) {
        n_failed++;
        fprintf(stderr, "%s: %s\n", name, err.text);
    } else {
        if (!str_eqz(js_get_str(want, "family"), a->family)) {
            n_failed++;
            fprintf(stderr, "%s: family %s\n", name, a->family);
        }
        check_dims(name, a, want);
        check_layers(name, a, want);
        check_behaviour(name, a, want);
        check_rope(name, a, want);
        check_quant(name, path, config, want);
        printf("%-30s %-12s %15lld parameters\n", name, a->family, (long long)arch_n_params(a));
    }
    arch_free(a);
    json_decref(config);
}

int main(void) {
    family_set families = {0};
    json_t *all = NULL;
    error err;
    status st = family_set_load(NULL, &families, &err);
    if (st == OK) st = js_parse_file(ROOT "/expected.json", (size_t)1 << 20, &all, &err);
    if (st != OK) {
        fprintf(stderr, "%s (run from the project's root)\n", err.text);
        return 1;
    }
    const char *name;
    json_t *want;
    json_object_foreach(all, name, want) check_config(&families, name, want);
    printf("%zu configs, %d differences\n", json_object_size(all), n_failed);
    json_decref(all);
    family_set_done(&families);
    return n_failed != 0;
}
