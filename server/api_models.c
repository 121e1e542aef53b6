/* GET /v1/models and /v1/models/{id}. A key that is bound to some models sees only those. */
#include "server/api.h"
#include "server/exchange.h"
#include "server/keys.h"

/* `parent` is the base of an adapter, NULL for the base itself. */
static void add_model(const exchange *x, const char *name, int64_t created, const char *root,
                      const char *parent) {
    strbuf *b = (strbuf *)&x->out;
    strbuf_addz(b, "{\"id\":");
    strbuf_add_json(b, str_z(name));
    strbuf_addf(b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"pagoda\",\"root\":",
                (long long)created);
    strbuf_add_json(b, str_z(root));
    strbuf_addz(b, ",\"parent\":");
    if (parent)
        strbuf_add_json(b, str_z(parent));
    else
        strbuf_addz(b, "null");
    strbuf_addf(b, ",\"max_model_len\":%d}", x->model->m.max_model_len);
}

static void add_base(const exchange *x, const char *name) {
    const server_model *m = &x->model->m;
    add_model(x, name, m->created, m->names[0], NULL);
}

static bool visible(const exchange *x, const char *name) {
    return !x->key || key_allows(x->key, str_z(name));
}

static void add_entry(void *ctx, const adapter_entry *e) {
    exchange *x = ctx;
    if (!visible(x, e->name)) return;
    if (x->out.p[x->out.n - 1] != '[') strbuf_addc(&x->out, ',');
    add_model(x, e->name, e->created, e->dir, x->model->m.names[0]);
}

void api_models(exchange *x) {
    bool first = true;
    strbuf_addz(&x->out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < x->model->m.n_names; i++) {
        if (!visible(x, x->model->m.names[i])) continue;
        if (!first) strbuf_addc(&x->out, ',');
        first = false;
        add_base(x, x->model->m.names[i]);
    }
    adapters_each(x->model->m.adapters, add_entry, x);
    strbuf_addz(&x->out, "]}\n");
    exchange_json(x);
}

static void add_entry_alone(exchange *x, const adapter_entry *e) {
    add_model(x, e->name, e->created, e->dir, x->model->m.names[0]);
    strbuf_addc(&x->out, '\n');
    exchange_json(x);
}

void api_model(exchange *x) {
    for (int i = 0; i < x->model->m.n_names; i++) {
        const char *name = x->model->m.names[i];
        if (!str_eqz(x->arg, name) || !visible(x, name)) continue;
        add_base(x, name);
        strbuf_addc(&x->out, '\n');
        exchange_json(x);
        return;
    }
    adapter_entry *a = adapters_take(x->model->m.adapters, x->arg);
    if (a && visible(x, a->name)) {
        add_entry_alone(x, a);
        adapter_entry_release(a);
        return;
    }
    adapter_entry_release(a);
    error e;
    error_set_param(&e, ERR_NOT_FOUND, "model", "the model '" STR_FMT "' does not exist",
                    STR_ARG(x->arg));
    exchange_fail(x, &e, "model_not_found");
}
