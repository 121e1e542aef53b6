/* See fake.h. Every check that fails is reported once in `problem` and fails the step. */
#include "tests/sim/fake.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/hash.h"
#include "engine/base/mem.h"

void fake_init(fake *f, int32_t page_tokens, int32_t n_pages, int32_t vocab) {
    *f = (fake){.page_tokens = page_tokens, .n_pages = n_pages, .vocab = vocab};
    f->slots = mem_calloc((size_t)n_pages * (size_t)page_tokens, sizeof *f->slots);
}

void fake_host(fake *f, int32_t n_host_pages, float page_move_us) {
    f->n_host_pages = n_host_pages;
    f->page_move_us = page_move_us;
    f->host_slots =
        mem_calloc((size_t)n_host_pages * (size_t)f->page_tokens, sizeof *f->host_slots);
}

void fake_done(fake *f) {
    for (int32_t i = 0; i < FAKE_DEPTH_MAX; i++) {
        mem_free(f->ring[i].out);
        mem_free(f->ring[i].more);
        mem_free(f->ring[i].n_right);
        mem_free(f->ring[i].seq_status);
    }
    mem_free(f->slots);
    mem_free(f->host_slots);
}

static uint64_t kv_class(void *self, int32_t n_prompt, int32_t max_len, int32_t adapter) {
    const fake *f = self;
    return (uint64_t)(f->class_len > 0 && max_len > f->class_len) | (uint64_t)adapter << 1;
}

uint64_t fake_start(const fake *f, const int32_t *prompt, int32_t n_prompt, int32_t max_len,
                    int32_t adapter) {
    uint64_t h = kv_class((void *)f, n_prompt, max_len, adapter);
    return f->whole_prompt ? hash64(prompt, (size_t)n_prompt * sizeof *prompt, h) : h;
}

static uint64_t seq_start(const fake *f, const batch_seq *b) {
    return fake_start(f, b->ids, b->n_prompt, b->max_len, b->adapter);
}

uint64_t fake_history(uint64_t before, int32_t token) {
    uint64_t x = (before ^ (uint64_t)(uint32_t)(token + 1)) * 0x9E3779B97F4A7C15u;
    return (x ^ x >> 29) + 1;
}

int32_t fake_next(const fake *f, uint64_t history, const sample_params *p, int32_t choice) {
    uint64_t x = (history ^ p->seed) * 0xBF58476D1CE4E5B9u + (uint64_t)choice;
    x = (x ^ x >> 31) * 0x94D049BB133111EBu;
    return (int32_t)((x >> 33) % (uint64_t)f->vocab);
}

#define WRONG(f, ...)                                                                              \
    do {                                                                                           \
        if (!(f)->problem[0]) snprintf((f)->problem, sizeof(f)->problem, __VA_ARGS__);             \
    } while (0)

static int32_t refs_of(const fake *f, int32_t id) {
    return f->refs ? f->refs(f->ctx, id) : 1;
}

static void copy_page(fake *f, page_copy cp) {
    size_t S = (size_t)f->page_tokens;
    memcpy(f->slots + (size_t)cp.dst * S, f->slots + (size_t)cp.src * S, S * sizeof *f->slots);
    f->n_copies++;
}

/* Whose page it was, or will be, is seen when it is read. */
static void move_page(fake *f, page_move m) {
    size_t S = (size_t)f->page_tokens;
    if (m.page < 0 || m.page >= f->n_pages || m.slot < 0 || m.slot >= f->n_host_pages) {
        WRONG(f, "move of page %d of %d, slot %d of %d", m.page, f->n_pages, m.slot,
              f->n_host_pages);
        return;
    }
    uint64_t *page = f->slots + (size_t)m.page * S, *slot = f->host_slots + (size_t)m.slot * S;
    memcpy(m.out ? slot : page, m.out ? page : slot, S * sizeof *page);
    *(m.out ? &f->n_out : &f->n_in) += 1;
    *(m.out ? &f->n_aside : &f->n_fetched) += m.aside;
}

