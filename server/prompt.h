/* From a request's prompt or messages to token ids. */
#ifndef SERVER_PROMPT_H
#define SERVER_PROMPT_H

#include "server/exchange.h"
#include "server/params.h"

typedef struct prompt {
    const int32_t *ids; /* [n], in the arena */
    int32_t n;
    str text; /* as given (echo); for ids, as decoded */
} prompt;

/* /v1/completions: a string, a list of strings, of ids, or of lists of ids. *ret_code is set when
 * the error has a code of its own. */
NODISCARD status prompts_of_text(const model *m, const json_t *body, const gen_params *p,
                                 arena *mem, prompt **ret, int32_t *ret_n, error *err,
                                 const char **ret_code);
/* /v1/chat/completions: one prompt, the rendered messages. */
NODISCARD status prompts_of_chat(const model *m, const json_t *body, const gen_params *p,
                                 arena *mem, prompt **ret, int32_t *ret_n, error *err,
                                 const char **ret_code);
/* Only the rendering: appends the text of the messages to *ret. */
NODISCARD status prompt_render(const model *m, const json_t *body, const gen_params *p, strbuf *ret,
                               error *err);
/* Room for the answer: max_tokens as asked or by default, checked against the context. */
NODISCARD status prompt_max_tokens(const model *m, const gen_params *p, int32_t n_prompt,
                                   int32_t *ret, error *err, const char **ret_code);

#endif
