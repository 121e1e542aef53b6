/* The front ends of the simulation: they make requests, read slowly or not at all, leave, set stop
 * flags, and check every event against what the request must answer. */
#include <stdio.h>
#include <string.h>

#include "engine/base/hash.h"
#include "engine/base/mem.h"
#include "tests/sim/sim.h"

static int32_t *make_prompt(sim *s, arena *mem, int32_t *ret_n) {
    int32_t n = rnd_in(&s->rnd, 1, s->prompt_max), from = 0;
    int32_t *p = arena_array(mem, (size_t)n, sizeof *p);
    if (!rnd_one_in(&s->rnd, 4)) { /* most share a prefix, some all of it */
        from = rnd_one_in(&s->rnd, 3) ? n : rnd_in(&s->rnd, 0, n);
        from = MIN(from, POOL_LEN);
        memcpy(p, s->pool[rnd_in(&s->rnd, 0, s->n_pool - 1)], (size_t)from * sizeof *p);
    }
    for (int32_t i = from; i < n; i++) p[i] = rnd_in(&s->rnd, 0, s->fake.vocab - 1);
    *ret_n = n;
    return p;
}

static uint64_t first_history(const sim *s, const request *r) {
    int64_t len = MIN((int64_t)r->n_prompt + r->max_tokens, s->st.max_model_len);
    return fake_start(&s->fake, r->prompt, r->n_prompt, (int32_t)len, r->adapter);
}

/* A stop id that choice 0 will meet, where it does not stop before. */
static void make_stop(sim *s, request *r) {
    int32_t at = rnd_in(&s->rnd, 1, MAX(1, r->max_tokens)), token = 0;
    uint64_t h = first_history(s, r);
    for (int32_t i = 0; i < r->n_prompt; i++) h = fake_history(h, r->prompt[i]);
    for (int32_t i = 0; i < at; i++) {
        token = fake_next(&s->fake, h, &r->params, 0);
        h = fake_history(h, token);
    }
    int32_t *ids = arena_array(r->mem, 1, sizeof *ids);
    ids[0] = token;
    r->params.stop_ids = ids;
    r->params.n_stop_ids = 1;
    if (rnd_one_in(&s->rnd, 4)) r->ignore_eos = true;
    if (rnd_one_in(&s->rnd, 4)) r->params.min_tokens = rnd_in(&s->rnd, 0, r->max_tokens);
}

static request *make_request(sim *s) {
    request *r = request_new(1 << 20);
    r->id = ++s->n_requests;
    r->prompt = make_prompt(s, r->mem, &r->n_prompt);
    r->max_tokens = rnd_in(&s->rnd, 1, s->output_max);
    r->n = rnd_one_in(&s->rnd, 3) ? rnd_in(&s->rnd, 1, s->n_max) : 1;
    r->params.seed = rnd_next(&s->rnd) & 3;
    r->tenant = rnd_in(&s->rnd, 0, s->n_tenants - 1);
    r->tenant_weight = (float)(1 + r->tenant);
    r->cache_salt[0] = rnd_one_in(&s->rnd, 8);
    r->adapter = rnd_one_in(&s->rnd, 4) ? rnd_in(&s->rnd, 1, 3) : 0;
    r->priority = rnd_in(&s->rnd, 0, s->priorities - 1);
    r->stream = !rnd_one_in(&s->rnd, 3);
    r->arrival_us = s->now_us;
    if (rnd_one_in(&s->rnd, 3)) make_stop(s, r);
    if (rnd_one_in(&s->rnd, s->deadlines))
        r->deadline_us = s->now_us + (uint64_t)rnd_in(&s->rnd, 0, 100000);
    if (rnd_one_in(&s->rnd, s->echoes)) {
        r->prompt_out = arena_array(r->mem, (size_t)r->n_prompt, sizeof *r->prompt_out);
        if (rnd_one_in(&s->rnd, 2)) r->max_tokens = 0;
    }
    if (rnd_one_in(&s->rnd, 2)) r->ring_max = rnd_in(&s->rnd, 1, 16);
    request_arm(r);
    return r;
}