static uint64_t *slot(fake *f, const batch_seq *b, int32_t p) {
    int32_t id = b->pages[p / f->page_tokens];
    if (id < 0 || id >= f->n_pages) {
        WRONG(f, "position %d is in page %d of %d", p, id, f->n_pages);
        id = 0;
    }
    return &f->slots[(size_t)id * (size_t)f->page_tokens + (size_t)(p % f->page_tokens)];
}

static struct fake_step *step_of(fake *f, uint64_t k) {
    return &f->ring[k % (uint64_t)MAX(f->depth, 1)];
}

/* The id at position p; a chained one is what the step before chose, any if that failed. */
static int32_t id_at(fake *f, const batch_seq *b, int32_t p) {
    if (!b->chained || p != b->pos) return b->ids[p];
    if (f->n_computed == 0) return 0; /* check_launch said so */
    const struct fake_step *from = step_of(f, f->n_computed - 1);
    if (from->seq_status[b->chain] != OK) return 0;
    int32_t token = from->out[b->chain].token;
    if (f->n_collected == f->n_computed && b->ids[p] != token)
        WRONG(f, "the id at %d is %d, but %d was chosen", p, b->ids[p], token);
    return token;
}

/* Positions from here up to the chained one hold tokens that the host does not know either. */
static int32_t first_hidden(const fake *f, const batch_seq *b) {
    return b->chained ? b->pos + 1 - (int32_t)(f->n_computed - f->n_collected) : b->n_known;
}

/* History up to and with position p, given that before it. */
static uint64_t history_at(fake *f, const batch_seq *b, int32_t p, uint64_t before) {
    if (p < b->pos && p >= first_hidden(f, b)) return *slot(f, b, p);
    return fake_history(before, id_at(f, b, p));
}

/* Write the new positions; all sequences write before any reads, as layers do. */
static void write_seq(fake *f, const batch_seq *b) {
    uint64_t h = seq_start(f, b);
    for (int32_t p = 0; p < b->pos + b->n_tokens; p++) {
        h = history_at(f, b, p, h);
        if (p >= b->pos) *slot(f, b, p) = h;
    }
}

/* The history that ends with the last known id of the step. */
static uint64_t read_seq(fake *f, const batch_seq *b) {
    uint64_t h = seq_start(f, b), known = h;
    for (int32_t p = 0; p < b->pos + b->n_tokens; p++) {
        h = history_at(f, b, p, h);
        if (*slot(f, b, p) != h)
            WRONG(f, "position %d of a sequence at %d+%d (choice %d) reads another's history", p,
                  b->pos, b->n_tokens, b->choice);
        if (p < b->n_known) known = h;
    }
    return known;
}

static void fill_prompt_out(fake *f, const batch_seq *b) {
    int32_t to = b->pos + b->n_tokens;
    for (int32_t p = b->pos + 1; p <= to && p < b->n_prompt; p++)
        if (b->ids[p] < f->vocab)
            b->prompt_out[p] = (sample_out){.token = b->ids[p], .logprob = -(float)p, .rank = 1};
}

static void trace(fake *f, const batch_plan *plan) {
    uint64_t h = hash64(plan->copies, (size_t)plan->n_copies * sizeof *plan->copies, f->trace);
    for (int32_t i = 0; i < plan->n_moves; i++) {
        int32_t v[] = {plan->moves[i].page, plan->moves[i].slot, plan->moves[i].out,
                       plan->moves[i].aside};
        h = hash64(v, sizeof v, h);
    }
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *b = &plan->seqs[i];
        int32_t v[] = {b->n_known, b->pos,     b->n_tokens, b->sample,
                       b->choice,  b->adapter, b->chained,  b->chained ? b->chain : 0,
                       b->n_draft};
        h = hash64(v, sizeof v, h);
        h = hash64(b->pages, (size_t)CEIL_DIV(b->pos + b->n_tokens, f->page_tokens) * 4, h);
    }
    f->trace = h;
}

