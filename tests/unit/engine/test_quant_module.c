/* Quantised modules read from files made here: the shared golden numbers of every format where
 * they are, names and configs that are refused, and tensors that do not fit, each named by the
 * error. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/quant_module.h"
#include "tests/unit/suite.h"

#define GOLDEN "../shared/specs/quant_golden.json"

/* A safetensors file in the making. */
typedef struct maker {
    strbuf header, data;
    char path[64];
} maker;

static void add(maker *m, const char *name, const char *type, const char *shape, const void *p,
                size_t bytes) {
    strbuf_addf(&m->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                m->header.n ? "," : "{", name, type, shape, m->data.n, m->data.n + bytes);
    strbuf_add(&m->data, str_n(p, bytes));
}

static void shape2(char *out, size_t n, size_t rows, size_t cols) {
    snprintf(out, n, "%zu,%zu", rows, cols);
}

static checkpoint maker_open(maker *m, const char *config) {
    checkpoint c;
    json_t *q = NULL;
    error err;
    strbuf_addc(&m->header, '}');
    uint64_t len = m->header.n;
    strbuf file = {0};
    strbuf_add(&file, str_n((char *)&len, 8));
    strbuf_add(&file, strbuf_str(&m->header));
    strbuf_add(&file, strbuf_str(&m->data));
    snprintf(m->path, sizeof m->path, "/tmp/test_quant_%d.safetensors", getpid());
    ck_assert(file_write_atomic(m->path, strbuf_str(&file), &err) == OK);
    ck_assert_msg(checkpoint_open_file(m->path, &c, &err) == OK, "%s", err.text);
    ck_assert(js_parse(str_z(config), &q, &err) == OK);
    ck_assert_msg(quant_config_parse("config.json", q, &c.quant, &err) == OK, "%s", err.text);
    json_decref(q);
    strbuf_done(&file), strbuf_done(&m->header), strbuf_done(&m->data);
    return c;
}

static void maker_close(maker *m, checkpoint *c) {
    checkpoint_done(c);
    unlink(m->path);
}

static arch_tensor place(char *name, int32_t n, int32_t k) {
    return (arch_tensor){
        .name = name, .slot = W_UP, .rows = n, .cols = k, .src_rows = n, .view = {0, n, n}};
}

/* Numbers of a (nested) list, as 32-bit integers, halves, floats or bytes. */
static void flatten(const json_t *v, char type, strbuf *out) {
    if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++) flatten(json_array_get(v, i), type, out);
        return;
    }
    double x = json_number_value(v);
    int32_t i32 = type == 'f' || type == 'h' ? 0 : (int32_t)x;
    uint16_t half = f32_to_f16((float)x);
    float f = (float)x;
    if (type == 'i') strbuf_add(out, str_n((char *)&i32, 4));
    if (type == 'h') strbuf_add(out, str_n((char *)&half, 2));
    if (type == 'f') strbuf_add(out, str_n((char *)&f, 4));
    if (type == 'b') strbuf_addc(out, (char)i32);
}

/* Add list `key` of g as tensor `name`, its shape that of the lists. */
static void add_list(maker *m, const json_t *g, const char *key, const char *name, char type) {
    const json_t *v = js_get(g, key);
    char shape[64];
    strbuf bytes = {0};
    flatten(v, type, &bytes);
    if (json_is_array(json_array_get(v, 0)))
        shape2(shape, sizeof shape, json_array_size(v), json_array_size(json_array_get(v, 0)));
    else
        snprintf(shape, sizeof shape, "%zu", json_array_size(v));
    const char *type_name = type == 'i' ? "I32" : type == 'h' ? "F16" : type == 'f' ? "F32" : "U8";
    add(m, name, type_name, shape, bytes.p, bytes.n);
    strbuf_done(&bytes);
}

