/* The Prometheus text format (version 0.0.4): one family after the other, HELP and TYPE first.
 * A scrape costs a few hundred lines of formatting and no lock but the scheduler's snapshot. */
#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "server/internal.h"
#include "server/keys.h"
#include "server/metrics_internal.h"

typedef struct page {
    strbuf *out;
    strbuf labels; /* model_name="...",engine="0" */
} page;

static uint64_t get(const _Atomic uint64_t *c) {
    return atomic_load_explicit((_Atomic uint64_t *)c, memory_order_relaxed);
}

static void family(page *p, const char *name, const char *type, const char *help) {
    strbuf_addf(p->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* `more` is further labels ("reason=\"x\"") or NULL. */
static void value(page *p, const char *name, const char *more, double v) {
    strbuf_addf(p->out, "%s{%s%s%s} %.12g\n", name, p->labels.p, more ? "," : "", more ? more : "",
                v);
}

static void single(page *p, const char *name, const char *type, const char *help, double v) {
    family(p, name, type, help);
    value(p, name, NULL, v);
}

static void add_hist(page *p, const hist_def *d, const hist *h, int32_t model_len) {
    family(p, d->name, "histogram", d->help);
    uint64_t sum = 0;
    for (int b = 0; b < HIST_BUCKETS && d->le[b] > 0; b++) {
        sum += get(&h->count[b]);
        if (d->to_model_len && d->le[b] > model_len) continue;
        strbuf_addf(p->out, "%s_bucket{%s,le=\"%.12g\"} %llu\n", d->name, p->labels.p, d->le[b],
                    (unsigned long long)sum);
    }
    sum = 0;
    for (int b = 0; b <= HIST_BUCKETS; b++) sum += get(&h->count[b]);
    strbuf_addf(p->out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", d->name, p->labels.p,
                (unsigned long long)sum);
    strbuf_addf(p->out, "%s_sum{%s} %.6f\n%s_count{%s} %llu\n", d->name, p->labels.p,
                (double)get(&h->sum_micro) * 1e-6, d->name, p->labels.p, (unsigned long long)sum);
}

/* As vLLM: the names are labels, the value is the time. */
static void add_lora(page *p, const model *m, const scheduler_stats *t) {
    strbuf waiting = {0}, running = {0}, more = {0};
    adapters_names(m->m.adapters, t->adapters_waiting, &waiting);
    adapters_names(m->m.adapters, t->adapters_running, &running);
    strbuf_addf(&more, "max_lora=\"%d\",waiting_lora_adapters=", adapters_max(m->m.adapters));
    strbuf_add_json(&more, strbuf_str(&waiting));
    strbuf_addz(&more, ",running_lora_adapters=");
    strbuf_add_json(&more, strbuf_str(&running));
    value(p, "vllm:lora_requests_info", more.p, (double)clock_unix_s());
    strbuf_done(&waiting);
    strbuf_done(&running);
    strbuf_done(&more);
}

static void add_gauges(page *p, const model *m, const scheduler_stats *t) {
    char more[128];
    single(p, "vllm:num_requests_running", "gauge", "Sequences being computed.", t->n_running);
    single(p, "vllm:num_requests_waiting", "gauge", "Requests in the queue.", t->n_waiting);
    single(p, "vllm:kv_cache_usage_perc", "gauge", "Pages in use, 0 to 1.",
           t->pages_total ? (double)t->pages_used / t->pages_total : 0);
    family(p, "vllm:cache_config_info", "gauge", "Shape of the KV cache.");
    snprintf(more, sizeof more, "block_size=\"%d\",num_gpu_blocks=\"%d\",cache_dtype=\"%s\"",
             m->m.page_tokens, m->m.n_pages, m->m.kv_dtype ? m->m.kv_dtype : "none");
    value(p, "vllm:cache_config_info", more, 1);
    family(p, "vllm:lora_requests_info", "gauge", "Adapters in use.");
    add_lora(p, m, t);
    single(p, "vllm:engine_sleep_state", "gauge", "0: awake.", 0);
    single(p, "pagoda:kv_pages_used", "gauge", "Pages held by running sequences.", t->pages_used);
    single(p, "pagoda:kv_pages_cached", "gauge", "Free pages whose content may still be hit.",
           t->pages_cached);
    single(p, "pagoda:kv_pages_total", "gauge", "Pages in all.", t->pages_total);
    single(p, "pagoda:kv_host_pages_total", "gauge", "Slots for pages in the host's memory.",
           t->host_pages_total);
    single(p, "pagoda:kv_host_pages_used", "gauge", "Slots that hold a page.", t->host_pages_used);
    single(p, "pagoda:healthy", "gauge", "1 while the engine works.", t->healthy);
}

static void counter(page *p, const char *name, const char *help, uint64_t v) {
    single(p, name, "counter", help, (double)v);
}

static void add_counters(page *p, const metrics *m, const scheduler_stats *t) {
    counter(p, "vllm:prompt_tokens_total", "Prompt tokens served.", t->prompt_tokens);
    counter(p, "vllm:generation_tokens_total", "Tokens generated.", t->generation_tokens);
    counter(p, "vllm:prompt_tokens_cached_total", "Prompt tokens taken from the prefix cache.",
            t->prompt_tokens_cached);
    counter(p, "vllm:prompt_tokens_recomputed_total", "Tokens computed again after preemption.",
            t->prompt_tokens_recomputed);
    counter(p, "vllm:prefix_cache_queries_total", "Tokens looked up.", t->prefix_queries);
    counter(p, "vllm:prefix_cache_hits_total", "Tokens found.", t->prefix_hits);
    counter(p, "pagoda:kv_pages_out_total", "Pages moved to the host.", t->pages_out);
    counter(p, "pagoda:kv_pages_out_aside_total", "Of them: no step waited for them.",
            t->pages_out_aside);
    counter(p, "pagoda:kv_pages_in_total", "Pages moved back.", t->pages_in);
    counter(p, "vllm:num_preemptions_total", "Sequences thrown back.", t->n_preemptions);
    family(p, "vllm:request_success_total", "counter", "Choices ended, by reason.");
    static const char *const reasons[] = {NULL, "stop", "length", "abort", "error"};
    for (int i = 1; i < 5; i++) {
        char more[48];
        snprintf(more, sizeof more, "finished_reason=\"%s\"", reasons[i]);
        value(p, "vllm:request_success_total", more, (double)t->finished[i]);
    }
    family(p, "vllm:admission_rejections_total", "counter", "Requests refused, by reason.");
    static const char *const whys[REJECT_COUNT] = {"queue_full", "unavailable", "rate_limit",
                                                   "capacity"};
    for (int i = 0; i < REJECT_COUNT; i++) {
        char more[48];
        snprintf(more, sizeof more, "reason=\"%s\"", whys[i]);
        value(p, "vllm:admission_rejections_total", more, (double)get(&m->rejects[i]));
    }
    counter(p, "vllm:spec_decode_num_drafts_total", "Times that a sequence had tokens guessed.",
            t->n_drafts);
    counter(p, "vllm:spec_decode_num_draft_tokens_total", "Tokens guessed.", t->draft_tokens);
    counter(p, "vllm:spec_decode_num_accepted_tokens_total", "Of them right.",
            t->draft_tokens_right);
    counter(p, "pagoda:draft_steps_total", "Steps of the draft model.", t->draft_steps);
    counter(p, "pagoda:draft_text_tokens_total", "Tokens of texts that it read before guessing.",
            t->draft_read);
    single(p, "pagoda:draft_seconds_total", "counter", "Time in steps of the draft model.",
           (double)t->draft_us_total * 1e-6);
    counter(p, "pagoda:steps_total", "Engine steps.", t->n_steps);
    single(p, "pagoda:step_seconds_total", "counter", "Time with a step under way.",
           (double)t->step_us_total * 1e-6);
    single(p, "pagoda:plan_seconds_total", "counter", "Time planning steps.",
           (double)t->plan_us_total * 1e-6);
    single(p, "pagoda:step_host_seconds_total", "counter",
           "Time of the engine's thread in steps, but for waiting on results.",
           (double)t->host_us_total * 1e-6);
    single(p, "pagoda:step_wait_seconds_total", "counter",
           "Time of the engine's thread waiting on a step's results.",
           (double)t->wait_us_total * 1e-6);
}

/* What the scheduler has learned of the time of steps, for the sizes that it saw. */
static void add_pace(page *p, const scheduler_stats *t) {
    single(p, "pagoda:step_budget_tokens", "gauge", "Tokens that the last step might have had.",
           t->budget);
    family(p, "pagoda:step_seconds_learned", "gauge",
           "What a step of so many tokens takes, apart from reading the cache.");
    for (int i = 0; i < PACE_SIZES; i++) {
        char more[32];
        if (t->pace_us[i] <= 0) continue;
        snprintf(more, sizeof more, "tokens=\"%d\"", pace_size_tokens(i));
        value(p, "pagoda:step_seconds_learned", more, (double)t->pace_us[i] * 1e-6);
    }
    single(p, "pagoda:step_read_seconds_learned", "gauge",
           "What a million positions of the cache add to a step.", (double)t->pace_read_us * 1e-6);
}

/* vllm:iteration_tokens_total is a histogram, in spite of its name. */
static void add_iterations(page *p, const scheduler_stats *t) {
    static const char name[] = "vllm:iteration_tokens_total";
    static const int le[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
    family(p, name, "histogram", "Tokens per engine step.");
    uint64_t sum = 0;
    size_t b = 0;
    for (; b < ARRAY_LEN(le); b++) {
        sum += t->step_tokens_hist[b];
        strbuf_addf(p->out, "%s_bucket{%s,le=\"%d\"} %llu\n", name, p->labels.p, le[b],
                    (unsigned long long)sum);
    }
    for (; b < ARRAY_LEN(t->step_tokens_hist); b++) sum += t->step_tokens_hist[b];
    strbuf_addf(p->out, "%s_bucket{%s,le=\"+Inf\"} %llu\n", name, p->labels.p,
                (unsigned long long)sum);
    strbuf_addf(p->out, "%s_sum{%s} %llu\n%s_count{%s} %llu\n", name, p->labels.p,
                (unsigned long long)t->step_tokens_total, name, p->labels.p,
                (unsigned long long)sum);
}

static const char *const route_names[ROUTE_ID_COUNT] = {
#define ROUTE(name, method, path, handler, flags) #name,
#include "server/routes.def"
#undef ROUTE
    "unknown"};

static void add_http(page *p, const metrics *m) {
    family(p, "http_requests_total", "counter", "HTTP requests, by route, method and status.");
    for (int r = 0; r < ROUTE_ID_COUNT; r++)
        for (int method = 0; method < METHOD_COUNT; method++)
            for (int s = 0; s <= HTTP_STATUSES; s++) {
                uint64_t n = get(&m->http[r][method][s]);
                if (!n) continue;
                strbuf_addf(p->out,
                            "http_requests_total{handler=\"%s\",method=\"%s\",status=\"%d\"} "
                            "%llu\n",
                            route_names[r], route_method_name((http_method)method),
                            s < HTTP_STATUSES ? http_statuses[s] : 0, (unsigned long long)n);
            }
    static const double le[HTTP_BUCKETS] = HTTP_LE;
    static const char name[] = "http_request_duration_seconds";
    family(p, name, "histogram", "Time from the headers to the last byte, by route.");
    for (int r = 0; r < ROUTE_ID_COUNT; r++) {
        const hist *h = &m->http_time[r];
        uint64_t sum = 0;
        for (int b = 0; b <= HTTP_BUCKETS; b++) sum += get(&h->count[b]);
        if (!sum) continue;
        uint64_t run = 0;
        for (int b = 0; b < HTTP_BUCKETS; b++) {
            run += get(&h->count[b]);
            strbuf_addf(p->out, "%s_bucket{handler=\"%s\",le=\"%g\"} %llu\n", name, route_names[r],
                        le[b], (unsigned long long)run);
        }
        strbuf_addf(p->out,
                    "%s_bucket{handler=\"%s\",le=\"+Inf\"} %llu\n%s_sum{handler=\"%s\"} %.6f\n"
                    "%s_count{handler=\"%s\"} %llu\n",
                    name, route_names[r], (unsigned long long)sum, name, route_names[r],
                    (double)get(&h->sum_micro) * 1e-6, name, route_names[r],
                    (unsigned long long)sum);
    }
}

static int open_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    if (!d) return 0;
    int n = -3; /* ".", ".." and the listing itself */
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static void plain(page *p, const char *name, const char *type, const char *help, double v) {
    family(p, name, type, help);
    strbuf_addf(p->out, "%s %.12g\n", name, v);
}

static void add_process(page *p, const server *s) {
    struct rusage u;
    struct rlimit l;
    getrusage(RUSAGE_SELF, &u);
    long pages[2] = {0, 0};
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%ld %ld", &pages[0], &pages[1]) != 2) pages[0] = pages[1] = 0;
    if (f) fclose(f);
    double page_bytes = (double)sysconf(_SC_PAGESIZE);
    plain(p, "process_cpu_seconds_total", "counter", "User and system time.",
          (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
              (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6);
    plain(p, "process_resident_memory_bytes", "gauge", "Resident memory.",
          (double)pages[1] * page_bytes);
    plain(p, "process_virtual_memory_bytes", "gauge", "Virtual memory.",
          (double)pages[0] * page_bytes);
    plain(p, "process_start_time_seconds", "gauge", "Start, Unix time.", (double)s->start_unix_s);
    plain(p, "process_open_fds", "gauge", "Open file descriptors.", open_fds());
    if (getrlimit(RLIMIT_NOFILE, &l) == 0)
        plain(p, "process_max_fds", "gauge", "Most file descriptors.", (double)l.rlim_cur);
}

static void add_keys(page *p, server *s) {
    keys *ks = keys_acquire(s);
    if (!ks) return;
    family(p, "pagoda:key_requests_total", "counter", "Generations let in, by API key.");
    for (int i = 0; i < keys_count(ks); i++) {
        key_use u;
        key_use_get(keys_at(ks, i), &u);
        strbuf_addz(p->out, "pagoda:key_requests_total{key=");
        strbuf_add_json(p->out, str_z(u.name));
        strbuf_addf(p->out, "} %llu\n", (unsigned long long)u.n_requests);
    }
    family(p, "pagoda:key_tokens_total", "counter", "Tokens, by API key and kind.");
    for (int i = 0; i < keys_count(ks); i++) {
        key_use u;
        key_use_get(keys_at(ks, i), &u);
        for (int kind = 0; kind < 2; kind++) {
            strbuf_addz(p->out, "pagoda:key_tokens_total{key=");
            strbuf_add_json(p->out, str_z(u.name));
            strbuf_addf(p->out, ",kind=\"%s\"} %llu\n", kind ? "generation" : "prompt",
                        (unsigned long long)(kind ? u.generation_tokens : u.prompt_tokens));
        }
    }
    keys_release(ks);
}

void metrics_write(server *s, strbuf *out) {
    page p = {.out = out};
    const model *m = server_model_get(s);
    if (m) {
        scheduler_stats t;
        scheduler_stats_get(m->sched, &t);
        strbuf_addz(&p.labels, "model_name=");
        strbuf_add_json(&p.labels, str_z(m->m.names[0]));
        strbuf_addz(&p.labels, ",engine=\"0\"");
        add_gauges(&p, m, &t);
        add_counters(&p, s->metrics, &t);
        add_iterations(&p, &t);
        add_pace(&p, &t);
        for (int i = 0; i < HIST_COUNT; i++)
            add_hist(&p, &hist_defs[i], &s->metrics->hists[i], m->m.max_model_len);
    }
    add_keys(&p, s);
    add_http(&p, s->metrics);
    add_process(&p, s);
    strbuf_done(&p.labels);
}