/* What a plan must be when it is made: later its pages may be another's. */
static void check_seq(fake *f, const batch_seq *b, int32_t i) {
    if (b->n_tokens < 1) WRONG(f, "sequence %d has %d tokens to compute", i, b->n_tokens);
    if (f->whole_prompt && b->pos + b->n_tokens < b->n_prompt)
        WRONG(f, "sequence %d: a prompt of %d in pieces: %d+%d", i, b->n_prompt, b->pos,
              b->n_tokens);
    if (b->sample != (b->pos + b->n_tokens == b->n_known + b->n_draft && b->max_len > b->n_prompt))
        WRONG(f, "sequence %d: sample is %d at %d+%d of %d", i, b->sample, b->pos, b->n_tokens,
              b->n_known);
    for (int32_t p = b->pos; p < b->pos + b->n_tokens; p++) {
        int32_t id = b->pages[p / f->page_tokens];
        if (refs_of(f, id) != 1)
            WRONG(f, "write to page %d, which has %d holders", id, refs_of(f, id));
    }
    if (b->n_draft < 0 || b->n_draft >= b->n_tokens || (b->n_draft && (!b->sample || b->chained)))
        WRONG(f, "sequence %d has %d drafts in %d tokens", i, b->n_draft, b->n_tokens);
    for (int32_t p = b->n_known; p < b->n_known + b->n_draft; p++)
        if (b->ids[p] < 0 || b->ids[p] >= f->vocab) WRONG(f, "draft %d is no token", b->ids[p]);
    if (!b->chained) return;
    const batch_plan *from =
        f->n_launched > f->n_collected ? step_of(f, f->n_launched - 1)->plan : NULL;
    if (!from || b->chain < 0 || b->chain >= from->n_seqs || b->n_tokens != 1)
        WRONG(f, "sequence %d is chained to %d, which is not in flight", i, b->chain);
    else if (from->seqs[b->chain].ids != b->ids || from->seqs[b->chain].n_known + 1 != b->n_known ||
             !from->seqs[b->chain].sample)
        WRONG(f, "sequence %d is chained to another's entry %d", i, b->chain);
}

static void check_launch(fake *f, const batch_plan *plan) {
    int32_t n_tokens = 0, n_drafts = 0;
    for (int32_t i = 0; i < plan->n_copies; i++) {
        page_copy cp = plan->copies[i];
        if (cp.src == cp.dst || refs_of(f, cp.dst) != 1 || refs_of(f, cp.src) < 1)
            WRONG(f, "copy %d -> %d: source has %d holders, destination %d", cp.src, cp.dst,
                  refs_of(f, cp.src), refs_of(f, cp.dst));
    }
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        check_seq(f, &plan->seqs[i], i);
        n_tokens += plan->seqs[i].n_tokens;
        if (plan->seqs[i].n_draft && plan->seqs[i].more0 != n_drafts)
            WRONG(f, "sequence %d: results from %d on, not %d", i, plan->seqs[i].more0, n_drafts);
        n_drafts += plan->seqs[i].n_draft;
    }
    if (n_drafts != plan->n_drafts)
        WRONG(f, "plan says %d drafts, has %d", plan->n_drafts, n_drafts);
    if (n_tokens > f->max_tokens || plan->n_seqs > f->max_seqs)
        WRONG(f, "%d tokens of %d sequences in a step", n_tokens, plan->n_seqs);
    if (n_tokens != plan->n_tokens)
        WRONG(f, "plan says %d tokens, has %d", plan->n_tokens, n_tokens);
}

/* The token after history h, which ends with the last known id, and after each right draft. */
static void choose(fake *f, const batch_seq *b, int32_t i, uint64_t h, struct fake_step *ret) {
    int32_t token = fake_next(f, h, b->params, b->choice);
    ret->out[i] = (sample_out){.token = token, .rank = 1};
    ret->n_right[i] = 0;
    for (int32_t j = 0; j < b->n_draft && b->ids[b->n_known + j] == token; j++) {
        h = fake_history(h, token);
        token = fake_next(f, h, b->params, b->choice);
        ret->more[b->more0 + j] = (sample_out){.token = token, .rank = 1};
        ret->n_right[i]++;
    }
    f->n_drafts += (uint64_t)b->n_draft;
    f->n_right += (uint64_t)ret->n_right[i];
}