/* Rows as floats, whole and through codes in two pieces, against want (out-in or in-out). */
static void check_values(maker *m, const char *config, arch_tensor t, const json_t *want,
                         bool in_out) {
    checkpoint c = maker_open(m, config);
    uint8_t *used = mem_calloc((size_t)c.n_tensors, 1);
    row_source *f = NULL, *q = NULL;
    const st_tensor *first;
    error err;
    ck_assert(quant_module_serves(&c, t.name));
    ck_assert_msg(quant_module_bind(&c, &t, true, used, &f, &first, &err) == OK, "%s", err.text);
    ck_assert_msg(quant_module_bind(&c, &t, false, used, &q, &first, &err) == OK, "%s", err.text);
    for (int32_t i = 0; i < c.n_tensors; i++) ck_assert_msg(used[i], "%s", c.tensors[i].name);
    size_t k = (size_t)t.cols, n = (size_t)t.rows, row_bytes = row_source_bytes(q);
    float *a = mem_alloc(n * k * 4), *b = mem_alloc(n * k * 4);
    char *stored = mem_alloc(n * row_bytes);
    char *side = mem_alloc(quant_side_bytes(q->dt, &q->spec, t.cols) + 1);
    f->read(f, 0, t.rows, a);
    q->read(q, 1, t.rows - 1, stored + row_bytes);
    q->read(q, 0, 1, stored);
    quant_pack_side(q->dt, &q->spec, t.cols, q->order, q->table, side);
    for (size_t r = 0; r < n; r++)
        quant_row_f32(q->dt, &q->spec, t.cols, side, stored + r * row_bytes, 0, t.cols, b + r * k);
    for (size_t i = 0; i < n * k; i++) {
        size_t line = in_out ? i % k : i / k, at = in_out ? i / k : i % k;
        const json_t *row = json_array_get(want, line);
        double w = json_number_value(json_is_array(row) ? json_array_get(row, at)
                                                        : json_array_get(want, i));
        ck_assert_msg(fabs(a[i] - w) <= 1e-6 * fabs(w), "element %zu: %.9g, not %.9g", i, a[i], w);
        ck_assert(a[i] == b[i]);
    }
    mem_free(a), mem_free(b), mem_free(stored), mem_free(side), mem_free(used);
    row_source_free(f), row_source_free(q);
    maker_close(m, &c);
}

static void golden_gptq(const json_t *g, const char *config) {
    maker m = {0};
    add_list(&m, g, "qweight", "x.qweight", 'i');
    add_list(&m, g, "qzeros", "x.qzeros", 'i');
    add_list(&m, g, "scales", "x.scales", 'h');
    add_list(&m, g, "g_idx", "x.g_idx", 'i');
    check_values(&m, config, place("x.weight", 16, 64), js_get(g, "W_in_out"), true);
}

static void golden_packed(const json_t *g, bool symmetric) {
    maker m = {0};
    char config[400];
    add_list(&m, g, "weight_packed", "x.weight_packed", 'i');
    add_list(&m, g, "weight_scale", "x.weight_scale", 'h');
    add_list(&m, g, "weight_shape", "x.weight_shape", 'i');
    if (!symmetric) add_list(&m, g, "weight_zero_point", "x.weight_zero_point", 'i');
    snprintf(config, sizeof config,
             "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
             "\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,"
             "\"type\":\"int\",\"group_size\":32,\"symmetric\":%s}}}}",
             symmetric ? "true" : "false");
    check_values(&m, config, place("x.weight", 16, 64), js_get(g, "W_out_in"), false);
}

static void golden_nf4(const json_t *g) {
    static const float values[16] = {
        -1.0f,         -0.6961928009986877f,  -0.5250730514526367f, -0.39491748809814453f,
        -0.28444138f,  -0.18477343022823334f, -0.0910500362515450f, 0.0f,
        0.0795802996f, 0.16093020141124725f,  0.24611230194568634f, 0.33791524171829224f,
        0.440709829f,  0.5626170039176941f,   0.7229568362236023f,  1.0f};
    static const char state[] = "{\"quant_type\":\"nf4\",\"blocksize\":64,\"shape\":[2,128]}";
    char length[16];
    maker m = {0};
    add_list(&m, g, "bytes", "x.weight", 'b');
    add_list(&m, g, "absmax", "x.weight.absmax", 'f');
    add(&m, "x.weight.quant_map", "F32", "16", values, sizeof values);
    snprintf(length, sizeof length, "%zu", sizeof state - 1);
    add(&m, "x.weight.quant_state.bitsandbytes__nf4", "U8", length, state, sizeof state - 1);
    check_values(&m, "{\"quant_method\":\"bitsandbytes\"}", place("x.weight", 2, 128),
                 js_get(g, "f32"), false);
}

