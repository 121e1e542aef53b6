/* The Hugging Face end: config.json and safetensors, in one file or in shards with an index.
 *
 * From a model of the same naming the config is copied, with another dtype and without its
 * quantization_config. From a GGUF file it is made: the family that the GGUF family names first
 * (`hf`) says under which key each variable belongs. */
#include <stdio.h>
#include <string.h>

#include "engine/arch_eval.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/convert_plan.h"

static bool source_has(void *ctx, const char *name) {
    return checkpoint_find(ctx, name) != NULL;
}
static bool all_there(void *ctx, const char *name) {
    return true;
}

static const family *family_named(const family_set *s, str name) {
    for (int i = 0; i < s->n; i++)
        if (str_eqz(name, s->list[i].name)) return &s->list[i];
    return NULL;
}

static json_t *json_of(value v) {
    if (v.kind == VAL_BOOL) return json_boolean(v.num != 0);
    if (v.kind == VAL_STR) return json_stringn(v.text.p, v.text.n);
    if (v.kind != VAL_NUM) return NULL;
    return v.num == (double)(json_int_t)v.num ? json_integer((json_int_t)v.num) : json_real(v.num);
}

/* Variables of `to` that a plain key gives, with the values that they have in the source. */
static status set_vars(const convert_plan *p, const family *to, json_t *config, error *err) {
    const json_t *mine = js_get(p->f->root, "vars");
    const char *name;
    json_t *list;
    arch_eval *e = mem_calloc(1, sizeof *e);
    status st = arch_eval_init(e, p->f, p->config, p->o->model,
                               (tensor_names){source_has, &p->e->ckpt}, err);
    json_object_foreach(js_get(to->root, "vars"), name, list) {
        const char *key = json_string_value(json_array_get(list, 0));
        value v;
        if (st != OK || !key || key[0] == '=' || strchr(key, '.') || !js_get(mine, name)) continue;
        if (js_get(config, key)) continue;
        if (arch_var_value(e, str_z(name), &v, NULL) != OK) continue; /* the family's default */
        json_t *x = json_of(v);
        if (x) json_object_set_new(config, key, x);
    }
    mem_free(e);
    return st;
}

static void copy_key(const convert_plan *p, json_t *config, const char *key) {
    json_t *v = json_object_get(p->config, key);
    if (v) json_object_set(config, key, v);
}

/* Files of GGUF show a bias by having it; configs of some families say so. */
static void set_biases(const convert_plan *p, json_t *config) {
    if (slot_reader_has(&p->r, 0, W_QKV_BIAS, 0))
        json_object_set_new(config, "attention_bias", json_true());
    if (slot_reader_has(&p->r, 0, W_UP_BIAS, 0))
        json_object_set_new(config, "mlp_bias", json_true());
}

static status factor_list(const convert_plan *p, weight_slot slot, int32_t n, json_t **ret,
                          error *err) {
    float *f = mem_alloc((size_t)n * sizeof *f);
    status st = slot_read(&p->r, -1, slot, 0, 0, n, f, err);
    *ret = json_array();
    for (int32_t i = 0; i < n && st == OK; i++) json_array_append_new(*ret, json_real(f[i]));
    mem_free(f);
    return st;
}

/* A GGUF file keeps llama3's scaling as a factor of each frequency. Configs can say that too: as
 * longrope whose two lists are the same and which scales nothing else. */
static status set_factors(const convert_plan *p, json_t *config, error *err) {
    const rope_spec *r = p->e->a->n_ropes ? &p->e->a->ropes[0] : NULL;
    json_t *list = NULL;
    if (!r || !r->weight_factors || !slot_reader_has(&p->r, -1, W_ROPE_FACTORS, 0)) return OK;
    TRY(factor_list(p, W_ROPE_FACTORS, r->dim / 2, &list, err));
    json_object_set_new(config, "rope_scaling",
                        json_pack("{s:s,s:O,s:O,s:f,s:f,s:i}", "rope_type", "longrope",
                                  "short_factor", list, "long_factor", list, "factor", 1.0,
                                  "attention_factor", 1.0, "original_max_position_embeddings",
                                  (int)r->ctx));
    json_decref(list);
    return OK;
}

static status config_of_gguf(const convert_plan *p, const family *to, json_t *config, error *err) {
    static const char *const keys[] = {"rope_theta",   "rope_scaling", "layer_types",
                                       "bos_token_id", "eos_token_id", "pad_token_id"};
    const json_t *match = js_get(to->root, "match");
    json_t *class = json_array_get(js_get(match, "architectures"), 0);
    json_t *type = json_array_get(js_get(match, "model_type"), 0);
    if (class) json_object_set_new(config, "architectures", json_pack("[O]", class));
    if (type) json_object_set(config, "model_type", type);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) copy_key(p, config, keys[i]);
    json_object_set_new(config, "tie_word_embeddings", json_boolean(p->e->a->tied));
    set_biases(p, config);
    TRY(set_factors(p, config, err));
    return set_vars(p, to, config, err);
}

static const char *dtype_word(dtype dt) {
    return dt == DT_F32 ? "float32" : dt == DT_BF16 ? "bfloat16" : "float16";
}

