/* The config comes from the family itself: each variable that a config key gives gets a small value
 * under that key, then the family's own `tiny` block (what its rules need beyond that) and the
 * user's keys. The tensors are those of the resolved arch, so nothing here knows a layer. */
#include "engine/tiny.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/arch.h"
#include "engine/base/file.h"
#include "engine/base/hash.h"
#include "engine/base/map.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/tensor_write.h"

static const struct {
    const char *var;
    int value;
} sizes[] = {
    {"H", 64},         {"L", 2},     {"nh", 4},  {"nkv", 2},  {"hd", 16},  {"ff", 96},
    {"V", TINY_VOCAB}, {"ctx", 128}, {"ne", 4},  {"topk", 2}, {"mff", 32}, {"ns", 1},
    {"sff", 32},       {"kvl", 32},  {"ql", 24}, {"dn", 16},  {"dr", 16},  {"dv", 16},
};

static void set_sizes(const family *f, json_t *config) {
    const json_t *vars = js_get(f->root, "vars");
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        const json_t *list = js_get(vars, sizes[i].var);
        const char *key = json_string_value(json_array_get(list, 0));
        if (key && key[0] != '=' && !strchr(key, '.'))
            json_object_set_new(config, key, json_integer(sizes[i].value));
    }
}

static void merge(json_t *config, const json_t *over) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)over, key, v) json_object_set(config, key, v);
}

static json_t *make_config(const family *f, const tiny_options *o) {
    json_t *c = json_object();
    const json_t *match = js_get(f->root, "match");
    const json_t *class = json_array_get(js_get(match, "architectures"), 0);
    const json_t *type = json_array_get(js_get(match, "model_type"), 0);
    if (class) json_object_set_new(c, "architectures", json_pack("[O]", (json_t *)class));
    if (type) json_object_set(c, "model_type", (json_t *)type);
    set_sizes(f, c);
    json_object_set_new(c, "bos_token_id", json_integer(256));
    json_object_set_new(c, "eos_token_id", json_integer(257));
    static const char *const names[] = {"float32", "float16", "bfloat16"};
    json_object_set_new(c, "torch_dtype",
                        json_string(names[o->dt == DT_F32   ? 0
                                          : o->dt == DT_F16 ? 1
                                                            : 2]));
    merge(c, js_get(f->root, "tiny"));
    merge(c, o->set);
    return c;
}

static status find_family(const family_set *s, const char *name, const family **ret, error *err) {
    strbuf known = {0};
    for (int i = s->n - 1; i >= 0; i--) {
        const json_t *archs = js_get(js_get(s->list[i].root, "match"), "architectures");
        bool hit = strcmp(s->list[i].name, name) == 0;
        for (size_t k = 0; k < json_array_size(archs); k++)
            hit |= str_eqz(js_str(json_array_get(archs, k)), name);
        if (hit) {
            *ret = &s->list[i];
            strbuf_done(&known);
            return OK;
        }
        strbuf_addf(&known, "%s%s", known.n ? ", " : "", s->list[i].name);
    }
    status st = error_set(err, ERR_NOT_FOUND, "no family \"%s\"; known: %s", name, known.p);
    strbuf_done(&known);
    return st;
}

static bool all_there(void *ctx, const char *name) {
    return true;
}

/* The checkpoint's tensors, each once. */
typedef struct plan {
    const arch *a;
    tensor_out *outs;
    int32_t *first; /* [n] the arch tensor that brought it */
    int32_t n;
    uint64_t seed;
} plan;

static void list_tensors(plan *p, dtype dt) {
    map seen = {0};
    const arch *a = p->a;
    p->outs = mem_calloc((size_t)a->n_tensors + 1, sizeof *p->outs);
    p->first = mem_calloc((size_t)a->n_tensors + 1, sizeof *p->first);
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        uint64_t at;
        if (map_get(&seen, str_z(t->name), &at)) continue;
        map_put(&seen, str_z(t->name), (uint64_t)p->n);
        tensor_out *o = &p->outs[p->n];
        *o = (tensor_out){.name = t->name, .dt = dt};
        o->n_dims = arch_tensor_dims(t, o->dims);
        p->first[p->n++] = i;
    }
    map_done(&seen);
}

/* Two uniform draws to one of the normal distribution. */
static float normal(uint64_t seed, uint64_t i) {
    double u = 1 - rng_uniform(seed, i, 0), v = rng_uniform(seed, i, 1);
    return (float)(sqrt(-2 * log(u)) * cos(2 * M_PI * v));
}

/* Norms near 1, vectors small, matrices so that products keep their size. */
static status fill_random(void *ctx, int32_t i, float *ret, error *err) {
    const plan *p = ctx;
    const arch_tensor *t = &p->a->tensors[p->first[i]];
    int64_t n = tensor_out_count(&p->outs[i]);
    const char *slot = slot_infos[t->slot].name;
    bool is_norm = strstr(slot, "norm") && !strstr(slot, "bias");
    float base = is_norm && t->xform != XFORM_PLUS_ONE ? 1 : 0;
    float spread = t->cols ? (float)(0.8 / sqrt(t->cols)) : 0.1f;
    if (slot_infos[t->slot].kind == SLOT_TABLE) spread = 0.5f;
    uint64_t seed = p->seed ^ hash64(t->name, strlen(t->name), 0);
    for (int64_t k = 0; k < n; k++) ret[k] = base + spread * normal(seed, (uint64_t)k);
    return OK;
}

static status write_config(const char *dir, json_t *config, error *err) {
    char *path = path_join(dir, "config.json");
    char *text = json_dumps(config, JSON_INDENT(2));
    status st = file_write_atomic(path, str_z(text), err);
    free(text);
    mem_free(path);
    return st;
}

static status write_weights(const arch *a, const tiny_options *o, error *err) {
    plan p = {.a = a, .seed = o->seed};
    char *path = path_join(o->dir, "model.safetensors");
    list_tensors(&p, o->dt);
    status st = tensors_write_safetensors(path, p.outs, p.n, fill_random, &p, err);
    mem_free(path);
    mem_free(p.outs);
    mem_free(p.first);
    return st;
}

status tiny_model_make(const tiny_options *o, error *err) {
    family_set set;
    const family *f = NULL;
    json_t *config = NULL;
    arch *a = NULL;
    TRY(family_set_load(o->register_path, &set, err));
    status st = find_family(&set, o->family, &f, err);
    if (st == OK) {
        config = make_config(f, o);
        st = arch_resolve(f, config, "config.json", (tensor_names){all_there, NULL}, &a, err);
    }
    if (st == OK) st = model_dir_make(o->dir, err);
    if (st == OK) st = write_weights(a, o, err);
    if (st == OK) st = write_config(o->dir, config, err);
    arch_free(a);
    json_decref(config);
    family_set_done(&set);
    return st;
}
