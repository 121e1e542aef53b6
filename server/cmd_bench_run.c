/* The load client: one thread, one epoll set, one connection per request, so that what is measured
 * is the server. Definitions, the usual ones:
 *   TTFT  from sending the request (connecting included) to the first event with a choice;
 *         in an open loop from when the request was due, so that a client that is late shows it
 *   ITL   between two such events of one stream
 *   TPOT  (last event - first event) / (tokens - 1) of one request
 *   E2E   from sending to the end of the stream
 * Prompts are exactly --input-len token ids where the server has /tokenize (drawn, with --seed,
 * from the ids of a text), else about as many words; usage numbers come from the server. Each
 * prompt differs from the first tokens on, so a prefix cache does not help.
 *
 * At thousands of streams this thread must not be what limits: an event is parsed as JSON only
 * where it can hold more than a piece of text (skim()), free slots are a list, and only so many
 * connections are being made at once, because a listen queue that overflows drops the rest for a
 * second. */
#include "server/cmd_bench_run.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

enum {
    EVENTS_MAX = 512,
    OPEN_MAX = 16384, /* connections of an open loop */
    CONNECTING_MAX = 256,
    OTHER_FDS = 32, /* descriptors that are not connections */
    IDLE_MS = 1000,
};

static const char *const words[] = {"time",  "year", "people", "way",   "day",    "man",   "thing",
                                    "woman", "life", "child",  "world", "school", "state", "family",
                                    "hand",  "part", "place",  "week",  "case",   "point", "water",
                                    "room",  "area", "money",  "story", "fact",   "month", "lot"};

typedef struct slot slot;
struct slot {
    slot *next_free;
    int fd;
    strbuf out;
    size_t sent;
    client_reply reply;
    size_t pos; /* of the event reader */
    uint64_t start_ns, first_ns, last_ns;
    int64_t n_events, tokens;
    int64_t leave_at; /* events after which the client leaves, 0 = it stays */
};

typedef struct load {
    const bench_target *t;
    const bench_load_options *o;
    bench_result *res;
    int epoll;
    slot *slots, *free;
    int n_slots, n_flying, n_connecting, n_streaming;
    int64_t n_started;
    uint64_t begin_ns, due_ns;
    struct {
        uint64_t ns;
        int64_t n_events;
        bench_usage use;
    } full; /* since all streams are open */
} load;

/* --- the server's own account --- */

