/* Percentiles are of the sorted samples, nearest rank; nothing is interpolated. A figure that was
 * not measured (CPU time of a server that tells none) is null in JSON and a dash in a table. */
#include "server/cmd_bench_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct summary {
    size_t n;
    double mean, p50, p90, p99, max;
} summary;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const vec_f64 *v, double p) {
    return v->p[(size_t)(p / 100 * (double)(v->n - 1) + 0.5)];
}

static summary summarise(vec_f64 *v) {
    summary s = {.n = v->n};
    if (!v->n) return s;
    qsort(v->p, v->n, sizeof *v->p, by_value);
    for (size_t i = 0; i < v->n; i++) s.mean += v->p[i];
    s.mean /= (double)v->n;
    s.p50 = percentile(v, 50);
    s.p90 = percentile(v, 90);
    s.p99 = percentile(v, 99);
    s.max = percentile(v, 100);
    return s;
}

/* What one load comes to. Times in ms; NAN: not known. */
typedef struct figures {
    summary ttft, itl, tpot, e2e;
    int64_t good; /* answered in full */
    double seconds, requests_s, tokens_s, prompt_mean, output_mean;
    double cpu_cores, cpu_per_token_us, rss_mib, rss_growth_mib;
    double steady_events_s, steady_cpu_per_event_us, kib_per_stream;
} figures;

static figures compute(const bench_load_options *o, bench_result *r) {
    figures f = {.ttft = summarise(&r->ttft),
                 .itl = summarise(&r->itl),
                 .tpot = summarise(&r->tpot),
                 .e2e = summarise(&r->e2e),
                 .seconds = r->seconds};
    f.good = r->n_ended - r->n_failed - r->n_cancelled;
    double told = f.good ? (double)f.good : NAN;
    f.requests_s = (double)f.good / r->seconds;
    f.tokens_s = (double)r->output_tokens / r->seconds;
    f.prompt_mean = (double)r->prompt_tokens / told;
    f.output_mean = (double)r->output_tokens / (double)(r->n_ended - r->n_failed);
    bool cpu = r->before.cpu_s >= 0 && r->after.cpu_s >= 0, rss = r->after.rss_mib >= 0;
    double used = cpu ? r->after.cpu_s - r->before.cpu_s : NAN;
    f.cpu_cores = used / r->seconds;
    f.cpu_per_token_us = r->output_tokens ? 1e6 * used / (double)r->output_tokens : NAN;
    f.rss_mib = rss ? r->after.rss_mib : NAN;
    f.rss_growth_mib = rss && r->before.rss_mib >= 0 ? r->after.rss_mib - r->before.rss_mib : NAN;
    const bench_steady *s = &r->steady;
    f.steady_events_s = s->seen ? (double)s->n_events / s->seconds : NAN;
    f.steady_cpu_per_event_us =
        s->seen && s->cpu_s >= 0 && s->n_events ? 1e6 * s->cpu_s / (double)s->n_events : NAN;
    f.kib_per_stream = s->seen && s->rss_mib >= 0 && r->before.rss_mib >= 0
                           ? 1024 * (s->rss_mib - r->before.rss_mib) / o->concurrency
                           : NAN;
    return f;
}

/* --- JSON --- */

static void json_number(strbuf *out, const char *name, double v) {
    if (isfinite(v))
        strbuf_addf(out, ", \"%s\": %.3f", name, v);
    else
        strbuf_addf(out, ", \"%s\": null", name);
}

static void json_summary(strbuf *out, const char *name, const summary *s) {
    if (!s->n)
        strbuf_addf(out, ", \"%s_ms\": null", name);
    else
        strbuf_addf(out,
                    ", \"%s_ms\": {\"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, "
                    "\"max\": %.3f}",
                    name, s->mean, s->p50, s->p90, s->p99, s->max);
}

static void add_json(const bench_load_options *o, const bench_result *r, const figures *f,
                     strbuf *out) {
    strbuf_addf(out,
                "{\"requests\": %lld, \"failed\": %lld, \"cancelled\": %lld, \"concurrency\": %d, "
                "\"rate\": %g, \"input_len\": %d, \"output_len\": %d, \"seconds\": %.3f",
                (long long)r->n_ended, (long long)r->n_failed, (long long)r->n_cancelled,
                o->concurrency, o->rate, o->input_len, o->output_len, f->seconds);
    json_number(out, "requests_per_s", f->requests_s);
    json_number(out, "output_tokens_per_s", f->tokens_s);
    json_number(out, "prompt_tokens_mean", f->prompt_mean);
    json_number(out, "output_tokens_mean", f->output_mean);
    json_summary(out, "ttft", &f->ttft);
    json_summary(out, "itl", &f->itl);
    json_summary(out, "tpot", &f->tpot);
    json_summary(out, "e2e", &f->e2e);
    json_number(out, "server_cpu_cores", f->cpu_cores);
    json_number(out, "server_cpu_us_per_token", f->cpu_per_token_us);
    json_number(out, "server_rss_mib", f->rss_mib);
    json_number(out, "server_rss_growth_mib", f->rss_growth_mib);
    if (r->steady.seen) {
        strbuf_addf(out, ", \"steady\": {\"seconds\": %.3f, \"events\": %lld", r->steady.seconds,
                    (long long)r->steady.n_events);
        json_number(out, "events_per_s", f->steady_events_s);
        json_number(out, "server_cpu_us_per_event", f->steady_cpu_per_event_us);
        json_number(out, "server_kib_per_stream", f->kib_per_stream);
        strbuf_addc(out, '}');
    }
    strbuf_addz(out, "}\n");
}