static void golden_mxfp4(const json_t *g) {
    strbuf blocks = {0}, scales = {0};
    maker m = {0};
    flatten(js_get(g, "blocks"), 'b', &blocks);
    flatten(js_get(g, "scales"), 'b', &scales);
    add(&m, "x.up_blocks", "U8", "1,2,1,16", blocks.p, blocks.n);
    add(&m, "x.up_scales", "U8", "1,2,1", scales.p, scales.n);
    arch_tensor t = place("x.up", 2, 32);
    t.n_stack = 1;
    check_values(&m, "{\"quant_method\":\"mxfp4\"}", t, js_get(g, "f32"), false);
    strbuf_done(&blocks), strbuf_done(&scales);
}

START_TEST(shared_golden_modules_have_their_values) {
    json_t *root;
    error err;
    if (!file_exists(GOLDEN)) {
        printf("SKIP: no " GOLDEN "\n");
        return;
    }
    ck_assert_msg(js_parse_file(GOLDEN, 4 << 20, &root, &err) == OK, "%s", err.text);
    golden_gptq(js_get(root, "gptq_v1_seq"),
                "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32}");
    golden_gptq(js_get(root, "gptq_v2_actorder"),
                "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"desc_act\":true,"
                "\"checkpoint_format\":\"gptq_v2\"}");
    const json_t *awq = js_get(root, "awq_gemm");
    maker m = {0};
    add_list(&m, awq, "qweight", "x.qweight", 'i');
    add_list(&m, awq, "qzeros", "x.qzeros", 'i');
    add_list(&m, awq, "scales", "x.scales", 'h');
    check_values(&m, "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32,\"version\":\"GEMM\"}",
                 place("x.weight", 16, 64), js_get(awq, "W_in_out"), true);
    golden_packed(js_get(root, "ct_w4a16_sym"), true);
    golden_packed(js_get(root, "ct_w4a16_asym"), false);
    golden_nf4(js_get(root, "bnb_nf4"));
    golden_mxfp4(js_get(root, "mxfp4_hf"));
    json_decref(root);
}
END_TEST

START_TEST(patterns_match_as_python_does) {
    static const struct {
        const char *pattern;
        bool is_regex;
        const char *name;
        bool is, in;
    } cases[] = {
        {"lm_head", false, "lm_head", true, true},
        {"lm_head", false, "lm_head2", false, false},
        {"mlp.gate", false, "model.layers.0.mlp.gate_proj", false, false},
        {"mlp.gate", false, "model.layers.0.mlp.gate", false, true},
        {"model.layers.1", false, "model.layers.10.mlp", false, false},
        {"model.layers.1", false, "model.layers.1.mlp", false, true},
        {".*\\.(?:down|up)_proj$", true, "a.up_proj", true, true},
        {".*\\.(?:down|up)_proj$", true, "a.up_proj.x", false, false},
        {"layers\\.\\d+", true, "layers.12.q", true, true},
        {"layers\\.\\d+", true, "model.layers.12", false, false}, /* from the beginning */
        {"model\\.layers\\.([0-4])\\..*?gate", true, "model.layers.3.mlp.gate", true, true},
        {"model\\.layers\\.([0-4])\\..*?gate", true, "model.layers.7.mlp.gate", false, false},
        {"a|b", true, "bc", true, true},
        {"a{2,3}", true, "aaa", true, true},
    };
    static const char *const refused[] = {"(?<!x)", "(?i)x", "\\1", "(a", "a++", "[\\d\\1]"};
    error err;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        name_pattern p;
        ck_assert(name_pattern_init(&p, str_z(cases[i].pattern), cases[i].is_regex, &err) == OK);
        ck_assert_msg(name_pattern_is(&p, cases[i].name) == cases[i].is &&
                          name_pattern_in(&p, cases[i].name) == cases[i].in,
                      "%s on %s", cases[i].pattern, cases[i].name);
        name_pattern_done(&p);
    }
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        name_pattern p;
        ck_assert_msg(name_pattern_init(&p, str_z(refused[i]), true, &err) == ERR_UNSUPPORTED, "%s",
                      refused[i]);
        ck_assert(strstr(err.text, refused[i]) != NULL);
    }
}
END_TEST

