/* A model's chat template with its special tokens: messages in, the prompt's text out, as
 * transformers' apply_chat_template does it.
 *
 * A chat is immutable after opening and may be used from any number of threads. */
#ifndef TOKENIZER_CHAT_H
#define TOKENIZER_CHAT_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "tokenizer/tokenizer.h"

typedef struct chat chat;

/* Any may be NULL. */
typedef struct chat_options {
    /* Instead of the model's own: a file, a format's name (chat_builtin.h), or, with a brace or a
     * line end in it, the template itself. */
    const char *override;
    const char *register_path; /* directory with more formats (NAME.jinja) */
    const char *fallback;      /* name of the format for a directory that brings no template */
} chat_options;

/* Find the template of a model directory: chat_template.jinja, else chat_template.json, else
 * "chat_template" of tokenizer_config.json (a text, or a list of {name, template}: "default", and
 * "tool_use" where tools are given), else the one that tok carries (GGUF), else the fallback's
 * format, else the format that fits its config.json. Special tokens (bos_token, eos_token, ...)
 * come from tokenizer_config.json, else special_tokens_map.json, else from tok (may be NULL;
 * borrowed only here). A model without template opens too; rendering it is then the error.
 * Templates that do not parse are errors here, with file and line. */
NODISCARD status chat_open(const char *dir, const chat_options *o, const tokenizer *tok, chat **ret,
                           error *err);
void chat_free(chat *c); /* takes NULL */
bool chat_has_template(const chat *c);

/* The format's name when it is not the model's own template, else NULL. */
const char *chat_format_name(const chat *c);
/* Texts or tokens that end an answer in this format: at most LIMIT_TEMPLATE_STOPS into ret,
 * borrowed while c lives. None for a model's own template: there the model's end-of-sequence tokens
 * do it. */
size_t chat_stops(const chat *c, str *ret);
/* The tokenizer's own tokens ([gMASK] sop) go before the prompt. */
bool chat_adds_special_tokens(const chat *c);

/* Everything is borrowed for the call and not changed; NULL = not given. */
typedef struct chat_request {
    const json_t *messages;  /* a list of objects, in OpenAI's form */
    const json_t *tools;     /* a list; NULL, null or []: none */
    const json_t *documents; /* a list */
    const json_t *kwargs;    /* an object: further variables (chat_template_kwargs) */
    str chat_template;       /* {NULL,0}, or a template for this request alone */
    bool add_generation_prompt;
    bool continue_final_message; /* the text ends with the last message's own words */
} chat_request;

/* Append the prompt's text to *out. Messages are passed to the template as they are, except:
 * members that are null are left out; "reasoning_content" also appears as "thinking" and the other
 * way round; and what the template was found to need when it was opened (it renders two probes):
 * - content as a list of parts, for a template that takes texts only: the texts, joined by "\n"
 *   (parts that are not text are ERR_UNSUPPORTED then); the other way round for one that takes
 *   lists only;
 * - tool_calls[].function.arguments: OpenAI's JSON text becomes the object it says, which is what
 *   templates expect, unless this one prints them as they come.
 * Errors: ERR_INVALID with the template's own message; ERR_TOO_LARGE with the limit. */
NODISCARD status chat_render(const chat *c, const chat_request *q, strbuf *out, error *err);

/* The template over variables as given (messages, tools, ...); only special tokens are added.
 * Errors in Python's words ("TemplateError: ..."). */
NODISCARD status chat_render_vars(const chat *c, const json_t *vars, strbuf *out, error *err);

#endif
