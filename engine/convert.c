/* A target tensor is made of the slots that its parts stand for: for each part, rows of the slot
 * are read from the source and put where the target's view, stack or transposition wants them.
 * Rotary styles differ between containers (llama.cpp permutes rows of q and k for some families),
 * so rows of q and k are renumbered when the two sides rotate other pairs. */
#include "engine/convert_plan.h"

#include <stdio.h>
#include <string.h>

#include "engine/adapter.h"
#include "engine/base/file.h"
#include "engine/base/map.h"
#include "engine/base/mem.h"
#include "engine/model_config.h"

/* Rows */

static const rope_spec *rope_of(const arch *a, int32_t layer) {
    int32_t r = layer >= 0 ? a->layers[layer].attn.rope : -1;
    return r >= 0 ? &a->ropes[r] : NULL;
}

/* The source's row of the target's row: dimension 2j of a PAIR head is j of a HALF head, 2j+1 is
 * j + rotated/2. */
static int32_t source_row(const convert_plan *p, const arch_tensor *t, int32_t row) {
    const arch *a = p->to;
    const rope_spec *to = rope_of(a, t->layer), *from = rope_of(p->e->a, t->layer);
    int32_t d = a->head_dim, rotated = (a->n_heads + a->n_kv_heads) * d;
    bool is_q_or_k = (t->slot == W_QKV || t->slot == W_QKV_BIAS) && row < rotated;
    if (!is_q_or_k || !to || !from || to->style == from->style) return row;
    int32_t half = to->dim / 2, head = row / d * d, k = row % d;
    if (k >= to->dim) return row;
    return head + (to->style == ROPE_PAIR ? k / 2 + k % 2 * half : k % half * 2 + k / half);
}

static size_t place_of(const arch_tensor *t, int32_t row, int32_t col) {
    int64_t n = t->transpose_view ? col : row, cols = MAX(t->cols, 1);
    int64_t picked = t->view.start + n / t->view.run * t->view.stride + n % t->view.run;
    int64_t width = t->transpose_view ? t->rows : cols;
    int64_t base = (int64_t)t->stack * t->src_rows * width;
    if (t->transpose) return (size_t)(base + col * t->src_rows + picked);
    return (size_t)(base + picked * width + (t->transpose_view ? row : col));
}

#define BLOCK_ROWS 64

/* Rows of the target that are neighbours in the source too, BLOCK_ROWS at most. */
static int32_t run_of(const convert_plan *p, const arch_tensor *t, int32_t row) {
    int32_t n = 1, from = source_row(p, t, t->row0 + row);
    while (n < BLOCK_ROWS && row + n < t->rows && source_row(p, t, t->row0 + row + n) == from + n)
        n++;
    return n;
}

static status fill_part(const convert_plan *p, const arch_tensor *t, float *ret, error *err) {
    int32_t cols = MAX(t->cols, 1), n;
    float *rows = mem_alloc(BLOCK_ROWS * (size_t)cols * sizeof *rows);
    float less = t->xform == XFORM_PLUS_ONE ? 1 : 0;
    status st = OK;
    for (int32_t r = 0; r < t->rows && st == OK; r += n) {
        n = run_of(p, t, r);
        st = slot_read(&p->r, t->layer, t->slot, t->item, source_row(p, t, t->row0 + r), n, rows,
                       err);
        for (int32_t i = 0; i < n && st == OK; i++)
            for (int32_t k = 0; k < cols; k++)
                ret[place_of(t, r + i, k)] = rows[(size_t)i * (size_t)cols + (size_t)k] - less;
    }
    mem_free(rows);
    return st;
}

status convert_fill(void *plan, int32_t i, float *ret, error *err) {
    const convert_plan *p = plan;
    memset(ret, 0, (size_t)tensor_out_count(&p->outs[i]) * sizeof *ret);
    for (int32_t k = 0; k < p->to->n_tensors; k++)
        if (p->out_of[k] == i) TRY(fill_part(p, &p->to->tensors[k], ret, err));
    return OK;
}

/* The list */

static bool is_bias(weight_slot s) {
    return str_ends(str_z(slot_infos[s].name), STR("_bias"));
}

static dtype out_type(const convert_plan *p, const arch_tensor *t) {
    if (p->o->dt != DT_COUNT) return p->o->dt;
    const weight *w = weights_at(&p->e->w, t->layer, t->slot);
    int32_t tensor = p->r.head[w - p->e->w.list + t->item];
    dtype dt = p->e->w.bind[tensor].st->dt;
    return dt < DT_COUNT && dtype_is_float(dt) ? dt : DT_F16;
}