static void make_client(sim *s, client *c, request *r) {
    *c = (client){.r = r, .id = r->id, .cancel_in = -1, .read_one_in = 1};
    int64_t len = MIN((int64_t)r->n_prompt + r->max_tokens, s->st.max_model_len);
    c->len_max = (int32_t)MIN(len, (int64_t)s->st.n_pages * s->st.page_tokens + 1);
    if (rnd_one_in(&s->rnd, s->slow)) c->read_one_in = rnd_in(&s->rnd, 0, 20);
    if (rnd_one_in(&s->rnd, s->cancels)) c->cancel_in = rnd_in(&s->rnd, 0, 60);
    c->leaves = rnd_one_in(&s->rnd, 2);
    for (int32_t k = 0; k < r->n; k++) {
        choice *ch = &c->c[k];
        ch->history = first_history(s, r);
        for (int32_t i = 0; i < r->n_prompt; i++)
            ch->history = fake_history(ch->history, r->prompt[i]);
        ch->done_at = rnd_one_in(&s->rnd, s->dones) ? rnd_in(&s->rnd, 0, r->max_tokens) : -1;
    }
}

void clients_arrive(sim *s) {
    if (!rnd_one_in(&s->rnd, s->arrive)) return;
    for (int32_t burst = rnd_one_in(&s->rnd, 8) ? 6 : 1; burst > 0; burst--) {
        client *c = NULL;
        for (int32_t i = 0; i < CLIENTS_MAX && !c; i++)
            if (!s->clients[i].r) c = &s->clients[i];
        if (!c) return;
        request *r = make_request(s);
        error e = {0};
        if (core_prepare(s->core, r, &e) != OK) {
            int64_t most = MIN((int64_t)s->st.max_model_len - (r->max_tokens > 0),
                               (int64_t)s->st.n_pages * s->st.page_tokens);
            if (s->st.whole_prompt) most = MIN(most, (int64_t)s->core->o.token_budget);
            if (r->n_prompt <= most) SIM_FAIL(s, "refused although it fits: %.200s", e.text);
            request_unref(r);
            continue;
        }
        make_client(s, c, r);
        core_add(s->core, request_ref(r));
    }
}

/* --- reading --- */

static bool is_stop(const request *r, int32_t token, int32_t n_out) {
    return !r->ignore_eos && n_out > r->params.min_tokens && r->params.n_stop_ids &&
           r->params.stop_ids[0] == token;
}

static void check_token(sim *s, client *c, const token_event *e) {
    choice *ch = &c->c[e->choice];
    int32_t want = fake_next(&s->fake, ch->history, &c->r->params, e->choice);
    if (e->token != want)
        SIM_FAIL(s, "request %llu choice %d token %d is %d, alone it is %d",
                 (unsigned long long)c->id, e->choice, ch->n_out, e->token, want);
    ch->history = fake_history(ch->history, e->token);
    ch->n_out++;
    s->n_tokens++;
    bool stops = is_stop(c->r, e->token, ch->n_out);
    bool full = ch->n_out == c->r->max_tokens || c->r->n_prompt + ch->n_out == c->len_max;
    finish_reason due = stops ? FINISH_STOP : full ? FINISH_LENGTH : FINISH_NONE;
    if (e->finish != due)
        SIM_FAIL(s, "request %llu choice %d: finish %d with token %d of %d, %d is due",
                 (unsigned long long)c->id, e->choice, e->finish, ch->n_out, c->r->max_tokens, due);
    if (ch->n_out > ch->done_at && ch->done_at >= 0 && !ch->done_set) {
        atomic_store(&c->r->choice_done[e->choice], 1);
        ch->done_set = s->poked = true;
    }
}

static bool end_is_explained(const sim *s, const client *c, const token_event *e) {
    const request *r = c->r;
    /* steps may be collected, and so time pass, before a turn looks at deadlines */
    bool late = r->deadline_us && MAX(s->now_us_max, s->now_us) >= r->deadline_us;
    switch (e->finish) {
    case FINISH_STOP: return c->c[e->choice].done_set;
    case FINISH_LENGTH: return r->max_tokens == 0;
    case FINISH_CANCEL:
        if (s->aborted || c->cancel_set) return true;
        return r->err.code != OK && (late || c->read_one_in != 1);
    case FINISH_ERROR: return s->device_failed || (s->n_seq_faults && r->err.code == ERR_INTERNAL);
    default: return false;
    }
}

