/* Model directories, whole and damaged: what opens, and what each damage is called. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "engine/loader.h"
#include "tests/unit/suite.h"
#include "tests/golden/tiny_model.h"

#define FILE_NAME  "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

static engine_options options(const char *dir) {
    return (engine_options){.model_dir = dir,
                            .device = "cpu",
                            .n_threads = 2,
                            .max_seqs = 4,
                            .max_batched_tokens = 32,
                            .kv_bytes = 1 << 20};
}

static status try_open(const char *dir, error *err) {
    engine_options o = options(dir);
    engine *e = NULL;
    *err = (error){0};
    status st = engine_open(&o, &e, err);
    if (st == OK) engine_free(e);
    return st;
}

static void refuses(tiny_model *m, status want, const char *a, const char *b) {
    error err;
    status st = try_open(m->dir, &err);
    ck_assert_msg(st == want, "%s: %s, expected %s", status_name(st), err.text, status_name(want));
    ck_assert_msg(strstr(err.text, a) && strstr(err.text, b), "\"%s\" lacks \"%s\" or \"%s\"",
                  err.text, a, b);
    tiny_done(m);
}

static float *logits_of(engine *e) {
    static const int32_t ids[6] = {1, 5, 9, 30, 0, 7};
    float *x = mem_alloc(6 * (size_t)engine_info(e)->vocab * sizeof *x);
    error err;
    ck_assert_msg(engine_logits(e, ids, 6, true, 0, x, &err) == OK, "%s", err.text);
    return x;
}

static void save_plan(void *ctx, str text) {
    strbuf_add(ctx, text);
}

START_TEST(whole_model_opens_and_is_described) {
    tiny_model m;
    tiny_init(&m);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    strbuf plan = {0}, text = {0};
    engine_options o = options(m.dir);
    o.on_plan = save_plan;
    o.ctx = &plan;
    engine *e = NULL;
    error err;
    ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
    ck_assert_ptr_nonnull(strstr(plan.p, "KV cache"));
    const model_info *i = engine_info(e);
    ck_assert_str_eq(i->family, "llama");
    ck_assert_int_eq(i->bos_id, 1);
    ck_assert_int_eq(i->n_eos, 2);
    ck_assert_int_eq(i->ctx_max, 64);
    ck_assert_int_eq((int)i->n_params, (int)(m.data.n / 4));
    engine_describe(e, false, &text);
    ck_assert_ptr_nonnull(strstr(text.p, "LlamaForCausalLM"));
    strbuf_clear(&text);
    engine_describe(e, true, &text);
    json_t *v = NULL;
    ck_assert_msg(js_parse(strbuf_str(&text), &v, &err) == OK, "%s", err.text);
    ck_assert_int_eq((int)json_array_size(js_get(v, "tensors")), m.n);
    json_decref(v);
    stepper s = engine_stepper(e);
    ck_assert_int_eq(s.max_model_len, 64);
    ck_assert_int_eq(s.vocab, 32);
    engine_free(e);
    strbuf_done(&plan);
    strbuf_done(&text);
    tiny_done(&m);
}
END_TEST

START_TEST(shards_and_pread_give_the_same_bits) {
    tiny_model m;
    tiny_init(&m);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    engine_options o = options(m.dir);
    engine *a = NULL, *b = NULL;
    error err;
    ck_assert_msg(engine_open(&o, &a, &err) == OK, "%s", err.text);
    float *x = logits_of(a);
    memset(a->w.block, 0, a->w.bytes);
    loader_options l = {.n_threads = 3, .no_uring = true};
    ck_assert_msg(loader_run(&a->w, &a->ckpt, &l, &err) == OK, "%s", err.text);
    float *y = logits_of(a);
    ck_assert_int_eq(memcmp(x, y, 6 * 32 * sizeof *x), 0);

    strbuf index = {0};
    char *path = path_join(m.dir, FILE_NAME);
    unlink(path);
    mem_free(path);
    strbuf_addz(&index, "{\"weight_map\":{");
    for (int32_t i = 0; i < m.n; i++)
        strbuf_addf(&index, "%s\"%s\":\"part-%d\"", i ? "," : "", m.t[i].name, i >= 7);
    strbuf_addz(&index, "}}");
    tiny_write(&m, "part-0", 0, 7, NULL);
    tiny_write(&m, "part-1", 7, m.n, NULL);
    tiny_put(&m, INDEX_NAME, index.p, index.n);
    ck_assert_msg(engine_open(&o, &b, &err) == OK, "%s", err.text);
    float *z = logits_of(b);
    ck_assert_int_eq(memcmp(x, z, 6 * 32 * sizeof *x), 0);
    engine_free(a);
    engine_free(b);
    mem_free(x);
    mem_free(y);
    mem_free(z);
    strbuf_done(&index);
    tiny_done(&m);
}
END_TEST

START_TEST(missing_tensor) {
    tiny_model m;
    tiny_init(&m);
    tiny_remove(&m, "model.layers.1.mlp.up_proj.weight");
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    refuses(&m, ERR_FORMAT, "model.layers.1.mlp.up_proj.weight", "missing");
}
END_TEST

START_TEST(extra_tensor) {
    tiny_model m;
    tiny_init(&m);
    tiny_add(&m, "model.layers.0.self_attn.rotary_emb.inv_freq", 2, 0); /* ignored */
    tiny_add(&m, "model.layers.2.mlp.up_proj.weight", 24, 16);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    refuses(&m, ERR_FORMAT, "model.layers.2.mlp.up_proj.weight", "[24, 16] F32 has no place");
}
END_TEST

