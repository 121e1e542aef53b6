/* From a body to running requests, and back to an answer.
 *
 * A call ends for the client when every choice has been acknowledged by the scheduler, also when a
 * stop string ended it here first: that is one engine step later, and makes usage, times and page
 * accounting exact. Only a client that left is not waited for.
 *
 * The request outlives the call when the client leaves: what the engine thread may still touch
 * (the ticket) lives in the request's arena; ticket.call is set to NULL here. */
#include "server/call.h"

#include <stdio.h>

#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/base/json.h"
#include "server/embeddings.h"
#include "server/errors.h"
#include "server/keys.h"
#include "server/metrics.h"
#include "server/reply.h"
#include "server/stream.h"

/* Events of a stream's choice that may wait for its reader, which looks after every step: room for
 * a client that is slow for a moment. With more, a client that does not read costs memory. */
enum { STREAM_EVENTS = 64 };

static void *copy(arena *mem, const void *p, size_t bytes) {
    void *q = bytes ? arena_alloc(mem, bytes) : NULL;
    if (q) memcpy(q, p, bytes);
    return q;
}

/* The request gets its own copy of every array: it may outlive the call. */
static bool copy_params(request *r, const sample_params *s) {
    r->params = *s;
    sample_params *d = &r->params;
    d->bias = copy(r->mem, s->bias, (size_t)s->n_bias * sizeof *s->bias);
    d->stop_ids = copy(r->mem, s->stop_ids, (size_t)s->n_stop_ids * sizeof *s->stop_ids);
    d->allowed_ids = copy(r->mem, s->allowed_ids, (size_t)s->n_allowed * sizeof *s->allowed_ids);
    return (d->bias || !s->n_bias) && (d->stop_ids || !s->n_stop_ids) &&
           (d->allowed_ids || !s->n_allowed);
}

static void set_salt(const call *c, request *r) {
    if (c->x->key) key_salt(c->x->key, r->cache_salt);
    if (!c->p.cache_salt.n) return;
    uint8_t h[32];
    uint64_t w[2];
    sha256(c->p.cache_salt.p, c->p.cache_salt.n, h);
    memcpy(w, h, sizeof w);
    r->cache_salt[0] ^= w[0];
    r->cache_salt[1] ^= w[1];
}

static bool wants_prompt_out(const gen_params *p) {
    return p->n_prompt_top >= 0 || (p->echo && p->want_logprobs);
}

/* Without a seed each prompt draws its own. */
static uint64_t seed_of(const call *c, int32_t i) {
    if (c->p.has_seed) return c->p.sample.seed;
    struct {
        char id[40];
        int32_t i, zero;
    } what = {.i = i};
    memcpy(what.id, c->id, sizeof what.id);
    return hash64(&what, sizeof what, c->x->srv->id_seed);
}

static void set_adapter(adapter_entry *a, request *r) {
    if (!a) return;
    r->adapter = a->info.id;
    r->n_virtual = a->info.n_virtual;
    r->on_free = adapter_entry_release;
    r->on_free_ctx = adapter_entry_ref(a);
}

/* The adapter's virtual tokens, then the prompt; NULL when the arena is full. */
static int32_t *with_virtual(request *r, const prompt *p, int32_t vocab) {
    int32_t n = r->n_virtual, *ids = arena_array(r->mem, (size_t)(n + p->n), sizeof *ids);
    for (int32_t i = 0; ids && i < n; i++) ids[i] = vocab + i;
    if (ids) memcpy(ids + n, p->ids, (size_t)p->n * sizeof *ids);
    return ids;
}

