/* The GGUF end. The metadata is written from the resolved arch, read back as a config, and resolved
 * with the GGUF family: when that does not give the same computation as the source, the file would
 * lie, and the conversion is refused. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/convert_plan.h"
#include "engine/gguf.h"
#include "engine/gguf_write.h"

/* The family of GGUF files whose `hf` names this one. */
static const family *gguf_family(const convert_plan *p) {
    const family_set *s = &p->e->families;
    for (int i = 0; i < s->n; i++) {
        const json_t *list = js_get(s->list[i].root, "hf");
        for (size_t k = 0; k < json_array_size(list); k++)
            if (str_eqz(js_str(json_array_get(list, k)), p->f->name)) return &s->list[i];
    }
    return NULL;
}

typedef struct meta {
    gguf_writer g;
    char arch[64];
    char key[160];
} meta;

static const char *key_of(meta *m, const char *name) {
    snprintf(m->key, sizeof m->key, "%s.%s", m->arch, name);
    return m->key;
}

static void put_int(meta *m, const char *name, int32_t value) {
    gguf_put_u32(&m->g, key_of(m, name), (uint32_t)value);
}

static void put_real(meta *m, const char *name, double value) {
    gguf_put_f32(&m->g, key_of(m, name), (float)value);
}

static void put_dims(meta *m, const arch *a) {
    put_int(m, "vocab_size", a->vocab);
    put_int(m, "context_length", a->n_ropes ? a->ropes[0].ctx : a->ctx_max);
    put_int(m, "embedding_length", a->hidden);
    put_int(m, "block_count", a->n_layers);
    put_int(m, "feed_forward_length", a->ffn);
    put_int(m, "attention.head_count", a->n_heads);
    put_int(m, "attention.head_count_kv", a->n_kv_heads);
    if (a->attn == ATTN_GQA) {
        put_int(m, "attention.key_length", a->head_dim);
        put_int(m, "attention.value_length", a->head_dim);
    } else {
        put_int(m, "attention.kv_lora_rank", a->latent);
        if (a->q_rank) put_int(m, "attention.q_lora_rank", a->q_rank);
        put_int(m, "attention.key_length_mla", a->nope_width + a->rope_width);
        put_int(m, "attention.value_length_mla", a->v_width);
        put_int(m, "attention.key_length", a->latent + a->rope_width);
        put_int(m, "attention.value_length", a->latent);
    }
    put_real(m,
             a->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                 : "attention.layer_norm_epsilon",
             a->eps);
}

/* The layer whose attention stands for those of its kind: the first with a window, else the first.
 */
static const arch_attn *windowed(const arch *a) {
    for (int32_t l = 0; l < a->n_layers; l++)
        if (a->layers[l].attn.window) return &a->layers[l].attn;
    return &a->layers[0].attn;
}

static void put_attention(meta *m, const arch *a) {
    const arch_attn *w = windowed(a);
    bool all = true, *pattern = mem_calloc((size_t)a->n_layers, sizeof *pattern);
    for (int32_t l = 0; l < a->n_layers; l++) all &= pattern[l] = a->layers[l].attn.window > 0;
    if (w->window) put_int(m, "attention.sliding_window", w->window);
    if (w->window && !all)
        gguf_put_bools(&m->g, key_of(m, "attention.sliding_window_pattern"), pattern,
                       (uint64_t)a->n_layers);
    mem_free(pattern);
    if (w->softcap > 0) put_real(m, "attn_logit_softcapping", w->softcap);
    if (w->clip > 0) put_real(m, "attention.clamp_kqv", w->clip);
    if (a->logit_softcap > 0) put_real(m, "final_logit_softcapping", a->logit_softcap);
    if (a->logit_scale != 1) put_real(m, "logit_scale", a->logit_scale);
    if (a->alibi) put_real(m, "attention.max_alibi_bias", 8);
    if (a->layers[0].parallel) gguf_put_bool(&m->g, key_of(m, "use_parallel_residual"), true);
}

static void put_rope(meta *m, const arch *a) {
    static const char *const kinds[] = {NULL, "linear", NULL, NULL, "yarn", "longrope", NULL};
    if (a->n_ropes == 0) return;
    const rope_spec *r = &a->ropes[a->n_ropes > 1 && windowed(a)->rope == 0 ? 1 : 0];
    put_int(m, "rope.dimension_count", r->dim);
    put_real(m, "rope.freq_base", r->theta);
    if (a->n_ropes > 1) put_real(m, "rope.freq_base_swa", a->ropes[windowed(a)->rope].theta);
    if (!kinds[r->scaling]) return;
    gguf_put_str(&m->g, key_of(m, "rope.scaling.type"), str_z(kinds[r->scaling]));
    put_real(m, "rope.scaling.factor", r->factor);
    if (r->ctx_orig) put_int(m, "rope.scaling.original_context_length", r->ctx_orig);
    if (r->scaling == SCALE_YARN) {
        put_real(m, "rope.scaling.yarn_beta_fast", r->beta_fast);
        put_real(m, "rope.scaling.yarn_beta_slow", r->beta_slow);
        put_real(m, "rope.scaling.attn_factor", r->attention_factor / (0.1 * log(r->factor) + 1));
    }
}