static void compute_seqs(fake *f, const batch_plan *plan, struct fake_step *ret) {
    for (int32_t i = 0; i < plan->n_moves; i++)
        if (!plan->moves[i].aside) move_page(f, plan->moves[i]);
    for (int32_t i = 0; i < plan->n_copies; i++) copy_page(f, plan->copies[i]);
    for (int32_t i = 0; i < plan->n_seqs; i++) write_seq(f, &plan->seqs[i]);
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *b = &plan->seqs[i];
        uint64_t h = read_seq(f, b);
        if (b->prompt_out) fill_prompt_out(f, b);
        ret->seq_status[i] = f->fail_seq && f->fail_seq(f->ctx) ? ERR_INTERNAL : OK;
        choose(f, b, i, h, ret);
    }
    for (int32_t i = 0; i < plan->n_moves; i++) /* as late as may be */
        if (plan->moves[i].aside) move_page(f, plan->moves[i]);
}

/* The oldest step that is not computed yet. After a failure there is none that is. */
static void compute(fake *f) {
    struct fake_step *k = step_of(f, f->n_computed);
    if (f->spend) f->spend(f->ctx, k->plan);
    f->is_lost |= f->fail_device && f->fail_device(f->ctx);
    k->st = f->is_lost ? ERR_DEVICE : OK;
    if (k->st == OK) compute_seqs(f, k->plan, k);
    f->n_computed++;
}

static status fake_launch(void *self, const batch_plan *plan, error *err) {
    fake *f = self;
    int32_t depth = MAX(f->depth, 1);
    if (f->n_launched - f->n_collected >= (uint64_t)depth)
        WRONG(f, "over %d steps in flight", depth);
    trace(f, plan);
    check_launch(f, plan);
    f->is_lost |= f->fail_launch && f->fail_launch(f->ctx);
    if (f->is_lost) return error_set(err, ERR_DEVICE, "the fake device refused a step");
    step_of(f, f->n_launched++)->plan = plan;
    f->n_steps++;
    f->n_tokens += (uint64_t)plan->n_tokens;
    if (!f->eager || !f->eager(f->ctx)) return OK;
    while (f->n_computed < f->n_launched) compute(f);
    return OK;
}

static status fake_collect(void *self, step_result *ret, error *err) {
    fake *f = self;
    if (f->n_launched == f->n_collected) return error_set(err, ERR_DEVICE, "nothing is in flight");
    if (f->n_computed == f->n_collected) compute(f);
    struct fake_step *k = step_of(f, f->n_collected++);
    const batch_plan *plan = k->plan;
    int32_t n = plan->n_seqs;
    k->plan = NULL;
    if (k->st != OK) return error_set(err, ERR_DEVICE, "the fake device failed");
    if (f->problem[0]) return error_set(err, ERR_DEVICE, "%s", f->problem);
    memcpy(ret->out, k->out, (size_t)n * sizeof *ret->out);
    memcpy(ret->seq_status, k->seq_status, (size_t)n * sizeof *ret->seq_status);
    if (plan->n_drafts == 0) return OK;
    memcpy(ret->n_right, k->n_right, (size_t)n * sizeof *ret->n_right);
    memcpy(ret->more, k->more, (size_t)plan->n_drafts * sizeof *ret->more);
    return OK;
}

stepper fake_stepper(fake *f, int32_t max_tokens, int32_t max_seqs, int32_t max_model_len) {
    f->max_tokens = max_tokens;
    f->max_seqs = max_seqs;
    for (int32_t i = 0; i < MAX(f->depth, 1); i++) {
        f->ring[i].out = mem_calloc((size_t)max_seqs, sizeof(sample_out));
        f->ring[i].seq_status = mem_calloc((size_t)max_seqs, sizeof(status));
        f->ring[i].more = mem_calloc((size_t)max_tokens, sizeof(sample_out));
        f->ring[i].n_right = mem_calloc((size_t)max_seqs, sizeof(int32_t));
    }
    return (stepper){.self = f,
                     .depth = MAX(f->depth, 1),
                     .launch = fake_launch,
                     .collect = fake_collect,
                     .page_tokens = f->page_tokens,
                     .n_pages = f->n_pages,
                     .n_host_pages = f->n_host_pages,
                     .page_move_us = f->page_move_us,
                     .max_tokens = max_tokens,
                     .max_seqs = max_seqs,
                     .max_model_len = max_model_len,
                     .vocab = f->vocab,
                     .whole_prompt = f->whole_prompt,
                     .kv_class = kv_class};
}
