/* Opening a model: read what is small (config, headers), decide everything, say it (on_plan),
 * refuse or allocate, then load. */
#include "engine/engine.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "engine/engine_internal.h"
#include "engine/kvswap.h"
#include "engine/model_config.h"
#include "engine/loader.h"
#include "engine/pooling.h"
#include "engine/quant_config.h"
#include "engine/quant_module.h"
#include "kernels/device.h"
#include "kernels/kv8.h"

/* Headroom for what the plan does not count: program, tokenizer, requests. */
#define OTHER_BYTES ((size_t)64 << 20)

typedef struct type_name {
    const char *name;
    dtype dt;
} type_name;
static const type_name weight_types[] = {
    {"auto", DT_COUNT}, {"f32", DT_F32}, {"bf16", DT_BF16}, {"f16", DT_F16}};
static const type_name kv_types[] = {
    {"auto", DT_COUNT}, {"f32", DT_F32}, {"bf16", DT_BF16}, {"int8", DT_INT8}, {"fp8", DT_F8_E4M3}};

/* NULL is the first of the names. */
static status parse_dtype(const char *what, const type_name *names, size_t n, const char *s,
                          dtype *ret, error *err) {
    strbuf choices = {0};
    for (size_t i = 0; i < n; i++) {
        if (!s || strcmp(s, names[i].name) == 0) {
            *ret = names[i].dt;
            strbuf_done(&choices);
            return OK;
        }
        strbuf_addf(&choices, "%s%s", i ? ", " : "", names[i].name);
    }
    error_set(err, ERR_INVALID, "%s: \"%s\" is not one of " STR_FMT, what, s,
              STR_ARG(strbuf_str(&choices)));
    strbuf_done(&choices);
    return ERR_INVALID;
}

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

