/* pagoda render: JSON object of template variables -> JSON string, the text that the model reads.
 * With --model the model's own tokens (bos_token, ...) are there unless the object names them;
 * --chat-template renders a format instead of the model's own template. */
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "server/cmd.h"
#include "server/cmd_engine.h"
#include "server/lines.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_builtin.h"
#include "tokenizer/template.h"

typedef struct tool {
    chat *chat;         /* of --model, or */
    template *template; /* of --template */
    int64_t now;
} tool;

static status answer(void *ctx, const json_t *in, strbuf *out, error *err) {
    const tool *u = ctx;
    if (!json_is_object(in))
        return error_set(err, ERR_INVALID, "expected a JSON object of template variables");
    strbuf text = {0};
    template_limits limits = {.unix_time = u->now};
    status st = u->chat ? chat_render_vars(u->chat, in, &text, err)
                        : template_render(u->template, in, &limits, &text, err);
    if (st == OK) strbuf_add_json(out, strbuf_str(&text));
    strbuf_done(&text);
    return st;
}

static int list_formats(const conf *c) {
    strbuf out = {0};
    error err;
    status st = chat_format_list(c->register_path, &out, &err);
    if (st == OK) fwrite(out.p, 1, out.n, stdout);
    strbuf_done(&out);
    return st == OK ? 0 : cmd_fail(&err);
}

static status template_open(const char *path, template **ret, error *err) {
    strbuf source = {0};
    TRY(file_read(path, LIMIT_TEMPLATE_BYTES, &source, err));
    status st = template_parse(strbuf_str(&source), ret, err);
    if (st != OK) error_prefix(err, "%s", path);
    strbuf_done(&source);
    return st;
}

/* A single file (GGUF) says everything itself, through its tokenizer. */
static status open_model(const conf *c, const chat_options *o, chat **ret, error *err) {
    tokenizer *t = NULL;
    if (c->model && file_exists(c->model)) TRY(tokenizer_open(c->model, NULL, &t, err));
    status st = chat_open(c->model, o, t, ret, err);
    tokenizer_free(t);
    return st;
}

int cmd_render(const conf *c) {
    error err;
    tool u = {.now = c->now};
    if (c->list) return list_formats(c);
    if (!c->template && !c->model && !c->chat_template && !c->prompt_template)
        return cmd_failf("render needs --model DIR, --chat-template NAME or --template FILE");
    char xtuner[96];
    const char *name = cmd_chat_template(c, xtuner, sizeof xtuner);
    chat_options o = {.override = name, .register_path = c->register_path};
    status st = c->template ? template_open(c->template, &u.template, &err)
                            : open_model(c, &o, &u.chat, &err);
    if (st != OK) return cmd_fail(&err);
    int rc = 1;
    if (u.chat && !chat_has_template(u.chat))
        cmd_failf("%s has no chat template", c->model);
    else
        rc = lines_run(answer, &u);
    chat_free(u.chat);
    template_free(u.template);
    return rc;
}
