/* pagoda predict: prompts to {"text_generation_text": [...]}, each prompt with what follows it. The
 * flags and the answer are those of MindFormers' run_mindformer.py in its predict mode. A client of
 * a private runtime; the prompts of a batch go out in one request and are computed together. */
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/vec.h"
#include "server/cmd.h"
#include "server/cmd_local.h"

#define PATH       "/v1/completions"
#define MAX_LENGTH 512 /* of prompt and answer together, where nothing says how long */

typedef VEC(str) prompts;

/* The lines of a file that are not blank; what is no file is a prompt itself. */
static status add_data(str value, strbuf *lines, error *err) {
    strbuf path = {0}, file = {0};
    strbuf_add(&path, value);
    status st = OK;
    if (file_exists(path.p)) {
        st = file_read(path.p, LIMIT_LINE_BYTES, &file, err);
        value = strbuf_str(&file);
    }
    for (size_t from = 0; st == OK && from < value.n;) {
        ptrdiff_t end = str_find(value, STR("\n"), from);
        size_t to = end < 0 ? value.n : (size_t)end;
        str line = str_trim(str_cut(value, from, to));
        if (line.n) strbuf_add(lines, line);
        if (line.n) strbuf_addc(lines, '\n');
        from = to + 1;
    }
    strbuf_done(&file);
    strbuf_done(&path);
    return st;
}

/* `lines` holds what *ret points into. */
static status read_prompts(const conf *c, strbuf *lines, prompts *ret, error *err) {
    str value;
    for (const char *at = c->predict_data; conf_list_next(&at, &value);)
        TRY(add_data(value, lines, err));
    for (size_t from = 0; from < lines->n;) {
        str line = str_n(lines->p + from, strcspn(lines->p + from, "\n"));
        vec_push(ret, line);
        from += line.n + 1;
    }
    if (!ret->n) return error_set(err, ERR_INVALID, "--predict-data has no prompt");
    return OK;
}

static json_t *request_of(const conf *c, const str *list, size_t n) {
    json_t *q = json_object(), *prompt = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(prompt, json_stringn(list[i].p, list[i].n));
    json_object_set_new(q, "prompt", prompt);
    if (c->adapter_id) json_object_set_new(q, "model", json_string(c->adapter_id));
    if (conf_given(c, OPT_seed)) json_object_set_new(q, "seed", json_integer(c->seed));
    if (c->stop) json_object_set_new(q, "stop", json_string(c->stop));
    return q;
}

static void add_texts(const json_t *answer, const str *list, size_t n, json_t *texts) {
    strbuf one = {0};
    for (size_t i = 0; i < n; i++) {
        strbuf_clear(&one);
        strbuf_add(&one, list[i]);
        strbuf_add(&one, js_get_str(json_array_get(js_get(answer, "choices"), i), "text"));
        json_array_append_new(texts, json_stringn(one.p, one.n));
    }
    strbuf_done(&one);
}

static status ask(const conf *c, const client_url *u, const str *list, size_t n, json_t *texts,
                  error *err) {
    strbuf body = {0};
    client_reply r = {0};
    json_t *q = request_of(c, list, n), *answer = NULL;
    status st = OK;
    if (json_array_size(js_get(q, "prompt")) != n)
        st = error_set(err, ERR_INVALID, "--predict-data is not valid UTF-8");
    strbuf_add_js(&body, q);
    json_decref(q);
    if (st == OK) st = client_call(u, "POST", PATH, NULL, strbuf_str(&body), &r, err);
    if (st == OK) st = client_refusal(r.http, strbuf_str(&r.body), err);
    if (st == OK) st = js_parse(strbuf_str(&r.body), &answer, err);
    if (st == OK) add_texts(answer, list, n, texts);
    json_decref(answer);
    client_reply_done(&r);
    strbuf_done(&body);
    return st;
}

static void print(const json_t *texts) {
    strbuf out = {0};
    strbuf_addz(&out, "{\"text_generation_text\": ");
    strbuf_add_js(&out, texts);
    strbuf_addz(&out, "}\n");
    fwrite(out.p, 1, out.n, stdout);
    strbuf_done(&out);
}

static status predict(const conf *c, const client_url *u, const prompts *p, error *err) {
    json_t *texts = json_array();
    status st = OK;
    size_t batch = (size_t)c->predict_batch_size;
    for (size_t at = 0; at < p->n && st == OK; at += batch)
        st = ask(c, u, p->p + at, MIN(batch, p->n - at), texts, err);
    if (st == OK) print(texts);
    json_decref(texts);
    return st;
}

int cmd_predict(const conf *c) {
    error err;
    local l = {0};
    strbuf lines = {0};
    prompts p = {0};
    if (!c->model) return cmd_failf("predict needs --load-checkpoint DIR");
    if (!c->predict_data) return cmd_failf("predict needs --predict-data TEXT or FILE");
    conf mine = *c; /* borrows its strings */
    if (!mine.max_length && !mine.max_tokens) mine.max_length = MAX_LENGTH;
    status st = read_prompts(c, &lines, &p, &err);
    if (st == OK) st = local_open(&mine, &l, &err);
    if (st == OK) st = predict(c, &l.url, &p, &err);
    local_close(&l);
    vec_done(&p);
    strbuf_done(&lines);
    return st == OK ? 0 : cmd_fail(&err);
}