static void put_experts(meta *m, const arch *a) {
    const arch_mlp *y = NULL;
    int32_t dense = 0;
    for (int32_t l = 0; l < a->n_layers && !y; l++)
        if (a->layers[l].mlp.kind == MLP_MOE)
            y = &a->layers[l].mlp;
        else
            dense++;
    if (!y) return;
    put_int(m, "expert_count", y->n_experts);
    put_int(m, "expert_used_count", y->top_k);
    put_int(m, "expert_feed_forward_length", y->ffn);
    if (dense) put_int(m, "leading_dense_block_count", dense);
    if (y->shared_ffn) {
        put_int(m, "expert_shared_feed_forward_length", y->shared_ffn);
        put_int(m, "expert_shared_count", MAX(y->shared_ffn / y->ffn, 1));
    }
    if (y->n_groups > 1) {
        put_int(m, "expert_group_count", y->n_groups);
        put_int(m, "expert_group_used_count", y->top_groups);
    }
    put_real(m, "expert_weights_scale", y->route_scale);
    gguf_put_bool(&m->g, key_of(m, "expert_weights_norm"), y->renorm);
    put_int(m, "expert_gating_func", 1 + (int32_t)y->score);
}

static void put_meta(meta *m, const convert_plan *p) {
    const arch *a = p->e->a;
    gguf_put_str(&m->g, "general.architecture", str_z(m->arch));
    gguf_put_str(&m->g, "general.name", path_base(p->o->model));
    put_dims(m, a);
    put_attention(m, a);
    put_rope(m, a);
    put_experts(m, a);
}

/* llama3's scaling is written as factors of the frequencies. */
static bool stores_factors(const convert_plan *p) {
    const rope_spec *r = p->e->a->n_ropes ? &p->e->a->ropes[0] : NULL;
    return r && (r->scaling == SCALE_LLAMA3 || r->weight_factors);
}

/* What the file will be read as. */
static status read_back(const meta *m, const convert_plan *p, json_t **ret, error *err) {
    strbuf head = {0};
    gguf g;
    gguf_header(&m->g, NULL, 0, &head);
    status st = gguf_parse((const uint8_t *)head.p, head.n, p->o->out, &g, err);
    if (st == OK) {
        st = gguf_config(&g, 1, p->o->out, ret, err);
        gguf_close(&g);
    }
    strbuf_done(&head);
    if (st != OK) return st;
    json_object_set_new(*ret, "vocab_size", json_integer(p->e->a->vocab));
    json_object_set_new(*ret, "tie_word_embeddings", json_boolean(p->e->a->tied));
    return OK;
}

static bool same_dims(const arch *a, const arch *b) {
    return a->n_layers == b->n_layers && a->hidden == b->hidden && a->n_heads == b->n_heads &&
           a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim && a->vocab == b->vocab &&
           a->attn == b->attn && a->latent == b->latent && a->rope_width == b->rope_width &&
           a->nope_width == b->nope_width && a->v_width == b->v_width;
}

static bool same_ends(const arch *a, const arch *b) {
    return a->embed_norm == b->embed_norm && a->proj_in == b->proj_in &&
           a->proj_out == b->proj_out && a->pos_embed == b->pos_embed &&
           (!a->pos_embed || a->pos_embed_offset == b->pos_embed_offset) &&
           a->type_embed == b->type_embed && a->final_norm == b->final_norm &&
           a->has_head == b->has_head;
}

