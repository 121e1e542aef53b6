/* /tokenize, /detokenize and /apply-template: the front half of a generation, without one. */
#include "server/api.h"

#include "engine/base/json.h"
#include "server/exchange.h"
#include "server/fields.h"
#include "server/prompt.h"

typedef status (*body_fn)(exchange *x, const json_t *body, arena *mem, error *err);

static void with_body(exchange *x, body_fn run) {
    json_t *body = exchange_body_object(x);
    if (!body) return;
    if (exchange_model_ok(x, js_get_str(body, "model"))) {
        error e;
        arena *mem = arena_new(LIMIT_ARENA_BYTES);
        if (run(x, body, mem, &e) == OK)
            exchange_json(x);
        else
            exchange_fail(x, &e, NULL);
        arena_free(mem);
    }
    json_decref(body);
}

/* The template fields of a chat request; the rest of the parameters is not looked at. */
static status render(exchange *x, const json_t *body, strbuf *text, error *err) {
    fields f = fields_of(body, err);
    gen_params p = {.kind = API_CHAT};
    p.continue_final_message = field_bool(&f, "continue_final_message", false);
    p.add_generation_prompt = field_bool(&f, "add_generation_prompt", !p.continue_final_message);
    p.template_kwargs = field_object(&f, "chat_template_kwargs");
    TRY(f.st);
    return prompt_render(x->model, body, &p, text, err);
}

static void add_token_strs(exchange *x, const vec_i32 *ids) {
    strbuf_addz(&x->out, ",\"token_strs\":[");
    for (size_t i = 0; i < ids->n; i++) {
        if (i) strbuf_addc(&x->out, ',');
        strbuf_add_json(&x->out, tokenizer_piece(x->model->m.tok, ids->p[i]));
    }
    strbuf_addc(&x->out, ']');
}

static void add_offsets(exchange *x, const token_spans *spans) {
    strbuf_addz(&x->out, ",\"offsets\":[");
    for (size_t i = 0; i < spans->n; i++)
        strbuf_addf(&x->out, "%s[%u,%u]", i ? "," : "", spans->p[i].from, spans->p[i].to);
    strbuf_addc(&x->out, ']');
}

typedef struct wanted {
    bool special, strs, offsets;
} wanted;

static status tokenize_text(exchange *x, str text, const wanted *w, error *err) {
    vec_i32 ids = {0};
    token_spans spans = {0};
    unsigned flags = w->special ? ENCODE_SPECIAL : ENCODE_PLAIN;
    const tokenizer *t = x->model->m.tok;
    status st = w->offsets ? tokenizer_encode_spans(t, text, flags, 0, &ids, &spans, err)
                           : tokenizer_encode(t, text, flags, 0, &ids, err);
    if (st == OK) {
        strbuf_addf(&x->out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", ids.n,
                    x->model->m.max_model_len);
        for (size_t i = 0; i < ids.n; i++) strbuf_addf(&x->out, i ? ",%d" : "%d", ids.p[i]);
        strbuf_addc(&x->out, ']');
        if (w->strs) add_token_strs(x, &ids);
        if (w->offsets) add_offsets(x, &spans);
        strbuf_addz(&x->out, "}\n");
    }
    vec_done(&ids);
    vec_done(&spans);
    return st;
}

static status tokenize(exchange *x, const json_t *body, arena *mem, error *err) {
    fields f = fields_of(body, err);
    bool is_chat = field_get(&f, "messages") != NULL;
    str given = field_str(&f, "prompt", SIZE_MAX);
    bool fallback = !is_chat || x->model->m.turn.add_special_tokens;
    wanted w = {.special = field_bool(&f, "add_special_tokens", fallback),
                .strs = field_bool(&f, "return_token_strs", false),
                .offsets = field_bool(&f, "return_offsets", false)};
    TRY(f.st);
    if (!is_chat && !given.p)
        return error_set_param(err, ERR_INVALID, "prompt", "prompt or messages is missing");
    if (!is_chat) return tokenize_text(x, given, &w, err);
    strbuf text = {0};
    status st = render(x, body, &text, err);
    if (st == OK) st = tokenize_text(x, strbuf_str(&text), &w, err);
    strbuf_done(&text);
    return st;
}

static status detokenize(exchange *x, const json_t *body, arena *mem, error *err) {
    fields f = fields_of(body, err);
    size_t n;
    if (!field_get(&f, "tokens"))
        return error_set_param(err, ERR_INVALID, "tokens", "tokens is missing");
    int32_t *ids =
        field_ids(&f, "tokens", 0, x->model->m.vocab - 1, LIMIT_ARENA_BYTES / 8, mem, &n);
    bool skip = field_bool(&f, "skip_special_tokens", false);
    TRY(f.st);
    strbuf text = {0};
    tokenizer_decode(x->model->m.tok, ids, n, skip, &text);
    strbuf_addz(&x->out, "{\"prompt\":");
    strbuf_add_json(&x->out, strbuf_str(&text));
    strbuf_addz(&x->out, "}\n");
    strbuf_done(&text);
    return OK;
}

static status apply_template(exchange *x, const json_t *body, arena *mem, error *err) {
    strbuf text = {0};
    status st = render(x, body, &text, err);
    if (st == OK) {
        strbuf_addz(&x->out, "{\"prompt\":");
        strbuf_add_json(&x->out, strbuf_str(&text));
        strbuf_addz(&x->out, "}\n");
    }
    strbuf_done(&text);
    return st;
}

void api_tokenize(exchange *x) {
    with_body(x, tokenize);
}

void api_detokenize(exchange *x) {
    with_body(x, detokenize);
}

void api_apply_template(exchange *x) {
    with_body(x, apply_template);
}
