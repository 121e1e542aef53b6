/* pagoda generate: one prompt as text, or one JSON object of /v1/completions fields per line of
 * standard input. A client of a private runtime, so fields mean what they mean in the API. */
#include <stdio.h>
#include <unistd.h>

#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "server/cmd.h"
#include "server/cmd_local.h"
#include "server/lines.h"

#define PATH             "/v1/completions"
#define MAX_TOKENS_PLAIN 256

static status line(void *ctx, const json_t *in, strbuf *out, error *err) {
    const local *l = ctx;
    if (!json_is_object(in))
        return error_set(err, ERR_INVALID, "expected a JSON object of /v1/completions fields");
    if (json_is_true(js_get(in, "stream")))
        return error_set(err, ERR_INVALID, "stream: this command answers with whole completions");
    json_t *fields = json_copy((json_t *)in);
    json_object_set_new(fields, "return_token_ids", json_true());
    json_object_del(fields, "model"); /* there is one, whatever it is called */
    strbuf body = {0};
    strbuf_add_js(&body, fields);
    json_decref(fields);
    client_reply r = {0};
    status st = client_call(&l->url, "POST", PATH, NULL, strbuf_str(&body), &r, err);
    if (st == OK) st = client_refusal(r.http, strbuf_str(&r.body), err);
    if (st == OK) strbuf_add(out, str_trim(strbuf_str(&r.body)));
    client_reply_done(&r);
    strbuf_done(&body);
    return st;
}

/* The request that the command line describes. */
static json_t *request_of(const conf *c, str prompt) {
    json_t *q = json_object();
    json_object_set_new(q, "prompt", json_stringn(prompt.p, prompt.n));
    json_object_set_new(q, "max_tokens",
                        json_integer(c->max_tokens ? c->max_tokens : MAX_TOKENS_PLAIN));
    if (conf_given(c, OPT_temperature))
        json_object_set_new(q, "temperature", json_real(c->temperature));
    if (conf_given(c, OPT_top_p)) json_object_set_new(q, "top_p", json_real(c->top_p));
    if (conf_given(c, OPT_top_k)) json_object_set_new(q, "top_k", json_integer(c->top_k));
    if (conf_given(c, OPT_seed)) json_object_set_new(q, "seed", json_integer(c->seed));
    if (c->stop) json_object_set_new(q, "stop", json_string(c->stop));
    if (conf_given(c, OPT_repetition_penalty))
        json_object_set_new(q, "repetition_penalty", json_real(c->repetition_penalty));
    if (c->ignore_eos) json_object_set_new(q, "ignore_eos", json_true());
    return q;
}

static status print_event(void *ctx, const json_t *event, error *err) {
    str text = js_get_str(json_array_get(js_get(event, "choices"), 0), "text");
    fwrite(text.p ? text.p : "", 1, text.n, stdout);
    fflush(stdout);
    return OK;
}

/* One prompt, its text as it comes. */
static status stream(const client_url *u, json_t *fields, error *err) {
    strbuf body = {0};
    json_object_set_new(fields, "stream", json_true());
    strbuf_add_js(&body, fields);
    status st = client_stream(u, PATH, NULL, strbuf_str(&body), print_event, NULL, NULL, err);
    strbuf_done(&body);
    return st;
}

static status read_stdin(strbuf *out, error *err) {
    char buf[65536];
    for (size_t n; (n = fread(buf, 1, sizeof buf, stdin)) > 0;)
        if (out->n + n > LIMIT_LINE_BYTES)
            return error_set(err, ERR_TOO_LARGE, "the prompt is longer than %zu bytes",
                             (size_t)LIMIT_LINE_BYTES);
        else
            strbuf_add(out, str_n(buf, n));
    return OK;
}

static status one_prompt(const conf *c, local *l, error *err) {
    strbuf prompt = {0}, out = {0};
    status st = OK;
    if (c->prompt)
        strbuf_addz(&prompt, c->prompt);
    else
        st = read_stdin(&prompt, err);
    json_t *fields = request_of(c, strbuf_str(&prompt));
    if (!fields || !js_get(fields, "prompt"))
        st = error_set(err, ERR_INVALID, "the prompt is not valid UTF-8");
    else if (st == OK && c->json)
        st = line(l, fields, &out, err);
    else if (st == OK)
        st = stream(&l->url, fields, err);
    strbuf_addc(&out, '\n');
    if (st == OK) fwrite(out.p, 1, out.n, stdout);
    json_decref(fields);
    strbuf_done(&out);
    strbuf_done(&prompt);
    return st;
}

int cmd_generate(const conf *c) {
    error err;
    local l;
    if (!c->model) return cmd_failf("generate needs --model DIR");
    if (local_open(c, &l, &err) != OK) return cmd_fail(&err);
    int rc = 0;
    if (c->json && !c->prompt)
        rc = lines_run(line, &l);
    else if (one_prompt(c, &l, &err) != OK)
        rc = cmd_fail(&err);
    local_close(&l);
    return rc;
}
