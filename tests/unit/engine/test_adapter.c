/* Adapters: the numbers of a config, and damaged or foreign directories, each refused by a sentence
 * that names what is wrong. What good ones compute is tests/adapters' business. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/adapter_delta.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "tests/unit/suite.h"
#include "tests/golden/tiny_model.h"

#define Q    "base_model.model.model.layers.0.self_attn.q_proj"
#define V    "base_model.model.model.layers.1.self_attn.v_proj"
#define LORA "{\"peft_type\":\"LORA\",\"r\":2"

static tiny_model base;
static engine *e;
static adapter_host host;

static void set_up(void) {
    error err;
    tiny_init(&base);
    tiny_write(&base, "model.safetensors", 0, base.n, NULL);
    engine_options o = {.model_dir = base.dir,
                        .n_threads = 1,
                        .max_seqs = 4,
                        .max_batched_tokens = 32,
                        .kv_bytes = 1 << 20,
                        .adapters_max = 2,
                        .lora_rank_max = 4};
    ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
    host = engine_adapters(e);
}

static void tear_down(void) {
    engine_free(e);
    tiny_done(&base);
}

typedef struct part {
    const char *name;
    int64_t rows, cols;
} part;

static void adapter_init(tiny_model *m, const char *config, const part *parts) {
    *m = (tiny_model){0};
    snprintf(m->dir, sizeof m->dir, "/tmp/pagoda-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(m->dir));
    tiny_put(m, "adapter_config.json", config, strlen(config));
    for (; parts->name; parts++) tiny_add(m, parts->name, parts->rows, parts->cols);
}

static void load_is(const tiny_model *m, status want, const char *words) {
    error err = {0};
    adapter_info info;
    status st = host.load(host.self, m->dir, &info, &err);
    ck_assert_msg(st == want, "%s, not %s: %s", status_name(st), status_name(want), err.text);
    if (st == OK)
        host.unload(host.self, info.id);
    else
        ck_assert_msg(strstr(err.text, words) && strstr(err.text, m->dir), "\"%s\" is not in: %s",
                      words, err.text);
}

static void try_parts(const char *config, const part *parts, status want, const char *words) {
    tiny_model m;
    adapter_init(&m, config, parts);
    tiny_write(&m, "adapter_model.safetensors", 0, m.n, NULL);
    load_is(&m, want, words);
    tiny_done(&m);
}

#define PARTS(...) ((const part[]){__VA_ARGS__, {NULL, 0, 0}})
#define GOOD_Q                                                                                     \
    {Q ".lora_A.weight", 2, 16}, {                                                                 \
        Q ".lora_B.weight", 16, 2                                                                  \
    }

START_TEST(good_ones_load) {
    try_parts(LORA "}", PARTS(GOOD_Q), OK, "");
    try_parts(LORA "}",
              PARTS({Q ".lora_A.default.weight", 2, 16}, {Q ".lora_B.default.weight", 16, 2}), OK,
              "");
    try_parts(LORA ",\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0]}", PARTS(GOOD_Q),
              OK, "");
    try_parts(LORA ",\"target_modules\":\".*q_proj\",\"made_up\":null,\"other\":{}}", PARTS(GOOD_Q),
              OK, "");
    try_parts("{\"peft_type\":\"IA3\"}", PARTS({V ".ia3_l", 8, 1}), OK, "");
    try_parts("{\"peft_type\":\"PROMPT_TUNING\",\"num_virtual_tokens\":3}",
              PARTS({"prompt_embeddings", 3, 16}), OK, "");
    try_parts("{\"peft_type\":\"PREFIX_TUNING\",\"num_virtual_tokens\":3}",
              PARTS({"prompt_embeddings", 3, 32}), OK, "");
}
END_TEST

START_TEST(tensors_must_fit) {
    static const struct {
        part parts[3];
        const char *words;
    } cases[] = {
        {{{Q ".lora_A.weight", 2, 16}}, "lora_A without lora_B"},
        {{{Q ".lora_B.weight", 16, 2}}, "lora_B without lora_A"},
        {{{Q ".lora_A.weight", 2, 15}, {Q ".lora_B.weight", 16, 2}}, "q_proj.weight\" is [16, 16]"},
        {{{Q ".lora_A.weight", 2, 16}, {Q ".lora_B.weight", 17, 2}}, "q_proj.weight\" is [16, 16]"},
        {{{Q ".lora_A.weight", 2, 16}, {Q ".lora_B.weight", 16, 3}},
         "expected [16, 2], found [16, 3]"},
        {{{Q ".lora_A.weight", 3, 16}, {Q ".lora_B.weight", 16, 3}},
         "rank 3 in its tensors, 2 in r"},
        {{{Q ".lora_A.weight", 32, 0}, {Q ".lora_B.weight", 16, 2}}, "expected"},
        {{{Q ".lora_C.weight", 2, 16}}, "belongs to no module"},
        {{{"base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", 2, 16},
          {"base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight", 16, 2}},
         "layers.2.self_attn.q_proj.lora_A.weight\" belongs to no module of the base (family "
         "llama)"},
        {{{"base_model.model.score.weight", 6, 16}}, "score.weight\" belongs to no module"},
        {{{Q ".lora_E", 2, 1}}, "has no meaning in an adapter of kind lora"},
        {{{Q ".ia3_l", 16, 1}}, "has no meaning"},
        {{{Q ".lora_magnitude_vector", 16, 0}}, "has no meaning"},
        {{{"prompt_embeddings", 3, 16}}, "has no meaning"},
        {{{Q ".bias", 15, 0}}, "q_proj"},
        {{{"base_model.model.lm_head.weight", 33, 16}}, "\"lm_head.weight\" is [32, 16]"},
        {{{"base_model.model.model.norm.weight", 15, 0}}, "norm"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        try_parts(LORA "}", cases[i].parts, ERR_FORMAT, cases[i].words);
    try_parts(LORA "}",
              PARTS({Q ".lora_A.weight", 2, 16}, {Q ".lora_A", 2, 16}, {Q ".lora_B.weight", 16, 2}),
              ERR_FORMAT, "says again");
    try_parts(LORA ",\"use_dora\":true}", PARTS(GOOD_Q), ERR_FORMAT, "no lora_magnitude_vector");
    try_parts(LORA ",\"use_dora\":true}", PARTS(GOOD_Q, {Q ".lora_magnitude_vector", 15, 0}),
              ERR_FORMAT, "expected 16 elements");
    try_parts(LORA ",\"use_dora\":true}",
              PARTS(GOOD_Q, {Q ".lora_magnitude_vector", 16, 0}, {Q ".lora_B.bias", 16, 0}),
              ERR_UNSUPPORTED, "lora_B with DoRA");
    try_parts(LORA ",\"target_modules\":[\"q_proj\"]}", PARTS(GOOD_Q), ERR_FORMAT,
              "target_modules names model.layers.1.self_attn.q_proj");
    try_parts("{\"peft_type\":\"ADALORA\",\"init_r\":4}",
              PARTS({Q ".lora_A", 2, 16}, {Q ".lora_B", 16, 2}), ERR_FORMAT, "no lora_E");
    try_parts("{\"peft_type\":\"IA3\"}", PARTS({V ".ia3_l", 9, 1}), ERR_FORMAT,
              "v_proj.weight\" is [8, 16]");
    try_parts("{\"peft_type\":\"IA3\"}", PARTS({V ".ia3_l", 2, 2}), ERR_FORMAT,
              "[out, 1] or [1, in]");
    try_parts("{\"peft_type\":\"PROMPT_TUNING\",\"num_virtual_tokens\":3}",
              PARTS({"prompt_embeddings", 4, 16}), ERR_FORMAT, "of 3 rows");
    try_parts("{\"peft_type\":\"PROMPT_TUNING\",\"num_virtual_tokens\":3}",
              PARTS({"prompt_embeddings", 3, 15}), ERR_FORMAT, "expected 48 elements");
    try_parts("{\"peft_type\":\"PREFIX_TUNING\",\"num_virtual_tokens\":3}",
              PARTS({"prompt_embeddings", 3, 16}), ERR_FORMAT, "expected 96 elements");
}
END_TEST

START_TEST(limits_are_named) {
    try_parts("{\"peft_type\":\"LORA\",\"r\":5}",
              PARTS({Q ".lora_A.weight", 5, 16}, {Q ".lora_B.weight", 16, 5}), ERR_INVALID,
              "has rank 5, --max-lora-rank is 4");
    /* gate and up share their input, so only one of them cannot scale it beside the base */
    try_parts("{\"peft_type\":\"IA3\"}",
              PARTS({"base_model.model.model.layers.0.mlp.up_proj.ia3_l", 1, 16}), ERR_UNSUPPORTED,
              "--merge-lora");
}
END_TEST