/* Everything of the source must have a place. */
static status check_places(const convert_plan *p, error *err) {
    const arch *from = p->e->a;
    map places = {0};
    char key[64];
    status st = OK;
    for (int32_t i = 0; i < p->to->n_tensors; i++) {
        const arch_tensor *t = &p->to->tensors[i];
        snprintf(key, sizeof key, "%d %d %d", t->layer, (int)t->slot, t->item);
        map_put(&places, str_z(key), 1);
    }
    for (int32_t i = 0; i < from->n_tensors && st == OK; i++) {
        const arch_tensor *t = &from->tensors[i];
        uint64_t at;
        if (t->slot == W_ROPE_FACTORS) continue;
        snprintf(key, sizeof key, "%d %d %d", t->layer, (int)t->slot, t->item);
        if (!map_get(&places, str_z(key), &at))
            st = error_set(err, ERR_UNSUPPORTED, "%s: tensor \"%s\" has no place in family %s",
                           p->o->model, t->name, p->to->family);
    }
    map_done(&places);
    return st;
}

status convert_list(convert_plan *p, error *err) {
    const arch *a = p->to;
    map seen = {0};
    status st = check_places(p, err);
    p->outs = mem_calloc((size_t)a->n_tensors + 1, sizeof *p->outs);
    p->out_of = mem_alloc(((size_t)a->n_tensors + 1) * sizeof *p->out_of);
    for (int32_t i = 0; i < a->n_tensors && st == OK; i++) {
        const arch_tensor *t = &a->tensors[i];
        uint64_t at;
        p->out_of[i] = -1;
        bool made = t->slot == W_ROPE_FACTORS; /* convert_gguf.c computes it */
        if (!made && !slot_reader_has(&p->r, t->layer, t->slot, t->item)) {
            if (!is_bias(t->slot))
                st = error_set(err, ERR_UNSUPPORTED,
                               "%s: family %s needs \"%s\" (%s), which the model does not have",
                               p->o->model, a->family, t->name, slot_infos[t->slot].name);
            continue;
        }
        if (!map_get(&seen, str_z(t->name), &at)) {
            at = (uint64_t)p->n_outs++;
            map_put(&seen, str_z(t->name), at);
            tensor_out *o = &p->outs[at];
            *o = (tensor_out){.name = t->name, .dt = made ? DT_F32 : out_type(p, t)};
            o->n_dims = arch_tensor_dims(t, o->dims);
        }
        p->out_of[i] = (int32_t)at;
    }
    map_done(&seen);
    return st;
}

/* The source */

/* Biases that only the adapter has would have no place. */
static status check_biases(const convert_plan *p, error *err) {
    const arch *a = p->e->a;
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        weight_slot bias = (weight_slot)(t->slot + 1);
        if (p->merge.bias_of[i] < 0 || slot_reader_has(&p->r, t->layer, bias, t->item)) continue;
        float *none =
            mem_calloc((size_t)weights_at(&p->e->w, t->layer, t->slot)->rows, sizeof *none);
        bool changed = adapter_merge_bias(&p->merge, t->layer, t->slot, false, none);
        mem_free(none);
        if (changed)
            return error_set(
                err, ERR_UNSUPPORTED,
                "%s: has a bias for \"%s\", which the base has not: it cannot be merged",
                p->o->adapter, t->name);
    }
    return OK;
}

static status open_adapter(convert_plan *p, error *err) {
    TRY(adapter_pair_open(p->o->adapter, &p->e->w, &p->e->ckpt, &p->merge, err));
    p->r.merge = &p->merge;
    if (p->merge.source.config.kind <= ADAPTER_IA3) return check_biases(p, err);
    return error_set(err, ERR_UNSUPPORTED,
                     "%s: an adapter of kind %s is no change of the weights: it cannot be merged",
                     p->o->adapter, adapter_kind_name(p->merge.source.config.kind));
}

static status open_source(convert_plan *p, error *err) {
    engine_options eo = {.model_dir = p->o->model,
                         .register_path = p->o->register_path,
                         .n_threads = 1,
                         .merge_lora = p->o->adapter, /* planned with its vocabulary */
                         .plan_only = true};
    TRY(engine_open(&eo, &p->e, err));
    if (p->e->ckpt.config) {
        p->config = json_incref(p->e->ckpt.config);
    } else {
        char *path = path_join(p->o->model, "config.json");
        status st = model_config_read(path, &p->config, err);
        mem_free(path);
        TRY(st);
    }
    if (p->o->adapter) adapter_set_vocab(p->config, engine_info(p->e)->vocab);
    TRY(family_match(&p->e->families, p->config, p->o->model, &p->f, err));
    TRY(slot_reader_open(&p->e->w, &p->e->ckpt, &p->r, err));
    return p->o->adapter ? open_adapter(p, err) : OK;
}

status convert_run(const convert_options *o, error *err) {
    convert_plan p = {.o = o};
    bool gguf = str_ends(str_z(o->out), STR(".gguf"));
    status st = open_source(&p, err);
    if (st == OK) st = gguf ? convert_to_gguf(&p, err) : convert_to_hf(&p, err);
    adapter_pair_done(&p.merge);
    slot_reader_done(&p.r);
    arch_free(p.to);
    mem_free(p.outs);
    mem_free(p.out_of);
    json_decref(p.config);
    engine_free(p.e);
    return st;
}