static status fill_request(call *c, int32_t i, request *r, error *err) {
    const gen_params *p = &c->p;
    part *pt = &c->parts[i];
    exchange *x = c->x;
    set_adapter(x->adapter, r);
    TRY(prompt_max_tokens(x->model, p, r->n_virtual + pt->prompt.n, &r->max_tokens, err,
                          &c->err_code));
    r->id = atomic_fetch_add_explicit(&x->srv->request_ids, 1, memory_order_relaxed);
    r->prompt = with_virtual(r, &pt->prompt, x->model->m.vocab);
    r->n_prompt = r->n_virtual + pt->prompt.n;
    r->n = p->n;
    bool ok = copy_params(r, &p->sample) && r->prompt;
    r->params.seed = seed_of(c, i);
    r->priority = p->priority;
    r->tenant = x->key ? key_index(x->key) : 0;
    r->tenant_weight = x->key ? key_weight(x->key) : 1;
    set_salt(c, r);
    r->arrival_us = x->start_us;
    if (x->srv->o.request_timeout_ms > 0)
        r->deadline_us = r->arrival_us + (uint64_t)x->srv->o.request_timeout_ms * 1000;
    /* Stop strings are seen here only: their choices must be looked at as they grow. */
    r->stream = p->stream || p->n_stops > 0;
    if (p->stream) r->ring_max = STREAM_EVENTS * p->n;
    if (wants_prompt_out(p)) {
        r->prompt_out = arena_array(r->mem, (size_t)r->n_prompt, sizeof *r->prompt_out);
        ok = ok && r->prompt_out;
    }
    if (p->kind == API_EMBEDDINGS) {
        r->pool = x->model->m.pool;
        r->pool_out = arena_array(r->mem, (size_t)x->model->m.hidden, sizeof *r->pool_out);
        ok = ok && r->pool_out;
    }
    ticket *l = ok ? arena_alloc(r->mem, sizeof *l) : NULL;
    if (!l) return error_set(err, ERR_TOO_LARGE, "the request needs too much memory");
    *l = (ticket){.r = r, .re = x->re, .call = c, .first_choice = i * p->n};
    r->owner = l;
    pt->l = l;
    return OK;
}

/* An answer is held until it is sent; with logprobs it can be a hundred times its text. */
static status check_logprobs(call *c, const request *r, error *err) {
    if (r->params.n_logprobs < 0) return OK;
    int64_t per_token = 1 + r->params.n_logprobs;
    c->n_logprobs += per_token * ((int64_t)r->n_prompt + (int64_t)r->n * r->max_tokens);
    if (c->n_logprobs <= LIMIT_LOGPROBS) return OK;
    return error_set_param(err, ERR_INVALID, "logprobs",
                           "the answer may have more than %d logprobs; ask for fewer tokens, "
                           "choices or alternatives",
                           LIMIT_LOGPROBS);
}

static status make_request(call *c, int32_t i, error *err) {
    request *r = request_new(LIMIT_ARENA_BYTES);
    status st = fill_request(c, i, r, err);
    if (st == OK) st = check_logprobs(c, r, err);
    if (st != OK) {
        c->parts[i].l = NULL;
        request_unref(r);
        return st;
    }
    request_arm(r);
    c->parts[i].r = r;
    for (int32_t k = 0; k < c->p.n; k++) {
        choice *ch = &c->choices[i * c->p.n + k];
        ch->part = i;
        output_init(&ch->out, &c->p, c->x->model->m.tok, c->stops, r->prompt + r->n_virtual,
                    r->n_prompt - r->n_virtual);
    }
    return OK;
}

static status submit_all(call *c, error *err) {
    metrics *mx = c->x->srv->metrics;
    for (int32_t i = 0; i < c->n_parts; i++) {
        status st = scheduler_submit(c->x->model->sched, c->parts[i].r, err);
        if (st == OK) continue;
        metrics_reject(mx, st == ERR_BUSY          ? REJECT_QUEUE_FULL
                           : st == ERR_UNAVAILABLE ? REJECT_UNAVAILABLE
                                                   : REJECT_CAPACITY);
        for (int32_t k = i; k < c->n_parts; k++) { /* never seen by the scheduler */
            c->parts[k].l->call = NULL;
            request_unref(c->parts[k].r);
            c->parts[k].r = NULL;
        }
        return st;
    }
    return OK;
}

