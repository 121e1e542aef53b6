/* What a model takes: types, the backend, and how its memory is divided, before any of it is
 * allocated. */
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "engine/loader.h"
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

/* exact, native or auto. Auto on the CPU is its own way to multiply codes and no more: it gains
 * nothing from what else a checkpoint is made for, 16-bit or FP8 units. */
static status choose_math(const engine *e, const char *s, quant_how *ret, error *err) {
    bool is_auto = !s || strcmp(s, "auto") == 0, is_native = s && strcmp(s, "native") == 0;
    if (!is_auto && !is_native && strcmp(s, "exact") != 0)
        return error_set(err, ERR_INVALID, "quant_math: \"%s\" is not one of auto, exact, native",
                         s);
    ret->math = is_native || (is_auto && !e->b->host_memory) ? e->math : DT_F32;
    ret->codes = is_native || is_auto;
    return OK;
}

/* f32 where the weights are, else bf16. What goes with quantised matrices says what they are
 * computed in: f16, the usual of GPTQ and AWQ, has bits that bf16 pages would drop, unless the
 * products round to 16 bits anyway. */
static dtype auto_kv(const weights *w, dtype quant_math) {
    const weight *embed = weights_at(w, -1, W_EMBED);
    if (!dtype_is_quant(w->dt)) return w->dt == DT_F32 ? DT_F32 : DT_BF16;
    bool is_wide = embed && (embed->dt == DT_F16 || embed->dt == DT_F32);
    return is_wide && quant_math == DT_F32 ? DT_F32 : DT_BF16;
}

static status choose_library(const engine *e, const char *name, error *err) {
    if (!name || strcmp(name, "own") == 0) return OK;
    if (strcmp(name, "cublaslt") != 0)
        return error_set(err, ERR_INVALID, "gemm_library: \"%s\" is not own or cublaslt", name);
    if (e->b->v->use_library) return e->b->v->use_library(e->b, err);
    return error_set(err, ERR_INVALID, "gemm_library cublaslt is for GPUs, this runs on %s: %s",
                     e->b->name, e->b->device);
}

/* What products read and how many weights they multiply by. */
static void count_matrices(const weights *w, model_info *m) {
    const weight *head = weights_at(w, -1, W_HEAD);
    for (int32_t i = 0; i < w->n_list; i++) {
        const weight *p = &w->list[i];
        if (p->n_parts == 0) continue;
        m->matrix_bytes += p->bytes;
        m->matrix_params += (int64_t)p->rows * p->cols;
    }
    if (head) m->head_params = (int64_t)head->rows * head->cols;
}

status engine_plan_weights(engine *e, const engine_options *o, error *err) {
    device_options device = {.device = o->device,
                             .cpu = {.n_threads = o->n_threads, .isa = o->isa, .pin = o->pin},
                             .note = &e->device_note};
    dtype want = DT_COUNT, kv = DT_COUNT;
    quantize_kind quantize;
    TRY(parse_dtype("dtype", weight_types, ARRAY_LEN(weight_types), o->dtype, &want, err));
    TRY(parse_dtype("kv_cache_dtype", kv_types, ARRAY_LEN(kv_types), o->kv_dtype, &kv, err));
    TRY(quantize_parse(o->quantize, &quantize, err));
    if (!e->b) TRY(device_open(&device, &e->b, err));
    TRY(choose_library(e, o->gemm_library, err));
    model_info *m = &e->info;
    quant_how how;
    TRY(choose_math(e, o->quant_math, &how, err));
    weights_options wo = {want, how, quantize, .own_table = o->merge_lora != NULL};
    TRY(weights_plan(e->a, &e->ckpt, e->b, &wo, &e->w, err));
    m->quant_math = how.math;
    for (int32_t i = 0; i < e->w.n_mats; i++) {
        m->is_quant |= dtype_is_quant(e->w.mats[i].dt);
        m->quant_codes |= e->w.mats[i].q.act == ACT_ROUND_INT8_GROUP;
    }
    m->n_params = e->w.n_params;
    count_matrices(&e->w, m);
    m->weight_dt = e->w.dt;
    m->kv_dt = kv != DT_COUNT ? kv : auto_kv(&e->w, m->quant_math);
    snprintf(m->backend, sizeof m->backend, "%s: %.80s", e->b->name, e->b->device);
    return OK;
}

kv_shape engine_cache_shape(const engine *e) {
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

void engine_plan_needs(engine *e, const engine_options *o) {
    memplan *p = &e->plan;
    kv_shape shape = engine_cache_shape(e);
    e->max_tokens = o->max_batched_tokens > 0 ? o->max_batched_tokens : 512;
    if (arch_whole_prompt(e->a)) /* any prompt that the context holds must fit a step */
        e->max_tokens = MAX(e->max_tokens, o->max_model_len > 0 ? o->max_model_len : e->a->ctx_max);
    e->max_seqs = MIN(o->max_seqs > 0 ? o->max_seqs : 64, e->max_tokens);
    e->n_tasks_max = e->max_tokens + e->max_seqs;
    bool host = e->b->host_memory, on_device = e->b->v->sample && e->a->has_head;
    int64_t picks = (int64_t)e->max_seqs * (1 + (host ? o->max_drafts : 0));
    e->max_picks = (int32_t)MIN(picks, e->max_tokens);
    e->depth = o->depth > 0 ? MIN(o->depth, FORWARD_STEPS_MAX) : host || !on_device ? 1 : 2;
    e->graphs = e->b->v->graphs && !(o->graphs && strcmp(o->graphs, "off") == 0);
    e->n_samplers = e->b->v->spread ? MIN(MIN(e->b->n_threads, e->max_seqs), SAMPLERS_MAX) : 1;
    forward_need need =
        forward_bytes(&e->w, e->graphs, e->max_tokens, e->max_seqs, e->max_picks, e->adapters_max);
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
        p->activations_fixed += (size_t)e->n_samplers * sampler_bytes(e->a->vocab) +
                                (size_t)e->n_tasks_max * sizeof(row_task);
    if (e->graphs) /* and the page of padding rows */
        p->activations_fixed +=
            forward_graph_bytes(e->a, e->max_seqs, e->adapters_max > 0) + p->page_bytes;
    if (on_device) {
        int32_t rows = forward_rows_at_once(host, e->a->vocab, e->max_picks);
        p->activations_fixed += sample_device_bytes(e->a->vocab, e->n_tasks_max, rows, e->depth);
    }
    if (e->b->v->scratch_bytes) {
        op_bounds most = engine_bounds(e, o->max_model_len > 0 ? o->max_model_len : e->a->ctx_max);
        p->activations_fixed += e->b->v->scratch_bytes(e->b, &most);
    }
    if (e->adapters_max > 0)
        p->activations_fixed += adapter_step_bytes(&e->w, e->max_tokens, e->lora_rank_max);
}

status engine_plan_memory(engine *e, const engine_options *o, error *err) {
    memplan *p = &e->plan;
    engine_plan_needs(e, o);
    if (o->draft_dir) TRY(engine_draft_plan(e, o, err));
    TRY(find_memory(e, p, err));
    find_swap(e, o, p);
    e->plan_status = memplan_decide(p, &e->plan_error);
    e->info.weight_bytes = p->weights;
    e->info.kv_bytes = p->kv;
    e->info.activation_bytes = p->activations;
    e->info.total_bytes = p->total;
    return OK;
}