START_TEST(wrong_shape) {
    tiny_model m;
    tiny_init(&m);
    tiny_tensor *t = tiny_find(&m, "model.layers.0.mlp.down_proj.weight");
    t->dims[0] = 24;
    t->dims[1] = 16;
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    refuses(&m, ERR_FORMAT, "expected [16, 24]", "found [24, 16] F32");
}
END_TEST

START_TEST(wrong_dtype) {
    tiny_model m;
    tiny_init(&m);
    snprintf(tiny_find(&m, "model.norm.weight")->dtype, 8, "I32");
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    refuses(&m, ERR_FORMAT, "model.norm.weight", "found [16] I32");
}
END_TEST

START_TEST(unknown_dtype) {
    tiny_model m;
    tiny_init(&m);
    snprintf(tiny_find(&m, "model.norm.weight")->dtype, 8, "Q9");
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    refuses(&m, ERR_FORMAT, "model.norm.weight", "unknown dtype \"Q9\"");
}
END_TEST

START_TEST(overlap) {
    tiny_model m;
    tiny_init(&m);
    tiny_tensor *t = tiny_find(&m, "model.layers.0.mlp.gate_proj.weight");
    t->from -= 64;
    t->to -= 64;
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    refuses(&m, ERR_FORMAT, "overlaps", "model.layers.0.mlp.gate_proj.weight");
}
END_TEST

START_TEST(size_against_shape) {
    tiny_model m;
    tiny_init(&m);
    tiny_find(&m, "model.norm.weight")->dims[0] = 15;
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    refuses(&m, ERR_FORMAT, "model.norm.weight", "span 64 bytes, its shape and dtype need 60");
}
END_TEST

START_TEST(truncated_anywhere) {
    tiny_model m;
    tiny_init(&m);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    char *path = path_join(m.dir, FILE_NAME);
    strbuf whole = {0};
    error err;
    ck_assert_int_eq(file_read(path, 1 << 20, &whole, &err), OK);
    for (size_t n = 0; n < whole.n; n += n < 16 ? 1 : 977) {
        tiny_put(&m, FILE_NAME, whole.p, n);
        ck_assert_int_eq(try_open(m.dir, &err), ERR_FORMAT);
        ck_assert_msg(strstr(err.text, "truncated") && strstr(err.text, FILE_NAME), "%zu: %s", n,
                      err.text);
    }
    strbuf_addc(&whole, 'x');
    tiny_put(&m, FILE_NAME, whole.p, whole.n);
    mem_free(path);
    strbuf_done(&whole);
    refuses(&m, ERR_FORMAT, "1 bytes at the end belong to no tensor", FILE_NAME);
}
END_TEST

