/* GGUF models as checkpoints: the table of tensors, the config made of the metadata, split files
 * and what is wrong with them. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/gguf.h"
#include "tests/unit/suite.h"
#include "tests/golden/gguf_write.h"
#include "tests/golden/tiny_model.h"

static const float ones[64] = {1};

static void put_tensor(gguf_writer *w, const char *name, int64_t rows, int64_t cols) {
    gguf_write_tensor(w, name, 0, rows ? 2 : 1, (int64_t[]){cols, rows},
                      str_n((const char *)ones, (size_t)(MAX(rows, 1) * cols) * 4));
}

static void put_dims(gguf_writer *w) {
    gguf_write_str(w, "general.architecture", "llama");
    gguf_write_int(w, "llama.context_length", GGUF_U32, 512);
    gguf_write_int(w, "llama.embedding_length", GGUF_U32, 8);
    gguf_write_int(w, "llama.block_count", GGUF_U32, 6);
    gguf_write_int(w, "llama.attention.head_count", GGUF_U32, 2);
}

static void put_file(tiny_model *m, const char *name, gguf_writer *w) {
    strbuf b = {0};
    gguf_write_end(w, &b);
    tiny_put(m, name, b.p, b.n);
    strbuf_done(&b);
}

static status open_in(const tiny_model *m, const char *name, checkpoint *c, error *err) {
    char *path = name ? path_join(m->dir, name) : mem_strdup(m->dir);
    *err = (error){0};
    status st = checkpoint_open(path, c, err);
    mem_free(path);
    return st;
}

static void refuses(const tiny_model *m, const char *name, status want, const char *a,
                    const char *b) {
    checkpoint c = {0};
    error err;
    status st = open_in(m, name, &c, &err);
    ck_assert_msg(st == want, "%s: %s", status_name(st), err.text);
    ck_assert_msg(strstr(err.text, a) && strstr(err.text, b), "\"%s\" lacks \"%s\" or \"%s\"",
                  err.text, a, b);
}

/* The config of what w holds so far; w is empty afterwards. */
static json_t *config_of(gguf_writer *w) {
    strbuf b = {0};
    gguf g;
    json_t *config = NULL;
    error err;
    gguf_write_end(w, &b);
    ck_assert_msg(gguf_parse((const uint8_t *)b.p, b.n, "x", &g, &err) == OK, "%s", err.text);
    ck_assert_msg(gguf_config(&g, 1, "x", &config, &err) == OK, "%s", err.text);
    gguf_close(&g);
    strbuf_done(&b);
    return config;
}

static void config_refuses(gguf_writer *w, status want, const char *a, const char *c) {
    strbuf b = {0};
    gguf g;
    json_t *config = NULL;
    error err;
    gguf_write_end(w, &b);
    ck_assert_msg(gguf_parse((const uint8_t *)b.p, b.n, "x", &g, &err) == OK, "%s", err.text);
    ck_assert_int_eq(gguf_config(&g, 1, "x", &config, &err), want);
    ck_assert_msg(strstr(err.text, a) && strstr(err.text, c), "%s", err.text);
    gguf_close(&g);
    strbuf_done(&b);
}

START_TEST(tensors_have_rows_first) {
    tiny_model m;
    gguf_writer w = {0};
    checkpoint c;
    error err;
    tiny_init(&m);
    put_dims(&w);
    put_tensor(&w, "token_embd.weight", 4, 8);
    put_tensor(&w, "output_norm.weight", 0, 8);
    static const char blocks[36] = {1};
    gguf_write_tensor(&w, "q", 2, 2, (int64_t[]){32, 2}, str_n(blocks, 36));
    put_file(&m, "x.gguf", &w);
    ck_assert_msg(open_in(&m, "x.gguf", &c, &err) == OK, "%s", err.text);
    const st_tensor *t = checkpoint_find(&c, "token_embd.weight");
    ck_assert(t && t->n_dims == 2 && t->dims[0] == 4 && t->dims[1] == 8 && t->dt == DT_F32);
    ck_assert_int_eq((int)t->bytes, 128);
    t = checkpoint_find(&c, "output_norm.weight");
    ck_assert(t && t->n_dims == 1 && t->dims[0] == 8);
    t = checkpoint_find(&c, "q");
    ck_assert(t && t->dims[0] == 2 && t->dims[1] == 32 && t->dt == DT_Q4_0 && t->bytes == 36);
    char text[64];
    st_tensor_describe(t, text, sizeof text);
    ck_assert_str_eq(text, "[2, 32] Q4_0");
    ck_assert_str_eq(json_string_value(json_array_get(js_get(c.config, "architectures"), 0)),
                     "gguf-llama");
    checkpoint_done(&c);
    ck_assert_msg(open_in(&m, NULL, &c, &err) == OK, "%s", err.text); /* the directory's only one */
    checkpoint_done(&c);
    ck_assert(checkpoint_has_config(m.dir));
    put_dims(&w);
    put_file(&m, "y.gguf", &w);
    refuses(&m, NULL, ERR_INVALID, "2 GGUF models", "name one");
    ck_assert(!checkpoint_has_config(m.dir));
    tiny_done(&m);
}
END_TEST

