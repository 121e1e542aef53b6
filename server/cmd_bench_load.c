/* The load client: one thread, one epoll set, one connection per request, so that what is measured
 * is the server. Definitions, the usual ones:
 *   TTFT  from sending the request (connecting included) to the first event with a choice
 *   ITL   between two such events of one stream
 *   TPOT  (last event - first event) / (tokens - 1) of one request
 *   E2E   from sending to the end of the stream
 * Prompts are exactly --input-len token ids where the server has /tokenize (drawn, with --seed,
 * from the ids of a text), else about as many words; usage numbers come from the server. Each
 * prompt differs from the first token on, so a prefix cache does not help. */
#include "server/cmd_bench_load.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/vec.h"
#include "server/client.h"
#include "server/cmd.h"

#define EVENTS_MAX 256
#define OPEN_MAX   16384 /* connections of an open loop */

static const char *const words[] = {"time",  "year", "people", "way",   "day",    "man",   "thing",
                                    "woman", "life", "child",  "world", "school", "state", "family",
                                    "hand",  "part", "place",  "week",  "case",   "point", "water",
                                    "room",  "area", "money",  "story", "fact",   "month", "lot"};

typedef VEC(double) vec_f64;

typedef struct slot {
    int fd; /* -1: free */
    strbuf out;
    size_t sent;
    client_reply reply;
    size_t pos; /* of the event reader */
    uint64_t start_ns, first_ns, last_ns;
    int64_t n_events, tokens;
} slot;

typedef struct load {
    const conf *c;
    client_url url;
    char *model;
    vec_i32 pool; /* token ids to draw prompts from; empty: words */
    int epoll;
    slot *slots;
    int n_slots, n_flying;
    int64_t n_started, n_ended, n_failed;
    uint64_t begin_ns, end_ns;
    int64_t prompt_tokens, output_tokens;
    vec_f64 ttft, itl, tpot, e2e; /* milliseconds */
    error first_error;
} load;

static uint32_t draw(const load *l, int64_t request, int64_t i, uint32_t n) {
    double u = rng_uniform((uint64_t)l->c->seed, (uint64_t)(request * 2097152 + i), 0);
    return (uint32_t)(u * n);
}

static void add_prompt(const load *l, int64_t request, strbuf *out) {
    bool ids = l->pool.n > 0;
    strbuf_addc(out, ids ? '[' : '"');
    for (int64_t i = 0; i < l->c->input_len; i++) {
        if (ids)
            strbuf_addf(out, i ? ",%d" : "%d", l->pool.p[draw(l, request, i, (uint32_t)l->pool.n)]);
        else
            strbuf_addf(out, " %s", words[draw(l, request, i, ARRAY_LEN(words))]);
    }
    strbuf_addc(out, ids ? ']' : '"');
}

static void add_request(const load *l, int64_t request, strbuf *out) {
    strbuf body = {0};
    strbuf_addz(&body, "{\"model\":");
    strbuf_add_json(&body, str_z(l->model));
    strbuf_addz(&body, ",\"prompt\":");
    add_prompt(l, request, &body);
    strbuf_addf(&body,
                ",\"max_tokens\":%lld,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true}}",
                (long long)l->c->output_len);
    client_request(out, &l->url, "POST", "/v1/completions", l->c->api_key, strbuf_str(&body));
    strbuf_done(&body);
}

static void watch(const load *l, slot *s, uint32_t events, int op) {
    struct epoll_event e = {.events = events, .data.ptr = s};
    epoll_ctl(l->epoll, op, s->fd, &e);
}

static void slot_close(load *l, slot *s) {
    if (s->fd >= 0) close(s->fd);
    strbuf_done(&s->out);
    client_reply_done(&s->reply);
    *s = (slot){.fd = -1};
    l->n_flying--;
    l->n_ended++;
}

static void slot_failed(load *l, slot *s, const error *err) {
    if (!l->n_failed++) l->first_error = *err;
    slot_close(l, s);
}

static void slot_ended(load *l, slot *s) {
    double ms = 1e-6;
    if (!s->tokens) s->tokens = s->n_events;
    vec_push(&l->e2e, ms * (double)(s->last_ns - s->start_ns));
    vec_push(&l->ttft, ms * (double)(s->first_ns - s->start_ns));
    if (s->tokens > 1)
        vec_push(&l->tpot, ms * (double)(s->last_ns - s->first_ns) / (double)(s->tokens - 1));
    l->output_tokens += s->tokens;
    slot_close(l, s);
}

