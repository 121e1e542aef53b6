/* MindFormers' predict YAML: detection, values, what is refused, overrides, hostile files; and the
 * names of other programs. */
#include <check.h>
#include <stdlib.h>

#include "conf/conf.h"
#include "conf/mindformers.h"
#include "engine/base/mem.h"
#include "tests/unit/suite.h"

static conf load(const char *text, const char *overrides) {
    conf c;
    error err;
    conf_init(&c);
    ck_assert_msg(mindformers_load("f.yaml", str_z(text), overrides, &c, &err) == OK, "%s",
                  err.text);
    return c;
}

static void refuses(const char *text, const char *overrides, const char *why) {
    conf c;
    error err;
    conf_init(&c);
    ck_assert_int_ne(mindformers_load("f.yaml", str_z(text), overrides, &c, &err), OK);
    ck_assert_msg(strstr(err.text, why) != NULL, "%s", err.text);
    conf_done(&c);
}

START_TEST(detection) {
    ck_assert(mindformers_is(STR("run_mode: predict\n")));
    ck_assert(mindformers_is(STR("model:\n  model_config:\n    seq_length: 1\n")));
    ck_assert(mindformers_is(STR("pretrained_model_dir: x\n")));
    ck_assert(!mindformers_is(STR("model: dir\nport: 1\n")));
    ck_assert(!mindformers_is(STR("")));
    ck_assert(!mindformers_is(STR("- run_mode\n")));
    ck_assert(!mindformers_is(STR("run_mode: [")));
}
END_TEST

#define MODEL(line) "model:\n  model_config:\n    " line "\n"

START_TEST(values) {
    conf c = load("load_checkpoint: '/d'\npretrained_model_dir: '/other'\n" MODEL(
                      "seq_length: 512\n    compute_dtype: \"bfloat16\"\n    top_k: 3\n    "
                      "top_p: 0.5\n    do_sample: True\n    max_decode_length: 40\n    "
                      "repetition_penalty: 1.5"),
                  NULL);
    ck_assert_str_eq(c.model, "/d");
    ck_assert_int_eq(c.max_model_len, 512);
    ck_assert_str_eq(c.dtype, "bf16");
    ck_assert_int_eq(c.top_k, 3);
    ck_assert_double_eq(c.top_p, 0.5);
    ck_assert_double_eq(c.repetition_penalty, 1.5);
    ck_assert_int_eq(c.max_length, 40);
    ck_assert(!conf_given(&c, OPT_temperature));
    conf_done(&c);
    c = load("load_checkpoint: ''\npretrained_model_dir: '/other'\n" MODEL("do_sample: False"),
             NULL);
    ck_assert_str_eq(c.model, "/other");
    ck_assert(conf_given(&c, OPT_temperature) && c.temperature == 0);
    conf_done(&c);
}
END_TEST

START_TEST(dimensions_are_kept_for_the_check) {
    conf c = load(MODEL("num_layers: 32\n    extend_method: \"LLAMA3\"\n    scaling_factor:\n      "
                        "factor: 8.0\n    theta: null\n    strange: 1"),
                  NULL);
    ck_assert_ptr_nonnull(c.foreign);
    ck_assert_int_eq(c.foreign->n_expect, 3);
    ck_assert_str_eq(c.foreign->expect[0].where, "f.yaml, line 3: model.model_config.num_layers");
    ck_assert_str_eq(c.foreign->expect[0].value, "32");
    ck_assert(strstr(c.foreign->unknown.p, "f.yaml, line 8: model.model_config.strange"));
    conf_done(&c);
}
END_TEST

START_TEST(refusals) {
    refuses("run_mode: 'train'\n", NULL, "f.yaml, line 1: run_mode: is train, expected predict");
    refuses("load_checkpoint: 'a.ckpt'\n", NULL, "MindSpore checkpoint");
    refuses(MODEL("seq_length: many"), NULL, "line 3: model.model_config.seq_length");
    refuses(MODEL("quantization_bit: 8"), NULL, "quantization_bit: is 8: ");
    refuses(MODEL("pet_config:\n      pet_type: lora"), NULL, "--lora");
    refuses(MODEL("extend_method: \"MAGIC\""), NULL, "expected None, PI");
    refuses(
        "use_parallel: True\nparallel_config:\n  model_parallel: 2\n", NULL,
        "line 3: parallel_config.model_parallel: is 2, but tensor parallelism is not there yet");
    refuses("a: [", NULL, "f.yaml, line 2: ");
    refuses("? [1]\n: 2\n", NULL, "a key must be a word");
}
END_TEST