/* The file shrinks between the header and the weights. */
START_TEST(shrinks_while_loading) {
    tiny_model m;
    tiny_init(&m);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    engine_options o = options(m.dir);
    engine *e = NULL;
    error err;
    ck_assert_int_eq(engine_open(&o, &e, &err), OK);
    tiny_put(&m, FILE_NAME, "short", 5);
    for (int no_uring = 0; no_uring < 2; no_uring++) {
        loader_options l = {.n_threads = 2, .no_uring = no_uring};
        ck_assert_int_eq(loader_run(&e->w, &e->ckpt, &l, &err), ERR_IO);
        ck_assert_ptr_nonnull(strstr(err.text, "ended while being read"));
    }
    engine_free(e);
    tiny_done(&m);
}
END_TEST

START_TEST(bad_headers) {
    static const struct {
        const char *header, *in_error;
    } cases[] = {
        {"", "header"},
        {"[1]", "no JSON object"},
        {"{\"a\":1}", "unknown dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         "duplicate"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "bad shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,4]}}",
         "bad shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
         "bad shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", "bad data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", "bad data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1e3]}}", "bad data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9223372036854775803,"
         "9223372036854775807]}}",
         "truncated"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
         "8 bytes before tensor \"a\" belong to no tensor"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        tiny_model m;
        tiny_init(&m);
        tiny_write(&m, FILE_NAME, 0, m.n, cases[i].header);
        refuses(&m, ERR_FORMAT, FILE_NAME, cases[i].in_error);
    }
}
END_TEST

START_TEST(pointers_and_absent_files) {
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    static const char garbage[] = "this is not a safetensors file, whatever its name says";
    tiny_model m;
    tiny_init(&m);
    refuses(&m, ERR_NOT_FOUND, m.dir, "no model.safetensors");
    tiny_init(&m);
    tiny_put(&m, FILE_NAME, pointer, sizeof pointer - 1);
    refuses(&m, ERR_FORMAT, FILE_NAME, "Git LFS pointer");
    tiny_init(&m);
    tiny_put(&m, FILE_NAME, garbage, sizeof garbage - 1);
    refuses(&m, ERR_FORMAT, FILE_NAME, "not safetensors");
    tiny_init(&m);
    tiny_put(&m, "config.json", pointer, sizeof pointer - 1);
    refuses(&m, ERR_FORMAT, "config.json", "Git LFS pointer");
    tiny_init(&m);
    static const char unknown[] = "{\"architectures\":[\"NewForCausalLM\"]}";
    tiny_put(&m, "config.json", unknown, sizeof unknown - 1);
    refuses(&m, ERR_UNSUPPORTED, "NewForCausalLM", "--register-path");
    static const char gptq[] = "{\"architectures\":[\"LlamaForCausalLM\"],"
                               "\"quantization_config\":{\"quant_method\":\"gptq\"}}";
    tiny_init(&m);
    tiny_put(&m, "config.json", gptq, sizeof gptq - 1);
    refuses(&m, ERR_UNSUPPORTED, "quantization_config.bits", "expected 2, 3, 4 or 8");
    error err;
    ck_assert_int_eq(try_open("/no/such/model", &err), ERR_NOT_FOUND);
}
END_TEST

START_TEST(bad_indexes) {
    static const struct {
        const char *index, *in_error;
        status st;
    } cases[] = {
        {"{}", "no \"weight_map\"", ERR_FORMAT},
        {"{\"weight_map\":{\"lm_head.weight\":\"gone.safetensors\"}}", "gone.safetensors",
         ERR_NOT_FOUND},
        {"{\"weight_map\":{\"lm_head.weight\":\"../etc/passwd\"}}", "bad file name", ERR_FORMAT},
        {"{\"weight_map\":{\"lm_head.weight\":7}}", "bad file name", ERR_FORMAT},
        {"{\"weight_map\":{\"lm_head.weight\":\"a\",\"other.weight\":\"a\"}}",
         "\"other.weight\" is not in a", ERR_FORMAT},
        {"{\"weight_map\":{\"lm_head.weight\":\"a\",\"model.norm.weight\":\"b\"}}", "is also in",
         ERR_FORMAT},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        tiny_model m;
        tiny_init(&m);
        tiny_write(&m, "a", 0, m.n, NULL);
        tiny_write(&m, "b", 0, m.n, NULL);
        tiny_put(&m, INDEX_NAME, cases[i].index, strlen(cases[i].index));
        refuses(&m, cases[i].st, cases[i].in_error, "");
    }
}
END_TEST