/* Small expressions may stand for large machines; there may not be many of those. */
START_TEST(expressions_are_bounded_together) {
    for (int n = 30; n <= 40; n += 10) {
        strbuf text = {0};
        json_t *v;
        quant_config *q = NULL;
        error err;
        strbuf_addz(&text, "{\"quant_method\":\"fp8\",\"ignored_layers\":[\"x\"");
        for (int i = 0; i < n; i++) strbuf_addz(&text, ",\"re:(a{63}){64}\"");
        strbuf_addz(&text, "]}");
        ck_assert(js_parse(strbuf_str(&text), &v, &err) == OK);
        status st = quant_config_parse("config.json", v, &q, &err);
        ck_assert_msg(st == (n == 30 ? OK : ERR_UNSUPPORTED), "%d: %s", n, err.text);
        if (st != OK) ck_assert_msg(strstr(err.text, "states"), "%s", err.text);
        quant_config_free(q);
        strbuf_done(&text);
        json_decref(v);
    }
}
END_TEST

/* What each way of saying FP8 makes of activations. */
START_TEST(activations_of_8_bit_floats) {
#define FLOATS(acts)                                                                               \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\",\"config_groups\":{"  \
    "\"g\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":8,\"type\":\"float\"},"             \
    "\"input_activations\":{\"num_bits\":8,\"type\":\"float\"," acts "}}}}"
    static const struct {
        const char *config;
        act_round act;
    } cases[] = {
        {"{\"quant_method\":\"fp8\"}", ACT_ROUND_FP8_TOKEN},
        {"{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}", ACT_ROUND_FP8_STATIC},
        {"{\"quant_method\":\"fp8\",\"activation_scheme\":\"dynamic\","
         "\"weight_block_size\":[128,128]}",
         ACT_ROUND_FP8_GROUP},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]}", ACT_ROUND_NONE},
        {FLOATS("\"dynamic\":true,\"strategy\":\"token\""), ACT_ROUND_FP8_TOKEN},
        {FLOATS("\"dynamic\":true,\"strategy\":\"group\",\"group_size\":128"), ACT_ROUND_FP8_GROUP},
        {FLOATS("\"dynamic\":true,\"strategy\":\"group\",\"group_size\":32"), ACT_ROUND_NONE},
        {FLOATS("\"dynamic\":false,\"strategy\":\"tensor\""), ACT_ROUND_FP8_STATIC},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        json_t *v = NULL;
        quant_config *q = NULL;
        error err;
        ck_assert(js_parse(str_z(cases[i].config), &v, &err) == OK);
        ck_assert_msg(quant_config_parse("config.json", v, &q, &err) == OK, "%s", err.text);
        const quant_scheme *s = quant_config_scheme(q, "model.layers.0.mlp.up_proj");
        ck_assert(s && s->act == cases[i].act);
        quant_config_free(q);
        json_decref(v);
    }
}
END_TEST