/* exact, native or auto as the type of products. */
static status choose_math(const engine *e, const char *s, dtype *ret, error *err) {
    bool is_auto = !s || strcmp(s, "auto") == 0, is_native = s && strcmp(s, "native") == 0;
    if (!is_auto && !is_native && strcmp(s, "exact") != 0)
        return error_set(err, ERR_INVALID, "quant_math: \"%s\" is not one of auto, exact, native",
                         s);
    *ret = is_native || (is_auto && !e->b->host_memory) ? e->math : DT_F32;
    return OK;
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

static status resolve(engine *e, const engine_options *o, error *err) {
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

/* f32 where the weights are, else bf16. What goes with quantised matrices says what they are
 * computed in: f16, the usual of GPTQ and AWQ, has bits that bf16 pages would drop. */
static dtype auto_kv(const weights *w) {
    const weight *embed = weights_at(w, -1, W_EMBED);
    bool is_wide = dtype_is_quant(w->dt) ? embed && (embed->dt == DT_F16 || embed->dt == DT_F32)
                                         : w->dt == DT_F32;
    return is_wide ? DT_F32 : DT_BF16;
}

static status choose_library(const engine *e, const char *name, error *err) {
    if (!name || strcmp(name, "own") == 0) return OK;
    if (strcmp(name, "cublaslt") != 0)
        return error_set(err, ERR_INVALID, "gemm_library: \"%s\" is not own or cublaslt", name);
    if (e->b->v->use_library) return e->b->v->use_library(e->b, err);
    return error_set(err, ERR_INVALID, "gemm_library cublaslt is for GPUs, this runs on %s: %s",
                     e->b->name, e->b->device);
}

static status plan_weights(engine *e, const engine_options *o, error *err) {
    device_options device = {.device = o->device,
                             .cpu = {.n_threads = o->n_threads, .isa = o->isa},
                             .note = &e->device_note};
    dtype want = DT_COUNT, kv = DT_COUNT;
    TRY(parse_dtype("dtype", weight_types, ARRAY_LEN(weight_types), o->dtype, &want, err));
    TRY(parse_dtype("kv_cache_dtype", kv_types, ARRAY_LEN(kv_types), o->kv_dtype, &kv, err));
    TRY(device_open(&device, &e->b, err));
    TRY(choose_library(e, o->gemm_library, err));
    model_info *m = &e->info;
    TRY(choose_math(e, o->quant_math, &m->quant_math, err));
    TRY(weights_plan(e->a, &e->ckpt, e->b, want, m->quant_math, &e->w, err));
    for (int32_t i = 0; i < e->w.n_mats; i++) m->is_quant |= dtype_is_quant(e->w.mats[i].dt);
    m->n_params = e->w.n_params;
    m->weight_dt = e->w.dt;
    m->kv_dt = kv != DT_COUNT ? kv : auto_kv(&e->w);
    snprintf(m->backend, sizeof m->backend, "%s: %.80s", e->b->name, e->b->device);
    return OK;
}

static kv_shape cache_shape(const engine *e) {
    const arch *a = e->a;
    kv_shape s = {a->n_layers, 2, a->n_kv_heads * a->head_dim, a->n_kv_heads, e->info.kv_dt};
    if (a->attn == ATTN_MLA) {
        s.n_buffers = 1;
        s.width = a->latent + a->rope_width;
        s.n_scales = KV8_LATENT_SCALES;
    }
    return s;
}

/* What is free where the model will be. */
static status find_memory(const engine *e, memplan *p, error *err) {
    size_t total;
    if (e->b->host_memory) {
        memplan_available(&p->available, &p->limited_by);
        return OK;
    }
    p->limited_by = "the device's free memory";
    return e->b->v->mem_info(e->b, &p->available, &total, err);
}

/* Why a second tier of the KV cache would be of no use; NULL: it is. */
static const char *no_swap(const engine *e, const engine_options *o) {
    if (e->b->host_memory && !o->kv_swap_forced)
        return "none: the CPU's KV cache is in the host's memory already";
    if (arch_whole_prompt(e->a))
        return "none: this model takes prompts whole, so its pages are not found again";
    return NULL;
}

static void find_swap(const engine *e, const engine_options *o, memplan *p) {
    const char *limited_by, *why = no_swap(e, o);
    p->swap_wanted = why && o->kv_swap_bytes == SIZE_MAX ? 0 : o->kv_swap_bytes;
    if (!p->swap_wanted) return;
    p->swap_why = why;
    memplan_available(&p->host_available, &limited_by);
    if (p->host_available != SIZE_MAX) p->host_available -= MIN(p->host_available, OTHER_BYTES);
}

static status plan_memory(engine *e, const engine_options *o, error *err) {
    memplan *p = &e->plan;
    kv_shape shape = cache_shape(e);
    e->max_tokens = o->max_batched_tokens > 0 ? o->max_batched_tokens : 512;
    if (arch_whole_prompt(e->a)) /* any prompt that the context holds must fit a step */
        e->max_tokens = MAX(e->max_tokens, o->max_model_len > 0 ? o->max_model_len : e->a->ctx_max);
    e->max_seqs = MIN(o->max_seqs > 0 ? o->max_seqs : 64, e->max_tokens);
    e->n_tasks_max = e->max_tokens + e->max_seqs;
    bool host = e->b->host_memory, on_device = e->b->v->sample && e->a->has_head;
    e->depth = o->depth > 0 ? MIN(o->depth, FORWARD_STEPS_MAX) : host || !on_device ? 1 : 2;
    e->graphs = e->b->v->graphs && !(o->graphs && strcmp(o->graphs, "off") == 0);
    forward_need need =
        forward_bytes(&e->w, e->graphs, e->max_tokens, e->max_seqs, e->adapters_max);
    *p = (memplan){
        .weights = e->w.bytes,
        .staging = host ? loader_staging_bytes(&e->w, e->b->n_threads) : 0,
        .activations_fixed = need.fixed,
        .activations_per_len = need.per_len,
        .other = OTHER_BYTES,
        .page_bytes = kvcache_page_bytes(&shape),
        .page_tokens = KV_PAGE_TOKENS,
        .kv_type = dtype_name(shape.dt),
        .ctx_max = e->a->ctx_max,
        .max_model_len = o->max_model_len,
        .max_seqs = e->max_seqs,
        .kv_wanted = o->kv_bytes,
        .kv_fraction = o->kv_fraction,
    };
    if (host)
        p->activations_fixed +=
            sampler_bytes(e->a->vocab) + (size_t)e->n_tasks_max * sizeof(row_task);
    if (e->graphs) /* and the page of padding rows */
        p->activations_fixed +=
            forward_graph_bytes(e->a, e->max_seqs, e->adapters_max > 0) + p->page_bytes;
    if (on_device) {
        int32_t rows = forward_rows_at_once(host, e->a->vocab, e->max_seqs);
        p->activations_fixed += sample_device_bytes(e->a->vocab, e->n_tasks_max, rows, e->depth);
    }
    if (e->b->v->scratch_bytes) {
        op_bounds most = engine_bounds(e, o->max_model_len > 0 ? o->max_model_len : e->a->ctx_max);
        p->activations_fixed += e->b->v->scratch_bytes(e->b, &most);
    }
    if (e->adapters_max > 0)
        p->activations_fixed += adapter_step_bytes(&e->w, e->max_tokens, e->lora_rank_max);
    TRY(find_memory(e, p, err));
    find_swap(e, o, p);
    e->plan_status = memplan_decide(p, &e->plan_error);
    e->info.weight_bytes = p->weights;
    e->info.kv_bytes = p->kv;
    e->info.activation_bytes = p->activations;
    e->info.total_bytes = p->total;
    return OK;
}

static status check_len(const engine *e, const engine_options *o, error *err) {
    if (o->max_model_len > e->a->ctx_max)
        return error_set(err, ERR_INVALID,
                         "max_model_len %d is over the model's %d positions (config.json)",
                         o->max_model_len, e->a->ctx_max);
    return OK;
}

static status allocate(engine *e, error *err) {
    TRY(weights_alloc(&e->w, err));
    e->kv = (kvcache){.b = e->b, .shape = cache_shape(e), .n_pages = e->plan.n_pages + e->graphs};
    TRY(kvcache_alloc(&e->kv, MAX(64, e->max_seqs), err));
    if (e->plan.n_host_pages > 0) {
        TRY(kvswap_alloc(&e->kv, e->plan.n_host_pages, err));
        TRY(kvswap_measure(&e->kv, err));
    }
    e->f = (forward){.a = e->a,
                     .w = &e->w,
                     .b = e->b,
                     .kv = &e->kv,
                     .max_tokens = e->max_tokens,
                     .max_seqs = e->max_seqs,
                     .max_model_len = e->plan.len,
                     .n_adapters = e->adapters_max,
                     .depth = e->depth,
                     .pad_page = e->graphs ? e->plan.n_pages : -1};
    TRY(forward_alloc(&e->f, err));
    if (e->adapters_max > 0)
        TRY(adapter_step_new(&e->w, &e->adapters, e->max_tokens, e->max_seqs, e->lora_rank_max,
                             e->adapters_max, &e->f.ad, err));
    if (e->b->v->sample && e->a->has_head)
        TRY(sample_device_new(e->b, e->a->vocab, e->n_tasks_max, e->f.n_rows, e->depth,
                              &e->device_sampler, err));
    if (e->b->v->reserve) {
        op_bounds most = engine_bounds(e, e->plan.len);
        TRY(e->b->v->reserve(e->b, &most, err));
    }
    e->sampler = sampler_new(e->a->vocab);
    return engine_steps_new(e, err);
}

/* Rope factors that the checkpoint stores as tensors (GGUF). */
static void take_rope_factors(engine *e) {
    backend *b = e->b;
    const float *first = weights_vec(&e->w, -1, W_ROPE_FACTORS);
    for (int32_t k = 0; k < e->a->n_ropes; k++) {
        rope_spec *r = &e->a->ropes[k];
        size_t bytes = (size_t)r->dim / 2 * sizeof(float);
        if (!r->weight_factors) continue;
        if (first) b->v->download(b, r->factors = mem_alloc(bytes), first, bytes);
        rope_inv_freq(r, 0, e->f.ropes[k].inv_freq);
    }
}

static status open_all(engine *e, const engine_options *o, error *err) {
    TRY(resolve(e, o, err));
    if (e->config_only) {
        e->info.n_params = arch_n_params(e->a);
        return OK;
    }
    TRY(plan_weights(e, o, err));
    TRY(check_len(e, o, err));
    TRY(plan_memory(e, o, err));
    if (o->on_plan) {
        strbuf text = {0};
        strbuf_addf(&text, "device        %s\n", e->info.backend);
        if (e->info.is_quant) strbuf_addf(&text, "quant math    %s\n", engine_quant_math(&e->info));
        if (e->device_note.n) strbuf_addf(&text, "  (" STR_FMT ")\n", STR_ARG(e->device_note));
        memplan_print(&e->plan, &text);
        o->on_plan(o->ctx, strbuf_str(&text));
        strbuf_done(&text);
    }
    if (o->plan_only) return OK;
    if (e->plan_status != OK) {
        if (err) *err = e->plan_error;
        return e->plan_status;
    }
    TRY(allocate(e, err));
    loader_options l = {.n_threads = e->b->n_threads, .progress = o->progress, .ctx = o->ctx};
    TRY(loader_run(&e->w, &e->ckpt, &l, err));
    checkpoint_rest(&e->ckpt);
    take_rope_factors(e);
    if (o->merge_lora) TRY(adapter_merge(o->merge_lora, &e->w, &e->ckpt, err));
    e->loaded = true;
    return OK;
}

status engine_open(const engine_options *o, engine **ret, error *err) {
    engine *e = mem_calloc(1, sizeof *e);
    pthread_mutex_init(&e->adapter_lock, NULL);
    e->adapters_max = MIN(o->adapters_max, LIMIT_ADAPTERS);
    e->lora_rank_max = MAX(o->lora_rank_max, 1);
    status st = open_all(e, o, err);
    if (st == OK)
        *ret = e;
    else
        engine_free(e);
    return st;
}

void engine_free(engine *e) {
    if (!e) return;
    engine_steps_free(e);
    sampler_free(e->sampler);
    sample_device_free(e->device_sampler);
    engine_adapters_done(e);
    forward_done(&e->f);
    kvcache_done(&e->kv);
    weights_done(&e->w);
    backend_close(e->b);
    strbuf_done(&e->device_note);
    checkpoint_done(&e->ckpt);
    arch_free(e->a);
    family_set_done(&e->families);
    mem_free(e);
}

const model_info *engine_info(const engine *e) {
    return &e->info;
}

/* Keys depend on the lengths that rope scaling is fixed for. */
static uint64_t engine_kv_class(void *self, int32_t n_prompt, int32_t max_len, int32_t id) {
    const engine *e = self;
    uint64_t class = 0;
    for (int32_t k = 0; k < e->a->n_ropes; k++)
        class = class * 1000003 + rope_class(&e->a->ropes[k], n_prompt, max_len);
    return class * 1000003 + engine_adapter_class(e, id);
}

stepper engine_stepper(engine *e) {
    CHECK(e->loaded);
    return (stepper){.self = e,
                     .depth = e->depth,
                     .launch = engine_launch,
                     .collect = engine_collect,
                     .page_tokens = e->kv.page_tokens,
                     .n_pages = e->plan.n_pages,
                     .n_host_pages = e->kv.n_slots,
                     .page_move_us = e->kv.move_us,
                     .max_tokens = e->max_tokens,
                     .max_seqs = e->max_seqs,
                     .max_model_len = e->plan.len,
                     .vocab = e->a->vocab,
                     .whole_prompt = arch_whole_prompt(e->a),
                     .kv_class = engine_kv_class};
}

static status check_ids(const engine *e, const int32_t *ids, int32_t n, error *err) {
    int32_t most = e->plan.len - e->logits_adapter.n_virtual;
    if (n < 1 || n > most) return error_set(err, ERR_INVALID, "%d ids: expected 1 to %d", n, most);
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->a->vocab)
            return error_set(err, ERR_INVALID, "id %d at position %d is not in [0, %d)", ids[i], i,
                             e->a->vocab);
    return OK;
}

/* Logits of rows [row0, n_rows) of one chunk. */
static void chunk_logits(engine *e, int32_t row0, int32_t n_rows, float *ret) {
    size_t v = (size_t)e->a->vocab;
    int32_t rows[FORWARD_ROWS_MAX];
    for (int32_t r = row0; r < n_rows;) {
        int32_t m = MIN(n_rows - r, e->f.n_rows);
        for (int32_t i = 0; i < m; i++) rows[i] = r + i;
        forward_head(&e->f, rows, m);
        forward_fetch_logits(&e->f, m);
        memcpy(ret, e->f.got.logits, (size_t)m * v * sizeof *ret);
        ret += (size_t)m * v;
        r += m;
    }
}

/* The adapter's virtual tokens, then the ids: fresh. */
static int32_t *with_virtual(const engine *e, const int32_t *ids, int32_t n) {
    int32_t n_virtual = e->logits_adapter.n_virtual;
    int32_t *all = mem_alloc((size_t)(n_virtual + n) * sizeof *all);
    for (int32_t i = 0; i < n_virtual; i++) all[i] = e->a->vocab + i;
    memcpy(all + n_virtual, ids, (size_t)n * sizeof *ids);
    return all;
}

static status run_logits(engine *e, const int32_t *ids, int32_t n, bool all, int32_t chunk,
                         float *ret, error *err) {
    int32_t first = e->logits_adapter.n_virtual, total = first + n, step = e->max_tokens;
    int32_t n_pages = CEIL_DIV(total, KV_PAGE_TOKENS);
    int32_t *pages = mem_alloc((size_t)n_pages * sizeof *pages), *known = with_virtual(e, ids, n);
    for (int32_t i = 0; i < n_pages; i++) pages[i] = i;
    if (chunk > 0) step = MIN(step, chunk);
    for (int32_t at = 0; at < total; at += step) {
        batch_seq s = {.ids = known,
                       .n_known = total,
                       .n_prompt = total,
                       .pos = at,
                       .n_tokens = MIN(step, total - at),
                       .pages = pages,
                       .max_len = total,
                       .adapter = e->logits_adapter.id};
        batch_plan plan = {.n_seqs = 1, .n_tokens = s.n_tokens, .seqs = &s};
        forward_run(&e->f, &plan);
        int32_t from = all ? MAX(first - at, 0) : total - 1 - at;
        if (from >= s.n_tokens) {
            (void)e->b->v->sync(e->b, NULL); /* before the next chunk is laid out over this one */
            continue;
        }
        chunk_logits(e, from, s.n_tokens, ret);
        ret += (size_t)(s.n_tokens - from) * (size_t)e->a->vocab;
    }
    mem_free(known);
    mem_free(pages);
    return e->b->v->sync(e->b, err);
}

status engine_logits(engine *e, const int32_t *ids, int32_t n, bool all, int32_t chunk, float *ret,
                     error *err) {
    CHECK(e->loaded);
    TRY(check_ids(e, ids, n, err));
    if (arch_whole_prompt(e->a)) chunk = 0;
    if (arch_whole_prompt(e->a) && n + e->logits_adapter.n_virtual > e->max_tokens)
        return error_set(err, ERR_INVALID,
                         "%d ids: this model takes a prompt in one step, of at most %d tokens", n,
                         e->max_tokens);
    if (!e->a->has_head)
        return error_set(err, ERR_UNSUPPORTED, "%s: a model without a head has no logits",
                         e->info.architecture);
    return run_logits(e, ids, n, all, chunk, ret, err);
}
