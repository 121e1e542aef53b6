/* `pagoda inspect`: what a model directory is and what it would take. */
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/engine_internal.h"

static void add_size(strbuf *out, const char *name, size_t bytes) {
    char s[32];
    memplan_size(bytes, s, sizeof s);
    strbuf_addf(out, "%-14s %s\n", name, s);
}

static void ids_text(const model_info *m, char *out, size_t n) {
    strbuf b = {0};
    strbuf_addz(&b, m->n_eos ? "" : "none");
    for (int32_t i = 0; i < m->n_eos; i++) strbuf_addf(&b, "%s%d", i ? ", " : "", m->eos_ids[i]);
    snprintf(out, n, "%s", b.p);
    strbuf_done(&b);
}

static void describe_rope(const arch *a, strbuf *out) {
    static const char *const kinds[] = {"",       ", linear",   ", dynamic", ", llama3",
                                        ", yarn", ", longrope", ", qwen ntk"};
    for (int32_t i = 0; i < a->n_ropes; i++) {
        const rope_spec *r = &a->ropes[i];
        strbuf_addf(out, "%-14s width %d, base %g%s", "rope", r->dim, r->theta, kinds[r->scaling]);
        if (r->scaling != SCALE_NONE) strbuf_addf(out, " by %g", r->factor);
        strbuf_addc(out, '\n');
    }
}

static void describe_windows(const arch *a, strbuf *out) {
    int32_t n = 0, window = 0;
    for (int32_t l = 0; l < a->n_layers; l++)
        if (a->layers[l].attn.window) n++, window = a->layers[l].attn.window;
    if (n)
        strbuf_addf(out, "%-14s %d tokens in %d of %d layers\n", "window", window, n, a->n_layers);
}

static void describe_layers(const arch *a, strbuf *out) {
    int32_t n = 0;
    const arch_mlp *m = NULL;
    for (int32_t l = 0; l < a->n_layers; l++)
        if (a->layers[l].mlp.kind == MLP_MOE) n++, m = &a->layers[l].mlp;
    if (n)
        strbuf_addf(out, "%-14s %d (%d a token) of width %d in %d of %d layers\n", "experts",
                    m->n_experts, m->top_k, m->ffn, n, a->n_layers);
    if (a->attn == ATTN_MLA)
        strbuf_addf(out, "%-14s %d and %d rotated\n", "latent", a->latent, a->rope_width);
}

const char *engine_quant_math(const model_info *m) {
    if (m->quant_codes) return "int8 codes";
    return m->quant_math == DT_F32 ? "f32 (exact)" : dtype_name(m->quant_math);
}

static void describe_weights(const engine *e, strbuf *out) {
    const model_info *m = &e->info;
    strbuf_addf(out, "%-14s %d in %d file%s", "tensors", e->ckpt.n_tensors, e->ckpt.n_files,
                e->ckpt.n_files == 1 ? "\n" : "s\n");
    strbuf_addf(out, "%-14s %s weights, %s KV cache\n", "types", dtype_name(m->weight_dt),
                dtype_name(m->kv_dt));
    if (m->is_quant) strbuf_addf(out, "%-14s %s\n", "quant math", engine_quant_math(m));
    if (e->w.quantize) quantize_report(&e->w, out);
    strbuf_addf(out, "%-14s %s\n", "backend", m->backend);
    add_size(out, "KV per token", (e->plan.page_bytes - e->plan.draft_page_bytes) / KV_PAGE_TOKENS);
    memplan_print(&e->plan, out);
    if (e->plan_status != OK) strbuf_addf(out, "does not fit: %s\n", e->plan_error.text);
}

