/* POST /v1/load_lora_adapter and /v1/unload_lora_adapter, with the bodies and answers that vLLM
 * has. They change what a server does and make it read directories that the client names, so they
 * need --lora-updates and, where keys are in use, a key that is allowed to. */
#include <stdio.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "server/adapters.h"
#include "server/api.h"
#include "server/job.h"
#include "server/keys.h"

typedef struct load_job {
    job job;
    adapters *list;
    char *name, *path;
    status st;
    error err;
} load_job;

static bool allowed(exchange *x) {
    error e;
    if (!x->srv->o.lora_updates)
        error_set(&e, ERR_FORBIDDEN,
                  "adapters cannot be loaded or unloaded over HTTP; start the server with "
                  "--lora-updates to allow it");
    else if (x->key && !key_is_admin(x->key))
        error_set(&e, ERR_FORBIDDEN,
                  "this API key may not load or unload adapters (its entry in the key file needs "
                  "\"admin\": true)");
    else
        return true;
    exchange_fail(x, &e, NULL);
    return false;
}

/* A required string without NULs; empty and an error if there is none. */
static str text_field(const json_t *body, const char *name, error *err) {
    str s = js_get_str(body, name);
    if (s.n && !memchr(s.p, 0, s.n)) return s;
    error_set_param(err, ERR_INVALID, name, "%s must be a string that is not empty", name);
    return (str){0};
}

static void answer(exchange *x, const char *name, const char *what) {
    strbuf_addf(&x->out, "Success: LoRA adapter '%s' %s successfully.", name, what);
    exchange_answer(x, 200, "text/plain; charset=utf-8");
}

static void run_load(job *j) {
    load_job *l = (load_job *)j;
    l->st = adapters_load(l->list, str_z(l->name), l->path, &l->err);
}

static void done_load(job *j) {
    load_job *l = (load_job *)j;
    if (l->st == OK) {
        answer(j->x, l->name, "added");
    } else {
        /* the client named the directory: what is wrong in it is its error */
        if (l->st == ERR_FORMAT || l->st == ERR_IO || l->st == ERR_UNSUPPORTED)
            l->err.code = ERR_INVALID;
        exchange_fail(j->x, &l->err, NULL);
    }
    mem_free(l->name);
    mem_free(l->path);
    mem_free(l);
}

static status check_name(const exchange *x, str name, error *err) {
    const server_model *m = &x->model->m;
    for (int i = 0; i < m->n_names; i++)
        if (str_eqz(name, m->names[i]))
            return error_set_param(err, ERR_INVALID, "lora_name", "'%s' is the base model's name",
                                   m->names[i]);
    return OK;
}

static status start_load(exchange *x, const json_t *body, error *err) {
    str name = text_field(body, "lora_name", err);
    if (!name.n) return ERR_INVALID;
    str path = text_field(body, "lora_path", err);
    if (!path.n) return ERR_INVALID;
    if (js_get_bool(body, "load_inplace", false))
        return error_set_param(err, ERR_UNSUPPORTED, "load_inplace",
                               "load_inplace is not supported: unload the adapter first");
    TRY(check_name(x, name, err));
    load_job *l = mem_calloc(1, sizeof *l);
    l->job = (job){.x = x, .run = run_load, .done = done_load};
    l->list = x->model->m.adapters;
    l->name = mem_strdup(name.p);
    l->path = mem_strdup(path.p);
    job_start(&l->job);
    return OK;
}

void api_load_lora(exchange *x) {
    error e;
    json_t *body = allowed(x) ? exchange_body_object(x) : NULL;
    if (!body) return;
    if (start_load(x, body, &e) != OK) exchange_fail(x, &e, NULL);
    json_decref(body);
}

void api_unload_lora(exchange *x) {
    error e;
    json_t *body = allowed(x) ? exchange_body_object(x) : NULL;
    if (!body) return;
    str name = text_field(body, "lora_name", &e);
    if (name.n && adapters_unload(x->model->m.adapters, name, &e) == OK)
        answer(x, name.p, "removed");
    else
        exchange_fail(x, &e, NULL);
    json_decref(body);
}
