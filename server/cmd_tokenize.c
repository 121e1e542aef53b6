/* pagoda tokenize: JSON string -> JSON array of ids; with --offsets also where each token stands;
 * with
 * --decode the other way. */
#include "engine/base/json.h"
#include "server/cmd.h"
#include "server/lines.h"
#include "tokenizer/tokenizer.h"

typedef struct tool {
    tokenizer *t;
    bool special; /* add special tokens; decoding: keep them in the text */
} tool;

static status encode(void *ctx, const json_t *in, strbuf *out, error *err) {
    const tool *u = ctx;
    if (!json_is_string(in)) return error_set(err, ERR_INVALID, "expected a JSON string");
    vec_i32 ids = {0};
    status st = tokenizer_encode(u->t, js_str(in), u->special ? ENCODE_SPECIAL : ENCODE_PLAIN, 0,
                                 &ids, err);
    strbuf_addc(out, '[');
    for (size_t i = 0; st == OK && i < ids.n; i++)
        strbuf_addf(out, i ? ", %d" : "%d", (int)ids.p[i]);
    strbuf_addc(out, ']');
    vec_done(&ids);
    return st;
}

/* {"ids": [...], "offsets": [[from, to], ...]}, in code points of the text. */
static status encode_spans(void *ctx, const json_t *in, strbuf *out, error *err) {
    const tool *u = ctx;
    if (!json_is_string(in)) return error_set(err, ERR_INVALID, "expected a JSON string");
    vec_i32 ids = {0};
    token_spans spans = {0};
    status st = tokenizer_encode_spans(u->t, js_str(in), u->special ? ENCODE_SPECIAL : ENCODE_PLAIN,
                                       0, &ids, &spans, err);
    strbuf_addz(out, "{\"ids\": [");
    for (size_t i = 0; st == OK && i < ids.n; i++)
        strbuf_addf(out, i ? ", %d" : "%d", (int)ids.p[i]);
    strbuf_addz(out, "], \"offsets\": [");
    for (size_t i = 0; st == OK && i < spans.n; i++)
        strbuf_addf(out, "%s[%u, %u]", i ? ", " : "", spans.p[i].from, spans.p[i].to);
    strbuf_addz(out, "]}");
    vec_done(&ids);
    vec_done(&spans);
    return st;
}

static status decode(void *ctx, const json_t *in, strbuf *out, error *err) {
    const tool *u = ctx;
    vec_i32 ids = {0};
    strbuf text = {0};
    status st = lines_ids(in, tokenizer_vocab(u->t), &ids, err);
    if (st == OK) {
        tokenizer_decode(u->t, ids.p, ids.n, !u->special, &text);
        strbuf_add_json(out, strbuf_str(&text));
    }
    strbuf_done(&text);
    vec_done(&ids);
    return st;
}

int cmd_tokenize(const conf *c) {
    error err;
    if (!c->model)
        return cmd_failf("tokenize needs --model PATH (a directory, tokenizer or GGUF file)");
    tool u = {.special = c->special_tokens};
    tokenizer_options o = {.pretokenizer = c->pretokenizer};
    if (tokenizer_open(c->model, &o, &u.t, &err) != OK) return cmd_fail(&err);
    int rc = lines_run(c->decode ? decode : c->offsets ? encode_spans : encode, &u);
    tokenizer_free(u.t);
    return rc;
}
