/* Expressions, the vocabulary of family files, and their resolution against config.json. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/arch.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/expr.h"
#include "tests/unit/suite.h"

/* Expressions */

static status name_of(void *ctx, str name, value *ret, error *err) {
    if (str_eqz(name, "x")) return *ret = value_num(7), OK;
    if (str_eqz(name, "t")) return *ret = value_str(STR("text")), OK;
    return error_set(err, ERR_FORMAT, "no name " STR_FMT, STR_ARG(name));
}

static status call_of(void *ctx, str name, const value *a, int n, value *ret, error *err) {
    if (str_eqz(name, "twice") && n == 1) return *ret = value_num(2 * a[0].num), OK;
    return error_set(err, ERR_FORMAT, "no function " STR_FMT, STR_ARG(name));
}

static const expr_env env = {name_of, call_of, NULL};

START_TEST(expressions_as_in_python) {
    static const struct {
        const char *text;
        double want;
    } cases[] = {
        {"1 + 2*3", 7},
        {"(1+2)*3", 9},
        {"2**3**2", 512},
        {"-2**2", -4},
        {"7 % 3", 1},
        {"-7 % 3", 2},
        {"7/2", 3.5},
        {"x - 1 - 1", 5},
        {"1 if x == 7 else 2", 1},
        {"1 if x != 7 else 2 if x > 3 else 3", 2},
        {"not x < 7 and x <= 7", 1},
        {"0 or x", 7},
        {"x and 0 or 3", 3},
        {"twice(x) + max(1, 2) - min(1, 2)", 15},
        {"'a' == 'a'", 1},
        {"t == 'text'", 1},
        {"t == x", 0},
        {"1e-5 * 1e5", 1},
        {"int(7/2)", 3},
        {"bf16(1.001)", 1},
        {"none == none", 1},
        {"true + true", 2},
        /* what Python would not evaluate is not */
        {"nope if false else 4", 4},
        {"5 if true else nope(1/0)", 5},
        {"1 or nope", 1},
        {"0 and 1/0", 0},
        {"(1 if x > 1 else nope) + (nope if x < 1 else 2)", 3},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        value v;
        error err = {0};
        status st = expr_eval(str_z(cases[i].text), &env, &v, &err);
        ck_assert_msg(st == OK, "%s: %s", cases[i].text, err.text);
        ck_assert_msg(fabs(v.num - cases[i].want) < 1e-9, "%s: %g", cases[i].text, v.num);
    }
}
END_TEST

START_TEST(bad_expressions_are_sentences) {
    static const char *const cases[] = {
        "",
        "1 +",
        "(1",
        "1 2",
        "1/0",
        "5 % 0",
        "'open",
        "nope",
        "nope(1)",
        "1 if 2",
        "t + 1",
        "x..3",
        "2 ** 5000",
        "#",
        "max(1)",
        "1 < 2 < 3",
        "twice(1,2,3,4,5)",
        "a b",
        "not",
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        value v;
        error err = {0};
        ck_assert_msg(expr_eval(str_z(cases[i]), &env, &v, &err) != OK, "%s", cases[i]);
        ck_assert(err.text[0]);
    }
    char deep[2000];
    memset(deep, '(', sizeof deep);
    value v;
    ck_assert_int_ne(expr_eval(str_n(deep, 1000), &env, &v, NULL), OK);
    ck_assert_int_ne(expr_eval(str_n(deep, 2000), &env, &v, NULL), OK);
    memset(deep, '-', sizeof deep);
    ck_assert_int_ne(expr_eval(str_n(deep, 1000), &env, &v, NULL), OK);
}
END_TEST

/* Families */

static family_set built_in(void) {
    family_set s;
    error err;
    ck_assert_msg(family_set_load(NULL, &s, &err) == OK, "%s", err.text);
    return s;
}

static json_t *json(const char *text) {
    json_t *v = NULL;
    error err;
    ck_assert_msg(js_parse(str_z(text), &v, &err) == OK, "%s", err.text);
    return v;
}

START_TEST(every_family_of_the_format_parses) {
    static const char *const names[] = {
        "llama",    "internlm2", "qwen2",       "chatglm2", "bloom",  "opt",       "gpt2",
        "baichuan", "mixtral",   "deepseek_v2", "moss",     "falcon", "chatglm6b", "gemma3"};
    family_set s = {0};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[128];
        strbuf text = {0};
        error err;
        snprintf(path, sizeof path, "../shared/specs/families/%s.json", names[i]);
        if (!file_exists(path)) {
            printf("SKIP: no %s\n", path);
            continue;
        }
        ck_assert_int_eq(file_read(path, LIMIT_CONFIG_BYTES, &text, &err), OK);
        status st = family_set_add(&s, path, strbuf_str(&text), &err);
        ck_assert_msg(st == OK, "%s", err.text);
        strbuf_done(&text);
    }
    family_set_done(&s);
}
END_TEST

