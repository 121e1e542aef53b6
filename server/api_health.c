/* The routes that probes and people ask how things are. */
#include "server/api.h"

#include "engine/base/clock.h"
#include "server/exchange.h"
#include "server/metrics.h"

/* Why the server cannot take work now, or NULL. */
static const char *trouble(const exchange *x) {
    const model *m = server_model_get(x->srv);
    if (!m) return "loading";
    if (atomic_load_explicit(&x->srv->draining, memory_order_relaxed)) return "draining";
    return NULL;
}

static bool engine_healthy(const exchange *x) {
    const model *m = server_model_get(x->srv);
    scheduler_stats t;
    if (!m) return true;
    scheduler_stats_get(m->sched, &t);
    return t.healthy;
}

static void status_answer(exchange *x, int http, const char *what) {
    strbuf_addz(&x->out, "{\"status\":\"");
    strbuf_addz(&x->out, what);
    strbuf_addz(&x->out, "\"}\n");
    if (http == 503) x->retry_after_s = x->srv->o.retry_after_s;
    exchange_answer(x, http, "application/json");
}

void api_health(exchange *x) {
    const char *why = trouble(x);
    if (!why && !engine_healthy(x)) why = "unhealthy";
    status_answer(x, why ? 503 : 200, why ? why : "ok");
}

void api_ready(exchange *x) {
    api_health(x);
}

/* The process runs and its loop turns: nothing more is claimed. */
void api_live(exchange *x) {
    status_answer(x, 200, "ok");
}

void api_metrics(exchange *x) {
    metrics_write(x->srv, &x->out);
    exchange_answer(x, 200, "text/plain; version=0.0.4; charset=utf-8");
}

void api_version(exchange *x) {
    strbuf_addz(&x->out, "{\"version\":\"" PAGODA_VERSION "\"}\n");
    exchange_json(x);
}

void api_server_info(exchange *x) {
    const model *m = x->model;
    strbuf *b = &x->out;
    strbuf_addz(b, "{\"version\":\"" PAGODA_VERSION "\",\"model\":");
    strbuf_add_json(b, exchange_model_name(x));
    strbuf_addf(b,
                ",\"tokenizer\":\"%s\",\"vocab_size\":%d,\"max_model_len\":%d,"
                "\"kv_page_tokens\":%d,\"kv_pages\":%d,\"http_threads\":%d,\"uptime_s\":%llu",
                tokenizer_kind(m->m.tok), m->m.vocab, m->m.max_model_len, m->m.page_tokens,
                m->m.n_pages, x->srv->o.n_threads,
                (unsigned long long)((clock_us() - x->srv->start_us) / 1000000));
    if (m->info_json && m->info_json[0]) {
        strbuf_addc(b, ',');
        strbuf_addz(b, m->info_json);
    }
    strbuf_addz(b, "}\n");
    exchange_json(x);
}