static void start(load *l) {
    slot *s = l->slots;
    while (s->fd >= 0) s++;
    error err;
    s->start_ns = clock_ns();
    add_request(l, l->n_started++, &s->out);
    l->n_flying++;
    if (client_connect(&l->url, true, &s->fd, &err) != OK) {
        s->fd = -1;
        slot_failed(l, s, &err);
        return;
    }
    watch(l, s, EPOLLOUT, EPOLL_CTL_ADD);
}

static status on_event(load *l, slot *s, str data, uint64_t now, error *err) {
    json_t *v;
    if (str_eq(data, STR("[DONE]"))) return OK;
    TRY(client_refusal(200, data, err));
    TRY(js_parse(data, &v, err));
    json_t *usage = js_get(v, "usage");
    if (usage) {
        s->tokens = js_get_int(usage, "completion_tokens", 0);
        l->prompt_tokens += js_get_int(usage, "prompt_tokens", 0);
    }
    if (json_array_size(js_get(v, "choices"))) {
        if (!s->n_events++)
            s->first_ns = now;
        else
            vec_push(&l->itl, 1e-6 * (double)(now - s->last_ns));
        s->last_ns = now;
    }
    json_decref(v);
    return OK;
}

static status readable(load *l, slot *s, error *err) {
    char buf[65536];
    ssize_t n = recv(s->fd, buf, sizeof buf, 0);
    uint64_t now = clock_ns();
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return OK;
    if (n < 0) return error_set(err, ERR_IO, "reading an answer: %s", strerror(errno));
    size_t used;
    str data;
    TRY(client_reply_feed(&s->reply, buf, (size_t)n, &used, err));
    while (s->reply.http == 200 && client_event(&s->reply, &s->pos, &data))
        TRY(on_event(l, s, data, now, err));
    if (!s->reply.done) return OK;
    if (s->reply.http != 200) return client_refusal(s->reply.http, strbuf_str(&s->reply.body), err);
    if (!s->n_events) return error_set(err, ERR_IO, "a stream ended without a token");
    slot_ended(l, s);
    return OK;
}