START_TEST(bad_files_name_file_and_key) {
    static const struct {
        const char *text, *in_error;
    } cases[] = {
        {"{", "f.json"},
        {"[]", "f.json: not a JSON object"},
        {"{\"schema\":2}", "\"schema\" must be 1"},
        {"{\"schema\":1,\"family\":\"\"}", "\"family\""},
        {"{\"schema\":1,\"family\":\"a\"}", "\"match\" is missing"},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"atn\":{}}", "unknown key \"atn\""},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"attn\":{\"quack\":1}}",
         "unknown key \"attn.quack\""},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"mlp\":[{\"kind\":\"glu\",\"gat\":1}]}",
         "unknown key \"mlp[].gat\""},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"mlp\":{}}", "\"mlp\" must be a list"},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"norms\":{\"attn_in\":5}}",
         "\"norms.attn_in\" has a value of the wrong type"},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"norms\":{\"attn_in\":{\"tensor\":\"x\","
         "\"when\":\"1\"}}}",
         "\"norms.attn_in\" has a value of the wrong type"},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"extends\":\"b\"}", "extends \"b\""},
        {"{\"schema\":1,\"family\":\"a\",\"match\":{},\"per_layer\":[{\"set\":{\"attn.q\":\"1\"}}]"
         "}",
         "per_layer[].set.attn.q"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        family_set s = {0};
        error err = {0};
        ck_assert_int_ne(family_set_add(&s, "f.json", str_z(cases[i].text), &err), OK);
        ck_assert_msg(strstr(err.text, "f.json") && strstr(err.text, cases[i].in_error),
                      "\"%s\" lacks \"%s\"", err.text, cases[i].in_error);
        family_set_done(&s);
    }
}
END_TEST

START_TEST(unknown_architecture_says_what_is_known) {
    family_set s = built_in();
    json_t *c = json("{\"architectures\":[\"FooForCausalLM\"],\"model_type\":\"foo\"}");
    const family *f;
    error err;
    ck_assert_int_eq(family_match(&s, c, "m/config.json", &f, &err), ERR_UNSUPPORTED);
    ck_assert(strstr(err.text, "FooForCausalLM") && strstr(err.text, "llama, mistral, qwen2") &&
              strstr(err.text, "--register-path"));
    json_decref(c);
    c = json("{\"model_type\":\"qwen2\"}");
    ck_assert_int_eq(family_match(&s, c, "m/config.json", &f, &err), OK);
    ck_assert_str_eq(f->name, "qwen2");
    json_decref(c);
    family_set_done(&s);
}
END_TEST

/* Resolution */

static bool has_all(void *ctx, const char *name) {
    return true;
}

#define DIMS                                                                                       \
    "\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":100,"     \
    "\"intermediate_size\":96,\"num_key_value_heads\":2"

static status resolve(const char *config, arch **ret, error *err) {
    family_set s = built_in();
    json_t *c = json(config);
    const family *f = NULL;
    status st = family_match(&s, c, "m/config.json", &f, err);
    if (st == OK) st = arch_resolve(f, c, "m/config.json", (tensor_names){has_all, NULL}, ret, err);
    json_decref(c);
    family_set_done(&s);
    return st;
}

static arch *resolved(const char *config) {
    arch *a = NULL;
    error err;
    status st = resolve(config, &a, &err);
    ck_assert_msg(st == OK, "%s", err.text);
    return a;
}

static bool has_slot(const arch *a, int32_t layer, weight_slot slot) {
    for (int32_t i = 0; i < a->n_tensors; i++)
        if (a->tensors[i].layer == layer && a->tensors[i].slot == slot) return true;
    return false;
}

