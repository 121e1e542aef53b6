/* One choice's output: token events in, text that is certain out.
 *
 *     token -> detokeniser (whole characters) -> stop strings (held back until certain) -> text
 *
 * `text` and the released entries only grow; a streaming reader takes what is new and moves its own
 * marks. So a stream and a whole answer show the same bytes and the same tokens by construction. */
#ifndef SERVER_OUTPUT_H
#define SERVER_OUTPUT_H

#include "engine/base/vec.h"
#include "scheduler/request.h"
#include "server/params.h"
#include "server/stop.h"
#include "tokenizer/detok.h"

/* A token with its logprobs, for the answer's logprobs fields. */
typedef struct out_token {
    int32_t id;
    float logprob;
    bool has_logprob; /* false: the first token of an echoed prompt */
    int32_t n_top;
    uint32_t top_at;   /* first of its n_top entries in output.tops */
    size_t start, end; /* bytes of the full text that it stands for */
} out_token;

typedef struct output {
    const gen_params *p;
    const tokenizer *tok;
    const stop_set *stops;
    detok *dt;
    stop_state stop;
    strbuf text;           /* all text, the held-back end included */
    size_t shown;          /* bytes of it that are certain */
    VEC(out_token) tokens; /* with logprobs wanted: every visible token */
    size_t n_shown;        /* of them: their text is certain */
    VEC(token_logprob) tops;
    vec_i32 ids;      /* with return_token_ids: every generated id, ends included */
    int32_t n_tokens; /* generated, the one that ended it included */
    finish_reason finish;
    bool by_string; /* stopped by string stop_idx, */
    bool by_own_id; /* or by stop_token_ids' stop_idx */
    int32_t stop_idx;
} output;

/* Everything pointed to is borrowed and outlives *o. `context` is the prompt's ids (the
 * detokeniser's context). */
void output_init(output *o, const gen_params *p, const tokenizer *t, const stop_set *stops,
                 const int32_t *context, int32_t n_context);
void output_done(output *o);

/* Text that is shown before anything generated (echo). */
void output_echo(output *o, str text);
/* A token of the echoed prompt with its logprobs (NULL: the first one has none). Bytes are those
 * the token stands for; call for all prompt tokens in order, before the first push. */
void output_echo_token(output *o, int32_t id, const sample_out *lp);
/* The next event. Returns true if this event ended the choice for the reader (a finish, or a stop
 * string: later events of the choice are to be dropped). */
bool output_push(output *o, const token_event *e);

#endif