START_TEST(parallel_where_it_is_off) {
    conf c = load("use_parallel: False\nparallel_config:\n  model_parallel: 8\n", NULL);
    ck_assert(strstr(c.foreign->notes.p, "without effect while use_parallel is false"));
    conf_done(&c);
}
END_TEST

START_TEST(overrides) {
    conf c = load(MODEL("seq_length: 512"), "model.model_config.seq_length=64\nport=7\n"
                                            "model.model_config.top_k=9");
    ck_assert_int_eq(c.max_model_len, 64);
    ck_assert_int_eq(c.port, 7);
    ck_assert_int_eq(c.top_k, 9);
    conf_done(&c);
    refuses("", "parallel_config.model_parallel=2", "tensor parallelism is not there yet");
    refuses("", "no-equals", "is not KEY=VALUE");
    refuses("", "=x", "is not KEY=VALUE");
    refuses("", "model.model_config.seq_length=x", "--options model.model_config.seq_length");
}
END_TEST

/* Nine levels of ten aliases each: a billion leaves if nothing stops it. */
START_TEST(alias_bomb) {
    strbuf text = {0};
    strbuf_addz(&text, "l0: &l0 {a: 1, b: 1, c: 1, d: 1, e: 1, f: 1, g: 1, h: 1, i: 1, j: 1}\n");
    for (int i = 1; i < 10; i++) {
        strbuf_addf(&text, "l%d: &l%d {", i, i);
        for (int k = 0; k < 10; k++) strbuf_addf(&text, "%sk%d: *l%d", k ? ", " : "", k, i - 1);
        strbuf_addz(&text, "}\n");
    }
    refuses(text.p, NULL, "more than 16 levels or 4096 keys");
    strbuf_clear(&text);
    for (int i = 0; i < 40; i++) strbuf_addf(&text, "%*sa:\n", i, "");
    refuses(text.p, NULL, "more than 16 levels");
    strbuf_done(&text);
    refuses("a: &a\n  b: *a\n", NULL, "f.yaml");
}
END_TEST

static status cli(conf *c, error *err, int n, char **words) {
    return conf_parse(CMD_SERVE, n, words, c, err);
}

START_TEST(aliases) {
    conf c;
    error err;
    char *good[] = {"--session_len", "99",     "--enable-prefix-caching", "--tp=1",
                    "--torch-dtype", "float16"};
    ck_assert_msg(cli(&c, &err, 6, good) == OK, "%s", err.text);
    ck_assert_int_eq(c.max_model_len, 99);
    ck_assert(conf_given(&c, OPT_prefix_cache));
    ck_assert_str_eq(c.dtype, "f16");
    conf_done(&c);
    char *bits[] = {"--quant-policy", "8"}, *fp8[] = {"--kv-cache-dtype", "fp8_e4m3"};
    ck_assert_msg(cli(&c, &err, 2, bits) == OK, "%s", err.text);
    ck_assert_str_eq(c.kv_cache_dtype, "int8");
    conf_done(&c);
    ck_assert_msg(cli(&c, &err, 2, fp8) == OK, "%s", err.text);
    ck_assert_str_eq(c.kv_cache_dtype, "fp8");
    conf_done(&c);
    char *bad[][2] = {{"--tp", "2"},
                      {"--quant_policy", "4"},
                      {"--with-plugins", "--port=1"},
                      {"--dtype", "8"},
                      {"--dtype", "int8"}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ck_assert_int_eq(cli(&c, &err, 2, bad[i]), ERR_INVALID);
    for (int i = 0; i < conf_n_aliases; i++)
        ck_assert_msg(conf_find(str_z(conf_aliases[i].name)) < 0, "%s is an option too",
                      conf_aliases[i].name);
}
END_TEST

int main(void) {
    Suite *s = suite_create("mindformers");
    TCase *t = tcase_create("all");
    tcase_add_test(t, detection);
    tcase_add_test(t, values);
    tcase_add_test(t, dimensions_are_kept_for_the_check);
    tcase_add_test(t, refusals);
    tcase_add_test(t, parallel_where_it_is_off);
    tcase_add_test(t, overrides);
    tcase_add_test(t, alias_bomb);
    tcase_add_test(t, aliases);
    suite_add_tcase(s, t);
    return suite_run(s);
}