/* What cannot be rounded is told by the tensor's name; the same model opens as it is. */
START_TEST(numbers_that_are_none_are_not_quantised) {
    tiny_model m;
    tiny_init(&m);
    float bad = NAN;
    const char *name = "model.layers.1.mlp.down_proj.weight";
    memcpy(m.data.p + tiny_find(&m, name)->from + 8, &bad, sizeof bad);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    engine_options o = options(m.dir);
    engine *e = NULL;
    error err;
    ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
    engine_free(e);
    for (int i = 0; i < 2; i++) { /* loading, and measuring without memory for weights */
        o.quantize = "int4";
        o.plan_only = i;
        ck_assert_int_eq(engine_open(&o, &e, &err), ERR_FORMAT);
        ck_assert_msg(strstr(err.text, name) && strstr(err.text, "not a number"), "%s", err.text);
    }
    tiny_done(&m);
}
END_TEST

/* The scheduler finds no page of these again: memory for it would be pinned for nothing. */
START_TEST(models_of_whole_prompts_have_no_second_tier) {
    static const char *const dirs[] = {"tests/archs/bert", "tests/archs/chatglm-6b"};
    for (size_t i = 0; i < 2 * ARRAY_LEN(dirs); i++) {
        bool asked = i % 2;
        strbuf plan = {0};
        engine *e = NULL;
        error err;
        engine_options o = options(dirs[i / 2]);
        o.plan_only = o.kv_swap_forced = true;
        o.kv_swap_bytes = asked ? 1 << 20 : SIZE_MAX;
        o.on_plan = save_plan;
        o.ctx = &plan;
        ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
        ck_assert_int_eq(e->plan.n_host_pages, 0);
        ck_assert_msg(!!strstr(plan.p, "takes prompts whole") == asked, "%s", plan.p);
        engine_free(e);
        strbuf_done(&plan);
    }
}
END_TEST

START_TEST(memory_is_planned_and_refused_with_numbers) {
    tiny_model m;
    tiny_init(&m);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    engine_options o = options(m.dir);
    engine *e = NULL;
    error err;
    o.kv_bytes = 4096;
    o.max_model_len = 64;
    ck_assert_int_eq(engine_open(&o, &e, &err), ERR_NOMEM);
    ck_assert_msg(strstr(err.text, "4.0 KiB") && strstr(err.text, "64 tokens"), "%s", err.text);
    o.max_model_len = 0; /* reduced to what fits: a page of 16 tokens takes 2 KiB */
    ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
    ck_assert_int_eq(engine_stepper(e).max_model_len, 32);
    engine_free(e);
    o.max_model_len = 65;
    ck_assert_int_eq(engine_open(&o, &e, &err), ERR_INVALID);
    o.max_model_len = 0;
    o.kv_bytes = (size_t)1 << 50;
    ck_assert_int_eq(engine_open(&o, &e, &err), ERR_NOMEM);
    ck_assert_msg(strstr(err.text, "1024.0 TiB"), "%s", err.text);
    o.plan_only = true;
    ck_assert_int_eq(engine_open(&o, &e, &err), OK);
    strbuf text = {0};
    engine_describe(e, false, &text);
    ck_assert_ptr_nonnull(strstr(text.p, "does not fit"));
    strbuf_done(&text);
    engine_free(e);
    o = options(m.dir);
    o.dtype = "fp8";
    ck_assert_int_eq(engine_open(&o, &e, &err), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(err.text, "fp8"));
    tiny_done(&m);
}
END_TEST

