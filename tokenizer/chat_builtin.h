/* Chat formats that are part of the program (conf/chat/NAME.jinja) or of a register directory
 * (DIR/NAME.jinja), for models that bring no template of their own.
 *
 * A format is a Jinja file that may begin with a comment holding a JSON object:
 *
 *   {#- {"about": "...", "aliases": ["qwen_chat"], "stop": ["<|im_end|>"],
 *        "match": [{"model_type": "qwen"}], "add_special_tokens": false} -#}
 *
 * stop: texts or tokens that end the answer. match: config.json members that choose this format
 * for a model without template (the value, "*" for any, "*part*" for a text that holds part); the
 * entry with the most members that holds wins. add_special_tokens: the tokenizer adds its own
 * before the prompt.
 *
 * xtuner/NAME are the prompt templates of XTuner, word for word as it trains with them:
 * conf/chat/xtuner.json says the strings, xtuner.jinja puts them together. */
#ifndef TOKENIZER_CHAT_BUILTIN_H
#define TOKENIZER_CHAT_BUILTIN_H

#include <jansson.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct chat_format {
    strbuf name;  /* "llama2", "xtuner/vicuna" */
    strbuf where; /* for errors: a path, "conf/chat/llama2.jinja" */
    strbuf text;  /* the template */
    json_t *meta; /* the JSON object, {} if there is none */
} chat_format;

void chat_format_done(chat_format *f);

/* The format called `name` or with that alias; letters' case does not matter and '-' is '_'. First
 * those of register_path (may be NULL), then the built-in ones. The error lists the names, or is
 * about a file of register_path: name and key. */
NODISCARD status chat_format_find(const char *name, const char *register_path, chat_format *ret,
                                  error *err);
/* The format that a file holds. */
NODISCARD status chat_format_open(const char *path, chat_format *ret, error *err);
/* The format whose `match` fits a config.json; *ret_found false and *ret untouched if none. */
NODISCARD status chat_format_match(const json_t *config, const char *register_path,
                                   chat_format *ret, bool *ret_found, error *err);
/* Append the system message called `name` (conf/chat/system.json), which speaks of the model as
 * bot_name. The error lists the names. */
NODISCARD status chat_system_prompt(const char *name, const char *bot_name, strbuf *out,
                                    error *err);
/* Append "name: about" lines, aliases in brackets, for people; register_path may be NULL. */
NODISCARD status chat_format_list(const char *register_path, strbuf *out, error *err);

#endif
