/* The options of `pagoda bench serve`: finds out about the server once, then runs one load for each
 * concurrency. Requests are numbered through the whole sweep, so no two of its prompts are alike.
 */
#include "server/cmd_bench_load.h"

#include <signal.h>
#include <stdio.h>

#include "engine/base/json.h"
#include "server/cmd.h"
#include "server/cmd_bench_report.h"

#define SWEEP_MAX        32
#define CONCURRENCY_MAX  20000
#define REQUESTS_A_PLACE 3 /* of --requests 0: for each request in flight, */
#define REQUESTS_LEAST   8 /* but never fewer than these */

static const char pool_text[] =
    " time year people way day man thing woman life child world school state family hand part place"
    " week case point water room area money story fact month lot";

/* "1,4,16": the numbers in flight, one load each. */
static status parse_sweep(const char *text, int ret[SWEEP_MAX], int *ret_n, error *err) {
    str left = str_z(text);
    for (*ret_n = 0; *ret_n < SWEEP_MAX; ++*ret_n) {
        ptrdiff_t comma = str_find(left, STR(","), 0);
        str one = str_trim(str_cut(left, 0, comma < 0 ? left.n : (size_t)comma));
        int64_t v;
        if (!str_to_i64(one, &v) || v < 1 || v > CONCURRENCY_MAX)
            return error_set(err, ERR_INVALID,
                             "--concurrency: '" STR_FMT "' is not a number from 1 to %d",
                             STR_ARG(one), CONCURRENCY_MAX);
        ret[*ret_n] = (int)v;
        if (comma < 0) {
            ++*ret_n;
            return OK;
        }
        left = str_cut(left, (size_t)comma + 1, left.n);
    }
    return error_set(err, ERR_INVALID, "--concurrency: more than %d numbers", SWEEP_MAX);
}

/* Ids of pool_text. `member` names the text in the request: "prompt" here, "content" in
 * llama-server; a server that does not know the name gives no ids. */
static void fill_pool(bench_target *t, const char *member) {
    strbuf body = {0};
    strbuf_addz(&body, "{\"add_special_tokens\":false,\"model\":");
    strbuf_add_json(&body, str_z(t->model));
    strbuf_addf(&body, ",\"%s\":\"%s\"}", member, pool_text);
    client_reply r = {0};
    json_t *v = NULL;
    error err;
    if (client_call(&t->url, "POST", "/tokenize", t->api_key, strbuf_str(&body), &r, &err) == OK &&
        r.http == 200 && js_parse(strbuf_str(&r.body), &v, &err) == OK) {
        size_t i;
        json_t *id;
        json_array_foreach(js_get(v, "tokens"), i, id) {
            vec_push(&t->pool, (int32_t)json_integer_value(id));
        }
    }
    json_decref(v);
    client_reply_done(&r);
    strbuf_done(&body);
}

static status open_target(const conf *c, bench_target *t, error *err) {
    TRY(client_url_parse(c->url, &t->url, err));
    t->api_key = c->api_key;
    t->pid = (int)c->pid;
    if (t->pid && kill(t->pid, 0) != 0)
        return error_set(err, ERR_INVALID, "--pid: no process %d of this user", t->pid);
    if (c->served_model)
        t->model = mem_strdup(c->served_model);
    else
        TRY(client_first_model(&t->url, c->api_key, &t->model, err));
    fill_pool(t, "prompt");
    if (!t->pool.n) fill_pool(t, "content");
    return OK;
}

static bench_load_options options(const conf *c, int concurrency) {
    bench_load_options o = {
        .concurrency = concurrency,
        .rate = c->rate,
        .n_requests = c->requests,
        .duration_s = (double)c->duration * 1e-6,
        .cancel = c->cancel,
        .input_len = (int32_t)c->input_len,
        .output_len = (int32_t)c->output_len,
        .seed = (uint64_t)c->seed,
    };
    if (!o.n_requests)
        o.n_requests = o.duration_s > 0
                           ? INT64_MAX
                           : MAX(REQUESTS_LEAST, (int64_t)concurrency * REQUESTS_A_PLACE);
    return o;
}

/* Requests before the first load, not counted: caches, page faults, a server that measures
 * itself. */
static status warm_up(const conf *c, const bench_target *t, error *err) {
    if (!c->warmup) return OK;
    bench_load_options o = options(c, (int)MIN(c->warmup, (int64_t)CONCURRENCY_MAX));
    o.rate = o.cancel = o.duration_s = 0;
    o.n_requests = c->warmup;
    bench_result r;
    status st = bench_run(t, &o, &r, err);
    if (st == OK && r.n_failed) {
        *err = r.first_error;
        error_prefix(err, "warming up");
        st = err->code;
    }
    bench_result_done(&r);
    return st;
}

static status measure(const bench_target *t, const bench_load_options *o, bench_format f,
                      int64_t *failed, error *err) {
    bench_result r;
    status st = bench_run(t, o, &r, err);
    if (st == OK) {
        strbuf out = {0};
        bench_add_result(o, &r, f, &out);
        fwrite(out.p, 1, out.n, stdout);
        fflush(stdout);
        strbuf_done(&out);
        if (r.n_failed && !*failed) *err = r.first_error;
        *failed += r.n_failed;
    }
    bench_result_done(&r);
    return st;
}

static status sweep(const conf *c, const bench_target *t, int64_t *failed, error *err) {
    int at[SWEEP_MAX], n;
    error first;
    TRY(parse_sweep(c->concurrency, at, &n, err));
    if (c->rate > 0) n = 1; /* what is in flight comes of itself */
    bench_format f = c->json ? BENCH_JSON : n > 1 ? BENCH_LINE : BENCH_TABLE;
    TRY(warm_up(c, t, err));
    if (f == BENCH_LINE) {
        strbuf out = {0};
        bench_add_heading(&out);
        fwrite(out.p, 1, out.n, stdout);
        strbuf_done(&out);
    }
    int64_t first_request = c->warmup;
    for (int i = 0; i < n; i++) {
        bench_load_options o = options(c, at[i]);
        o.first_request = first_request;
        int64_t before = *failed;
        TRY(measure(t, &o, f, failed, err));
        if (*failed && !before) first = *err;
        if (o.n_requests != INT64_MAX) first_request += o.n_requests;
    }
    if (*failed) *err = first;
    return OK;
}

int bench_load(const conf *c) {
    error err;
    bench_target t = {0};
    int64_t failed = 0;
    int rc = 0;
    if (!c->url) return cmd_failf("bench serve needs --url URL of a running server");
    status st = open_target(c, &t, &err);
    if (st == OK) st = sweep(c, &t, &failed, &err);
    if (st != OK)
        rc = cmd_fail(&err);
    else if (failed)
        rc = cmd_failf("%lld requests failed; the first failure: %s", (long long)failed, err.text);
    vec_done(&t.pool);
    mem_free(t.model);
    return rc;
}