/* A GGUF file as family `to`: its config and p->to, if that is the same computation. */
static status try_family(convert_plan *p, const family *to, json_t **ret, error *err) {
    json_t *config = json_object();
    status st = config_of_gguf(p, to, config, err);
    if (st == OK)
        st = arch_resolve(to, config, "config.json", (tensor_names){all_there, NULL}, &p->to, err);
    const char *what = st == OK ? convert_difference(p->e->a, p->to) : NULL;
    if (what) st = error_set(err, ERR_UNSUPPORTED, "another %s", what);
    if (st == OK) {
        *ret = config;
        return OK;
    }
    error_prefix(err, "%s: a config.json of family %s cannot say this model", p->o->model,
                 to->name);
    arch_free(p->to);
    p->to = NULL;
    json_decref(config);
    return ERR_UNSUPPORTED;
}

/* The first family of `hf` that is the model's. */
static status target_of_gguf(convert_plan *p, json_t **ret, error *err) {
    const json_t *list = js_get(p->f->root, "hf");
    status st = error_set(err, ERR_UNSUPPORTED,
                          "%s: family %s does not say which Hugging Face family it is", p->o->model,
                          p->f->name);
    for (size_t i = 0; i < json_array_size(list) && st != OK; i++) {
        const family *to = family_named(&p->e->families, js_str(json_array_get(list, i)));
        if (to) st = try_family(p, to, ret, err);
    }
    return st;
}

static status target_of_hf(convert_plan *p, json_t **ret, error *err) {
    *ret = json_deep_copy(p->config);
    json_object_del(*ret, "quantization_config");
    return arch_resolve(p->f, *ret, "config.json", (tensor_names){source_has, &p->e->ckpt}, &p->to,
                        err);
}

static status put_config(convert_plan *p, json_t *config, error *err) {
    dtype dt = p->n_outs ? p->outs[p->n_outs / 2].dt : DT_F32;
    const char *key = js_get(config, "dtype") ? "dtype" : "torch_dtype";
    json_object_set_new(config, key, json_string(dtype_word(dt)));
    char *path = path_join(p->o->out, "config.json");
    char *text = json_dumps(config, JSON_INDENT(2));
    status st = file_write_atomic(path, str_z(text), err);
    free(text);
    mem_free(path);
    return st;
}

/* Shards */

static uint64_t bytes_of(const tensor_out *t) {
    return (uint64_t)tensor_out_count(t) * dtype_bytes(t->dt);
}

/* End of the shard that begins at `from`. */
static int32_t shard_end(const convert_plan *p, int32_t from) {
    uint64_t bytes = 0;
    int32_t i = from;
    for (; i < p->n_outs; i++) {
        bytes += bytes_of(&p->outs[i]);
        if (p->o->shard_bytes && bytes > p->o->shard_bytes && i > from) break;
    }
    return i;
}

static void shard_name(int32_t k, int32_t n, char *out, size_t size) {
    if (n == 1)
        snprintf(out, size, "model.safetensors");
    else
        snprintf(out, size, "model-%05d-of-%05d.safetensors", k + 1, n);
}

typedef struct shard {
    convert_plan *p;
    int32_t from;
} shard;

static status fill_shard(void *ctx, int32_t i, float *ret, error *err) {
    const shard *s = ctx;
    return convert_fill(s->p, s->from + i, ret, err);
}

static status put_index(const convert_plan *p, json_t *weight_map, error *err) {
    uint64_t total = 0;
    for (int32_t i = 0; i < p->n_outs; i++) total += bytes_of(&p->outs[i]);
    json_t *index = json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)total,
                              "weight_map", weight_map);
    char *path = path_join(p->o->out, "model.safetensors.index.json");
    char *text = json_dumps(index, JSON_INDENT(2));
    status st = file_write_atomic(path, str_z(text), err);
    free(text);
    mem_free(path);
    json_decref(index);
    return st;
}

static status put_weights(convert_plan *p, error *err) {
    int32_t n = 0;
    for (int32_t at = 0; at < p->n_outs; at = shard_end(p, at)) n++;
    json_t *weight_map = json_object();
    status st = OK;
    for (int32_t k = 0, at = 0; at < p->n_outs && st == OK; k++) {
        char name[64];
        int32_t end = shard_end(p, at);
        shard s = {p, at};
        shard_name(k, n, name, sizeof name);
        char *path = path_join(p->o->out, name);
        st = tensors_write_safetensors(path, p->outs + at, end - at, fill_shard, &s, err);
        for (int32_t i = at; i < end; i++)
            json_object_set_new(weight_map, p->outs[i].name, json_string(name));
        mem_free(path);
        at = end;
    }
    if (st == OK && n > 1) st = put_index(p, weight_map, err);
    json_decref(weight_map);
    return st;
}

status convert_to_hf(convert_plan *p, error *err) {
    json_t *config = NULL;
    bool gguf_source = p->e->ckpt.config != NULL;
    status st = gguf_source ? target_of_gguf(p, &config, err) : target_of_hf(p, &config, err);
    if (st == OK) st = convert_list(p, err);
    if (st == OK) st = model_dir_make(p->o->out, err);
    if (st == OK) st = put_weights(p, err);
    if (st == OK) st = put_config(p, config, err);
    json_decref(config);
    return st;
}