START_TEST(configs_are_refused_by_key) {
    static const struct {
        const char *config, *text;
    } cases[] = {
        {"{\"quant_method\":\"hqq\"}", "quant_method: \"hqq\""},
        {"{}", "quant_method: nothing"},
        {"[]", "no object"},
        {"{\"quant_method\":\"gptq\",\"bits\":5}", "bits: 5"},
        {"{\"quant_method\":\"gptq\"}", "bits: nothing"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":0}", "group_size: 0"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"checkpoint_format\":\"marlin\"}",
         "checkpoint_format: \"marlin\""},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"is_marlin_format\":true}", "is_marlin_format"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"dynamic\":{\"+:(?<=x)\":{}}}", "(?<=x)"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"dynamic\":{\"x\":{\"bits\":7}}}", "bits: 7"},
        {"{\"quant_method\":\"awq\",\"bits\":3}", "bits: 3"},
        {"{\"quant_method\":\"awq\",\"bits\":4,\"version\":\"gemv\"}", "version: \"gemv\""},
        {"{\"quant_method\":\"awq\",\"bits\":4,\"zero_point\":false}", "zero_point"},
        {"{\"quant_method\":\"awq\",\"bits\":4,\"backend\":\"llm-awq\"}", "backend"},
        {"{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", "fmt: \"e5m2\""},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}", "weight_block_size: [128]"},
        {"{\"quant_method\":\"compressed-tensors\"}", "config_groups"},
        {"{\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{}}},"
         "\"format\":\"marlin-24\"}",
         "format: \"marlin-24\""},
        {"{\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4}}},"
         "\"format\":\"pack-quantized\",\"sparsity_config\":{\"format\":\"sparse-24-bitmask\"}}",
         "sparsity_config: \"sparse-24-bitmask\""},
        {"{\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":6}}},"
         "\"format\":\"pack-quantized\"}",
         "config_groups.weights"},
        {"{\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{},"
         "\"input_activations\":{\"dynamic\":true,\"symmetric\":false}}},"
         "\"format\":\"int-quantized\"}",
         "input_activations"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        quant_config *q = NULL;
        json_t *v;
        error err;
        ck_assert(js_parse(str_z(cases[i].config), &v, &err) == OK);
        status st = quant_config_parse("dir/config.json", v, &q, &err);
        ck_assert_msg(st == ERR_UNSUPPORTED || st == ERR_FORMAT, "%s", cases[i].config);
        ck_assert_msg(strstr(err.text, cases[i].text) && strstr(err.text, "dir/config.json"),
                      "%s: %s", cases[i].config, err.text);
        ck_assert_ptr_null(q);
        json_decref(v);
    }
}
END_TEST

/* Tensors of a module of [32, 64] and one change to them. */
typedef struct part {
    const char *name, *dtype, *shape;
    size_t bytes;
} part;
typedef struct damage {
    int at;                    /* which part */
    const char *dtype, *shape; /* NULL: leave it out */
    size_t bytes;
    const char *text; /* in the error, beside the file and the tensor */
} damage;

static void check_damage(const char *config, const part *parts, int n, const damage *d) {
    static char zeros[1 << 16];
    maker m = {0};
    row_source *src = NULL;
    const st_tensor *first;
    error err;
    for (int i = 0; i < n; i++) {
        bool hit = d && i == d->at;
        if (hit && !d->dtype) continue;
        add(&m, parts[i].name, hit ? d->dtype : parts[i].dtype, hit ? d->shape : parts[i].shape,
            zeros, hit ? d->bytes : parts[i].bytes);
    }
    add(&m, "other", "F32", "1", zeros, 4);
    checkpoint c = maker_open(&m, config);
    arch_tensor t = place("x.weight", 32, 64);
    status st = quant_module_bind(&c, &t, false, NULL, &src, &first, &err);
    if (!d) {
        ck_assert_msg(st == OK && src, "%s", err.text);
        row_source_free(src);
    } else {
        ck_assert_msg(st == ERR_FORMAT && !src, "%s: accepted", parts[d->at].name);
        ck_assert_msg(strstr(err.text, parts[d->at].name) && strstr(err.text, m.path) &&
                          strstr(err.text, d->text),
                      "%s: %s", parts[d->at].name, err.text);
    }
    maker_close(&m, &c);
}

