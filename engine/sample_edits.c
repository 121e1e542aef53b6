/* Entries are found by id: slot[id] is valid where epoch[id] is that of the call, so nothing is
 * cleared between calls. */
#include "engine/sample_edits.h"

#include <math.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"

struct edit_maker {
    int32_t vocab;
    uint32_t epoch;
    uint32_t *of;  /* [V] epoch of slot */
    int32_t *slot; /* [V] entry of the id */
    sample_edit *list;
    int32_t n;
};

size_t edit_maker_bytes(int32_t vocab) {
    return sizeof(edit_maker) + (size_t)vocab * (sizeof(uint32_t) + sizeof(int32_t));
}

edit_maker *edit_maker_new(int32_t vocab) {
    edit_maker *m = mem_calloc(1, sizeof *m);
    m->vocab = vocab;
    m->of = mem_calloc((size_t)vocab, sizeof *m->of);
    m->slot = mem_calloc((size_t)vocab, sizeof *m->slot);
    return m;
}

void edit_maker_free(edit_maker *m) {
    if (!m) return;
    mem_free(m->of);
    mem_free(m->slot);
    mem_free(m);
}

static void begin(edit_maker *m, sample_edit *list) {
    m->list = list;
    m->n = 0;
    if (++m->epoch != 0) return;
    memset(m->of, 0, (size_t)m->vocab * sizeof *m->of);
    m->epoch = 1;
}

/* The id's entry; NULL outside the vocabulary. */
static sample_edit *entry(edit_maker *m, int32_t id) {
    if (id < 0 || id >= m->vocab) return NULL;
    if (m->of[id] != m->epoch) {
        m->of[id] = m->epoch;
        m->slot[id] = m->n;
        m->list[m->n++] = (sample_edit){.id = id};
    }
    return &m->list[m->slot[id]];
}

static void flag(edit_maker *m, int32_t id, uint32_t how) {
    sample_edit *e = entry(m, id);
    if (e) e->flags |= how;
}

static bool repeats(const sample_params *p) {
    return p->repetition_penalty != 1 && p->repetition_penalty > 0;
}

static bool counts(const sample_params *p) {
    return p->frequency_penalty != 0 || p->presence_penalty != 0;
}

/* Ban every id that would complete an n-gram that is already there. */
static void no_repeat(edit_maker *m, const batch_seq *q) {
    int32_t n = q->params->no_repeat_ngram, len = q->n_known;
    const int32_t *tail = q->ids + len - (n - 1);
    for (int32_t i = 0; i + n <= len; i++)
        if (memcmp(q->ids + i, tail, (size_t)(n - 1) * sizeof *tail) == 0)
            flag(m, q->ids[i + n - 1], SAMPLE_BAN);
}

int32_t edit_make(edit_maker *m, const batch_seq *q, sample_edit *ret) {
    const sample_params *p = q->params;
    sample_edit *e;
    begin(m, ret);
    for (int32_t i = 0; i < p->n_bias; i++)
        if ((e = entry(m, p->bias[i].id))) e->bias += p->bias[i].bias;
    for (int32_t i = 0; repeats(p) && i < q->n_known; i++) flag(m, q->ids[i], SAMPLE_SEEN);
    for (int32_t i = q->n_prompt; counts(p) && i < q->n_known; i++)
        if ((e = entry(m, q->ids[i]))) e->count++;
    if (p->no_repeat_ngram > 0 && q->n_known >= p->no_repeat_ngram) no_repeat(m, q);
    if (q->n_known - q->n_prompt < p->min_tokens)
        for (int32_t i = 0; i < p->n_stop_ids; i++) flag(m, p->stop_ids[i], SAMPLE_BAN);
    return m->n;
}

bool edit_reads_ids(const sample_params *p) {
    return repeats(p) || counts(p) || p->no_repeat_ngram > 0;
}

int32_t edit_most(const edit_maker *m, const batch_seq *q) {
    const sample_params *p = q->params;
    int64_t n = p->n_bias;
    if (edit_reads_ids(p)) n += q->n_known;
    if (q->n_known - q->n_prompt < p->min_tokens) n += p->n_stop_ids;
    return (int32_t)MIN(n, m->vocab);
}

sample_row edit_row(const batch_seq *q) {
    const sample_params *p = q->params;
    return (sample_row){.given = -1,
                        .n_logprobs = p->n_logprobs,
                        .temperature = p->temperature,
                        .top_k = p->top_k,
                        .top_p = p->top_p,
                        .min_p = p->min_p,
                        .repetition_penalty = p->repetition_penalty,
                        .frequency_penalty = p->frequency_penalty,
                        .presence_penalty = p->presence_penalty,
                        .key = rng_bits(p->seed, (uint64_t)q->n_known, (uint32_t)q->choice)};
}