START_TEST(damaged_files) {
    tiny_model m;
    static const char half[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    adapter_init(&m, LORA "}", PARTS(GOOD_Q));
    load_is(&m, ERR_NOT_FOUND, "no adapter_model.safetensors and no adapter_model.bin");
    tiny_put(&m, "adapter_model.safetensors", "", 0);
    load_is(&m, ERR_FORMAT, "adapter_model.safetensors");
    tiny_put(&m, "adapter_model.safetensors", half, sizeof half - 1);
    load_is(&m, ERR_FORMAT, "adapter_model.safetensors");
    float *x = (float *)m.data.p;
    float was = x[5];
    x[5] = NAN;
    tiny_write(&m, "adapter_model.safetensors", 0, m.n, NULL);
    load_is(&m, ERR_FORMAT, "not finite");
    x[5] = was;
    tiny_put(&m, "adapter_model.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
    load_is(&m, ERR_FORMAT, "no tensors");
    snprintf(m.t[0].dtype, sizeof m.t[0].dtype, "I32");
    tiny_write(&m, "adapter_model.safetensors", 0, m.n, NULL);
    load_is(&m, ERR_FORMAT, "expected F32, F16 or BF16");
    snprintf(m.t[0].dtype, sizeof m.t[0].dtype, "F32");
    tiny_write(&m, "adapter_model.safetensors", 0, m.n, NULL);
    load_is(&m, OK, "");
    tiny_put(&m, "adapter_config.json", "[]", 2);
    load_is(&m, ERR_FORMAT, "not a JSON object");
    tiny_put(&m, "adapter_config.json", "{\"r\":1,", 7);
    load_is(&m, ERR_INVALID, "adapter_config.json");
    tiny_done(&m);
}
END_TEST

START_TEST(configs_are_judged) {
    static const struct {
        const char *text;
        status st;
        const char *words;
    } cases[] = {
        {"{}", ERR_FORMAT, "peft_type is missing"},
        {"{\"peft_type\":\"LOKR\"}", ERR_UNSUPPORTED, "peft_type: \"LOKR\" is not supported"},
        {"{\"peft_type\":\"MULTITASK_PROMPT_TUNING\"}", ERR_UNSUPPORTED, "MULTITASK"},
        {LORA ",\"use_qalora\":true}", ERR_UNSUPPORTED, "use_qalora: true"},
        {LORA ",\"alora_invocation_tokens\":[1,2]}", ERR_UNSUPPORTED,
         "alora_invocation_tokens: [1,2]"},
        {LORA ",\"trainable_token_indices\":{\"embed_tokens\":[3]}}", ERR_UNSUPPORTED,
         "embed_tokens"},
        {LORA ",\"arrow_config\":{\"top_k\":3}}", ERR_UNSUPPORTED, "arrow_config"},
        {LORA ",\"a_later_key\":0.5}", ERR_UNSUPPORTED, "a_later_key: 0.5"},
        {LORA ",\"init_lora_weights\":\"olora\"}", ERR_UNSUPPORTED, "init_lora_weights: \"olora\""},
        {LORA ",\"init_lora_weights\":\"gaussian\"}", OK, ""},
        {LORA ",\"task_type\":\"TOKEN_CLS\"}", ERR_UNSUPPORTED, "task_type"},
        {LORA ",\"lora_alpha\":\"x\"}", ERR_FORMAT, "lora_alpha must be a number"},
        {LORA ",\"use_dora\":1}", ERR_FORMAT, "use_dora must be true or false"},
        {"{\"peft_type\":\"LORA\",\"r\":0}", ERR_FORMAT, "r must be a whole number from 1"},
        {"{\"peft_type\":\"LORA\",\"r\":2.5}", ERR_FORMAT, "r must be a whole number"},
        {"{\"peft_type\":\"P_TUNING\"}", ERR_FORMAT, "num_virtual_tokens must be"},
        {"{\"peft_type\":\"P_TUNING\",\"num_virtual_tokens\":1e9}", ERR_FORMAT,
         "num_virtual_tokens"},
        {"{\"peft_type\":\"P_TUNING\",\"num_virtual_tokens\":2,\"num_transformer_submodules\":2}",
         ERR_UNSUPPORTED, "num_transformer_submodules: 2"},
        {LORA ",\"r\":3}", ERR_INVALID, "x.json"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        adapter_config c;
        error err = {0};
        status st = adapter_config_parse(str_z(cases[i].text), "x.json", &c, &err);
        ck_assert_msg(st == cases[i].st, "%s: %s %s", cases[i].text, status_name(st), err.text);
        if (st == OK)
            adapter_config_done(&c);
        else
            ck_assert_msg(strstr(err.text, cases[i].words) && strstr(err.text, "x.json"), "%s",
                          err.text);
    }
}
END_TEST

static void scale_is(const char *text, const char *module, int32_t rank, double want) {
    adapter_config c;
    error err;
    double got;
    ck_assert_msg(adapter_config_parse(str_z(text), "x", &c, &err) == OK, "%s", err.text);
    ck_assert_msg(adapter_config_scale(&c, module, rank, &got, &err) == OK, "%s", err.text);
    ck_assert_msg(fabs(got - want) < 1e-12, "%s %s: %g, not %g", text, module, got, want);
    adapter_config_done(&c);
}

START_TEST(scales) {
    static const char patterns[] = LORA
        ",\"lora_alpha\":6,\"rank_pattern\":{\"k_proj\":3,\"layers\\\\.\\\\d+\\\\.v\":4},"
        "\"alpha_pattern\":{\"a{2}\\\\.q_proj\":12,\"b.k_proj\":9,\"(?:v|w)\":8,\"k_proj\":1}}";
    scale_is(LORA ",\"lora_alpha\":8}", "a.q", 2, 4);
    scale_is(LORA "}", "a.q", 2, 4); /* alpha is 8 when not said */
    scale_is(LORA ",\"lora_alpha\":8,\"use_rslora\":true}", "a.q", 2, 8 / sqrt(2));
    scale_is("{\"peft_type\":\"ADALORA\",\"init_r\":6,\"lora_alpha\":3}", "a.q", 2, 3 / (6 + 1e-5));
    scale_is("{\"peft_type\":\"ADALORA\",\"init_r\":6,\"lora_alpha\":0}", "a.q", 2, 6 / (6 + 1e-5));
    scale_is(patterns, "a.q_proj", 2, 3);
    scale_is(patterns, "x.aa.q_proj", 2, 6);
    scale_is(patterns, "a.k_proj", 3, 1.0 / 3); /* the first that fits */
    scale_is(patterns, "b.k_proj", 3, 3);
    scale_is(patterns, "c.layers.10.v", 4, 2);
    scale_is(patterns, "xk_proj", 2, 3); /* a whole component or nothing */
}
END_TEST

START_TEST(patterns_beyond_us_are_refused) {
    static const char *const bad[] = {"(?<=x)", "a++", "a{9999}", "\\\\q", "(a)\\\\1", "(", "[a"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[128];
        adapter_config c;
        error err;
        double got;
        snprintf(text, sizeof text, LORA ",\"rank_pattern\":{\"%s\":2}}", bad[i]);
        ck_assert_int_eq(adapter_config_parse(str_z(text), "x", &c, &err), OK);
        ck_assert_int_eq(adapter_config_scale(&c, "m", 2, &got, &err), ERR_UNSUPPORTED);
        ck_assert_msg(strstr(err.text, "rank_pattern"), "%s", err.text);
        adapter_config_done(&c);
    }
}
END_TEST

START_TEST(places_are_bounded) {
    tiny_model m;
    adapter_info info[3];
    error err;
    adapter_init(&m, LORA "}", PARTS(GOOD_Q));
    tiny_write(&m, "adapter_model.safetensors", 0, m.n, NULL);
    for (int i = 0; i < 2; i++) ck_assert_int_eq(host.load(host.self, m.dir, &info[i], &err), OK);
    ck_assert(info[0].id == 1 && info[1].id == 2 && info[1].rank == 2);
    ck_assert_int_eq(host.load(host.self, m.dir, &info[2], &err), ERR_BUSY);
    ck_assert(strstr(err.text, "--max-loras"));
    host.unload(host.self, 1);
    ck_assert_int_eq(host.load(host.self, m.dir, &info[2], &err), OK);
    ck_assert_int_eq(info[2].id, 1);
    tiny_done(&m); /* loaded ones need the directory no more, and go with the engine */
}
END_TEST

#define REAL "../shared/data/adapters/"

/* Published adapters, where they are there: every module's tensors agree with the config. */
START_TEST(published_ones_are_read) {
    static const char *const dirs[] = {
        "gemma3-270m-svg-lora/adapter", "gemma3-270m-svg-lora/adapter_seed123",
        "gemma3-270m-svg-lora/adapter_curriculum_stage1", "derived-tinystories-656k/lora-b-r8-all"};
    error err;
    if (!dir_exists(REAL)) {
        printf("SKIP: no " REAL "\n");
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        adapter_source s;
        char dir[200];
        snprintf(dir, sizeof dir, REAL "%s", dirs[i]);
        ck_assert_msg(adapter_source_open(dir, &s, &err) == OK, "%s", err.text);
        ck_assert_int_gt(s.n_modules, 0);
        for (int32_t m = 0; m < s.n_modules; m++) {
            adapter_delta d;
            ck_assert_msg(adapter_delta_read(&s, &s.modules[m], &d, &err) == OK, "%s", err.text);
            ck_assert(d.rank > 0 && d.s[0] > 0);
            adapter_delta_done(&d);
        }
        adapter_source_done(&s);
    }
    adapter_source s;
    adapter_config c;
    ck_assert_int_eq(adapter_source_open(REAL "peft-gpt2-lora", &s, &err), ERR_UNSUPPORTED);
    ck_assert_msg(strstr(err.text, "task_type: \"SEQ_CLS\""), "%s", err.text);
    const char *llama = REAL "llama31-8b-lora-config-only/adapter_config.json";
    ck_assert_msg(adapter_config_read(llama, &c, &err) == OK, "%s", err.text);
    ck_assert_int_eq(c.r, 64);
    adapter_config_done(&c);
}
END_TEST

int main(void) {
    Suite *s = suite_create("adapter");
    TCase *with = tcase_create("engine"), *alone = tcase_create("config");
    tcase_add_checked_fixture(with, set_up, tear_down);
    tcase_add_test(with, good_ones_load);
    tcase_add_test(with, tensors_must_fit);
    tcase_add_test(with, limits_are_named);
    tcase_add_test(with, damaged_files);
    tcase_add_test(with, places_are_bounded);
    tcase_add_test(alone, configs_are_judged);
    tcase_add_test(alone, scales);
    tcase_add_test(alone, published_ones_are_read);
    tcase_add_test(alone, patterns_beyond_us_are_refused);
    suite_add_tcase(s, with);
    suite_add_tcase(s, alone);
    return suite_run(s);
}
