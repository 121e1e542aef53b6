/* What a model directory is: its config, family and checkpoint, the program of layers that they
 * make, and what people are told of it. */
#include <stdio.h>
#include <unistd.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "engine/model_config.h"
#include "engine/pooling.h"
#include "engine/quant_config.h"
#include "engine/quant_module.h"

/* Ids that end a text: those of config.json and of generation_config.json. */
static void add_eos(model_info *m, const json_t *v) {
    if (json_is_array(v)) {
        for (size_t i = 0; i < json_array_size(v); i++) add_eos(m, json_array_get(v, i));
        return;
    }
    if (!json_is_integer(v) || m->n_eos == (int32_t)ARRAY_LEN(m->eos_ids)) return;
    json_int_t id = json_integer_value(v);
    if (id < 0 || id >= m->vocab) return;
    for (int32_t i = 0; i < m->n_eos; i++)
        if (m->eos_ids[i] == id) return;
    m->eos_ids[m->n_eos++] = (int32_t)id;
}

static status read_special_ids(model_info *m, const char *dir, const json_t *config, error *err) {
    char *path = path_join(dir, "generation_config.json");
    json_t *gen = NULL;
    status st = file_exists(path) ? js_parse_file(path, LIMIT_CONFIG_BYTES, &gen, err) : OK;
    mem_free(path);
    TRY(st);
    add_eos(m, js_get(config, "eos_token_id"));
    add_eos(m, js_get(gen, "eos_token_id"));
    int64_t bos = js_get_int(config, "bos_token_id", js_get_int(gen, "bos_token_id", -1));
    m->bos_id = bos >= 0 && bos < m->vocab ? (int32_t)bos : -1;
    json_decref(gen);
    return OK;
}

static void fill_info(engine *e) {
    model_info *m = &e->info;
    const arch *a = e->a;
    snprintf(m->family, sizeof m->family, "%s", a->family);
    snprintf(m->architecture, sizeof m->architecture, "%s", a->architecture);
    m->n_layers = a->n_layers;
    m->hidden = a->hidden;
    m->n_heads = a->n_heads;
    m->n_kv_heads = a->n_kv_heads;
    m->head_dim = a->head_dim;
    m->ffn = a->ffn;
    m->vocab = a->vocab;
    m->ctx_max = a->ctx_max;
    m->tied = a->tied;
    m->has_head = a->has_head;
}

/* The type that products of a checkpoint are made for. GGUF files do not say; bf16 holds whatever
 * their models' activations are. */
static dtype native_math(const json_t *config) {
    const json_t *v =
        js_get(config, "dtype") ? js_get(config, "dtype") : js_get(config, "torch_dtype");
    str s = js_str(v);
    if (str_eq(s, STR("float16"))) return DT_F16;
    return str_eq(s, STR("float32")) ? DT_F32 : DT_BF16;
}

static bool has_tensor(void *ctx, const char *name) {
    return checkpoint_find(ctx, name) != NULL || quant_module_serves(ctx, name);
}

static void fill_chat_format(model_info *m, const family *f) {
    str name = js_get_str(js_get(f->root, "chat"), "template");
    if (name.n < sizeof m->chat_format) memcpy(m->chat_format, name.n ? name.p : "", name.n);
}

/* config.json of the directory, or what a GGUF file says of itself (its tensors are then known
 * already). ret_path is what errors name, in fresh memory. */
static status read_config(engine *e, const char *model, json_t **ret, char **ret_path, error *err) {
    if (checkpoint_has_config(model)) {
        TRY(checkpoint_open(model, &e->ckpt, err));
        *ret_path = mem_strdup(e->ckpt.files[0]);
        *ret = json_incref(e->ckpt.config);
        return OK;
    }
    if (!dir_exists(model))
        return error_set(err, ERR_NOT_FOUND, "%s: %s", model,
                         access(model, F_OK) == 0 ? "neither a model directory nor a GGUF file"
                                                  : "no such model directory");
    *ret_path = path_join(model, "config.json");
    /* Several GGUF files say better what is wrong than the config that is not there. */
    if (!file_exists(*ret_path) && checkpoint_has_weights(model))
        TRY(checkpoint_open(model, &e->ckpt, err));
    return model_config_read(*ret_path, ret, err);
}

/* The checkpoint's names; of a directory without weights, those that the family asks for. */
static status open_weights(engine *e, const engine_options *o, tensor_names *ret, error *err) {
    if (o->plan_only && dir_exists(o->model_dir) && !checkpoint_has_weights(o->model_dir)) {
        e->config_only = true;
        *ret = (tensor_names){arch_assumed_tensor, NULL};
        return OK;
    }
    if (!e->ckpt.n_files) TRY(checkpoint_open(o->model_dir, &e->ckpt, err));
    *ret = (tensor_names){has_tensor, &e->ckpt};
    return OK;
}

status engine_resolve(engine *e, const engine_options *o, error *err) {
    char *path = NULL;
    json_t *config = NULL;
    const family *f;
    quant_config *quant = NULL;
    tensor_names names;
    status st = read_config(e, o->model_dir, &config, &path, err);
    if (st == OK) e->math = native_math(config);
    if (st == OK) st = family_set_load(o->register_path, &e->families, err);
    if (st == OK) st = family_match(&e->families, config, path, &f, err);
    if (st == OK) st = quant_config_read(o->model_dir, path, config, &quant, err);
    if (st == OK) st = open_weights(e, o, &names, err);
    e->ckpt.quant = quant;
    if (st == OK && o->merge_lora) st = adapter_graft(o->merge_lora, &e->ckpt, config, err);
    if (st == OK) st = arch_resolve(f, config, path, names, &e->a, err);
    if (st == OK) {
        fill_info(e);
        fill_chat_format(&e->info, f);
        str pooling = js_get_str(e->ckpt.config, "pooling");
        if (!pooling.n) pooling = js_get_str(f->root, "pooling");
        st = pooling_read(o->model_dir, pooling, &e->info, err);
    }
    if (st == OK) {
        st = read_special_ids(&e->info, o->model_dir, config, err);
    }
    json_decref(config);
    mem_free(path);
    return st;
}
