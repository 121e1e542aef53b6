/* Each cache slot holds the digest of the ids up to and with its token: h(p) = mix(h(p-1), id(p)).
 * A step reads h(pos-1) from the page before, as attention would, extends it over the new tokens
 * and compares with nothing: a wrong page gives wrong tokens. With `verify` the digests are also
 * computed afresh from the ids, so the first wrong slot is named. */
#include "engine/mock.h"

#include <string.h>
#include <time.h>

#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"

struct mock {
    mock_options o;
    int32_t *text, *words;
    uint64_t *slots; /* [P,S] digests */
    uint64_t *host;  /* [H,S] those of the second tier */
    struct {
        const batch_plan *plan;
        uint64_t done_us;   /* on the monotonic clock */
    } ring[MOCK_DEPTH_MAX]; /* step k in ring[k % depth] */
    uint64_t n_launched, n_collected;
    uint64_t busy_until_us;
    int64_t n_steps;
};

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ (x + 0x9E3779B97F4A7C15u)) * 0xBF58476D1CE4E5B9u;
    return h ^ h >> 29;
}

/* The digest before the first token: an adapter's keys and values are its own. */
static uint64_t start(const batch_seq *s) {
    return s->adapter ? mix(0, (uint64_t)s->adapter) : 0;
}

static uint64_t *slot(mock *m, const batch_seq *s, int32_t pos) {
    int32_t page = s->pages[pos / m->o.page_tokens];
    CHECK(page >= 0 && page < m->o.n_pages);
    return &m->slots[(size_t)page * (size_t)m->o.page_tokens + (size_t)(pos % m->o.page_tokens)];
}

static status verify_prefix(mock *m, const batch_seq *s, int32_t i, error *err) {
    uint64_t h = start(s);
    for (int32_t p = 0; p < s->pos; p++) {
        h = mix(h, (uint64_t)s->ids[p]);
        if (*slot(m, s, p) != h)
            return error_set(err, ERR_INTERNAL,
                             "mock: sequence %d: page %d does not hold the token at position %d", i,
                             s->pages[p / m->o.page_tokens], p);
    }
    return OK;
}

/* Digests of the step's tokens, drafts too, slot by slot. */
static void extend(mock *m, const batch_seq *s) {
    uint64_t h = s->pos ? *slot(m, s, s->pos - 1) : start(s);
    for (int32_t p = s->pos; p < s->pos + s->n_tokens; p++) {
        h = mix(h, (uint64_t)s->ids[p]);
        *slot(m, s, p) = h;
    }
}

static bool is_stop(const sample_params *q, int32_t id) {
    for (int32_t i = 0; i < q->n_stop_ids; i++)
        if (q->stop_ids[i] == id) return true;
    return false;
}

static int32_t from_digest(const mock *m, const sample_params *q, uint64_t h, bool no_stop) {
    const int32_t *set = m->words;
    int32_t n = m->words ? m->o.n_words : m->o.vocab;
    if (q && q->allowed_ids && q->n_allowed > 0) {
        set = q->allowed_ids;
        n = q->n_allowed;
    }
    for (int32_t tries = 0;; tries++, h = mix(h, 1)) {
        int32_t k = (int32_t)((h >> 16) % (uint64_t)n), id = set ? set[k] : k;
        if (!no_stop || tries == 16 || !is_stop(q, id)) return id;
    }
}

static int32_t choose(const mock *m, const batch_seq *s, uint64_t h) {
    const sample_params *q = s->params;
    int32_t k = s->n_known - s->n_prompt;
    bool no_stop = q && k < q->min_tokens;
    if (m->text && !(q && q->allowed_ids)) {
        if (k < m->o.n_text) return m->text[k];
        if (m->o.eos_id >= 0 && !no_stop) return m->o.eos_id;
        return m->text[k % m->o.n_text];
    }
    if (q && q->temperature > 0) h = mix(mix(h, q->seed), (uint64_t)s->choice);
    return from_digest(m, q, h, no_stop);
}

/* Made-up logprobs, falling with the rank; the chosen token is the best. */
static void describe(const mock *m, const sample_params *q, int32_t token, sample_out *ret) {
    *ret = (sample_out){.token = token};
    if (!q || q->n_logprobs < 0) return;
    ret->logprob = -0.5f;
    ret->rank = 1;
    ret->n_top = MIN(MIN(q->n_logprobs, (int32_t)ARRAY_LEN(ret->top)), m->o.vocab);
    for (int32_t i = 0; i < ret->n_top; i++)
        ret->top[i] =
            (token_logprob){(int32_t)(((int64_t)token + i) % m->o.vocab), -0.5f * (float)(i + 1)};
}

/* The token after the known ids and, as long as they are right, after each draft. */
static void sample(mock *m, const batch_seq *s, int32_t i, step_result *ret) {
    batch_seq q = *s;
    sample_out *out = &ret->out[i];
    for (int32_t j = 0;; j++, q.n_known++, out = &ret->more[s->more0 + j - 1]) {
        describe(m, q.params, choose(m, &q, *slot(m, &q, q.n_known - 1)), out);
        if (s->n_draft > 0) ret->n_right[i] = j;
        if (j == s->n_draft || out->token != s->ids[q.n_known]) return;
    }
}

