/* Results of a step -> tokens, events, ends. Entry i of the plan is sequence planned[i]; nothing
 * ends between plan and apply, so all of them are running still.
 *
 * Invariant: every sampled entry pushes exactly one event, for which the planner kept a slot. */
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
    CHECK(out->token >= 0 && out->token < c->step.vocab);
    s->ids[s->n_known++] = out->token;
    c->stats.generation_tokens++;
    if (!r->times.first_token_us) r->times.first_token_us = c->now_us;
    finish_reason why = ended_by(s, out->token);
    if (why == FINISH_NONE)
        seq_emit(c, s, out);
    else
        seq_end(c, s, why, out);
}

static void apply_one(core *c, int32_t i) {
    seq *s = c->planned[i];
    group *g = s->g;
    const batch_seq *b = &c->plan.seqs[i];
    g->ring_promised -= b->sample;
    status st = c->result.seq_status[i];
    if (st != OK) {
        group_error(g, st, "the model gave no usable output for choice %d", s->choice);
        seq_forget(c, s);
        seq_end(c, s, FINISH_ERROR, NULL);
        return;
    }
    seq_computed(c, s, b->pos + b->n_tokens);
    if (!g->has_prompt && s->n_computed >= g->r->n_prompt) {
        g->has_prompt = true;
        if (g->r->max_tokens == 0) {
            group_end(c, g, FINISH_LENGTH);
            return;
        }
        group_release(c, g);
    }
    if (b->sample) take_token(c, s, &c->result.out[i]);
}

void apply_results(core *c) {
    for (int32_t i = 0; i < c->plan.n_seqs; i++) apply_one(c, i);
}