START_TEST(windows_per_layer) {
    arch *a = resolved("{\"architectures\":[\"MistralForCausalLM\"]," DIMS "}");
    ck_assert_int_eq(a->layers[0].attn.window, 4096); /* the class's default */
    arch_free(a);
    a = resolved("{\"architectures\":[\"MistralForCausalLM\"],\"sliding_window\":null," DIMS "}");
    ck_assert_int_eq(a->layers[3].attn.window, 0);
    arch_free(a);
    a = resolved("{\"architectures\":[\"Qwen2ForCausalLM\"],\"use_sliding_window\":true,"
                 "\"sliding_window\":32,\"max_window_layers\":2," DIMS "}");
    ck_assert_int_eq(a->layers[1].attn.window, 0);
    ck_assert_int_eq(a->layers[2].attn.window, 32);
    ck_assert(has_slot(a, 2, W_QKV_BIAS) && !has_slot(a, 2, W_O_BIAS));
    arch_free(a);
    a = resolved("{\"architectures\":[\"Qwen3ForCausalLM\"],\"use_sliding_window\":true,"
                 "\"sliding_window\":32,\"layer_types\":[\"sliding_attention\","
                 "\"full_attention\",\"sliding_attention\",\"full_attention\"]," DIMS "}");
    ck_assert_int_eq(a->layers[0].attn.window, 32);
    ck_assert_int_eq(a->layers[1].attn.window, 0);
    ck_assert_int_eq(a->head_dim, 128);
    ck_assert(a->layers[0].attn.qk_norm == QK_PER_HEAD && !has_slot(a, 0, W_QKV_BIAS));
    arch_free(a);
}
END_TEST

START_TEST(rope_of_both_generations) {
    arch *a = resolved("{\"architectures\":[\"LlamaForCausalLM\"],\"rope_theta\":500000.0,"
                       "\"max_position_embeddings\":1000,\"rope_scaling\":{\"type\":\"linear\","
                       "\"factor\":4.0}," DIMS "}");
    ck_assert_int_eq(a->n_ropes, 1);
    ck_assert_int_eq(a->ropes[0].scaling, SCALE_LINEAR);
    ck_assert_double_eq(a->ropes[0].theta, 500000);
    ck_assert_int_eq(a->ctx_max, 4000);
    arch_free(a);
    a = resolved("{\"architectures\":[\"Qwen3ForCausalLM\"],\"rope_parameters\":{"
                 "\"full_attention\":{\"rope_type\":\"yarn\",\"factor\":4,\"rope_theta\":1e6,"
                 "\"original_max_position_embeddings\":1024},"
                 "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e4}},"
                 "\"max_position_embeddings\":4096,\"layer_types\":[\"sliding_attention\","
                 "\"full_attention\",\"sliding_attention\",\"full_attention\"]," DIMS "}");
    ck_assert_int_eq(a->n_ropes, 2);
    ck_assert_int_eq(a->layers[0].attn.rope, 0);
    ck_assert_int_eq(a->layers[1].attn.rope, 1);
    ck_assert_double_eq(a->ropes[0].theta, 1e4);
    ck_assert_int_eq(a->ropes[1].scaling, SCALE_YARN);
    ck_assert_double_eq_tol(a->ropes[1].attention_factor, 0.1 * log(4) + 1, 1e-12);
    ck_assert_int_eq(a->ctx_max, 4096);
    arch_free(a);
}
END_TEST