/* A family of the same layers under other names, from a directory. */
START_TEST(registered_family) {
    static const char file[] =
        "{\"schema\":1,\"family\":\"mine\",\"extends\":\"llama\",\"prefix\":[\"a.\",\"model.\"],"
        "\"match\":{\"architectures\":[\"MineForCausalLM\"],\"when\":\"bos_token_id == 1\"},"
        "\"embed\":{\"tok\":\"{p}embed_tokens.weight\"},"
        "\"final\":{\"norm\":\"{p}norm.weight\"}}";
    static const char config[] =
        "{\"architectures\":[\"MineForCausalLM\"],\"hidden_size\":16,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":24,"
        "\"vocab_size\":32,\"bos_token_id\":1}";
    tiny_model m, dir;
    engine *e = NULL;
    error err;
    tiny_init(&m);
    tiny_init(&dir);
    tiny_write(&m, FILE_NAME, 0, m.n, NULL);
    tiny_put(&m, "config.json", config, sizeof config - 1);
    tiny_put(&dir, "mine.json", file, sizeof file - 1);
    char *stray = path_join(dir.dir, "config.json");
    unlink(stray);
    mem_free(stray);
    engine_options o = options(m.dir);
    ck_assert_int_eq(engine_open(&o, &e, &err), ERR_UNSUPPORTED);
    o.register_path = dir.dir;
    ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
    ck_assert_str_eq(engine_info(e)->family, "mine");
    engine_free(e);
    tiny_put(&dir, "other.json", "{\"schema\":1,\"x\":1}", 18);
    ck_assert_int_eq(engine_open(&o, &e, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "other.json"));
    o.register_path = "/no/such/dir";
    ck_assert_int_eq(engine_open(&o, &e, &err), ERR_NOT_FOUND);
    tiny_done(&dir);
    tiny_done(&m);
}
END_TEST

/* One sequence meets a broken embedding row; the other of the same step is served. */
START_TEST(not_finite_fails_alone) {
    static const char *const isas[] = {"ref", NULL};
    static const float broken[] = {NAN, INFINITY};
    static const int32_t ids[2] = {1, 9}, pages[2] = {0, 1};
    sample_params p = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    for (int k = 0; k < 4; k++) {
        tiny_model m;
        engine *e = NULL;
        error err;
        tiny_init(&m);
        memcpy(m.data.p + 9 * 16 * sizeof(float), &broken[k % 2], sizeof(float));
        tiny_write(&m, FILE_NAME, 0, m.n, NULL);
        engine_options o = options(m.dir);
        o.isa = isas[k / 2];
        ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
        batch_seq seqs[2];
        for (int i = 0; i < 2; i++)
            seqs[i] = (batch_seq){.ids = &ids[i],
                                  .n_known = 1,
                                  .n_prompt = 1,
                                  .n_tokens = 1,
                                  .pages = &pages[i],
                                  .sample = true,
                                  .max_len = 2,
                                  .params = &p};
        batch_plan plan = {.n_seqs = 2, .n_tokens = 2, .seqs = seqs};
        sample_out out[2];
        status each[2];
        step_result r = {out, each};
        stepper st = engine_stepper(e);
        ck_assert_int_eq(stepper_run(&st, &plan, &r, &err), OK);
        ck_assert_int_eq(each[0], OK);
        ck_assert_int_eq(each[1], ERR_INTERNAL);
        engine_free(e);
        tiny_done(&m);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("loading");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, whole_model_opens_and_is_described);
    tcase_add_test(t, shards_and_pread_give_the_same_bits);
    tcase_add_test(t, missing_tensor);
    tcase_add_test(t, extra_tensor);
    tcase_add_test(t, wrong_shape);
    tcase_add_test(t, wrong_dtype);
    tcase_add_test(t, unknown_dtype);
    tcase_add_test(t, overlap);
    tcase_add_test(t, size_against_shape);
    tcase_add_test(t, truncated_anywhere);
    tcase_add_test(t, shrinks_while_loading);
    tcase_add_test(t, bad_headers);
    tcase_add_test(t, pointers_and_absent_files);
    tcase_add_test(t, bad_indexes);
    tcase_add_test(t, models_of_whole_prompts_have_no_second_tier);
    tcase_add_test(t, numbers_that_are_none_are_not_quantised);
    tcase_add_test(t, memory_is_planned_and_refused_with_numbers);
    tcase_add_test(t, registered_family);
    tcase_add_test(t, not_finite_fails_alone);
    suite_add_tcase(s, t);
    return suite_run(s);
}