static status writable(load *l, slot *s, error *err) {
    ssize_t n = send(s->fd, s->out.p + s->sent, s->out.n - s->sent, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return OK;
    if (n < 0) return error_set(err, ERR_IO, "sending a request: %s", strerror(errno));
    s->sent += (size_t)n;
    if (s->sent == s->out.n) watch(l, s, EPOLLIN, EPOLL_CTL_MOD);
    return OK;
}

static void turn(load *l, int timeout_ms) {
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(l->epoll, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < n; i++) {
        slot *s = events[i].data.ptr;
        error err;
        status st = s->sent < s->out.n ? writable(l, s, &err) : readable(l, s, &err);
        if (st != OK) slot_failed(l, s, &err);
    }
}

/* Nanoseconds until the next request of a Poisson process. */
static uint64_t gap_ns(const load *l) {
    double u = rng_uniform((uint64_t)l->c->seed, (uint64_t)l->n_started, 1);
    return (uint64_t)(-log(1 - u) / l->c->rate * 1e9);
}

static void run(load *l) {
    bool open_loop = l->c->rate > 0;
    uint64_t next = l->begin_ns = clock_ns();
    while (l->n_ended < l->c->requests) {
        uint64_t now = clock_ns();
        while (l->n_started < l->c->requests && l->n_flying < l->n_slots &&
               (!open_loop || next <= now)) {
            start(l);
            if (open_loop) next += gap_ns(l);
        }
        bool waits = open_loop && l->n_started < l->c->requests;
        turn(l, waits ? (int)((next > now ? next - now : 0) / 1000000) : 1000);
    }
    l->end_ns = clock_ns();
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const vec_f64 *v, double p) {
    return v->n ? v->p[(size_t)(p / 100 * (double)(v->n - 1) + 0.5)] : NAN;
}

static double mean(const vec_f64 *v) {
    double sum = 0;
    for (size_t i = 0; i < v->n; i++) sum += v->p[i];
    return v->n ? sum / (double)v->n : NAN;
}

static void add_row(strbuf *out, bool json, const char *name, vec_f64 *v) {
    if (v->n) qsort(v->p, v->n, sizeof *v->p, by_value);
    double x[] = {mean(v), percentile(v, 50), percentile(v, 90), percentile(v, 99),
                  percentile(v, 100)};
    if (!v->n && json)
        strbuf_addf(out, ", \"%s_ms\": null", name);
    else if (json)
        strbuf_addf(out,
                    ", \"%s_ms\": {\"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, "
                    "\"max\": %.3f}",
                    name, x[0], x[1], x[2], x[3], x[4]);
    else if (v->n)
        strbuf_addf(out, "%-5s ms %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, x[0], x[1], x[2],
                    x[3], x[4]);
}

static void report(load *l) {
    const conf *c = l->c;
    strbuf out = {0};
    double s = 1e-9 * (double)(l->end_ns - l->begin_ns);
    double tok_s = (double)l->output_tokens / s;
    int64_t good = l->n_ended - l->n_failed;
    double prompt_mean = good ? (double)l->prompt_tokens / (double)good : 0;
    double output_mean = good ? (double)l->output_tokens / (double)good : 0;
    if (c->json) {
        strbuf_addf(&out,
                    "{\"requests\": %lld, \"failed\": %lld, \"concurrency\": %lld, \"rate\": %g, "
                    "\"seconds\": %.3f, \"requests_per_s\": %.3f, \"output_tokens_per_s\": %.2f, "
                    "\"prompt_tokens_mean\": %.1f, \"output_tokens_mean\": %.1f",
                    (long long)l->n_ended, (long long)l->n_failed, (long long)c->concurrency,
                    c->rate, s, (double)good / s, tok_s, prompt_mean, output_mean);
    } else {
        strbuf_addf(&out,
                    "%lld requests (%lld failed) in %.2f s: %.2f requests/s, %.1f output tok/s\n"
                    "%.1f tokens in, %.1f out on average; ",
                    (long long)l->n_ended, (long long)l->n_failed, s, (double)good / s, tok_s,
                    prompt_mean, output_mean);
        if (c->rate > 0)
            strbuf_addf(&out, "%g requests/s offered\n\n", c->rate);
        else
            strbuf_addf(&out, "%lld in flight\n\n", (long long)c->concurrency);
        strbuf_addf(&out, "%8s %10s %10s %10s %10s %10s\n", "", "mean", "p50", "p90", "p99", "max");
    }
    add_row(&out, c->json, "ttft", &l->ttft);
    add_row(&out, c->json, "itl", &l->itl);
    add_row(&out, c->json, "tpot", &l->tpot);
    add_row(&out, c->json, "e2e", &l->e2e);
    strbuf_addz(&out, c->json ? "}\n" : "");
    fwrite(out.p, 1, out.n, stdout);
    strbuf_done(&out);
    if (l->n_failed) cmd_failf("the first failure: %s", l->first_error.text);
}

/* Token ids of a text of all words, if the server tokenises. */
static void fill_pool(load *l) {
    strbuf body = {0};
    strbuf_addz(&body, "{\"add_special_tokens\":false,\"model\":");
    strbuf_add_json(&body, str_z(l->model));
    strbuf_addz(&body, ",\"prompt\":\"");
    for (size_t i = 0; i < ARRAY_LEN(words); i++) strbuf_addf(&body, " %s", words[i]);
    strbuf_addz(&body, "\"}");
    client_reply r = {0};
    json_t *v = NULL;
    error err;
    if (client_call(&l->url, "POST", "/tokenize", l->c->api_key, strbuf_str(&body), &r, &err) ==
            OK &&
        r.http == 200 && js_parse(strbuf_str(&r.body), &v, &err) == OK) {
        size_t i;
        json_t *id;
        json_array_foreach(js_get(v, "tokens"), i, id) {
            vec_push(&l->pool, (int32_t)json_integer_value(id));
        }
    }
    json_decref(v);
    client_reply_done(&r);
    strbuf_done(&body);
}

static status prepare(load *l, error *err) {
    const conf *c = l->c;
    TRY(client_url_parse(c->url, &l->url, err));
    if (c->served_model)
        l->model = mem_strdup(c->served_model);
    else
        TRY(client_first_model(&l->url, c->api_key, &l->model, err));
    fill_pool(l);
    l->n_slots = c->rate > 0 ? OPEN_MAX : (int)c->concurrency;
    l->slots = mem_calloc((size_t)l->n_slots, sizeof *l->slots);
    for (int i = 0; i < l->n_slots; i++) l->slots[i].fd = -1;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll < 0) return error_set(err, ERR_IO, "epoll: %s", strerror(errno));
    return OK;
}

int bench_load(const conf *c) {
    error err;
    load l = {.c = c, .epoll = -1};
    if (!c->url) return cmd_failf("bench serve needs --url URL of a running server");
    int rc;
    if (prepare(&l, &err) == OK) {
        run(&l);
        report(&l);
        rc = l.n_failed ? 1 : 0;
    } else {
        rc = cmd_fail(&err);
    }
    if (l.epoll >= 0) close(l.epoll);
    vec_done(&l.pool);
    vec_done(&l.ttft);
    vec_done(&l.itl);
    vec_done(&l.tpot);
    vec_done(&l.e2e);
    mem_free(l.slots);
    mem_free(l.model);
    return rc;
}