START_TEST(damaged_modules_are_refused_by_tensor) {
    static const char gptq[] = "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,"
                               "\"checkpoint_format\":\"gptq_v2\"}";
    static const part gptq_parts[] = {{"x.qweight", "I32", "8,32", 1024},
                                      {"x.qzeros", "I32", "2,4", 32},
                                      {"x.scales", "F16", "2,32", 128},
                                      {"x.g_idx", "I32", "64", 256}};
    static const damage gptq_damages[] = {
        {0, "I32", "8,31", 992, "[8, 31]"}, {0, "I32", "4,32", 512, "expected [8, 32]"},
        {0, "F32", "8,32", 1024, "F32"},    {1, NULL, NULL, 0, "is missing"},
        {1, "I32", "1,4", 16, "[2, 4]"},    {2, NULL, NULL, 0, "is missing"},
        {2, "I32", "2,32", 256, "I32"},     {2, "F16", "4,32", 256, "[2, 32]"},
        {3, "I32", "63", 252, "[64]"},      {3, "I64", "64", 512, "I64"},
    };
    static const char fp8[] = "{\"quant_method\":\"fp8\",\"weight_block_size\":[24,20]}";
    static const part fp8_parts[] = {{"x.weight", "F8_E4M3", "32,64", 2048},
                                     {"x.weight_scale_inv", "F32", "2,4", 32}};
    static const damage fp8_damages[] = {
        {0, "F8_E4M3", "64,32", 2048, "[32, 64]"},
        {1, "F32", "2,3", 24, "[2, 4] scales"},
        {1, "F32", "3,4", 48, "[2, 4] scales"},
        {1, "I32", "2,4", 32, "I32"},
    };
    static const char awq[] = "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32}";
    static const part awq_parts[] = {{"x.qweight", "I32", "64,4", 1024},
                                     {"x.qzeros", "I32", "2,4", 32},
                                     {"x.scales", "F16", "2,32", 128}};
    static const damage awq_damages[] = {
        {0, "I32", "32,8", 1024, "[64, 4]"},
        {1, "I32", "4,4", 64, "[2, 4]"},
        {2, "F16", "32,2", 128, "[2, 32]"},
    };
    static const char bnb[] = "{\"quant_method\":\"bitsandbytes\"}";
    static const part bnb_parts[] = {{"x.weight", "I8", "32,64", 2048},
                                     {"x.SCB", "F32", "32", 128}};
    static const damage bnb_damages[] = {
        {0, "I8", "64,32", 2048, "[32, 64]"},
        {1, "F32", "64", 256, "[32]"},
        {1, "F16", "32", 64, "F16"},
    };
    static const char ct[] = "{\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{"
                             "\"num_bits\":4,\"type\":\"int\",\"group_size\":32}}},"
                             "\"format\":\"pack-quantized\"}";
    static const part ct_parts[] = {{"x.weight_packed", "I32", "32,8", 1024},
                                    {"x.weight_scale", "BF16", "32,2", 128}};
    static const damage ct_damages[] = {
        {0, "I32", "32,7", 896, "7 words"},
        {0, "I32", "31,8", 992, "[32, *]"},
        {1, "BF16", "32,4", 256, "[32, 2] scales"},
        {1, NULL, NULL, 0, "is missing"},
    };
    check_damage(gptq, gptq_parts, 4, NULL);
    for (size_t i = 0; i < ARRAY_LEN(gptq_damages); i++)
        check_damage(gptq, gptq_parts, 4, &gptq_damages[i]);
    check_damage(fp8, fp8_parts, 2, NULL);
    for (size_t i = 0; i < ARRAY_LEN(fp8_damages); i++)
        check_damage(fp8, fp8_parts, 2, &fp8_damages[i]);
    check_damage(awq, awq_parts, 3, NULL);
    for (size_t i = 0; i < ARRAY_LEN(awq_damages); i++)
        check_damage(awq, awq_parts, 3, &awq_damages[i]);
    check_damage(bnb, bnb_parts, 2, NULL);
    for (size_t i = 0; i < ARRAY_LEN(bnb_damages); i++)
        check_damage(bnb, bnb_parts, 2, &bnb_damages[i]);
    check_damage(ct, ct_parts, 2, NULL);
    for (size_t i = 0; i < ARRAY_LEN(ct_damages); i++)
        check_damage(ct, ct_parts, 2, &ct_damages[i]);
}
END_TEST

static status bind_with(maker *m, const char *config, error *err) {
    row_source *src = NULL;
    const st_tensor *first;
    checkpoint c = maker_open(m, config);
    arch_tensor t = place("x.weight", 8, 32);
    status st = quant_module_bind(&c, &t, false, NULL, &src, &first, err);
    row_source_free(src);
    maker_close(m, &c);
    return st;
}

