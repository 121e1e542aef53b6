/* Answers are built in the exchange's own buffer and handed to the library by reference: the
 * exchange outlives the response (it ends in the library's completion call). */
#include "server/exchange.h"

#include <stdio.h>

#include "engine/base/hash.h"
#include "engine/base/json.h"
#include "engine/base/utf8.h"
#include "server/errors.h"
#include "server/keys.h"

void exchange_answer(exchange *x, int http_status, const char *content_type) {
    x->http_status = http_status;
    x->content_type = content_type;
    x->phase = PHASE_ANSWER;
}

void exchange_json(exchange *x) {
    exchange_answer(x, 200, "application/json");
}

void exchange_fail(exchange *x, const error *e, const char *code) {
    strbuf_clear(&x->out);
    errors_add_json(&x->out, e, code);
    strbuf_addc(&x->out, '\n');
    if (status_http(e->code) == 503 && x->retry_after_s == 0)
        x->retry_after_s = x->srv->o.retry_after_s;
    exchange_answer(x, status_http(e->code), "application/json");
}

json_t *exchange_body_object(exchange *x) {
    error e;
    json_t *v = NULL;
    if (x->body.n == 0) {
        error_set(&e, ERR_INVALID, "the request body is empty; a JSON object is expected");
    } else if (!utf8_valid(x->body.p, x->body.n)) {
        error_set(&e, ERR_INVALID, "the request body is not valid UTF-8");
    } else if (js_parse(strbuf_str(&x->body), &v, &e) == OK) {
        if (json_is_object(v)) return v;
        json_decref(v);
        error_set(&e, ERR_INVALID, "the request body must be a JSON object");
    } else {
        error_prefix(&e, "the request body");
    }
    exchange_fail(x, &e, NULL);
    return NULL;
}

static bool is_base(const server_model *m, str name) {
    for (int i = 0; i < m->n_names; i++)
        if (str_eqz(name, m->names[i])) return true;
    return false;
}

/* By its name, or as base:adapter. */
static adapter_entry *find_adapter(const server_model *m, str name) {
    adapter_entry *a = adapters_take(m->adapters, name);
    for (size_t i = 0; i < name.n && !a; i++)
        if (name.p[i] == ':' && is_base(m, str_cut(name, 0, i)))
            a = adapters_take(m->adapters, str_cut(name, i + 1, name.n));
    return a;
}

bool exchange_model_ok(exchange *x, str name) {
    const server_model *m = &x->model->m;
    error e;
    bool known = name.n == 0 || is_base(m, name);
    x->adapter = !known               ? find_adapter(m, name)
                 : m->default_adapter ? adapters_take(m->adapters, str_z(m->default_adapter))
                                      : NULL;
    if (!known && x->adapter) name = str_z(x->adapter->name);
    if (!known && !x->adapter) {
        error_set_param(&e, ERR_NOT_FOUND, "model", "the model '" STR_FMT "' does not exist",
                        (int)MIN(name.n, (size_t)128), name.p);
        exchange_fail(x, &e, "model_not_found");
        return false;
    }
    if (!x->key || key_allows(x->key, name.n ? name : exchange_model_name(x))) return true;
    error_set_param(&e, ERR_FORBIDDEN, "model", "this API key may not use the model '" STR_FMT "'",
                    STR_ARG(name.n ? name : exchange_model_name(x)));
    exchange_fail(x, &e, "model_not_allowed");
    return false;
}

void exchange_unique(server *s, char ret[25]) {
    uint64_t n = atomic_fetch_add_explicit(&s->request_ids, 1, memory_order_relaxed);
    uint64_t h = hash64(&n, sizeof n, s->id_seed);
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) ret[i] = hex[h >> (60 - 4 * i) & 15];
    for (int i = 0; i < 8; i++) ret[16 + i] = hex[n >> (28 - 4 * i) & 15];
    ret[24] = 0;
}
