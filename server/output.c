/* Invariants: shown <= text.n; tokens are in text order, and token i < n_shown has end <= shown,
 * or the choice has finished. A stop string cuts text and tokens at the same byte: what a client
 * may not see as text it does not see as logprob bytes either.
 *
 * The token's own span of the text is what the detokeniser gave out up to and with it; a token
 * that only completes a character begins where the text ended before it. */
#include "server/output.h"

#include <math.h>

void output_init(output *o, const gen_params *p, const tokenizer *t, const stop_set *stops,
                 const int32_t *context, int32_t n_context) {
    *o = (output){.p = p, .tok = t, .stops = stops};
    strbuf_reserve(&o->text, 64);
    o->dt = detok_new(t, p->skip_special);
    detok_context(o->dt, context, (size_t)n_context);
}

void output_done(output *o) {
    detok_free(o->dt);
    strbuf_done(&o->text);
    vec_done(&o->tokens);
    vec_done(&o->tops);
    vec_done(&o->ids);
    *o = (output){0};
}

void output_echo(output *o, str text) {
    strbuf_add(&o->text, text);
    o->shown = o->text.n;
}

static void keep_tops(output *o, out_token *t, const token_logprob *top, int32_t n) {
    t->n_top = MIN(n, o->p->n_top);
    t->top_at = (uint32_t)o->tops.n;
    for (int32_t i = 0; i < t->n_top; i++) vec_push(&o->tops, top[i]);
}

void output_echo_token(output *o, int32_t id, const sample_out *lp) {
    size_t at = o->tokens.n ? o->tokens.p[o->tokens.n - 1].end : 0;
    strbuf bytes = {0};
    tokenizer_bytes(o->tok, id, &bytes);
    out_token t = {.id = id, .start = at, .end = at + bytes.n, .has_logprob = lp != NULL};
    strbuf_done(&bytes);
    if (lp) {
        t.logprob = lp->logprob;
        keep_tops(o, &t, lp->top, lp->n_top);
    }
    vec_push(&o->tokens, t);
    o->n_shown = o->tokens.n;
}

/* A token without text of its own (the first bytes of a character, a hidden special token) is shown
 * with the next one that has some: until then it may be the beginning of a stop string. */
static void show_tokens(output *o) {
    for (size_t i = o->n_shown; i < o->tokens.n && o->tokens.p[i].end <= o->shown; i++)
        if (o->tokens.p[i].end > o->tokens.p[i].start) o->n_shown = i + 1;
}

/* The choice has ended: no more text comes. With a stop string, cut what lies behind `end`. */
static void finish_at(output *o, size_t end, finish_reason why) {
    o->finish = why;
    o->text.n = o->shown = end;
    if (o->text.p) o->text.p[end] = 0;
    while (o->by_string && o->tokens.n > o->n_shown && o->tokens.p[o->tokens.n - 1].start >= end)
        o->tokens.n--;
    o->n_shown = o->tokens.n;
}

/* Look for stop strings in text[from..]; true if one ended the choice. */
static bool look_for_stop(output *o, size_t from) {
    if (o->n_tokens < o->p->sample.min_tokens) {
        o->shown = o->text.n;
        return false;
    }
    stop_hit h = stop_push(o->stops, &o->stop, str_cut(strbuf_str(&o->text), from, o->text.n));
    if (h.which < 0) {
        o->shown = o->text.n - stop_held(o->stops, &o->stop);
        return false;
    }
    size_t end = from + h.end;
    o->by_string = true;
    o->stop_idx = h.which;
    bool shows = o->p->include_stop && h.which < o->p->n_stops - o->p->n_turn_stops;
    finish_at(o, shows ? end : end - h.n_bytes, FINISH_STOP);
    return true;
}

static int32_t own_stop_id(const gen_params *p, int32_t id) {
    for (int32_t i = 0; i < p->n_own_stop_ids; i++)
        if (p->own_stop_ids[i] == id) return i;
    return -1;
}

static void push_token(output *o, const token_event *e) {
    size_t from = o->text.n;
    o->n_tokens++;
    if (o->p->return_token_ids) vec_push(&o->ids, e->token);
    if (e->finish == FINISH_STOP) { /* the stop id itself stays hidden */
        o->stop_idx = own_stop_id(o->p, e->token);
        o->by_own_id = o->stop_idx >= 0;
        if (!o->by_own_id || !o->p->include_stop) return;
    }
    detok_push(o->dt, e->token, &o->text);
    if (!o->p->want_logprobs) return;
    out_token t = {.id = e->token,
                   .logprob = e->logprob,
                   .has_logprob = true,
                   .start = from,
                   .end = o->text.n};
    keep_tops(o, &t, e->top, e->n_top);
    vec_push(&o->tokens, t);
}

bool output_push(output *o, const token_event *e) {
    size_t from = o->text.n;
    if (o->finish != FINISH_NONE) return false;
    if (e->token >= 0) push_token(o, e);
    if (e->finish != FINISH_NONE) detok_flush(o->dt, &o->text);
    if (look_for_stop(o, from)) return true;
    show_tokens(o);
    if (e->finish == FINISH_NONE) return false;
    finish_at(o, o->text.n, e->finish);
    return true;
}
