/* See cmd_runtime.h. The order of opening is the order of server.h's sketch; closing goes the same
 * way back. The pieces below the front end are opened by model_open (tokenizer, template, family,
 * weights) or by mock_open (the tokenizer, and text that a mock engine says). */
#include "server/cmd_runtime.h"

#include <stdio.h>
#include <time.h>

#include "engine/base/file.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/mock.h"
#include "server/cmd_draft.h"
#include "server/cmd_engine.h"
#include "server/cmd_lora.h"
#include "server/cmd_foreign.h"
#include "server/notify.h"
#include "tokenizer/chat.h"
#include "tokenizer/tokenizer.h"

#define DRAIN_POLL_US 10000

/* The mock engine: a context and cache that no load test fills. */
#define MOCK_MODEL_LEN 8192
#define MOCK_PAGE      16
#define MOCK_PAGES     65536
#define MOCK_TEXT                                                                                  \
    "This answer comes from the mock engine: no model is computed, the words only come in order. "

struct runtime {
    server *srv;
    scheduler *sched;
    tokenizer *tok;
    chat *chat;
    engine *engine;
    mock *mock;
    char *name; /* under which the model is served */
    adapters *adapters;
    char *lora; /* a private runtime: the adapter that is always used, or NULL */
};

static void nap(uint64_t us) {
    nanosleep(&(struct timespec){.tv_sec = (time_t)(us / 1000000),
                                 .tv_nsec = (long)(us % 1000000) * 1000},
              NULL);
}

static int64_t ms(uint64_t us) {
    return (int64_t)(us / 1000);
}

static server_options options(const conf *c, const char *unix_socket, const char **keys) {
    server_options o = server_options_default();
    o.host = c->host;
    o.port = (int)c->port;
    o.unix_socket = unix_socket ? unix_socket : c->unix_socket;
    o.n_threads = unix_socket ? 1 : (int)c->http_threads;
    o.max_connections = (int)c->max_connections;
    o.max_connections_per_ip = (int)c->max_connections_per_ip;
    o.body_bytes_max = c->max_body_bytes;
    o.header_timeout_ms = ms(c->header_timeout);
    o.body_timeout_ms = ms(c->body_timeout);
    o.idle_timeout_ms = ms(c->idle_timeout);
    o.stall_timeout_ms = ms(c->stall_timeout);
    o.request_timeout_ms = ms(c->request_timeout);
    o.keepalive_ms = ms(c->keep_alive);
    o.retry_after_s = (int)c->retry_after;
    o.request_template = c->request_template;
    o.strict = c->strict;
    o.access_log = c->access_log && !unix_socket;
    o.max_logprobs = (int)c->max_logprobs;
    o.lora_updates = c->lora_updates;
    if (unix_socket) return o; /* private: the file's mode is the key */
    o.listen_fd = notify_listen_fd();
    keys[0] = c->api_key;
    o.api_keys = keys;
    o.n_api_keys = c->api_key ? 1 : 0;
    o.api_key_file = c->api_key_file;
    return o;
}

static status model_open(runtime *r, const conf *c, bool is_private, const runtime_hooks *h,
                         error *err) {
    engine_options o = cmd_engine_options(c);
    if (is_private && c->kv_swap == CONF_AUTO) o.kv_swap_bytes = 0; /* few readers, short lives */
    o.progress = h->on_progress;
    o.on_plan = h->on_plan;
    o.on_loaded = h->on_loaded;
    o.ctx = h->ctx;
    return engine_open(&o, &r->engine, err);
}

static status mock_open(runtime *r, const conf *c, error *err) {
    vec_i32 text = {0};
    TRY(tokenizer_encode(r->tok, STR(MOCK_TEXT), ENCODE_PLAIN, 0, &text, err));
    mock_options o = {
        .vocab = tokenizer_vocab(r->tok),
        .page_tokens = MOCK_PAGE,
        .n_pages = MOCK_PAGES,
        .max_tokens = (int32_t)c->max_num_batched_tokens,
        .max_seqs = (int32_t)c->max_num_seqs,
        .max_model_len = c->max_model_len ? (int32_t)c->max_model_len : MOCK_MODEL_LEN,
        .text = text.p,
        .n_text = (int32_t)text.n,
        .eos_id = -1,
        .depth = MOCK_DEPTH_MAX,
        .step_us = (uint32_t)c->mock_step,
        .fail_step = c->mock_fail,
    };
    r->mock = mock_new(&o);
    vec_done(&text);
    return OK;
}

static stepper runtime_stepper(const runtime *r) {
    return r->mock ? mock_stepper(r->mock) : engine_stepper(r->engine);
}

/* A device computes some hundred tokens as soon as one: there only what the user asks for. */
static uint64_t step_target(const conf *c, const stepper *s) {
    if (c->target_itl_ms > 0) return (uint64_t)c->target_itl_ms * 1000;
    return s->on_cpu ? PACE_AUTO : PACE_OFF;
}

/* Guesses cost rows of a step, which are cheap where decoding waits for memory. A device has more
 * to lose, steps launched ahead: there only when asked for. */
