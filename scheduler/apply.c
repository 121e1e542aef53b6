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

/* Why the choice ends with its n_known-th token, or FINISH_NONE. A stop id before min_tokens
 * is banned in the sampler; a stepper that does not ban it makes it an ordinary token. */
static finish_reason ended_by(const seq *s, int32_t n_known, int32_t token) {
    const request *r = s->g->r;
    int32_t n_out = n_known - r->n_prompt;
    if (!r->ignore_eos && n_out > r->params.min_tokens && is_stop_id(&r->params, token))
        return FINISH_STOP;
    return n_known < s->g->len_max ? FINISH_NONE : FINISH_LENGTH;
}

static void take_token(core *c, seq *s, const sample_out *out) {
    request *r = s->g->r;
    s->n_known++;
    c->stats.generation_tokens++;
    if (!r->times.first_token_us) r->times.first_token_us = c->now_us;
    finish_reason why = ended_by(s, s->n_known, out->token);
    if (why == FINISH_NONE)
        seq_emit(c, s, out);
    else
        seq_end(c, s, why, out);
}

/* Most tokens that the entry gives. */
static int32_t n_chosen_most(const batch_seq *b) {
    return b->sample + b->n_draft;
}

/* The entry is in flight no more. */
static void release(flight *f, int32_t i) {
    seq *s = f->planned[i];
    int32_t n = n_chosen_most(&f->plan.seqs[i]);
    s->g->ring_promised -= n;
    s->n_unseen -= n;
    s->n_flight--;
    s->g->n_flight--;
}

/* Results of entry i: its first token, then those after its right drafts. */
static const sample_out *chosen(const core *c, const flight *f, int32_t i, int32_t k) {
    return k ? &c->result.more[f->plan.seqs[i].more0 + k - 1] : &c->result.out[i];
}

/* A step that is planned already may have the token as input, also where its sequence ended. Right
 * drafts are there already; what follows them takes the place of the first wrong one. */
static void note_tokens(core *c, const flight *f, int32_t i) {
    const batch_seq *b = &f->plan.seqs[i];
    int32_t n = b->n_draft ? c->result.n_right[i] : 0, token = chosen(c, f, i, n)->token;
    CHECK(n >= 0 && n <= b->n_draft && b->n_known + n < f->planned[i]->g->len_max);
    CHECK(token >= 0 && token < c->step.vocab);
    f->planned[i]->ids[b->n_known + n] = token;
}

/* How many tokens the entry gave, up to the one that ends its sequence. */
static int32_t n_taken(const core *c, const flight *f, int32_t i) {
    const seq *s = f->planned[i];
    int32_t n = 1 + (f->plan.seqs[i].n_draft ? c->result.n_right[i] : 0);
    for (int32_t k = 0; k < n; k++)
        if (ended_by(s, s->n_known + k + 1, chosen(c, f, i, k)->token)) return k + 1;
    return n;
}

/* What wrong drafts had is free again. */
static void settle_drafts(core *c, flight *f, int32_t i, int32_t n_taken) {
    seq *s = f->planned[i];
    const batch_seq *b = &f->plan.seqs[i];
    CHECK(s->state == SEQ_RUNNING);
    drafts_learn(c, s, b->n_draft, c->result.n_right[i]);
    c->vtime[s->g->r->tenant] += (n_taken - 1) * s->g->charge;
    s->n_launched -= b->n_draft - (n_taken - 1);
}

/* Those that are not pushed yet keep their promise. */
static void take_tokens(core *c, const flight *f, int32_t i, int32_t n) {
    seq *s = f->planned[i];
    s->g->ring_promised += n;
    for (int32_t k = 0; k < n; k++) {
        s->g->ring_promised--;
        take_token(c, s, chosen(c, f, i, k));
    }
}

static void apply_one(core *c, flight *f, int32_t i) {
    seq *s = f->planned[i];
    group *g = s->g;
    const batch_seq *b = &f->plan.seqs[i];
    int32_t to = b->pos + b->n_tokens - b->n_draft, n = 0;
    status st = c->result.seq_status[i];
    if (b->sample && st == OK) note_tokens(c, f, i);
    if (s->state == SEQ_DONE) return;
    if (st != OK) {
        group_error(g, st, "the model gave no usable output for choice %d", s->choice);
        seq_forget(c, s);
        seq_end(c, s, FINISH_ERROR, NULL);
        return;
    }
    if (b->sample) n = n_taken(c, f, i);
    if (b->n_draft) settle_drafts(c, f, i, n);
    if (s->state == SEQ_RUNNING) seq_computed(c, s, to + MAX(n - 1, 0));
    if (!g->has_prompt && to >= g->r->n_prompt) {
        g->has_prompt = true;
        if (g->r->max_tokens == 0) {
            group_end(c, g, FINISH_LENGTH);
            return;
        }
        group_release(c, g);
    }
    take_tokens(c, f, i, n);
    if (b->n_draft && s->state == SEQ_RUNNING) seq_shrink(c, s);
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