const char *convert_difference(const arch *a, const arch *b) {
    if (!same_dims(a, b)) return "width or number of heads";
    if (!same_ends(a, b)) return "embedding or head";
    if (a->mask != b->mask || a->positions != b->positions) return "mask or positions";
    if (fabsf(a->eps - b->eps) > 1e-9f || a->norm != b->norm) return "norm";
    if (a->embed_scale != b->embed_scale) return "embedding scale";
    if (a->logit_scale != b->logit_scale || a->logit_softcap != b->logit_softcap ||
        a->pre_head_scale != b->pre_head_scale)
        return "logit scale";
    if (!a->alibi != !b->alibi) return "alibi";
    for (int32_t l = 0; l < a->n_layers; l++) {
        arch_layer x = a->layers[l], y = b->layers[l];
        if (x.attn.rope >= 0 && y.attn.rope >= 0) {
            const rope_spec *r = &a->ropes[x.attn.rope], *s = &b->ropes[y.attn.rope];
            if (fabs(r->theta - s->theta) > 1e-6 * r->theta || r->dim != s->dim) return "rope";
            if (r->scaling != s->scaling && !s->weight_factors && !r->weight_factors)
                return "rope scaling";
            x.attn.rope = y.attn.rope;
        }
        if (x.attn.rope != y.attn.rope) return "rope";
        if (fabsf(x.attn.scale - y.attn.scale) > 1e-6f * x.attn.scale) return "attention scale";
        if (x.attn.window != y.attn.window) return "attention window";
        if (x.attn.softcap != y.attn.softcap || x.attn.clip != y.attn.clip ||
            x.attn.qk_norm != y.attn.qk_norm || x.attn.logn_base != y.attn.logn_base ||
            x.attn.logn_beta != y.attn.logn_beta)
            return "attention";
        if (memcmp(&x.mlp, &y.mlp, sizeof x.mlp) != 0) return "feed-forward net";
        if (memcmp(&x.attn_branch, &y.attn_branch, sizeof x.attn_branch) != 0 ||
            memcmp(&x.mlp_branch, &y.mlp_branch, sizeof x.mlp_branch) != 0 ||
            x.parallel != y.parallel || x.shared_norm != y.shared_norm)
            return "residual";
    }
    return NULL;
}

/* What a family asks about the file that is to be written: projections apart, and what the model
 * itself has. */
static bool will_have(void *ctx, const char *name) {
    const convert_plan *p = ctx;
    const arch_layer *l = &p->e->a->layers[0];
    str s = str_z(name);
    if (str_eqz(s, "rope_freqs.weight")) return stores_factors(p);
    if (str_ends(s, STR(".attn_qkv.weight"))) return false;
    if (str_ends(s, STR(".attn_q_norm.weight"))) return l->attn.qk_norm != QK_NONE;
    if (str_ends(s, STR(".attn_norm_2.weight"))) return l->parallel && !l->shared_norm;
    if (str_ends(s, STR(".ffn_norm.weight"))) return !l->shared_norm;
    return true;
}

static status resolve_target(convert_plan *p, const meta *m, const family *f, error *err) {
    json_t *config = NULL;
    TRY(read_back(m, p, &config, err));
    status st = arch_resolve(f, config, p->o->out, (tensor_names){will_have, p}, &p->to, err);
    json_decref(config);
    if (st != OK) {
        error_prefix(err, "%s: GGUF of architecture \"%s\" cannot say this model", p->o->model,
                     m->arch);
        return ERR_UNSUPPORTED;
    }
    const char *what = convert_difference(p->e->a, p->to);
    if (!what) return OK;
    return error_set(err, ERR_UNSUPPORTED,
                     "%s: GGUF of architecture \"%s\" cannot say this model's %s", p->o->model,
                     m->arch, what);
}

/* llama3's scaling is stored as a factor of each frequency. */
static status fill(void *ctx, int32_t i, float *ret, error *err) {
    convert_plan *p = ctx;
    if (strcmp(p->outs[i].name, "rope_freqs.weight") != 0) return convert_fill(p, i, ret, err);
    rope_spec scaled = p->e->a->ropes[0], plain = scaled;
    int32_t n = scaled.dim / 2;
    float *f = mem_alloc(2 * (size_t)n * sizeof *f);
    plain.scaling = SCALE_NONE;
    plain.factors = plain.long_factors = NULL;
    rope_inv_freq(&scaled, 0, f);
    rope_inv_freq(&plain, 0, f + n);
    for (int32_t k = 0; k < n; k++) ret[k] = f[n + k] / f[k];
    mem_free(f);
    return OK;
}

static void set_types(convert_plan *p) {
    for (int32_t i = 0; i < p->n_outs; i++)
        if (p->outs[i].n_dims == 1) p->outs[i].dt = DT_F32;
}

status convert_to_gguf(convert_plan *p, error *err) {
    const family *f = gguf_family(p);
    meta m = {0};
    if (p->e->ckpt.config)
        return error_set(err, ERR_UNSUPPORTED, "%s: is GGUF already; convert it to a directory",
                         p->o->model);
    if (!f)
        return error_set(err, ERR_UNSUPPORTED, "%s: family %s has no GGUF counterpart", p->o->model,
                         p->f->name);
    str class = js_str(json_array_get(js_get(js_get(f->root, "match"), "architectures"), 0));
    snprintf(m.arch, sizeof m.arch, STR_FMT, STR_ARG(str_cut(class, 5, class.n)));
    put_meta(&m, p);
    status st = resolve_target(p, &m, f, err);
    if (st == OK) st = convert_list(p, err);
    if (st == OK) set_types(p);
    if (st == OK && p->o->add_tokenizer)
        st = p->o->add_tokenizer(p->o->ctx, p->e->a->vocab, &m.g, err);
    if (st == OK) st = gguf_write(p->o->out, &m.g, p->outs, p->n_outs, fill, p, err);
    gguf_writer_done(&m.g);
    return st;
}