static status check_choices(const call *c, int32_t n_prompts, error *err) {
    if (c->p.kind == API_EMBEDDINGS || (int64_t)n_prompts * c->p.n <= LIMIT_CHOICES) return OK;
    return error_set_param(err, ERR_INVALID, "n",
                           "%d prompts with n = %d make %lld choices, the limit is %d", n_prompts,
                           c->p.n, (long long)n_prompts * c->p.n, LIMIT_CHOICES);
}

static status enter_key(call *c, error *err) {
    exchange *x = c->x;
    if (!x->key) return OK;
    int retry_s = 0;
    x->limits_header = true;
    status st = key_enter(x->key, x->n_prompt, clock_us(), &retry_s, err);
    c->entered = st == OK;
    if (st == OK) return OK;
    x->retry_after_s = retry_s;
    metrics_reject(x->srv->metrics, REJECT_RATE_LIMIT);
    return st;
}

static status make_prompts(call *c, const json_t *body, error *err) {
    prompt *list;
    int32_t n;
    TRY((c->p.kind == API_CHAT ? prompts_of_chat : prompts_of_text)(
        c->x->model, body, &c->p, c->mem, &list, &n, err, &c->err_code));
    TRY(check_choices(c, n, err));
    c->n_parts = n;
    c->parts = mem_calloc((size_t)c->n_parts, sizeof *c->parts);
    for (int32_t i = 0; i < c->n_parts; i++) {
        c->parts[i].prompt = list[i];
        c->x->n_prompt += list[i].n;
    }
    c->n_choices = c->n_parts * c->p.n;
    c->choices = mem_calloc((size_t)c->n_choices, sizeof *c->choices);
    return OK;
}

static status prepare(call *c, const json_t *body, api_kind kind, error *err) {
    const exchange *x = c->x;
    const server_model *m = &x->model->m;
    params_context pc = {.defaults = &m->defaults,
                         .eos_ids = m->eos_ids,
                         .n_eos = m->n_eos,
                         .vocab = m->vocab,
                         .max_model_len = m->max_model_len,
                         .strict = x->srv->o.strict,
                         .request_template = x->srv->o.request_template,
                         .max_logprobs = x->srv->o.max_logprobs,
                         .turn = &m->turn};
    if (kind == API_EMBEDDINGS)
        TRY(embeddings_params(body, x->model, x->srv->o.strict, &c->p, err));
    else if (m->embeds_only)
        return error_set_param(err, ERR_UNSUPPORTED, "model",
                               "this model is an encoder: it makes embeddings (/v1/embeddings) and "
                               "no text");
    else
        TRY(params_parse(body, kind, &pc, c->mem, &c->p, err));
    c->stops = stop_set_new(c->mem, c->p.stops, c->p.n_stops);
    TRY(make_prompts(c, body, err));
    for (int32_t i = 0; i < c->n_parts; i++) TRY(make_request(c, i, err));
    TRY(enter_key(c, err));
    return submit_all(c, err);
}

static call *call_new(exchange *x, api_kind kind) {
    call *c = mem_calloc(1, sizeof *c);
    c->x = x;
    c->mem = arena_new(LIMIT_ARENA_BYTES);
    c->created = clock_unix_s();
    char unique[25];
    exchange_unique(x->srv, unique);
    snprintf(c->id, sizeof c->id, "%s-%s",
             kind == API_CHAT         ? "chatcmpl"
             : kind == API_EMBEDDINGS ? "embd"
                                      : "cmpl",
             unique);
    return c;
}

void call_start(exchange *x, api_kind kind) {
    json_t *body = exchange_body_object(x);
    if (!body) return;
    error e;
    if (!exchange_model_ok(x, js_get_str(body, "model"))) {
        json_decref(body);
        return;
    }
    call *c = call_new(x, kind);
    status st = prepare(c, body, kind, &e);
    json_decref(body); /* nothing borrows from it any more */
    strbuf_done(&x->body);
    x->call = c;
    if (st != OK) {
        const char *code = c->err_code;
        call_free(c);
        exchange_fail(x, &e, code);
        return;
    }
    if (c->p.stream) {
        reply_stream_begin(c);
        exchange_answer(x, 200, "text/event-stream; charset=utf-8");
        x->phase = PHASE_STREAM;
    } else {
        x->phase = PHASE_WAIT;
        reactor_watch(x);
    }
}