START_TEST(bad_configs_name_the_key) {
    static const struct {
        const char *text, *in_error;
    } cases[] = {
        {"{\"model_type\":\"llama\"}", "\"num_hidden_layers\" is missing"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":0}", "found 0"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":\"4\"}", "found no number"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":2.5}", "found 2.5"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":1e30}", "found 1"},
        {"{\"model_type\":\"llama\"," DIMS ",\"head_dim\":15}", "head width 15"},
        {"{\"model_type\":\"llama\"," DIMS ",\"head_dim\":514}", "head width 514"},
        {"{\"model_type\":\"llama\"," DIMS ",\"num_key_value_heads\":3}", "no multiple of 3"},
        {"{\"model_type\":\"llama\"," DIMS ",\"hidden_act\":\"mish\"}", "\"mish\""},
        {"{\"model_type\":\"llama\"," DIMS ",\"rms_norm_eps\":-1}", "epsilon"},
        {"{\"model_type\":\"llama\"," DIMS ",\"rope_theta\":0}", "rope_theta"},
        {"{\"model_type\":\"llama\"," DIMS ",\"rope_scaling\":{\"type\":\"spiral\"}}", "spiral"},
        {"{\"model_type\":\"llama\"," DIMS ",\"rope_scaling\":{\"type\":\"linear\"}}",
         "\"factor\""},
        {"{\"model_type\":\"llama\"," DIMS ",\"rope_scaling\":{\"type\":\"llama3\","
         "\"factor\":8}}",
         "original_max_position_embeddings"},
        {"{\"model_type\":\"mistral\"," DIMS ",\"sliding_window\":-4}", "window -4"},
        {"{\"model_type\":\"mistral\"," DIMS ",\"layer_types\":[\"full_attention\"]}",
         "layer_types has 1 entries"},
        {"{\"architectures\":[\"MixtralForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":"
         "1000,"
         "\"num_attention_heads\":4,\"num_key_value_heads\":4,\"intermediate_size\":64,"
         "\"vocab_size\":100,\"num_local_experts\":4000}",
         "4000 experts in 1000 layers"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        arch *a = NULL;
        error err = {0};
        ck_assert_msg(resolve(cases[i].text, &a, &err) != OK, "%s", cases[i].text);
        ck_assert_msg(strstr(err.text, "m/config.json") && strstr(err.text, cases[i].in_error),
                      "\"%s\" lacks \"%s\"", err.text, cases[i].in_error);
    }
}
END_TEST

/* Words that no node knows are refused by file, key and word; so are parts that do not fit. */
START_TEST(what_does_not_fit_is_refused) {
    static const struct {
        const char *more, *in_error;
    } cases[] = {
        {"\"residual\":{\"kind\":\"spiral\"}",
         "residual.kind: \"spiral\" is not supported; known: pre"},
        {"\"norm\":{\"kind\":\"batch\"}", "norm.kind: \"batch\""},
        {"\"attn\":{\"mask\":\"holes\"}", "attn.mask: \"holes\""},
        {"\"rope\":{\"style\":\"triple\"}", "rope.style: \"triple\""},
        {"\"mlp\":[{\"kind\":\"mop\"}]", "mlp[].kind: \"mop\""},
        {"\"mlp\":[{\"if\":\"i > 0\"}]", "no alternative fits layer 0"},
        {"\"mlp\":[{\"kind\":\"moe\"}]", "mlp[].n"},
        {"\"attn\":{\"q\":\"@qkv.q\"}", "no such pack and part: @qkv.q"},
        {"\"attn\":{\"q\":\"@qkv.q\"},\"packs\":{\"qkv\":{\"tensor\":\"t\",\"rows\":[\"3\",\"hd\"],"
         "\"axis\":0,\"parts\":{\"q\":[\"0\",\"1\"]}}}",
         "rows, expected"},
        {"\"attn\":{\"q\":\"@qkv.q\"},\"packs\":{\"qkv\":{\"tensor\":\"t\",\"rows\":[\"3\",\"H\"],"
         "\"axis\":0,\"parts\":{\"q\":[\"3\",\"4\"]}}}",
         "part [3, 4) is not in its axis"},
        {"\"norms\":{\"attn_in\":null}", "norms.attn_in is missing"},
        {"\"residual\":{\"kind\":\"sandwich\"}", "norms.attn_out is missing"},
        {"\"alibi\":{\"slopes\":\"steep\"}", "alibi.slopes: \"steep\""},
        {"\"positions\":{\"kind\":\"glm2d\"}", "glm2d need attn.mask prefix"},
        {"\"final\":{\"softcap\":\"0\"},\"alibi\":{\"if\":\"false\",\"slopes\":\"bloom\"}", NULL},
        {"\"residual\":{\"kind\":\"parallel\"}", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        family_set s = built_in();
        error err = {0};
        strbuf text = {0};
        arch *a = NULL;
        strbuf_addf(&text,
                    "{\"schema\":1,\"family\":\"new\",\"extends\":\"llama\",\"match\":{"
                    "\"architectures\":[\"New\"]},%s}",
                    cases[i].more);
        ck_assert_msg(family_set_add(&s, "new.json", strbuf_str(&text), &err) == OK, "%s",
                      err.text);
        json_t *c = json("{" DIMS "}");
        status st = arch_resolve(&s.list[s.n - 1], c, "m/config.json",
                                 (tensor_names){has_all, NULL}, &a, &err);
        if (cases[i].in_error) {
            ck_assert_int_ne(st, OK);
            ck_assert_msg(strstr(err.text, ".json") && strstr(err.text, cases[i].in_error),
                          "\"%s\" lacks \"%s\"", err.text, cases[i].in_error);
        } else
            ck_assert_msg(st == OK, "%s", err.text);
        arch_free(st == OK ? a : NULL);
        json_decref(c);
        strbuf_done(&text);
        family_set_done(&s);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("family");
    TCase *t = tcase_create("all");
    tcase_add_test(t, expressions_as_in_python);
    tcase_add_test(t, bad_expressions_are_sentences);
    tcase_add_test(t, every_family_of_the_format_parses);
    tcase_add_test(t, bad_files_name_file_and_key);
    tcase_add_test(t, unknown_architecture_says_what_is_known);
    tcase_add_test(t, windows_per_layer);
    tcase_add_test(t, rope_of_both_generations);
    tcase_add_test(t, bad_configs_name_the_key);
    tcase_add_test(t, what_does_not_fit_is_refused);
    suite_add_tcase(s, t);
    return suite_run(s);
}
