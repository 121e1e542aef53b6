/* Guesses by a smaller model of the same vocabulary (Leviathan 2023, with the target's own choice
 * in place of rejection sampling: what is guessed changes no text, see drafts.c).
 *
 * In the time of a step of its own the model guesses one token more for every sequence that gets
 * drafts. So they all get the same number d, and what pays is a question to all of them at once:
 * with the m sequences whose guesses are likeliest, the most tokens per time are
 *
 *     (R + sum of p_i + .. + p_i^d) / (T(R + m d) + T'(text to read) + (d-1) T'(m))
 *
 * over m and d, T being what steps take, T' what the model's take, both learned (pace.h). Where
 * that is no more than R / T(R) there are none, and it is asked again after a while that doubles.
 * Then drafts are tried now and then, and the time of trying is a hundredth of all at most.
 *
 * The model has pages like the stepper's, one for each: its keys and values of a text stand under
 * the same page ids. It reads a text when drafts for it are wanted, not when its prompt is
 * computed: what it has not read of a sequence, n_known - n_read, comes first, some of it beside
 * each step, no longer than that step, and only where the rest of the answer can bring back what it
 * costs. A page that it has read to its end is marked, so that who shares it need not read it
 * again; the mark goes when the page is given away.
 *
 * Of d guesses the model has read d-1: positions n_known .. n_known+d-2, before they are checked.
 * Those of right ones stay, others are written again.
 *
 * Invariant: positions below n_read, and marked pages, hold the model's keys and values of tokens
 * that are known. Nothing of the stepper's is in flight while the model computes. */
#include <math.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "scheduler/state.h"

enum {
    READY = 16,    /* text that may be read in the step of the first guess */
    CHUNK = 64,    /* text that may be read beside a step, whatever that takes */
    TRY_MOST = 2,  /* drafts of a trial */
    PART = 100,    /* trials take one in so much of the time */
    GAP_MAX = 32,  /* plans until it is asked again whether drafts pay */
    LIKELY = 16,   /* classes of p */
    ANSWER = 64,   /* tokens that an answer has, as far as nothing says so */
    TRIAL_GAP = 8, /* trials that brought nothing come so much less often at most */
};

typedef enum page_read { UNREAD, READ, BEING_READ } page_read;

/* What the model does in the plan under way: read n_text tokens, then guess n, or only read. */
typedef struct job {
    seq *s;
    int32_t n_text, n;
} job;

struct draft_model {
    stepper step;
    pace pace;
    uint8_t *pages; /* [n_pages] page_read */
    job *jobs;      /* [max_running] */
    int32_t n_jobs;
    int32_t room; /* for text in the first step */
    batch_plan plan;
    step_result result;
    int32_t *who;     /* [max_running] job of each entry */
    bool on;          /* drafts paid when last asked */
    uint64_t ask_at;  /* plan */
    int32_t ask_gap;  /* plans */
    bool is_trial;    /* of the plan under way */
    double trial_gap; /* 1 .. TRIAL_GAP */
    double tried_us;  /* time in steps until the last trial ended; below 0: there was none */
    double need_us;   /* what the next one is thought to take */
    double trial_us;  /* what the one under way has taken so far; 0: none is */
};

/* Greedy: the stepper's choice is what it is compared with. */
static const sample_params greedy = {
    .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = -1};

void draft_model_init(core *c, const stepper *by) {
    size_t n = (size_t)c->o.max_running;
    CHECK(by->page_tokens == c->step.page_tokens && by->n_pages >= c->step.n_pages);
    CHECK(!by->whole_prompt);
    draft_model *m = c->drafting.model = mem_calloc(1, sizeof *m);
    *m = (draft_model){.step = *by, .ask_gap = 1, .trial_gap = 1, .tried_us = -1};
    m->pages = mem_calloc((size_t)c->step.n_pages, sizeof *m->pages);
    m->jobs = mem_calloc(n, sizeof *m->jobs);
    m->who = mem_calloc(n, sizeof *m->who);
    m->plan.seqs = mem_calloc(n, sizeof *m->plan.seqs);
    m->result.out = mem_calloc(n, sizeof *m->result.out);
    m->result.seq_status = mem_calloc(n, sizeof *m->result.seq_status);
}

void draft_model_done(core *c) {
    draft_model *m = c->drafting.model;
    if (!m) return;
    mem_free(m->pages);
    mem_free(m->jobs);
    mem_free(m->who);
    mem_free(m->plan.seqs);
    mem_free(m->result.out);
    mem_free(m->result.seq_status);
    mem_free(m);
}

void draft_model_enter(core *c) {
    const draft_model *m = c->drafting.model;
    if (m && m->step.enter) m->step.enter(m->step.self);
}