static void check_prompt_out(sim *s, const client *c) {
    for (int32_t p = 1; p < c->r->n_prompt; p++)
        if (c->r->prompt_out[p].token != c->r->prompt[p] ||
            c->r->prompt_out[p].logprob != -(float)p)
            SIM_FAIL(s, "request %llu: prompt logprob %d is missing", (unsigned long long)c->id, p);
}

static void check_event(sim *s, client *c, const token_event *e) {
    uint64_t v[] = {c->id, (uint64_t)e->choice, (uint64_t)e->token, (uint64_t)e->finish};
    s->trace = hash64(v, sizeof v, s->trace);
    choice *ch = &c->c[e->choice];
    if (ch->is_ended)
        SIM_FAIL(s, "request %llu choice %d: event after its end", (unsigned long long)c->id,
                 e->choice);
    if (c->r->prompt_out && (e->token >= 0 || e->finish == FINISH_LENGTH)) check_prompt_out(s, c);
    if (e->token >= 0)
        check_token(s, c, e);
    else if (s->fake.problem[0])
        SIM_FAIL(s, "%s", s->fake.problem);
    else if (s->model.problem[0])
        SIM_FAIL(s, "the draft model: %s", s->model.problem);
    else if (!end_is_explained(s, c, e))
        SIM_FAIL(s, "request %llu choice %d: finish %d without cause (error %s)",
                 (unsigned long long)c->id, e->choice, e->finish, status_name(c->r->err.code));
    if (e->finish == FINISH_NONE) return;
    ch->is_ended = true;
    c->n_ended++;
}

void client_read(sim *s, client *c) {
    token_event e;
    while (spsc_pop(c->r->events, &e)) check_event(s, c, &e);
}

/* --- what clients do between steps --- */

static void act(sim *s, client *c) {
    if (c->cancel_in >= 0 && c->cancel_in-- == 0 && !c->cancel_set) {
        atomic_store(&c->r->cancel, true);
        c->cancel_set = s->poked = true;
        if (c->leaves) {
            request_unref(c->r);
            c->r = NULL;
            return;
        }
    }
    for (int32_t k = 0; k < c->r->n; k++)
        if (c->c[k].done_at == 0 && !c->c[k].done_set && rnd_one_in(&s->rnd, 4)) {
            atomic_store(&c->r->choice_done[k], 1);
            c->c[k].done_set = s->poked = true;
        }
    if (rnd_one_in(&s->rnd, c->read_one_in)) client_read(s, c);
    if (!c->r->sched) {
        client_read(s, c);
        if (c->n_ended != c->r->n)
            SIM_FAIL(s, "request %llu left with %d of %d choices ended", (unsigned long long)c->id,
                     c->n_ended, c->r->n);
        if (!c->saw_end) SIM_FAIL(s, "request %llu: end not told", (unsigned long long)c->id);
        request_unref(c->r);
        c->r = NULL;
    }
}

void clients_act(sim *s) {
    for (int32_t i = 0; i < CLIENTS_MAX; i++)
        if (s->clients[i].r) act(s, &s->clients[i]);
}

/* Non-streaming readers read when told; a stopped one never does. */
void clients_ready(sim *s, request **ready, int32_t n) {
    for (int32_t k = 0; k < n; k++) {
        client *c = NULL;
        for (int32_t i = 0; i < CLIENTS_MAX; i++)
            if (s->clients[i].r == ready[k]) c = &s->clients[i];
        if (!c) {
            if (!atomic_load(&ready[k]->cancel)) SIM_FAIL(s, "on_ready names an unknown request");
            continue;
        }
        const group *g = c->r->sched;
        if (c->saw_end) SIM_FAIL(s, "request %llu: told after its end", (unsigned long long)c->id);
        c->saw_end = g->is_ended;
        if (!c->r->stream && c->read_one_in == 1) client_read(s, c);
    }
}

bool clients_idle(const sim *s) {
    for (int32_t i = 0; i < CLIENTS_MAX; i++)
        if (s->clients[i].r) return false;
    return true;
}
