/* Results of a step -> tokens, events, ends. Entry i of the plan is sequence planned[i].
 *
 * Between a step's launch and its results the step before it is applied and another one planned. So
 * an entry's sequence may have ended: its results are dropped, nothing is said of it twice. Or it
 * was thrown back: its token counts, but the keys and values went with its pages.
 *
 * Invariant: every sampled entry whose sequence is not done pushes exactly one event, for which the
 * planner kept a slot. */
#include "engine/base/check.h"
#include "scheduler/state.h"

static bool is_stop_id(const sample_params *p, int32_t token) {
    for (int32_t i = 0; i < p->n_stop_ids; i++)
        if (p->stop_ids[i] == token) return true;
    return false;
}

/* Why the choice ends with the token that it just got, or FINISH_NONE. A stop id before min_tokens
 * is banned in the sampler; a stepper that does not ban it makes it an ordinary token. */
static finish_reason ended_by(const seq *s, int32_t token) {
    const request *r = s->g->r;
    int32_t n_out = s->n_known - r->n_prompt;
    if (!r->ignore_eos && n_out > r->params.min_tokens && is_stop_id(&r->params, token))
        return FINISH_STOP;
    return s->n_known < s->g->len_max ? FINISH_NONE : FINISH_LENGTH;
}

static void take_token(core *c, seq *s, const sample_out *out) {
    request *r = s->g->r;
    s->n_known++;
    c->stats.generation_tokens++;
    if (!r->times.first_token_us) r->times.first_token_us = c->now_us;
    finish_reason why = ended_by(s, out->token);
    if (why == FINISH_NONE)
        seq_emit(c, s, out);
    else
        seq_end(c, s, why, out);
}

/* The entry is in flight no more. */
static void release(flight *f, int32_t i) {
    seq *s = f->planned[i];
    bool sample = f->plan.seqs[i].sample;
    s->g->ring_promised -= sample;
    s->n_unseen -= sample;
    s->n_flight--;
    s->g->n_flight--;
}

/* A step that is planned already may have the token as input, also where its sequence ended. */
static void note_token(core *c, seq *s, const batch_seq *b, const sample_out *out) {
    CHECK(out->token >= 0 && out->token < c->step.vocab && b->n_known < s->g->len_max);
    s->ids[b->n_known] = out->token;
}

static void apply_one(core *c, flight *f, int32_t i) {
    seq *s = f->planned[i];
    group *g = s->g;
    const batch_seq *b = &f->plan.seqs[i];
    int32_t to = b->pos + b->n_tokens;
    status st = c->result.seq_status[i];
    if (b->sample && st == OK) note_token(c, s, b, &c->result.out[i]);
    if (s->state == SEQ_DONE) return;
    if (st != OK) {
        group_error(g, st, "the model gave no usable output for choice %d", s->choice);
        seq_forget(c, s);
        seq_end(c, s, FINISH_ERROR, NULL);
        return;
    }
    if (s->state == SEQ_RUNNING) seq_computed(c, s, to);
    if (!g->has_prompt && to >= g->r->n_prompt) {
        g->has_prompt = true;
        if (g->r->max_tokens == 0) {
            group_end(c, g, FINISH_LENGTH);
            return;
        }
        group_release(c, g);
    }
    if (b->sample) take_token(c, s, &c->result.out[i]);
}

void apply_results(core *c, flight *f) {
    for (int32_t i = 0; i < f->plan.n_seqs; i++) {
        release(f, i);
        apply_one(c, f, i);
        group_retire(c, f->planned[i]->g);
    }
}

void apply_nothing(core *c, flight *f) {
    for (int32_t i = 0; i < f->plan.n_seqs; i++) {
        release(f, i);
        group_retire(c, f->planned[i]->g);
    }
}