/* --- events --- */

/* The prompt's text, and its logprobs (there since before the first event). */
static void echo(call *c, part *pt) {
    if (pt->echoed || !c->p.echo) return;
    pt->echoed = true;
    int32_t first = pt->l->first_choice;
    for (int32_t k = first; k < first + c->p.n; k++) {
        output_echo(&c->choices[k].out, pt->prompt.text);
        if (!c->p.want_logprobs) continue;
        for (int32_t i = 0; i < pt->prompt.n; i++)
            output_echo_token(&c->choices[k].out, pt->prompt.ids[i],
                              i ? &pt->r->prompt_out[pt->r->n_virtual + i] : NULL);
    }
}

static void fail(call *c, const request *r, finish_reason why) {
    if (c->err) return;
    c->err = mem_alloc(sizeof *c->err);
    if (r->err.code != OK)
        *c->err = r->err;
    else if (why == FINISH_CANCEL)
        error_set(c->err, ERR_UNAVAILABLE, "the server is shutting down");
    else
        error_set(c->err, ERR_INTERNAL, "the request failed");
}

static void observe(call *c, choice *ch, const request *r) {
    if (!r->stream) return; /* its events come in heaps */
    uint64_t now = clock_us();
    if (ch->token_us)
        metrics_token_gap(c->x->srv->metrics, now - ch->token_us);
    else if (!c->x->ttft_us)
        c->x->ttft_us = now - c->x->start_us;
    ch->token_us = now;
}

static void part_ended(call *c, part *pt) {
    int32_t n = 0, first = pt->l->first_choice;
    for (int32_t k = first; k < first + c->p.n; k++) n += c->choices[k].out.n_tokens;
    if (!c->x->ttft_us && pt->r->times.first_token_us)
        c->x->ttft_us = pt->r->times.first_token_us - pt->r->arrival_us;
    metrics_request(c->x->srv->metrics, pt->r, n, c->p.n);
}

static void take_event(call *c, part *pt, const token_event *e) {
    choice *ch = &c->choices[pt->l->first_choice + e->choice];
    if (e->token >= 0 && ch->out.finish == FINISH_NONE) observe(c, ch, pt->r);
    echo(c, pt);
    if (e->finish == FINISH_ERROR || (e->finish == FINISH_CANCEL && ch->out.finish == FINISH_NONE))
        fail(c, pt->r, e->finish);
    if (output_push(&ch->out, e) && ch->out.by_string) {
        atomic_store(&pt->r->choice_done[e->choice], 1);
        scheduler_poke(c->x->model->sched);
    }
    if (e->finish == FINISH_NONE || ch->acked) return;
    ch->acked = true;
    c->n_acked++;
    if (++pt->n_acked == c->p.n) part_ended(c, pt);
}

/* Take what is there, of a stream until `out` holds `max` bytes. */
static void take_events(call *c, strbuf *out, size_t max) {
    _Alignas(
        token_event) char buf[sizeof(token_event) + LIMIT_TOP_LOGPROBS * sizeof(token_logprob)];
    token_event *e = (token_event *)buf;
    for (int32_t i = 0; i < c->n_parts; i++) {
        part *pt = &c->parts[i];
        while (!c->err && out->n < max && spsc_pop(pt->r->events, e)) {
            int32_t at = pt->l->first_choice + e->choice;
            take_event(c, pt, e);
            if (!c->begun || c->err) continue; /* not a stream */
            reply_add_delta(c, at, out);
            if (c->choices[at].out.finish == FINISH_NONE || c->choices[at].last_sent) continue;
            reply_add_last(c, at, out);
            c->choices[at].last_sent = true;
        }
    }
}