static int32_t max_drafts(const conf *c, const stepper *s) {
    bool is_auto = strcmp(c->speculative, "auto") == 0;
    bool on = is_auto ? s->on_cpu || c->speculative_model : strcmp(c->speculative, "off") != 0;
    return on ? (int32_t)c->num_speculative_tokens : 0;
}

static void schedule(runtime *r, const conf *c) {
    stepper s = runtime_stepper(r), draft;
    bool has_draft = r->engine && engine_draft(r->engine, &draft);
    scheduler_options o = {
        .max_running = MIN((int32_t)c->max_num_seqs, s.max_seqs),
        .max_waiting = (int32_t)c->max_waiting,
        .token_budget =
            s.whole_prompt ? s.max_tokens : MIN((int32_t)c->max_num_batched_tokens, s.max_tokens),
        .prefill_chunk = (int32_t)c->prefill_chunk,
        .target_us = step_target(c, &s),
        .max_drafts = max_drafts(c, &s),
        .draft_model = has_draft ? &draft : NULL,
        .admit = strcmp(c->admit, "reserve") == 0 ? ADMIT_RESERVE : ADMIT_OPTIMISTIC,
        .prefix_cache = c->prefix_cache,
        .stall_us = c->stall_timeout,
        .clock = clock_monotonic(),
        .on_ready = server_on_ready,
        .ctx = r->srv,
    };
    if (o.max_drafts > 0)
        log_info("speculation: up to %d tokens a step guessed %s%s", o.max_drafts,
                 has_draft ? "by " : "from a sequence's own text",
                 has_draft ? c->speculative_model : "");
    r->sched = scheduler_new(&o, s);
    scheduler_start(r->sched);
}

/* What the options say goes before the model's generation_config.json. */
static void set_defaults(const conf *c, server_defaults *d) {
    if (conf_given(c, OPT_temperature)) d->temperature = (float)c->temperature;
    if (conf_given(c, OPT_top_p)) d->top_p = (float)c->top_p;
    if (conf_given(c, OPT_top_k)) d->top_k = (int32_t)c->top_k;
    if (conf_given(c, OPT_repetition_penalty)) d->repetition_penalty = (float)c->repetition_penalty;
    if (c->max_tokens) d->max_new_tokens = (int32_t)c->max_tokens;
    d->max_length = (int32_t)c->max_length;
}

static status attach(runtime *r, const conf *c, error *err) {
    stepper s = runtime_stepper(r);
    const char *names[] = {r->name};
    server_model m = {
        .names = names,
        .n_names = 1,
        .tok = r->tok,
        .chat = chat_has_template(r->chat) ? r->chat : NULL,
        .turn = turn_ends_of(r->chat, r->tok),
        .max_model_len = s.max_model_len,
        .vocab = s.vocab,
        .created = clock_unix_s(),
        .page_tokens = s.page_tokens,
        .n_pages = s.n_pages,
    };
    int32_t eos = tokenizer_eos(r->tok);
    const model_info *info = r->engine ? engine_info(r->engine) : NULL;
    m.eos_ids = info ? info->eos_ids : &eos;
    m.n_eos = info ? info->n_eos : eos >= 0;
    if (info) {
        m.kv_dtype = dtype_name(info->kv_dt);
        m.embeds_only = !info->has_head;
        m.hidden = info->hidden;
        m.pool = info->pool;
        m.pool_normalize = info->pool_normalize;
        memcpy(m.pool_unsupported, info->pool_unsupported, sizeof m.pool_unsupported);
    }
    TRY(server_defaults_read(c->model, &m.defaults, err));
    set_defaults(c, &m.defaults);
    strbuf text = {0};
    if (info) {
        strbuf_addz(&text, "\"family\":");
        strbuf_add_json(&text, str_z(info->family));
        strbuf_addf(&text, ",\"parameters\":%lld,\"weight_dtype\":\"%s\",\"kv_dtype\":\"%s\"",
                    (long long)info->n_params, dtype_name(info->weight_dt),
                    dtype_name(info->kv_dt));
    } else {
        strbuf_addz(&text, "\"family\":\"mock\"");
    }
    strbuf_addf(&text,
                ",\"max_num_seqs\":%lld,\"max_num_batched_tokens\":%lld,\"prefix_cache\":%s,"
                "\"speculative_tokens\":%d,\"chat_format\":",
                (long long)c->max_num_seqs, (long long)c->max_num_batched_tokens,
                c->prefix_cache ? "true" : "false", max_drafts(c, &s));
    const char *format = chat_format_name(r->chat);
    strbuf_add_json(&text, str_z(format ? format : chat_has_template(r->chat) ? "own" : "none"));
    if (cmd_uses_draft(c)) {
        strbuf_addz(&text, ",\"speculative_model\":");
        strbuf_add_json(&text, path_base(c->speculative_model));
    }
    m.info_json = text.p;
    m.adapters = r->adapters;
    m.default_adapter = r->lora;
    server_attach(r->srv, &m, r->sched);
    strbuf_done(&text);
    return OK;
}

