/* pagoda eval ppl: perplexity of a text by sliding windows.
 *
 * The text's ids are cut into windows of `context` tokens that begin every `stride` tokens. In each
 * window only the tokens that no earlier window had are scored, the others are context. The
 * arithmetic is that of the guide "Perplexity of fixed-length models" of transformers, weights
 * included: a window counts with the mean of its scored tokens times (their number - 1), because
 * the guide takes one off for the shift of the labels; where nothing was lost to the shift that is
 * one too few, and it is kept so that the numbers can be compared. `nll_per_token` of the JSON is
 * the plain mean.
 *
 * Windows are prompts with echo and logprobs to a private runtime, so what is measured is what a
 * client gets: chunked prompts, paged cache, quantised weights and adapters included. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "server/cmd.h"
#include "server/cmd_engine.h"
#include "server/cmd_local.h"
#include "tokenizer/tokenizer.h"

#define TEXT_BYTES_MAX ((size_t)1 << 30)
#define STRIDE         512   /* where none is asked for: the guide's */
#define TOKENS_AT_ONCE 16384 /* windows of so many tokens together are in flight */

typedef struct window {
    size_t begin, end; /* of the text's ids */
    size_t scored;     /* ids at its end that earlier windows did not have */
} window;

typedef VEC(window) windows;

typedef struct ppl {
    vec_i32 ids;
    size_t context, stride;
    windows list;
    double weighted, plain;      /* sums of negative log-likelihoods */
    size_t n_weighted, n_scored; /* what they are divided by */
} ppl;

static status read_ids(const conf *c, vec_i32 *ids, error *err) {
    tokenizer *t = NULL;
    strbuf text = {0};
    status st = file_read(c->file, TEXT_BYTES_MAX, &text, err);
    tokenizer_options o = {.pretokenizer = c->pretokenizer};
    if (st == OK) st = tokenizer_open(cmd_tokenizer(c), &o, &t, err);
    if (st == OK)
        st = tokenizer_encode(t, strbuf_str(&text),
                              c->special_tokens ? ENCODE_SPECIAL : ENCODE_PLAIN, 0, ids, err);
    tokenizer_free(t);
    strbuf_done(&text);
    if (st == OK && c->limit && ids->n > (size_t)c->limit) ids->n = (size_t)c->limit;
    if (st == OK && ids->n < 2)
        st = error_set(err, ERR_INVALID, "%s: has %zu tokens, two are the least", c->file, ids->n);
    return st;
}

static status model_len(const client_url *u, size_t *ret, error *err) {
    client_reply r = {0};
    json_t *list = NULL;
    status st = client_call(u, "GET", "/v1/models", NULL, STR(""), &r, err);
    if (st == OK) st = js_parse(strbuf_str(&r.body), &list, err);
    if (st == OK)
        *ret = (size_t)js_get_int(json_array_get(js_get(list, "data"), 0), "max_model_len", 0);
    json_decref(list);
    client_reply_done(&r);
    return st;
}

static status choose_windows(const conf *c, const client_url *u, ppl *p, error *err) {
    size_t longest = 0;
    TRY(model_len(u, &longest, err));
    p->context = c->context ? (size_t)c->context : longest;
    p->stride = c->stride ? (size_t)c->stride : MIN((size_t)STRIDE, p->context);
    if (p->context > longest)
        return error_set(err, ERR_INVALID, "--context %zu is more than the model's %zu tokens",
                         p->context, longest);
    if (p->stride > p->context)
        return error_set(err, ERR_INVALID,
                         "--stride %zu is more than the context of %zu: tokens would be left out",
                         p->stride, p->context);
    size_t end = 0;
    for (size_t begin = 0; end < p->ids.n; begin += p->stride) {
        size_t until = MIN(begin + p->context, p->ids.n);
        window w = {begin, until, until - end};
        vec_push(&p->list, w);
        end = until;
    }
    return OK;
}

static void add_ids(strbuf *out, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        strbuf_addf(out, "%s%d", i ? "," : out->p[out->n - 1] == '[' ? "[" : ",[", ids[i]);
    strbuf_addc(out, ']');
}

/* One window's answer. Its first token has no logprob: it is a target of the first window only,
 * and of no sum. */