bool call_done(const call *c) {
    return c->err != NULL || c->n_acked == c->n_choices;
}

void call_news(call *c) {
    exchange *x = c->x;
    if (x->phase == PHASE_WAIT) {
        take_events(c, &x->out, SIZE_MAX);
        if (call_done(c)) reactor_resume(x);
    } else if (x->phase == PHASE_STREAM) {
        stream_run(x);
    }
}

call_usage call_usage_of(const call *c) {
    call_usage u = {0};
    for (int32_t i = 0; i < c->n_parts; i++) {
        u.n_prompt += c->parts[i].prompt.n;
        if (c->parts[i].n_acked == c->p.n)
            u.n_cached += MAX(0, c->parts[i].r->times.n_cached - c->parts[i].r->n_virtual);
    }
    for (int32_t i = 0; i < c->n_choices; i++) u.n_output += c->choices[i].out.n_tokens;
    return u;
}

static const char *finish_text(const call *c) {
    if (c->err) return "error";
    return c->choices[0].out.finish == FINISH_STOP ? "stop" : "length";
}

static void note_for_log(call *c) {
    c->x->n_output = call_usage_of(c).n_output;
    for (int32_t i = 0; i < c->n_parts; i++) {
        if (c->parts[i].n_acked != c->p.n) continue; /* the times are valid after the last end */
        c->x->n_drafted += c->parts[i].r->times.n_drafted;
        c->x->n_accepted += c->parts[i].r->times.n_accepted;
    }
    c->x->finish = finish_text(c);
}

void call_finish(call *c) {
    exchange *x = c->x;
    note_for_log(c);
    if (c->err) {
        exchange_fail(x, c->err, NULL);
        return;
    }
    if (c->p.kind == API_EMBEDDINGS)
        embeddings_add_answer(c, &x->out);
    else
        reply_add_answer(c, &x->out);
    exchange_json(x);
}

/* --- stream --- */

static void begin_stream(call *c, strbuf *out) {
    c->begun = true;
    if (c->p.kind == API_CHAT)
        for (int32_t i = 0; i < c->n_choices; i++) reply_add_role(c, i, out);
}

static void end_stream(call *c, strbuf *out) {
    note_for_log(c);
    if (c->err) {
        strbuf_addz(out, "data: ");
        errors_add_json(out, c->err, NULL);
        strbuf_addz(out, "\n\n");
    } else if (c->p.include_usage) {
        reply_add_usage(c, out);
    }
    strbuf_addz(out, "data: [DONE]\n\n");
}

bool call_stream_fill(call *c, strbuf *out, size_t max) {
    if (!c->begun) begin_stream(c, out);
    take_events(c, out, max);
    if (!call_done(c)) return false;
    end_stream(c, out);
    return true;
}

/* --- ends --- */

void call_abandon(call *c) {
    if (c->abandoned) return;
    c->abandoned = true;
    bool any = false;
    for (int32_t i = 0; i < c->n_parts; i++) {
        part *pt = &c->parts[i];
        if (!pt->r || pt->n_acked == c->p.n) continue;
        atomic_store(&pt->r->cancel, true);
        any = true;
    }
    if (any) scheduler_poke(c->x->model->sched);
}

void call_free(call *c) {
    exchange *x = c->x;
    call_abandon(c);
    x->call = NULL;
    int32_t n_output = 0;
    for (int32_t i = 0; i < c->n_choices; i++) {
        n_output += c->choices[i].out.n_tokens;
        output_done(&c->choices[i].out);
    }
    x->n_output = n_output;
    if (c->entered) key_leave(x->key, n_output);
    for (int32_t i = 0; i < c->n_parts; i++) {
        if (!c->parts[i].r) continue;
        c->parts[i].l->call = NULL;
        request_unref(c->parts[i].r);
    }
    mem_free(c->parts);
    mem_free(c->choices);
    mem_free(c->err);
    strbuf_done(&c->head);
    arena_free(c->mem);
    mem_free(c);
}