void draft_model_page_taken(core *c, int32_t id) {
    if (c->drafting.model && id >= 0) c->drafting.model->pages[id] = UNREAD;
}

/* --- what has been read --- */

/* The first n tokens of s are read. */
static void note_read(core *c, seq *s, int32_t n) {
    int32_t S = c->step.page_tokens;
    for (int32_t i = s->drafts.n_read / S; i < n / S; i++)
        c->drafting.model->pages[s->pages[i]] = READ;
    s->drafts.n_read = n;
}

/* Pages that it shares may have been read for others. Returns what is left to read, at least the
 * last token, behind which the first guess comes. */
static int32_t unread(core *c, seq *s) {
    int32_t S = c->step.page_tokens, n = s->drafts.n_read;
    while (n < s->n_known && c->drafting.model->pages[s->pages[n / S]] == READ) n = (n / S + 1) * S;
    s->drafts.n_read = MIN(n, s->n_known - 1);
    return s->n_known - s->drafts.n_read;
}

/* May tokens [n_read, n_read + n) be read in this plan? Each page by one sequence at a time, and
 * only ids that the model has: a text with others is never read. */
static bool may_read(core *c, seq *s, int32_t n) {
    const draft_model *m = c->drafting.model;
    int32_t S = c->step.page_tokens, from = s->drafts.n_read;
    for (int32_t i = from / S; i <= (from + n - 1) / S; i++)
        if (m->pages[s->pages[i]] == BEING_READ) return false;
    for (int32_t i = from; i < from + n; i++)
        if (s->ids[i] >= m->step.vocab) {
            s->drafts.is_foreign = true;
            return false;
        }
    return true;
}

static void add_job(core *c, seq *s, int32_t n_text, int32_t n) {
    draft_model *m = c->drafting.model;
    int32_t S = c->step.page_tokens, from = s->drafts.n_read;
    for (int32_t i = from / S; i <= (from + n_text - 1) / S; i++)
        if (m->pages[s->pages[i]] == UNREAD) m->pages[s->pages[i]] = BEING_READ;
    m->room -= n_text;
    m->jobs[m->n_jobs++] = (job){s, n_text, n};
}

/* --- does it pay? --- */

/* Sequences whose guesses are about as likely, and all that are likelier. */
typedef struct class {
    int32_t n;
    double p, pos; /* sums */
} class;

typedef struct choice {
    int32_t d;      /* drafts of each; 0: none */
    int32_t likely; /* of the classes from here on */
    double saved;   /* microseconds that a token of theirs takes less */
} choice;

static int32_t class_of(double p) {
    return MIN((int32_t)(p * LIKELY), LIKELY - 1);
}

/* May the entry get drafts? Where it does, how likely they are right. */
static bool is_candidate(core *c, const batch_seq *b, seq *s, double *ret_p) {
    if (!b->sample || b->n_tokens != 1 || s->drafts.is_foreign) return false;
    if (s->n_known >= c->drafting.model->step.max_model_len || draft_room(c, s) <= 0) return false;
    *ret_p = draft_chance(c, s, DRAFT_OF_MODEL);
    return true;
}

static void classify(core *c, class *of) {
    const flight *f = c->last;
    double p;
    for (int32_t i = 0; i < f->plan.n_seqs; i++) {
        if (!is_candidate(c, &f->plan.seqs[i], f->planned[i], &p)) continue;
        class *x = &of[class_of(p)];
        x->n++;
        x->p += p;
        x->pos += f->plan.seqs[i].pos;
    }
}

/* What m sequences' d guesses take, with two tokens of text each. */
static double guess_us(const draft_model *m, int32_t n, int32_t d, double pos) {
    pace_step text = {2 * n, 2 * pos}, one = {n, pos};
    return pace_us(&m->pace, text) + (d - 1) * pace_us(&m->pace, one);
}

static choice choose(core *c) {
    draft_model *m = c->drafting.model;
    class of[LIKELY] = {0}, all = {0};
    choice best = {0};
    double gain[DRAFTS_MOST + 1] = {0}, plain, bar;
    pace_step now = draft_load(&c->last->plan);
    if (c->o.drafts_forced) return (choice){c->drafting.most, 0, INFINITY};
    if (m->pace.n_curve == 0) return best;
    classify(c, of);
    plain = now.n_tokens / draft_step_us(c, now);
    bar = plain * DRAFT_GAIN;
    for (int32_t k = LIKELY - 1; k >= 0; k--) {
        if (of[k].n == 0) continue;
        double p = of[k].p / of[k].n, each = of[k].n, sum = 0;
        all.n += of[k].n;
        all.pos += of[k].pos;
        for (int32_t d = 1; d <= c->drafting.most; d++) {
            gain[d] += sum += each *= p;
            pace_step with = {now.n_tokens + all.n * d, now.n_reads + d * all.pos};
            double us = draft_step_us(c, with) + guess_us(m, all.n, d, all.pos);
            double rate = (now.n_tokens + gain[d]) / us;
            if (rate < bar) continue;
            bar = rate;
            best = (choice){d, k,
                            (1 / plain - 1 / rate) * (now.n_tokens + gain[d]) / (all.n + gain[d])};
        }
    }
    return best;
}