START_TEST(dims_and_ids) {
    gguf_writer w = {0};
    put_dims(&w);
    gguf_write_array(&w, "llama.attention.head_count_kv", GGUF_I32, 2, STR("\1\0\0\0\1\0\0\0"));
    gguf_write_f32(&w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_write_f32(&w, "llama.rope.freq_base", 500000);
    gguf_write_int(&w, "llama.rope.dimension_count", GGUF_U32, 4);
    gguf_write_int(&w, "llama.expert_weights_norm", GGUF_BOOL, 1);
    gguf_write_int(&w, "llama.expert_gating_func", GGUF_U32, 2);
    gguf_write_int(&w, "llama.nextn_predict_layers", GGUF_U32, 1);
    gguf_write_int(&w, "llama.pooling_type", GGUF_U32, 2);
    gguf_write_int(&w, "tokenizer.ggml.bos_token_id", GGUF_U32, 1);
    gguf_write_int(&w, "tokenizer.ggml.eos_token_id", GGUF_U32, 2);
    gguf_write_int(&w, "tokenizer.ggml.eot_token_id", GGUF_U32, 3);
    put_tensor(&w, "token_embd.weight", 4, 8);
    json_t *c = config_of(&w);
    ck_assert_int_eq(js_get_int(c, "hidden_size", 0), 8);
    ck_assert_int_eq(js_get_int(c, "num_hidden_layers", 0), 5);
    ck_assert_int_eq(js_get_int(c, "num_key_value_heads", 0), 1);
    ck_assert_int_eq(js_get_int(c, "rope_dim", 0), 4);
    ck_assert(js_get_real(c, "rope_theta", 0) == 500000);
    ck_assert(fabs(js_get_real(c, "rms_norm_eps", 0) - 1e-5) < 1e-11);
    ck_assert(js_get_bool(c, "norm_topk_prob", false));
    ck_assert_str_eq(js_get_str(c, "scoring_func").p, "sigmoid");
    ck_assert_str_eq(js_get_str(c, "pooling").p, "first");
    ck_assert_int_eq(js_get_int(c, "vocab_size", 0), 4);
    ck_assert(js_get_bool(c, "tie_word_embeddings", false));
    ck_assert_int_eq(js_get_int(c, "bos_token_id", 0), 1);
    ck_assert_int_eq((int)json_array_size(js_get(c, "eos_token_id")), 2);
    ck_assert_ptr_null(js_get(c, "rope_scaling"));
    json_decref(c);
}
END_TEST

START_TEST(rope_scalings) {
    gguf_writer w = {0};
    put_dims(&w);
    gguf_write_str(&w, "llama.rope.scaling.type", "yarn");
    gguf_write_f32(&w, "llama.rope.scaling.factor", 4);
    gguf_write_int(&w, "llama.rope.scaling.original_context_length", GGUF_U32, 128);
    gguf_write_f32(&w, "llama.rope.scaling.yarn_log_multiplier", 0.0707f);
    json_t *c = config_of(&w), *s = js_get(c, "rope_scaling");
    ck_assert_str_eq(js_get_str(s, "rope_type").p, "yarn");
    ck_assert_int_eq(js_get_int(s, "original_max_position_embeddings", 0), 128);
    ck_assert(js_get_real(s, "factor", 0) == 4);
    ck_assert(fabs(js_get_real(s, "mscale_all_dim", 0) - 0.707) < 1e-6);
    json_decref(c);
    put_dims(&w);
    put_tensor(&w, "rope_factors_long.weight", 0, 2);
    put_tensor(&w, "rope_factors_short.weight", 0, 2);
    c = config_of(&w);
    s = js_get(c, "rope_scaling");
    ck_assert_str_eq(js_get_str(s, "rope_type").p, "longrope");
    ck_assert_int_eq((int)json_array_size(js_get(s, "long_factor")), 2);
    ck_assert(json_real_value(json_array_get(js_get(s, "short_factor"), 0)) == 1);
    json_decref(c);
    put_dims(&w);
    gguf_write_f32(&w, "llama.rope.scale_linear", 2);
    c = config_of(&w);
    ck_assert_str_eq(js_get_str(js_get(c, "rope_scaling"), "rope_type").p, "linear");
    json_decref(c);
}
END_TEST

START_TEST(windows_per_layer) {
    gguf_writer w = {0};
    put_dims(&w);
    gguf_write_int(&w, "llama.attention.sliding_window_pattern", GGUF_U32, 3);
    json_t *c = config_of(&w), *list = js_get(c, "layer_types");
    ck_assert_int_eq((int)json_array_size(list), 6);
    for (size_t i = 0; i < 6; i++)
        ck_assert_str_eq(json_string_value(json_array_get(list, i)),
                         i % 3 == 2 ? "full_attention" : "sliding_attention");
    json_decref(c);
    put_dims(&w);
    gguf_write_array(&w, "llama.attention.sliding_window_pattern", GGUF_BOOL, 6,
                     STR("\1\0\0\0\0\1"));
    c = config_of(&w);
    list = js_get(c, "layer_types");
    ck_assert_str_eq(json_string_value(json_array_get(list, 5)), "sliding_attention");
    ck_assert_str_eq(json_string_value(json_array_get(list, 4)), "full_attention");
    json_decref(c);
}
END_TEST

START_TEST(bad_metadata) {
    gguf_writer w = {0};
    config_refuses(&w, ERR_FORMAT, "general.architecture", "missing");
    gguf_write_str(&w, "general.architecture", "llama\xff");
    config_refuses(&w, ERR_FORMAT, "general.architecture", "no text");
    put_dims(&w);
    gguf_write_str(&w, "general.type", "adapter");
    config_refuses(&w, ERR_UNSUPPORTED, "\"adapter\"", "no model");
    put_dims(&w);
    gguf_write_array(&w, "llama.attention.head_count_kv", GGUF_I32, 2, STR("\1\0\0\0\2\0\0\0"));
    config_refuses(&w, ERR_UNSUPPORTED, "llama.attention.head_count_kv", "differs between layers");
    put_dims(&w);
    gguf_write_f32(&w, "llama.rope.freq_base", NAN);
    config_refuses(&w, ERR_FORMAT, "llama.rope.freq_base", "finite");
    put_dims(&w);
    gguf_write_array(&w, "llama.attention.sliding_window_pattern", GGUF_BOOL, 2, STR("\1\0"));
    config_refuses(&w, ERR_FORMAT, "sliding_window_pattern", "each layer");
    put_dims(&w);
    gguf_write_str(&w, "llama.rope.scaling.type", "spiral");
    config_refuses(&w, ERR_FORMAT, "rope.scaling.type", "yarn");
}
END_TEST

static void put_part(tiny_model *m, const char *name, int no, int count, int total, bool first) {
    gguf_writer w = {0};
    if (first) put_dims(&w);
    gguf_write_int(&w, "split.no", GGUF_U16, (uint64_t)no);
    gguf_write_int(&w, "split.count", GGUF_U16, (uint64_t)count);
    gguf_write_int(&w, "split.tensors.count", GGUF_I32, (uint64_t)total);
    put_tensor(&w, no ? "b" : "a", 2, 4);
    put_file(m, name, &w);
}

START_TEST(split_files) {
    static const char one[] = "m-00001-of-00002.gguf", two[] = "m-00002-of-00002.gguf";
    tiny_model m;
    checkpoint c;
    error err;
    tiny_init(&m);
    put_part(&m, one, 0, 2, 2, true);
    put_part(&m, two, 1, 2, 2, false);
    static const char *const names[] = {one, two, NULL};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        ck_assert_msg(open_in(&m, names[i], &c, &err) == OK, "%s", err.text);
        ck_assert(c.n_files == 2 && c.n_tensors == 2 && c.config);
        ck_assert_int_eq(checkpoint_find(&c, "b")->file, 1);
        checkpoint_done(&c);
    }
    put_part(&m, two, 1, 3, 2, false);
    refuses(&m, one, ERR_FORMAT, two, "part 2 of 2");
    put_part(&m, two, 0, 2, 2, true);
    refuses(&m, one, ERR_FORMAT, two, "part 2 of 2");
    put_part(&m, two, 1, 2, 2, false);
    put_part(&m, one, 0, 2, 5, true);
    refuses(&m, two, ERR_FORMAT, "split.tensors.count", "5 tensors, the 2 parts have 2");
    put_part(&m, one, 0, 2, 2, true);
    put_part(&m, "alone.gguf", 0, 2, 2, true);
    refuses(&m, "alone.gguf", ERR_FORMAT, "split.count 2", "part 1 of 1");
    char *path = path_join(m.dir, two);
    unlink(path);
    mem_free(path);
    refuses(&m, one, ERR_NOT_FOUND, two, "cannot open");
    tiny_done(&m);
}
END_TEST

START_TEST(split_names) {
    str stem;
    int32_t no, count;
    ck_assert(gguf_split_name(STR("a/b-00002-of-00010.gguf"), &stem, &no, &count));
    ck_assert(str_eqz(stem, "a/b") && no == 2 && count == 10);
    ck_assert(!gguf_split_name(STR("b-00000-of-00010.gguf"), &stem, &no, &count));
    ck_assert(!gguf_split_name(STR("b-00011-of-00010.gguf"), &stem, &no, &count));
    ck_assert(!gguf_split_name(STR("b-0001x-of-00010.gguf"), &stem, &no, &count));
    ck_assert(!gguf_split_name(STR("-00001-of-00010.gguf"), &stem, &no, &count));
    ck_assert(!gguf_split_name(STR("b.gguf"), &stem, &no, &count));
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf models");
    TCase *t = tcase_create("all");
    tcase_add_test(t, tensors_have_rows_first);
    tcase_add_test(t, dims_and_ids);
    tcase_add_test(t, rope_scalings);
    tcase_add_test(t, windows_per_layer);
    tcase_add_test(t, bad_metadata);
    tcase_add_test(t, split_files);
    tcase_add_test(t, split_names);
    suite_add_tcase(s, t);
    return suite_run(s);
}
