/* Messages -> the text that the model reads, through the model's chat template.
 *
 * Variables are set as transformers' apply_chat_template does: messages, add_generation_prompt and
 * whatever chat_template_kwargs says; the template's own tokens (bos_token, ...) are the chat's. */
#include <stdio.h>

#include "engine/base/json.h"
#include "server/messages.h"
#include "server/prompt.h"
#if __has_include("tokenizer/chat.h")
#include "tokenizer/chat.h"
#else
status chat_render(const chat *c, const json_t *vars, strbuf *out, error *err);
#endif

static json_t *variables(const gen_params *p, json_t *messages) {
    json_t *vars = json_object();
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)p->template_kwargs, name, v) json_object_set(vars, name, v);
    if (p->reasoning_effort.p)
        json_object_set_new(vars, "reasoning_effort",
                            json_stringn(p->reasoning_effort.p, p->reasoning_effort.n));
    json_object_set(vars, "messages", messages);
    json_object_set_new(vars, "add_generation_prompt", json_boolean(p->add_generation_prompt));
    return vars;
}

/* The text ends with the last message's own words: what the template puts behind them is cut. */
static status cut_after_final(const json_t *messages, size_t from, strbuf *text, error *err) {
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    str words = str_trim(js_get_str(last, "content"));
    ptrdiff_t at = -1;
    str all = strbuf_str(text);
    for (ptrdiff_t next = (ptrdiff_t)from; words.n; at = next, next++)
        if ((next = str_find(all, words, (size_t)next)) < 0) break;
    if (at < 0)
        return error_set_param(err, ERR_INVALID, "continue_final_message",
                               "the final message has no text, or the chat template does not "
                               "show it as it is");
    text->n = (size_t)at + words.n;
    text->p[text->n] = 0;
    return OK;
}

status prompt_render(const model *m, const json_t *body, const gen_params *p, strbuf *ret,
                     error *err) {
    if (!m->m.chat)
        return error_set_param(err, ERR_INVALID, "messages",
                               "this model has no chat template; use /v1/completions");
    json_t *messages = NULL;
    TRY(messages_read(body, &messages, err));
    json_t *vars = variables(p, messages);
    size_t from = ret->n;
    status st = chat_render(m->m.chat, vars, ret, err);
    if (st != OK && !err->param[0]) snprintf(err->param, sizeof err->param, "messages");
    if (st == OK && p->continue_final_message) st = cut_after_final(messages, from, ret, err);
    json_decref(vars);
    json_decref(messages);
    return st;
}
