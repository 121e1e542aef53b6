/* Vectors come unscaled from the engine. Truncation to fewer dimensions comes before the scaling to
 * length 1, as for models that are trained so that a prefix of a vector is a vector. */
#include "server/embeddings.h"

#include <math.h>

#include "server/fields.h"

static const char *const known[] = {
    "model",
    "input",
    "encoding_format",
    "dimensions",
    "user",
    "normalize",
    "priority",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "cache_salt",
};

static void refuse_unknown(fields *f) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)f->obj, name, v) {
        bool found = false;
        for (size_t i = 0; i < ARRAY_LEN(known); i++) found |= strcmp(name, known[i]) == 0;
        if (!found) field_fail(f, ERR_INVALID, name, "unknown field \"%.64s\"", name);
    }
}

static status check_model(const server_model *m, error *err) {
    if (m->hidden == 0)
        return error_set_param(err, ERR_UNSUPPORTED, "model", "this model makes no embeddings");
    if (m->pool_unsupported[0])
        return error_set_param(err, ERR_UNSUPPORTED, "model",
                               "this model's embeddings need \"%s\", which is not supported",
                               m->pool_unsupported);
    return OK;
}

status embeddings_params(const json_t *body, const model *m, bool strict, gen_params *ret,
                         error *err) {
    fields f = fields_of(body, err);
    gen_params p = {.kind = API_EMBEDDINGS, .n = 1, .n_prompt_top = -1, .truncate_prompt = -1};
    p.sample =
        (sample_params){.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
    TRY(check_model(&m->m, err));
    if (strict) refuse_unknown(&f);
    str format = field_str(&f, "encoding_format", 32);
    p.embed_base64 = str_eqz(format, "base64");
    if (format.p && !p.embed_base64 && !str_eqz(format, "float"))
        field_fail(&f, ERR_INVALID, "encoding_format",
                   "encoding_format must be \"float\" or \"base64\"");
    p.embed_dims = (int32_t)field_int(&f, "dimensions", m->m.hidden, 1, m->m.hidden);
    p.embed_normalize = field_bool(&f, "normalize", m->m.pool_normalize);
    p.priority = (int32_t)field_int(&f, "priority", 0, INT32_MIN, INT32_MAX);
    p.cache_salt = field_str(&f, "cache_salt", 256);
    p.add_special_tokens = field_bool(&f, "add_special_tokens", true);
    p.truncate_prompt =
        (int32_t)field_int(&f, "truncate_prompt_tokens", -1, -1, m->m.max_model_len);
    if (p.truncate_prompt == 0)
        field_fail(&f, ERR_INVALID, "truncate_prompt_tokens",
                   "truncate_prompt_tokens must be at least 1");
    if (p.truncate_prompt < 0 && field_get(&f, "truncate_prompt_tokens"))
        p.truncate_prompt = m->m.max_model_len; /* as much as the model takes */
    (void)field_str(&f, "user", 256);
    if (f.st == OK) *ret = p;
    return f.st;
}

static float scale_of(const gen_params *p, const float *x) {
    double sum = 0;
    for (int32_t k = 0; k < p->embed_dims; k++) sum += (double)x[k] * x[k];
    return p->embed_normalize && sum > 0 ? (float)(1 / sqrt(sum)) : 1;
}

static void add_base64(const uint8_t *p, size_t n, strbuf *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t w = (uint32_t)p[i] << 16;
        if (i + 1 < n) w |= (uint32_t)p[i + 1] << 8;
        if (i + 2 < n) w |= p[i + 2];
        strbuf_addc(out, digits[w >> 18]);
        strbuf_addc(out, digits[w >> 12 & 63]);
        strbuf_addc(out, i + 1 < n ? digits[w >> 6 & 63] : '=');
        strbuf_addc(out, i + 2 < n ? digits[w & 63] : '=');
    }
}

/* Little-endian f32, or numbers with what it takes to read the same f32 back. */
static void add_vector(const gen_params *p, const float *x, strbuf *out) {
    float by = scale_of(p, x);
    strbuf_addc(out, p->embed_base64 ? '"' : '[');
    for (int32_t k = 0; k < p->embed_dims; k += 3) {
        float y[3];
        int32_t n = MIN(3, p->embed_dims - k);
        for (int32_t j = 0; j < n; j++) y[j] = x[k + j] * by;
        if (p->embed_base64) {
            add_base64((const uint8_t *)y, (size_t)n * sizeof *y, out); /* 12 bytes: 16 digits */
            continue;
        }
        for (int32_t j = 0; j < n; j++) strbuf_addf(out, k + j ? ",%.9g" : "%.9g", (double)y[j]);
    }
    strbuf_addc(out, p->embed_base64 ? '"' : ']');
}

void embeddings_add_answer(const call *c, strbuf *out) {
    call_usage u = call_usage_of(c);
    strbuf_addz(out, "{\"object\":\"list\",\"data\":[");
    for (int32_t i = 0; i < c->n_parts; i++) {
        strbuf_addf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "",
                    i);
        add_vector(&c->p, c->parts[i].r->pool_out, out);
        strbuf_addc(out, '}');
    }
    strbuf_addz(out, "],\"model\":");
    strbuf_add_json(out, exchange_model_name(c->x));
    strbuf_addf(out, ",\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d}}\n", u.n_prompt,
                u.n_prompt);
}