static char *model_name(const conf *c) {
    if (c->served_model_name) return mem_strdup(c->served_model_name);
    str base = path_base(c->model);
    strbuf name = {0};
    strbuf_add(&name, base.n ? base : STR("model"));
    return strbuf_take(&name);
}

/* The model's own files come first; a registered family may bring what they lack. */
static status open_tokenizer(runtime *r, const conf *c, error *err) {
    char *file = NULL, *pre = NULL;
    bool registered = c->register_path && !c->tokenizer && strcmp(c->engine, "mock") != 0;
    if (registered) TRY(engine_family_tokenizer(c->model, c->register_path, &file, &pre, err));
    tokenizer_options o = {.pretokenizer = pre};
    status st = tokenizer_open(cmd_tokenizer(c), &o, &r->tok, err);
    if (st == ERR_NOT_FOUND && file) st = tokenizer_open(file, &o, &r->tok, err);
    mem_free(file);
    mem_free(pre);
    return st;
}

static status open_chat(runtime *r, const conf *c, const char *fallback, error *err) {
    char xtuner[96];
    chat_options o = {.override = cmd_chat_template(c, xtuner, sizeof xtuner),
                      .register_path = c->register_path,
                      .fallback = fallback};
    chat_free(r->chat);
    r->chat = NULL;
    return chat_open(c->model, &o, r->tok, &r->chat, err);
}

/* A template that does not parse is said before the weights are read; what the family has to say
 * is known only afterwards. */
static status open_family_chat(runtime *r, const conf *c, error *err) {
    const char *name = r->engine ? engine_info(r->engine)->chat_format : "";
    bool own = chat_has_template(r->chat) && !chat_format_name(r->chat);
    if (!*name || own || c->chat_template || c->prompt_template) return OK;
    return open_chat(r, c, name, err);
}

/* A private runtime has one adapter, which its client need not name. */
static status load_adapters(runtime *r, const conf *c, const char *unix_socket, error *err) {
    if (!r->engine) return OK;
    adapter_host host = engine_adapters(r->engine);
    if (host.max == 0) return OK;
    r->adapters = adapters_new(host);
    TRY(cmd_lora_load(c, r->adapters, err));
    if (!unix_socket || !c->lora) return OK;
    char *dir;
    cmd_lora_split(str_z(c->lora), &r->lora, &dir);
    mem_free(dir);
    return strchr(c->lora, '\n') ? error_set(err, ERR_INVALID, "this command takes one --lora")
                                 : OK;
}

static status open_all(runtime *r, const conf *c, const char *unix_socket, const runtime_hooks *h,
                       error *err) {
    const char *keys[1];
    server_options so = options(c, unix_socket, keys);
    TRY(cmd_foreign_check(c, err));
    TRY(cmd_lora_check(c, err));
    TRY(cmd_engine_check(c, err));
    TRY(server_new(&so, &r->srv, err));
    TRY(server_start(r->srv, err));
    if (h->on_listen) h->on_listen(h->ctx, r->srv);
    TRY(open_tokenizer(r, c, err));
    TRY(cmd_draft_check(c, r->tok, err));
    TRY(open_chat(r, c, NULL, err));
    bool is_mock = strcmp(c->engine, "mock") == 0;
    TRY(is_mock ? mock_open(r, c, err) : model_open(r, c, unix_socket != NULL, h, err));
    TRY(open_family_chat(r, c, err));
    TRY(load_adapters(r, c, unix_socket, err));
    schedule(r, c);
    return attach(r, c, err);
}

status runtime_open(const conf *c, const char *unix_socket, const runtime_hooks *hooks,
                    runtime **ret, error *err) {
    static const runtime_hooks none = {0};
    runtime *r = mem_calloc(1, sizeof *r);
    r->name = model_name(c);
    status st = open_all(r, c, unix_socket, hooks ? hooks : &none, err);
    if (st == OK)
        *ret = r;
    else
        runtime_close(r, 0, NULL, NULL);
    return st;
}

void runtime_close(runtime *r, uint64_t grace_us, bool (*stop_now)(void *ctx), void *ctx) {
    if (!r) return;
    if (r->sched) {
        server_drain(r->srv);
        uint64_t end = clock_us() + grace_us;
        while (server_in_flight(r->srv) > 0 && clock_us() < end && !(stop_now && stop_now(ctx)))
            nap(DRAIN_POLL_US);
        scheduler_stop(r->sched);
    }
    if (r->srv) server_stop(r->srv);
    server_free(r->srv);
    scheduler_free(r->sched);
    adapters_free(r->adapters);
    mem_free(r->lora);
    engine_free(r->engine);
    mock_free(r->mock);
    chat_free(r->chat);
    tokenizer_free(r->tok);
    mem_free(r->name);
    mem_free(r);
}

server *runtime_server(runtime *r) {
    return r->srv;
}

scheduler *runtime_scheduler(runtime *r) {
    return r->sched;
}

const char *runtime_model_name(const runtime *r) {
    return r->name;
}