static uint64_t cost_us(const mock *m, int32_t n_tokens) {
    return m->o.step_us + (uint64_t)m->o.token_ns * (uint64_t)n_tokens / 1000;
}

static void sleep_until(uint64_t us) {
    uint64_t now = clock_us();
    if (us <= now) return;
    struct timespec t = {(time_t)((us - now) / 1000000), (long)((us - now) % 1000000 * 1000)};
    nanosleep(&t, NULL);
}

/* Moves first, then copies. */
static void move_pages(mock *m, const batch_plan *plan) {
    size_t page = (size_t)m->o.page_tokens, bytes = page * sizeof *m->slots;
    for (int32_t i = 0; i < plan->n_moves; i++) {
        page_move v = plan->moves[i];
        CHECK(v.page >= 0 && v.page < m->o.n_pages);
        CHECK(v.slot >= 0 && v.slot < m->o.n_host_pages);
        uint64_t *here = m->slots + (size_t)v.page * page, *there = m->host + (size_t)v.slot * page;
        memcpy(v.out ? there : here, v.out ? here : there, bytes);
    }
    for (int32_t i = 0; i < plan->n_copies; i++)
        memcpy(m->slots + (size_t)plan->copies[i].dst * page,
               m->slots + (size_t)plan->copies[i].src * page, bytes);
}

static status mock_launch(void *self, const batch_plan *plan, error *err) {
    mock *m = self;
    uint64_t depth = (uint64_t)m->o.depth, cost = cost_us(m, plan->n_tokens);
    CHECK(m->n_launched - m->n_collected < depth);
    CHECK(plan->n_seqs <= m->o.max_seqs);
    CHECK(plan->n_tokens <= m->o.max_tokens);
    m->ring[m->n_launched % depth].plan = plan;
    if (cost > 0) m->busy_until_us = MAX(m->busy_until_us, clock_us()) + cost;
    m->ring[m->n_launched++ % depth].done_us = m->busy_until_us;
    return OK;
}

/* The ids of chained sequences are known by now. */
static status mock_collect(void *self, step_result *ret, error *err) {
    mock *m = self;
    CHECK(m->n_collected < m->n_launched);
    uint64_t at = m->n_collected++ % (uint64_t)m->o.depth, done_us = m->ring[at].done_us;
    const batch_plan *plan = m->ring[at].plan;
    m->n_steps++;
    if (m->o.fail_step && m->n_steps >= m->o.fail_step)
        return error_set(err, ERR_DEVICE, "the mock device failed at step %lld",
                         (long long)m->n_steps);
    move_pages(m, plan);
    if (done_us > 0) sleep_until(done_us);
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *s = &plan->seqs[i];
        CHECK(s->n_tokens >= 1);
        CHECK(s->pos + s->n_tokens <= s->n_known + s->n_draft);
        if (m->o.verify) TRY(verify_prefix(m, s, i, err));
        extend(m, s);
        ret->seq_status[i] = OK;
        if (s->prompt_out)
            for (int32_t p = s->pos + 1; p <= s->pos + s->n_tokens && p < s->n_prompt; p++)
                describe(m, s->params, s->ids[p], &s->prompt_out[p]);
        if (s->sample) sample(m, s, i, ret);
    }
    return OK;
}

static int32_t *copy_ids(const int32_t *ids, int32_t n) {
    if (!ids || n <= 0) return NULL;
    int32_t *p = mem_alloc((size_t)n * sizeof *p);
    memcpy(p, ids, (size_t)n * sizeof *p);
    return p;
}

mock *mock_new(const mock_options *o) {
    CHECK(o->vocab > 0);
    CHECK(o->n_pages > 0);
    CHECK(o->max_tokens > 0);
    CHECK(o->max_seqs > 0);
    CHECK(o->max_model_len > 0);
    mock *m = mem_calloc(1, sizeof *m);
    m->o = *o;
    if (m->o.page_tokens <= 0) m->o.page_tokens = 16;
    if (m->o.depth <= 0) m->o.depth = 1;
    CHECK(m->o.depth <= MOCK_DEPTH_MAX);
    m->text = copy_ids(o->text, o->n_text);
    m->words = copy_ids(o->words, o->n_words);
    m->slots = mem_calloc((size_t)m->o.n_pages * (size_t)m->o.page_tokens, sizeof *m->slots);
    if (m->o.n_host_pages > 0)
        m->host = mem_calloc((size_t)m->o.n_host_pages * (size_t)m->o.page_tokens, sizeof *m->host);
    return m;
}

void mock_free(mock *m) {
    if (!m) return;
    mem_free(m->text);
    mem_free(m->words);
    mem_free(m->slots);
    mem_free(m->host);
    mem_free(m);
}

static uint64_t mock_kv_class(void *self, int32_t n_prompt, int32_t max_len, int32_t adapter) {
    return (uint64_t)adapter;
}

stepper mock_stepper(mock *m) {
    return (stepper){.self = m,
                     .depth = m->o.depth,
                     .launch = mock_launch,
                     .collect = mock_collect,
                     .page_tokens = m->o.page_tokens,
                     .n_pages = m->o.n_pages,
                     .n_host_pages = m->o.n_host_pages,
                     .max_tokens = m->o.max_tokens,
                     .max_seqs = m->o.max_seqs,
                     .max_model_len = m->o.max_model_len,
                     .vocab = m->o.vocab,
                     .kv_class = mock_kv_class};
}
