/* Messages -> the text that the model reads, through the model's chat template.
 *
 * tokenizer/chat.h does it as transformers' apply_chat_template; here are only the request's
 * fields: chat_template_kwargs and reasoning_effort become variables. */
#include <stdio.h>

#include "engine/base/json.h"
#include "server/messages.h"
#include "server/prompt.h"
#include "tokenizer/chat.h"

static json_t *variables(const gen_params *p) {
    json_t *vars = json_object();
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)p->template_kwargs, name, v) json_object_set(vars, name, v);
    if (p->reasoning_effort.p)
        json_object_set_new(vars, "reasoning_effort",
                            json_stringn(p->reasoning_effort.p, p->reasoning_effort.n));
    return vars;
}

status prompt_render(const model *m, const json_t *body, const gen_params *p, strbuf *ret,
                     error *err) {
    if (!m->m.chat)
        return error_set_param(err, ERR_INVALID, "messages",
                               "this model has no chat template; start the server with "
                               "--chat-template NAME (a format such as chatml, llama2, vicuna) "
                               "or FILE, or use /v1/completions");
    json_t *messages = NULL;
    TRY(messages_read(body, &messages, err));
    json_t *vars = variables(p);
    chat_request q = {
        .messages = messages,
        .kwargs = vars,
        .chat_template = p->chat_template,
        .add_generation_prompt = p->add_generation_prompt,
        .continue_final_message = p->continue_final_message,
    };
    status st = chat_render(m->m.chat, &q, ret, err);
    if (st != OK && !err->param[0]) snprintf(err->param, sizeof err->param, "messages");
    json_decref(vars);
    json_decref(messages);
    return st;
}
