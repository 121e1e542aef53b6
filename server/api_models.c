/* GET /v1/models and /v1/models/{id}. A key that is bound to some models sees only those. */
#include "server/api.h"
#include "server/exchange.h"
#include "server/keys.h"

static void add_model(const exchange *x, const char *name) {
    strbuf *b = (strbuf *)&x->out;
    strbuf_addz(b, "{\"id\":");
    strbuf_add_json(b, str_z(name));
    strbuf_addf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"pagoda\",\"root\":",
                (long long)x->model->m.created);
    strbuf_add_json(b, exchange_model_name(x));
    strbuf_addf(b, ",\"parent\":null,\"max_model_len\":%d}", x->model->m.max_model_len);
}

static bool visible(const exchange *x, const char *name) {
    return !x->key || key_allows(x->key, str_z(name));
}

void api_models(exchange *x) {
    bool first = true;
    strbuf_addz(&x->out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < x->model->m.n_names; i++) {
        if (!visible(x, x->model->m.names[i])) continue;
        if (!first) strbuf_addc(&x->out, ',');
        first = false;
        add_model(x, x->model->m.names[i]);
    }
    strbuf_addz(&x->out, "]}\n");
    exchange_json(x);
}

void api_model(exchange *x) {
    for (int i = 0; i < x->model->m.n_names; i++) {
        const char *name = x->model->m.names[i];
        if (!str_eqz(x->arg, name) || !visible(x, name)) continue;
        add_model(x, name);
        strbuf_addc(&x->out, '\n');
        exchange_json(x);
        return;
    }
    error e;
    error_set_param(&e, ERR_NOT_FOUND, "model", "the model '" STR_FMT "' does not exist",
                    STR_ARG(x->arg));
    exchange_fail(x, &e, "model_not_found");
}