static void describe_text(const engine *e, strbuf *out) {
    const model_info *m = &e->info;
    char eos[160];
    ids_text(m, eos, sizeof eos);
    strbuf_addf(out, "%-14s %s (%s)\n", "family", m->family, m->architecture);
    strbuf_addf(out, "%-14s %lld\n", "parameters", (long long)m->n_params);
    strbuf_addf(out, "%-14s %d\n%-14s %d\n%-14s %d (%d kv) of width %d\n%-14s %d\n%-14s %d%s\n",
                "layers", m->n_layers, "hidden", m->hidden, "heads", m->n_heads, m->n_kv_heads,
                m->head_dim, "ffn", m->ffn, "vocabulary", m->vocab,
                m->tied ? ", head tied to the embedding" : "");
    describe_layers(e->a, out);
    describe_rope(e->a, out);
    describe_windows(e->a, out);
    strbuf_addf(out, "%-14s %d positions\n", "context", m->ctx_max);
    strbuf_addf(out, "%-14s %d\n%-14s %s\n", "bos id", m->bos_id, "eos ids", eos);
    if (e->config_only)
        strbuf_addf(out, "%-14s none in this directory, only config.json\n", "weights");
    else
        describe_weights(e, out);
}

static void json_text(strbuf *out, const char *key, const char *value) {
    strbuf_addf(out, "\"%s\":", key);
    strbuf_add_json(out, str_z(value));
    strbuf_addc(out, ',');
}

static void json_tensors(const checkpoint *c, strbuf *out) {
    strbuf_addz(out, "\"tensors\":[");
    for (int32_t i = 0; i < c->n_tensors; i++) {
        const st_tensor *t = &c->tensors[i];
        strbuf_addz(out, i ? ",{\"name\":" : "{\"name\":");
        strbuf_add_json(out, str_z(t->name));
        strbuf_addf(out, ",\"dtype\":\"%s\",\"shape\":[", t->dtype_name);
        for (int32_t d = 0; d < t->n_dims; d++)
            strbuf_addf(out, "%s%lld", d ? "," : "", (long long)t->dims[d]);
        strbuf_addf(out, "],\"bytes\":%llu}", (unsigned long long)t->bytes);
    }
    strbuf_addz(out, "]");
}

static void describe_json(const engine *e, strbuf *out) {
    const model_info *m = &e->info;
    const memplan *p = &e->plan;
    strbuf_addc(out, '{');
    json_text(out, "family", m->family);
    json_text(out, "architecture", m->architecture);
    strbuf_addf(out,
                "\"n_params\":%lld,\"n_layers\":%d,\"hidden\":%d,\"n_heads\":%d,\"n_kv_heads\":%d,"
                "\"head_dim\":%d,\"ffn\":%d,\"vocab\":%d,\"tied\":%s,\"ctx_max\":%d,\"bos_id\":%d,",
                (long long)m->n_params, m->n_layers, m->hidden, m->n_heads, m->n_kv_heads,
                m->head_dim, m->ffn, m->vocab, m->tied ? "true" : "false", m->ctx_max, m->bos_id);
    strbuf_addz(out, "\"eos_ids\":[");
    for (int32_t i = 0; i < m->n_eos; i++) strbuf_addf(out, "%s%d", i ? "," : "", m->eos_ids[i]);
    strbuf_addz(out, "],");
    if (e->config_only) {
        strbuf_addz(out, "\"tensors\":[]}\n");
        return;
    }
    json_text(out, "weight_dtype", dtype_name(m->weight_dt));
    json_text(out, "kv_dtype", dtype_name(m->kv_dt));
    if (m->is_quant) {
        json_text(out, "quant_math", dtype_name(m->quant_math));
        json_text(out, "quant_activations", m->quant_codes ? "int8" : "f32");
    }
    if (e->w.quantize) quantize_report_json(&e->w, out);
    json_text(out, "backend", m->backend);
    strbuf_addf(out,
                "\"memory\":{\"weights\":%zu,\"draft_weights\":%zu,\"kv\":%zu,\"activations\":%zu,"
                "\"staging\":%zu,"
                "\"total\":%zu,\"n_pages\":%d,\"page_tokens\":%d,\"max_model_len\":%d,\"fits\":%s",
                p->weights, p->draft_weights, p->kv, p->activations, p->staging, p->total,
                p->n_pages, p->page_tokens, p->len, e->plan_status == OK ? "true" : "false");
    if (p->available != SIZE_MAX) strbuf_addf(out, ",\"available\":%zu", p->available);
    strbuf_addz(out, "},");
    json_tensors(&e->ckpt, out);
    strbuf_addz(out, "}\n");
}

void engine_describe(const engine *e, bool json, strbuf *out) {
    if (json)
        describe_json(e, out);
    else
        describe_text(e, out);
}