/* --- the plan --- */

/* Can what is left of the answer bring back the time of reading n tokens? */
static bool is_worth(const core *c, const seq *s, int32_t n, double saved) {
    int32_t n_out = s->n_known - s->g->r->n_prompt;
    int32_t left = MIN(s->g->len_max - s->n_known, MAX(n_out, ANSWER));
    pace_step text = {n, pace_reads(s->drafts.n_read, n)};
    return left * saved > pace_us(&c->drafting.model->pace, text);
}

/* Text that may be read beside the plan's step: as much as takes no longer. */
static int32_t chunk_of(const core *c) {
    const draft_model *m = c->drafting.model;
    double us = draft_step_us(c, draft_load(&c->last->plan));
    int32_t n = m->step.max_tokens;
    while (n > CHUNK && pace_us(&m->pace, (pace_step){.n_tokens = n}) > us) n /= 2;
    return n;
}

/* Drafts for s, whose text is read but for n_text tokens. False: no room. */
static bool guess(core *c, seq *s, batch_seq *b, int32_t n_text, int32_t d) {
    draft_model *m = c->drafting.model;
    int32_t n = MIN(MIN(d, draft_room(c, s)), m->step.max_model_len - s->n_known);
    if (n <= 0 || n_text > m->room || !may_read(c, s, n_text)) return false;
    if ((n = draft_pages(c, s, n)) <= 0) return false;
    add_job(c, s, n_text, n);
    draft_add(c, s, b, n, DRAFT_OF_MODEL);
    return true;
}

static void read_on(core *c, seq *s, int32_t n) {
    n = MIN(n, c->drafting.model->room);
    if (n > 0 && may_read(c, s, n)) add_job(c, s, n, 0);
}

static void draft_all(core *c, choice by) {
    const flight *f = c->last;
    int32_t left = chunk_of(c), max_seqs = MIN(c->drafting.model->step.max_seqs, c->o.max_running);
    double p;
    for (int32_t i = 0; i < f->plan.n_seqs && c->drafting.model->n_jobs < max_seqs; i++) {
        seq *s = f->planned[i];
        if (!is_candidate(c, &f->plan.seqs[i], s, &p) || class_of(p) < by.likely) continue;
        int32_t n = unread(c, s), room = c->drafting.model->room;
        if (n <= READY)
            (void)guess(c, s, &f->plan.seqs[i], n, by.d);
        else if (is_worth(c, s, n, by.saved))
            read_on(c, s, MIN(n - 1, left));
        left -= n > READY ? room - c->drafting.model->room : 0;
    }
}

/* Is the time of a trial earned? One that has begun is brought to its end. */
static bool is_due(const core *c) {
    const draft_model *m = c->drafting.model;
    double now = (double)(c->stats.step_us_total + c->stats.draft_us_total);
    return m->tried_us < 0 || m->trial_us > 0 ||
           now - m->tried_us >= m->need_us * PART * m->trial_gap;
}

/* One sequence, that with the least to read. */
static void try_one(core *c) {
    const flight *f = c->last;
    draft_model *m = c->drafting.model;
    int32_t at = -1, least = INT32_MAX;
    double p;
    for (int32_t i = 0; i < f->plan.n_seqs; i++) {
        seq *s = f->planned[i];
        if (!is_candidate(c, &f->plan.seqs[i], s, &p) || unread(c, s) >= least) continue;
        least = unread(c, s);
        at = i;
    }
    if (at < 0) return;
    m->need_us = pace_us(&m->pace, (pace_step){.n_tokens = least}) +
                 (TRY_MOST - 1) * pace_us(&m->pace, (pace_step){.n_tokens = 1});
    if (!is_due(c)) return;
    m->is_trial = true;
    if (least <= READY)
        (void)guess(c, f->planned[at], &f->plan.seqs[at], least, MIN(TRY_MOST, c->drafting.most));
    else
        read_on(c, f->planned[at], MIN(least - 1, chunk_of(c)));
}

void draft_model_plan(core *c) {
    draft_model *m = c->drafting.model;
    bool may_try = is_due(c);
    m->n_jobs = 0;
    m->room = m->step.max_tokens;
    m->is_trial = false;
    if (c->n_plans < m->ask_at && !may_try) return;
    choice by = choose(c);
    m->on = by.d > 0;
    m->ask_gap = m->on ? 1 : MIN(2 * m->ask_gap, GAP_MAX);
    m->ask_at = c->n_plans + (uint64_t)m->ask_gap;
    if (m->on)
        draft_all(c, by);
    else if (may_try)
        try_one(c);
}

