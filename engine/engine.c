/* Opening a model: read what is small (engine_resolve.c), decide everything (engine_plan.c), say it
 * (on_plan), refuse or allocate, then load. */
#include "engine/engine.h"

#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "engine/engine_internal.h"
#include "engine/kvswap.h"
#include "engine/loader.h"
#include "engine/packed_cache.h"

static status check_len(const engine *e, const engine_options *o, error *err) {
    if (o->max_model_len > e->a->ctx_max)
        return error_set(err, ERR_INVALID,
                         "max_model_len %d is over the model's %d positions (config.json)",
                         o->max_model_len, e->a->ctx_max);
    return OK;
}

status engine_allocate(engine *e, error *err) {
    TRY(weights_alloc(&e->w, err));
    e->kv = (kvcache){
        .b = e->b, .shape = engine_cache_shape(e), .n_pages = e->plan.n_pages + e->graphs};
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
                     .max_picks = e->max_picks,
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
    for (int32_t i = 0; i < e->n_samplers; i++) e->samplers[i] = sampler_new(e->a->vocab);
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

/* Without memory for the weights: what quantising them costs in accuracy. */
static status measure_quantised(engine *e, const engine_options *o, error *err) {
    loader_options l = {
        .n_threads = e->b->n_threads, .measure_only = true, .progress = o->progress, .ctx = o->ctx};
    return loader_run(&e->w, &e->ckpt, &l, err);
}

/* Read and pack, or read what was packed before; notes: lines for people. */
static status read_weights(engine *e, const engine_options *o, strbuf *notes, error *err) {
    loader_options l = {.n_threads = e->b->n_threads, .progress = o->progress, .ctx = o->ctx};
    packed_cache cache = {0};
    error why;
    if (!o->packed_cache) return loader_run(&e->w, &e->ckpt, &l, err);
    TRY(packed_cache_open(o->packed_cache, o->model_dir, &e->w, &e->ckpt, &cache, err));
    status st = packed_cache_read(&cache, &e->w, e->b->n_threads, &why);
    if (st == OK) {
        strbuf_addf(notes, "packed weights read from %s\n", cache.path);
        packed_cache_done(&cache);
        return OK;
    }
    if (st != ERR_NOT_FOUND) strbuf_addf(notes, "packed weights not used: %s\n", why.text);
    st = loader_run(&e->w, &e->ckpt, &l, err);
    if (st == OK) {
        if (packed_cache_write(&cache, &e->w, &why) == OK)
            strbuf_addf(notes, "packed weights written to %s\n", cache.path);
        else
            strbuf_addf(notes, "packed weights not written: %s\n", why.text);
    }
    packed_cache_done(&cache);
    return st;
}

status engine_load(engine *e, const engine_options *o, error *err) {
    strbuf notes = {0};
    status st = read_weights(e, o, &notes, err);
    if (st == OK && notes.n && o->on_loaded) o->on_loaded(o->ctx, strbuf_str(&notes));
    strbuf_done(&notes);
    TRY(st);
    checkpoint_rest(&e->ckpt);
    take_rope_factors(e);
    if (o->merge_lora) TRY(adapter_merge(o->merge_lora, &e->w, &e->ckpt, err));
    if (e->w.quantize && o->on_loaded) {
        strbuf text = {0};
        quantize_report(&e->w, &text);
        o->on_loaded(o->ctx, strbuf_str(&text));
        strbuf_done(&text);
    }
    e->loaded = true;
    return OK;
}

static status open_all(engine *e, const engine_options *o, error *err) {
    TRY(engine_resolve(e, o, err));
    if (e->config_only) {
        e->info.n_params = arch_n_params(e->a);
        return OK;
    }
    TRY(engine_plan_weights(e, o, err));
    TRY(check_len(e, o, err));
    TRY(engine_plan_memory(e, o, err));
    if (o->on_plan) {
        strbuf text = {0};
        strbuf_addf(&text, "device        %s\n", e->info.backend);
        if (e->info.is_quant) strbuf_addf(&text, "quant math    %s\n", engine_quant_math(&e->info));
        if (e->device_note.n) strbuf_addf(&text, "  (" STR_FMT ")\n", STR_ARG(e->device_note));
        memplan_print(&e->plan, &text);
        o->on_plan(o->ctx, strbuf_str(&text));
        strbuf_done(&text);
    }
    if (o->plan_only) return e->w.quantize ? measure_quantised(e, o, err) : OK;
    if (e->plan_status != OK) {
        if (err) *err = e->plan_error;
        return e->plan_status;
    }
    TRY(engine_allocate(e, err));
    TRY(engine_load(e, o, err));
    return o->draft_dir ? engine_draft_open(e, o, err) : OK;
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
    engine_free(e->draft);
    engine_steps_free(e);
    for (int32_t i = 0; i < e->n_samplers; i++) sampler_free(e->samplers[i]);
    sample_device_free(e->device_sampler);
    engine_adapters_done(e);
    forward_done(&e->f);
    kvswap_done(&e->kv);
    kvcache_done(&e->kv);
    weights_done(&e->w);
    if (!e->is_guest) backend_close(e->b);
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

static void engine_enter(void *self) {
    const engine *e = self;
    if (e->b->v->enter) e->b->v->enter(e->b);
}

stepper engine_stepper(engine *e) {
    CHECK(e->loaded);
    return (stepper){.self = e,
                     .depth = e->depth,
                     .launch = engine_launch,
                     .collect = engine_collect,
                     .enter = engine_enter,
                     .page_tokens = e->kv.page_tokens,
                     .n_pages = e->plan.n_pages,
                     .n_host_pages = e->kv.n_slots,
                     .page_move_us = e->kv.move_us,
                     .max_tokens = e->max_tokens,
                     .max_seqs = e->max_seqs,
                     .max_model_len = e->plan.len,
                     .vocab = e->a->vocab,
                     .on_cpu = e->b->host_memory,
                     .whole_prompt = arch_whole_prompt(e->a),
                     .kv_class = engine_kv_class};
}