static status take_window(ppl *p, const window *w, const json_t *choice, error *err) {
    const json_t *values = js_get(js_get(choice, "logprobs"), "token_logprobs");
    size_t n = w->end - w->begin, n_nll = 0;
    double sum = 0;
    if (json_array_size(values) != n)
        return error_set(err, ERR_INTERNAL, "%zu logprobs came for a window of %zu tokens",
                         json_array_size(values), n);
    for (size_t i = n - w->scored; i < n; i++) {
        const json_t *v = json_array_get(values, i);
        if (!json_is_number(v)) continue;
        sum -= json_number_value(v);
        n_nll++;
    }
    if (!n_nll) return OK;
    p->plain += sum;
    p->n_scored += n_nll;
    p->weighted += sum / (double)n_nll * (double)(w->scored - 1);
    p->n_weighted += w->scored - 1;
    return OK;
}

static status ask(const client_url *u, ppl *p, size_t at, size_t n, error *err) {
    strbuf body = {0};
    client_reply r = {0};
    json_t *answer = NULL;
    strbuf_addz(&body, "{\"max_tokens\":0,\"echo\":true,\"logprobs\":0,\"prompt\":[");
    for (size_t i = at; i < at + n; i++)
        add_ids(&body, p->ids.p + p->list.p[i].begin, p->list.p[i].end - p->list.p[i].begin);
    strbuf_addz(&body, "]}");
    status st = client_call(u, "POST", "/v1/completions", NULL, strbuf_str(&body), &r, err);
    if (st == OK) st = client_refusal(r.http, strbuf_str(&r.body), err);
    if (st == OK) st = js_parse(strbuf_str(&r.body), &answer, err);
    const json_t *choices = js_get(answer, "choices");
    for (size_t i = 0; i < n && st == OK; i++)
        st = take_window(p, &p->list.p[at + i], json_array_get(choices, i), err);
    json_decref(answer);
    client_reply_done(&r);
    strbuf_done(&body);
    return st;
}

static status measure(const client_url *u, ppl *p, error *err) {
    size_t at_once = MIN(MAX(TOKENS_AT_ONCE / p->context, (size_t)1), (size_t)LIMIT_PROMPTS);
    bool terminal = isatty(STDERR_FILENO);
    for (size_t at = 0; at < p->list.n; at += at_once) {
        if (terminal) fprintf(stderr, "\rwindow %zu of %zu ", at, p->list.n);
        TRY(ask(u, p, at, MIN(at_once, p->list.n - at), err));
    }
    if (terminal) fputs("\r                              \r", stderr);
    return OK;
}

static void print(const conf *c, const ppl *p) {
    double nll = p->weighted / (double)p->n_weighted;
    if (c->json)
        printf("{\"perplexity\":%.9g,\"nll\":%.9g,\"nll_per_token\":%.9g,\"tokens\":%zu,"
               "\"scored_tokens\":%zu,\"windows\":%zu,\"context\":%zu,\"stride\":%zu}\n",
               exp(nll), nll, p->plain / (double)p->n_scored, p->ids.n, p->n_scored, p->list.n,
               p->context, p->stride);
    else
        printf("perplexity %.4f  (%zu tokens, %zu windows of %zu, stride %zu)\n", exp(nll),
               p->ids.n, p->list.n, p->context, p->stride);
}

static int run_ppl(const conf *c) {
    error err;
    local l = {0};
    ppl p = {0};
    status st = read_ids(c, &p.ids, &err);
    if (st == OK) st = local_open(c, &l, &err);
    if (st == OK) st = choose_windows(c, &l.url, &p, &err);
    if (st == OK) st = measure(&l.url, &p, &err);
    if (st == OK) print(c, &p);
    vec_done(&p.ids);
    vec_done(&p.list);
    local_close(&l);
    return st == OK ? 0 : cmd_fail(&err);
}

int cmd_eval(const conf *c) {
    if (!c->what || strcmp(c->what, "ppl") != 0)
        return cmd_failf("eval needs a word: `pagoda eval ppl --model DIR --file TEXT`");
    if (!c->model) return cmd_failf("eval ppl needs --model DIR");
    if (!c->file) return cmd_failf("eval ppl needs --file TEXT");
    return run_ppl(c);
}