bool draft_model_hoped(const core *c) {
    if (!c->drafting.model->on && !is_due(c)) return false;
    for (int32_t i = 0; i < c->n_running; i++)
        if (c->running[i]->n_unseen > 0) return true;
    return false;
}

/* --- the steps --- */

/* Entry of job k: its text, or guess j-1. */
static void add_entry(core *c, int32_t k, int32_t j) {
    draft_model *m = c->drafting.model;
    const job *x = &m->jobs[k];
    seq *s = x->s;
    int32_t pos = j ? s->n_known + j - 1 : s->drafts.n_read, n = j ? 1 : x->n_text;
    int32_t at = m->plan.n_seqs++;
    m->who[at] = k;
    m->result.seq_status[at] = OK;
    m->plan.n_tokens += n;
    m->plan.seqs[at] = (batch_seq){
        .ids = s->ids,
        .n_known = s->n_known + j,
        .n_prompt = s->g->r->n_prompt,
        .pos = pos,
        .n_tokens = n,
        .pages = s->pages,
        .sample = x->n > 0,
        .max_len = MIN(s->g->rope_len, m->step.max_model_len),
        .params = &greedy,
    };
}

/* A guess that the stepper cannot know is any: it will be wrong. */
static void take_guesses(core *c, int32_t j) {
    draft_model *m = c->drafting.model;
    for (int32_t i = 0; i < m->plan.n_seqs; i++) {
        const job *x = &m->jobs[m->who[i]];
        int32_t token = m->result.out[i].token;
        if (x->n == 0) continue;
        bool is_one = m->result.seq_status[i] == OK && token >= 0 && token < c->step.vocab &&
                      token < m->step.vocab;
        x->s->ids[x->s->n_known + j] = is_one ? token : 0;
    }
}

/* The j-th guesses of all that have so many; the first ones together with the text. */
static status run_step(core *c, int32_t j, error *err) {
    draft_model *m = c->drafting.model;
    uint64_t start = clock_now_us(c->o.clock);
    pace_step step = {0};
    m->plan.n_seqs = m->plan.n_tokens = 0;
    for (int32_t k = 0; k < m->n_jobs; k++)
        if (j == 0 || m->jobs[k].n > j) add_entry(c, k, j);
    TRY(stepper_run(&m->step, &m->plan, &m->result, err));
    m->plan.step++;
    take_guesses(c, j);
    c->now_us = clock_now_us(c->o.clock);
    uint64_t us = c->now_us - MIN(start, c->now_us);
    step = draft_load(&m->plan);
    pace_add(&m->pace, step, (double)us);
    c->stats.draft_steps++;
    c->stats.draft_us_total += us;
    return OK;
}

/* A trial ends with its drafts. */
static void count_trial(core *c, double us) {
    draft_model *m = c->drafting.model;
    m->trial_us += us;
    if (c->last->plan.n_drafts == 0) return;
    pace_step with = draft_load(&c->last->plan), without = with;
    without.n_tokens -= c->last->plan.n_drafts;
    if (c->pace.n_curve > 0) m->trial_us += draft_step_us(c, with) - draft_step_us(c, without);
    m->tried_us = (double)(c->stats.step_us_total + c->stats.draft_us_total);
    m->need_us = m->trial_us;
    m->trial_us = 0;
}

status draft_model_run(core *c, error *err) {
    draft_model *m = c->drafting.model;
    uint64_t before = c->stats.draft_us_total;
    int32_t most = 1;
    if (!m || m->n_jobs == 0) return OK;
    for (int32_t k = 0; k < m->n_jobs; k++) most = MAX(most, m->jobs[k].n);
    for (int32_t j = 0; j < most; j++) TRY(run_step(c, j, err));
    for (int32_t k = 0; k < m->n_jobs; k++) {
        seq *s = m->jobs[k].s;
        int32_t to = s->drafts.n_read + m->jobs[k].n_text;
        c->stats.draft_read += (uint64_t)m->jobs[k].n_text;
        if (to % c->step.page_tokens) m->pages[s->pages[to / c->step.page_tokens]] = UNREAD;
        note_read(c, s, to);
    }
    m->n_jobs = 0;
    if (m->is_trial) count_trial(c, (double)(c->stats.draft_us_total - before));
    return OK;
}

void draft_model_learn(core *c, seq *s, int32_t n, int32_t n_right) {
    draft_model *m = c->drafting.model;
    if (m->is_trial) m->trial_gap = n_right > 0 ? 1 : MIN(2 * m->trial_gap, (double)TRIAL_GAP);
    note_read(c, s, s->n_known + MIN(n - 1, n_right));
}