static void usage_of_pid(int pid, bench_usage *ret) {
    clockid_t id;
    struct timespec t;
    if (clock_getcpuclockid(pid, &id) == 0 && clock_gettime(id, &t) == 0)
        ret->cpu_s = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    char path[64];
    long pages;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *f = fopen(path, "re");
    if (f && fscanf(f, "%*d %ld", &pages) == 1)
        ret->rss_mib = (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576.0;
    if (f) fclose(f);
}

/* "name value" on a line of its own. */
static double metric(str text, const char *name) {
    strbuf key = {0};
    strbuf_addf(&key, "\n%s ", name);
    ptrdiff_t at = str_find(text, strbuf_str(&key), 0);
    double v = at < 0 ? -1 : strtod(text.p + at + key.n, NULL);
    strbuf_done(&key);
    return v;
}

static void usage_of_metrics(const bench_target *t, bench_usage *ret) {
    client_reply r = {0};
    error err;
    if (client_call(&t->url, "GET", "/metrics", t->api_key, STR(""), &r, &err) == OK &&
        r.http == 200 && strbuf_addc(&r.body, 0)) {
        ret->cpu_s = metric(strbuf_str(&r.body), "process_cpu_seconds_total");
        double bytes = metric(strbuf_str(&r.body), "process_resident_memory_bytes");
        if (bytes > 0) ret->rss_mib = bytes / 1048576.0;
    }
    client_reply_done(&r);
}

static bench_usage usage(const bench_target *t) {
    bench_usage u = {-1, -1};
    if (t->pid)
        usage_of_pid(t->pid, &u);
    else
        usage_of_metrics(t, &u);
    return u;
}

/* --- requests --- */

static uint32_t draw(const load *l, int64_t request, int64_t i, uint32_t n) {
    double u = rng_uniform(l->o->seed, (uint64_t)(request * 2097152 + i), 0);
    return (uint32_t)(u * n);
}

static void add_prompt(const load *l, int64_t request, strbuf *out) {
    const vec_i32 *pool = &l->t->pool;
    bool ids = pool->n > 0;
    strbuf_addc(out, ids ? '[' : '"');
    for (int64_t i = 0; i < l->o->input_len; i++) {
        if (ids)
            strbuf_addf(out, i ? ",%d" : "%d", pool->p[draw(l, request, i, (uint32_t)pool->n)]);
        else
            strbuf_addf(out, " %s", words[draw(l, request, i, ARRAY_LEN(words))]);
    }
    strbuf_addc(out, ids ? ']' : '"');
}

static void add_request(const load *l, int64_t request, strbuf *out) {
    strbuf body = {0};
    strbuf_addz(&body, "{\"model\":");
    strbuf_add_json(&body, str_z(l->t->model));
    strbuf_addz(&body, ",\"prompt\":");
    add_prompt(l, request, &body);
    strbuf_addf(&body,
                ",\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true}}",
                l->o->output_len);
    client_request(out, &l->t->url, "POST", "/v1/completions", l->t->api_key, strbuf_str(&body));
    strbuf_done(&body);
}

/* After how many events the client of this request leaves; 0: it stays. */
static int64_t choose_leaving(const load *l, int64_t request) {
    if (l->o->cancel <= 0) return 0;
    if (rng_uniform(l->o->seed, (uint64_t)request, 2) >= l->o->cancel) return 0;
    return 1 + (int64_t)(rng_uniform(l->o->seed, (uint64_t)request, 3) * l->o->output_len);
}

static void watch(const load *l, slot *s, uint32_t events, int op) {
    struct epoll_event e = {.events = events, .data.ptr = s};
    epoll_ctl(l->epoll, op, s->fd, &e);
}

static void full_begins(load *l) {
    l->full.ns = clock_ns();
    l->full.n_events = l->res->n_events;
    l->full.use = l->t->pid ? usage(l->t) : (bench_usage){-1, -1};
}

/* The first stream ends: what lies since full_begins is the steady part, if it is the longest. */
static void full_ends(load *l) {
    if (!l->full.ns) return;
    bench_steady s = {.seen = true,
                      .seconds = 1e-9 * (double)(clock_ns() - l->full.ns),
                      .n_events = l->res->n_events - l->full.n_events,
                      .cpu_s = -1,
                      .rss_mib = -1};
    if (l->t->pid) {
        bench_usage u = usage(l->t);
        s.cpu_s = u.cpu_s - l->full.use.cpu_s;
        s.rss_mib = u.rss_mib;
    }
    if (s.n_events > l->res->steady.n_events) l->res->steady = s;
    l->full.ns = 0;
}

static void slot_close(load *l, slot *s) {
    if (s->n_events) {
        full_ends(l);
        l->n_streaming--;
    }
    if (s->sent < s->out.n) l->n_connecting--;
    if (s->fd >= 0) close(s->fd);
    strbuf_done(&s->out);
    client_reply_done(&s->reply);
    *s = (slot){.fd = -1, .next_free = l->free};
    l->free = s;
    l->n_flying--;
    l->res->n_ended++;
}

static void slot_failed(load *l, slot *s, const error *err) {
    if (!l->res->n_failed++) l->res->first_error = *err;
    slot_close(l, s);
}

static void slot_ended(load *l, slot *s) {
    bench_result *r = l->res;
    double ms = 1e-6;
    if (!s->tokens) s->tokens = s->n_events;
    vec_push(&r->e2e, ms * (double)(s->last_ns - s->start_ns));
    if (s->tokens > 1)
        vec_push(&r->tpot, ms * (double)(s->last_ns - s->first_ns) / (double)(s->tokens - 1));
    r->output_tokens += s->tokens;
    slot_close(l, s);
}

static void start(load *l, uint64_t at_ns) {
    slot *s = l->free;
    error err;
    l->free = s->next_free;
    int64_t request = l->o->first_request + l->n_started++;
    s->start_ns = at_ns;
    s->leave_at = choose_leaving(l, request);
    add_request(l, request, &s->out);
    l->n_flying++;
    l->n_connecting++;
    if (client_connect(&l->t->url, true, &s->fd, &err) != OK) {
        s->fd = -1;
        slot_failed(l, s, &err);
        return;
    }
    watch(l, s, EPOLLOUT, EPOLL_CTL_ADD);
}

/* --- events --- */

/* A piece of text and nothing else? Names in a JSON text stand between bare quotes, which no
 * string can hold, so finding them so is exact. Anything that is not sure gets parsed. */
static bool skim(str data) {
    return str_find(data, STR("\"choices\":[{"), 0) >= 0 &&
           str_find(data, STR("\"usage\":{"), 0) < 0 && str_find(data, STR("\"usage\": "), 0) < 0 &&
           str_find(data, STR("\"error\""), 0) < 0;
}

static void on_text(load *l, slot *s, uint64_t now) {
    bench_result *r = l->res;
    r->n_events++;
    if (!s->n_events++) {
        s->first_ns = now;
        vec_push(&r->ttft, 1e-6 * (double)(now - s->start_ns));
        if (++l->n_streaming == l->n_slots && l->o->rate <= 0) full_begins(l);
    } else {
        vec_push(&r->itl, 1e-6 * (double)(now - s->last_ns));
    }
    s->last_ns = now;
}

static status on_event(load *l, slot *s, str data, uint64_t now, error *err) {
    json_t *v;
    if (skim(data)) {
        on_text(l, s, now);
        return OK;
    }
    if (str_eq(data, STR("[DONE]"))) return OK;
    TRY(client_refusal(200, data, err));
    TRY(js_parse(data, &v, err));
    json_t *usage = js_get(v, "usage");
    if (json_is_object(usage)) {
        int64_t n = js_get_int(usage, "prompt_tokens", 0);
        if (!s->tokens) l->res->prompt_tokens += n;
        s->tokens = js_get_int(usage, "completion_tokens", 0);
    }
    if (json_array_size(js_get(v, "choices"))) on_text(l, s, now);
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
    if (s->leave_at && s->n_events >= s->leave_at && !s->reply.done) {
        l->res->n_cancelled++;
        l->res->output_tokens += s->n_events;
        slot_close(l, s);
        return OK;
    }
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
    if (s->sent < s->out.n) return OK;
    l->n_connecting--;
    strbuf_done(&s->out);
    s->sent = 0;
    watch(l, s, EPOLLIN, EPOLL_CTL_MOD);
    return OK;
}

static void turn(load *l, uint64_t wait_ns) {
    struct epoll_event events[EVENTS_MAX];
    struct timespec t = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
    struct pollfd p = {.fd = l->epoll, .events = POLLIN};
    if (ppoll(&p, 1, &t, NULL) <= 0) return;
    int n = epoll_wait(l->epoll, events, EVENTS_MAX, 0);
    for (int i = 0; i < n; i++) {
        slot *s = events[i].data.ptr;
        error err;
        status st = s->out.n ? writable(l, s, &err) : readable(l, s, &err);
        if (st != OK) slot_failed(l, s, &err);
    }
}

/* --- arrivals --- */

/* Nanoseconds until the next request of a Poisson process. */
static uint64_t gap_ns(const load *l) {
    double u = rng_uniform(l->o->seed, (uint64_t)(l->o->first_request + l->n_started), 1);
    return (uint64_t)(-log(1 - u) / l->o->rate * 1e9);
}

static bool more(const load *l, uint64_t now) {
    if (l->o->duration_s > 0 && (double)(now - l->begin_ns) > 1e9 * l->o->duration_s) return false;
    return l->n_started < l->o->n_requests;
}

static void start_due(load *l, uint64_t now) {
    bool open_loop = l->o->rate > 0;
    while (more(l, now) && l->free && l->n_connecting < CONNECTING_MAX &&
           (!open_loop || l->due_ns <= now)) {
        start(l, open_loop ? l->due_ns : clock_ns());
        if (open_loop) l->due_ns += gap_ns(l);
    }
}

static void run(load *l) {
    l->due_ns = l->begin_ns = clock_ns();
    for (;;) {
        uint64_t now = clock_ns();
        start_due(l, now);
        bool waits = more(l, now);
        if (!waits && !l->n_flying) break;
        uint64_t wait = (uint64_t)IDLE_MS * 1000000;
        if (waits && l->o->rate > 0 && l->free) wait = l->due_ns > now ? l->due_ns - now : 0;
        turn(l, wait);
    }
    l->res->seconds = 1e-9 * (double)(clock_ns() - l->begin_ns);
}

static status check_descriptors(int n, error *err) {
    struct rlimit l;
    rlim_t want = (rlim_t)n + OTHER_FDS;
    if (getrlimit(RLIMIT_NOFILE, &l) != 0 || l.rlim_cur >= want) return OK;
    if (l.rlim_max < want)
        return error_set(err, ERR_IO,
                         "%d connections need %llu file descriptors, this process may have %llu; "
                         "raise the limit (ulimit -n) or lower --concurrency",
                         n, (unsigned long long)want, (unsigned long long)l.rlim_max);
    l.rlim_cur = want;
    if (setrlimit(RLIMIT_NOFILE, &l) != 0)
        return error_set(err, ERR_IO, "cannot raise the limit of file descriptors: %s",
                         strerror(errno));
    return OK;
}

static status prepare(load *l, error *err) {
    l->n_slots = l->o->rate > 0 ? OPEN_MAX : l->o->concurrency;
    TRY(check_descriptors(l->n_slots, err));
    l->slots = mem_calloc((size_t)l->n_slots, sizeof *l->slots);
    for (int i = l->n_slots; i-- > 0;) {
        l->slots[i] = (slot){.fd = -1, .next_free = l->free};
        l->free = &l->slots[i];
    }
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll < 0) return error_set(err, ERR_IO, "epoll: %s", strerror(errno));
    return OK;
}

status bench_run(const bench_target *t, const bench_load_options *o, bench_result *ret,
                 error *err) {
    *ret = (bench_result){0};
    load l = {.t = t, .o = o, .res = ret, .epoll = -1};
    status st = prepare(&l, err);
    if (st == OK) {
        ret->before = usage(t);
        run(&l);
        ret->after = usage(t);
    }
    if (l.epoll >= 0) close(l.epoll);
    mem_free(l.slots);
    return st;
}

void bench_result_done(bench_result *r) {
    vec_done(&r->ttft);
    vec_done(&r->itl);
    vec_done(&r->tpot);
    vec_done(&r->e2e);
}