START_TEST(fixed_zero_points_are_of_8_bits) {
    static const char config[] =
        "{\"format\":\"int-quantized\",\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],"
        "\"weights\":{\"num_bits\":8,\"type\":\"int\"},\"input_activations\":{\"num_bits\":8,"
        "\"type\":\"int\",\"symmetric\":false,\"dynamic\":false}}}}";
    static const uint8_t weight[256];
    static const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    static const struct {
        int32_t zero;
        const char *text; /* NULL: fine */
    } cases[] = {{-128, NULL},
                 {127, NULL},
                 {128, "x.input_zero_point\": 128 is no number of 8 bits"},
                 {INT32_MIN, "is no number of 8 bits"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        maker m = {0};
        error err = {0};
        add(&m, "x.weight", "I8", "8,32", weight, sizeof weight);
        add(&m, "x.weight_scale", "F32", "8,1", ones, sizeof ones);
        add(&m, "x.input_scale", "F32", "1", ones, sizeof *ones);
        add(&m, "x.input_zero_point", "I32", "1", &cases[i].zero, sizeof cases[i].zero);
        status st = bind_with(&m, config, &err);
        ck_assert_msg(st == (cases[i].text ? ERR_FORMAT : OK), "%d: %s", cases[i].zero, err.text);
        ck_assert_msg(!cases[i].text || strstr(err.text, cases[i].text), "%s", err.text);
    }
}
END_TEST

START_TEST(views_pick_rows_of_the_module) {
    static uint8_t bytes[1024];
    float all[32 * 64], some[10 * 64], turned[64 * 10];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 37 ^ i >> 5);
    uint16_t scales[64];
    for (int i = 0; i < 64; i++) scales[i] = f32_to_f16((float)(i + 1) / 64);
    maker m = {0};
    add(&m, "x.qweight", "I32", "8,32", bytes, 1024);
    add(&m, "x.qzeros", "I32", "2,4", bytes, 32);
    add(&m, "x.scales", "F16", "2,32", scales, 128);
    checkpoint c = maker_open(&m, "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32}");
    arch_tensor whole = place("x.weight", 32, 64), cut = whole, across = whole;
    cut.rows = across.cols = 10;
    cut.view = across.view = (row_view){3, 5, 14}; /* rows 3 .. 7 and 17 .. 21 */
    across.rows = 64;
    across.transpose_view = true;
    const arch_tensor *tensors[3] = {&whole, &cut, &across};
    float *out[3] = {all, some, turned};
    for (int i = 0; i < 3; i++) {
        row_source *s;
        const st_tensor *first;
        error err;
        ck_assert_msg(quant_module_bind(&c, tensors[i], true, NULL, &s, &first, &err) == OK, "%s",
                      err.text);
        s->read(s, 0, 7, out[i]);
        s->read(s, 7, s->rows - 7, out[i] + 7 * s->cols);
        row_source_free(s);
    }
    for (int r = 0; r < 10; r++)
        for (int k = 0; k < 64; k++) {
            float want = all[(3 + r / 5 * 14 + r % 5) * 64 + k];
            ck_assert(some[r * 64 + k] == want && turned[k * 10 + r] == want);
        }
    ck_assert(memcmp(all, all + 64, 256) != 0);
    maker_close(&m, &c);
}
END_TEST

START_TEST(orders_and_lists_are_held_against_tensors) {
    static char zeros[256];
    error err;
    int32_t order[32] = {0};
    order[31] = 2; /* there are groups 0 and 1 */
    for (int how = 0; how < 2; how++) {
        maker m = {0};
        add(&m, "x.qweight", "I32", "4,8", zeros, 128);
        add(&m, "x.qzeros", "I32", "2,1", zeros, 8);
        add(&m, "x.scales", "F16", "2,8", zeros, 32);
        if (how == 0) add(&m, "x.g_idx", "I32", "32", order, sizeof order);
        const char *config = how == 0 ? "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":16}"
                                      : "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":16,"
                                        "\"dynamic\":{\"-:x\":{}}}";
        ck_assert(bind_with(&m, config, &err) == ERR_FORMAT);
        ck_assert_msg(
            strstr(err.text, how == 0 ? "x.g_idx\": column 31 is of group 2" : "left out"), "%s",
            err.text);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("quant_module");
    TCase *tc = tcase_create("quant_module");
    tcase_add_test(tc, shared_golden_modules_have_their_values);
    tcase_add_test(tc, patterns_match_as_python_does);
    tcase_add_test(tc, expressions_are_bounded_together);
    tcase_add_test(tc, activations_of_8_bit_floats);
    tcase_add_test(tc, configs_are_refused_by_key);
    tcase_add_test(tc, damaged_modules_are_refused_by_tensor);
    tcase_add_test(tc, fixed_zero_points_are_of_8_bits);
    tcase_add_test(tc, views_pick_rows_of_the_module);
    tcase_add_test(tc, orders_and_lists_are_held_against_tensors);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