/* --- text --- */

static void text_number(strbuf *out, int width, int digits, double v) {
    if (isfinite(v))
        strbuf_addf(out, " %*.*f", width, digits, v);
    else
        strbuf_addf(out, " %*s", width, "-");
}

static void text_summary(strbuf *out, const char *name, const summary *s) {
    if (!s->n) return;
    strbuf_addf(out, "%-5s ms %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, s->mean, s->p50, s->p90,
                s->p99, s->max);
}

static void add_server(const bench_result *r, const figures *f, strbuf *out) {
    if (!isfinite(f->cpu_cores) && !isfinite(f->rss_mib)) return;
    strbuf_addz(out, "\nthe server:");
    if (isfinite(f->cpu_cores))
        strbuf_addf(out, " %.2f cores, %.1f us of CPU per output token", f->cpu_cores,
                    f->cpu_per_token_us);
    if (isfinite(f->rss_mib))
        strbuf_addf(out, "%s %.1f MiB resident (%+.1f)", isfinite(f->cpu_cores) ? "," : "",
                    f->rss_mib, f->rss_growth_mib);
    strbuf_addc(out, '\n');
    if (!isfinite(f->steady_cpu_per_event_us)) return;
    strbuf_addf(out,
                "all streams open: %.2f s, %.0f events/s, %.2f us of CPU per event, %.1f KiB per "
                "stream\n",
                r->steady.seconds, f->steady_events_s, f->steady_cpu_per_event_us,
                f->kib_per_stream);
}

static void add_table(const bench_load_options *o, const bench_result *r, const figures *f,
                      strbuf *out) {
    strbuf_addf(out,
                "%lld requests (%lld failed) in %.2f s: %.2f requests/s, %.1f output tok/s\n"
                "%.1f tokens in, %.1f out on average; ",
                (long long)r->n_ended, (long long)r->n_failed, f->seconds, f->requests_s,
                f->tokens_s, f->prompt_mean, f->output_mean);
    if (r->n_cancelled) strbuf_addf(out, "%lld clients left; ", (long long)r->n_cancelled);
    if (o->rate > 0)
        strbuf_addf(out, "%g requests/s offered\n\n", o->rate);
    else
        strbuf_addf(out, "%d in flight\n\n", o->concurrency);
    strbuf_addf(out, "%8s %10s %10s %10s %10s %10s\n", "", "mean", "p50", "p90", "p99", "max");
    text_summary(out, "ttft", &f->ttft);
    text_summary(out, "itl", &f->itl);
    text_summary(out, "tpot", &f->tpot);
    text_summary(out, "e2e", &f->e2e);
    add_server(r, f, out);
}

void bench_add_heading(strbuf *out) {
    strbuf_addf(out, "%9s %8s %9s %26s %26s %26s %10s\n", "", "", "output", "TTFT, ms", "ITL, ms",
                "TPOT, ms", "server");
    strbuf_addf(out, "%9s %8s %9s", "in flight", "requests", "tok/s");
    for (int i = 0; i < 3; i++) strbuf_addf(out, " %8s %8s %8s", "p50", "p90", "p99");
    strbuf_addf(out, " %10s\n", "us/token");
}

static void add_line(const bench_load_options *o, const bench_result *r, const figures *f,
                     strbuf *out) {
    strbuf_addf(out, "%9d %8lld %9.1f", o->concurrency, (long long)r->n_ended, f->tokens_s);
    const summary *all[] = {&f->ttft, &f->itl, &f->tpot};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        const summary *s = all[i];
        text_number(out, 8, 1, s->n ? s->p50 : NAN);
        text_number(out, 8, 1, s->n ? s->p90 : NAN);
        text_number(out, 8, 1, s->n ? s->p99 : NAN);
    }
    text_number(out, 10, 0, f->cpu_per_token_us);
    strbuf_addc(out, '\n');
}

void bench_add_result(const bench_load_options *o, bench_result *r, bench_format f, strbuf *out) {
    figures x = compute(o, r);
    if (f == BENCH_JSON)
        add_json(o, r, &x, out);
    else if (f == BENCH_LINE)
        add_line(o, r, &x, out);
    else
        add_table(o, r, &x, out);
}
