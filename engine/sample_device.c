/* Three lists grow through a step: rows, their edits, and masks of allowed ids; a run sends what is
 * new of each and queues the op. Nothing is sent from a place that is still being sent: the host's
 * lists take turns with the steps, and where edits or masks do not fit (penalties over long outputs
 * in many sequences) the device is waited for in between. The backend's lists need no turns, as its
 * copies and ops are in order; results do, since the next step reads them (op_chain). */
#include "engine/sample_device.h"

#include <string.h>

#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/sample_edits.h"

_Static_assert(SAMPLE_TOP_MAX == LIMIT_TOP_LOGPROBS, "one bound of top logprobs");
_Static_assert(LIMIT_VOCAB <= 1 << 22, "sums of weights fit in 64 bits (sample_num.h)");

#define EDITS_LEAST 16384

typedef struct lists {
    sample_row *rows;   /* [n_results] */
    sample_edit *edits; /* [n_edits_max] */
    uint32_t *masks;    /* [n_masks_max][words] */
} lists;

struct sample_device {
    backend *b;
    edit_maker *maker;
    int32_t vocab, words; /* of a mask */
    int32_t n_results, n_masks_max;
    int64_t n_edits_max;
    int32_t depth, turn;
    lists hosts[SAMPLE_STEPS_MAX], host, dev;  /* host: hosts[turn] */
    sample_result *host_results, *dev_results; /* [depth,n_results] */
    void *host_block, *dev_block;
    size_t host_bytes, dev_bytes;
    logits_block block;
    /* Listed, and of these run or sent. */
    int32_t n_rows, n_run, n_masks, masks_sent;
    int64_t n_edits, edits_sent;
};

/* base NULL: only counted, in bytes. */
static void *cut(char *base, size_t *at, size_t n, size_t size) {
    void *p = base ? base + *at : NULL;
    *at += ALIGN_UP(n * size, (size_t)64);
    return p;
}

static lists cut_lists(const sample_device *d, char *base, size_t *at) {
    lists l;
    l.rows = cut(base, at, (size_t)d->n_results, sizeof *l.rows);
    l.edits = cut(base, at, (size_t)d->n_edits_max, sizeof *l.edits);
    l.masks = cut(base, at, (size_t)d->n_masks_max * (size_t)d->words, sizeof *l.masks);
    return l;
}

static sample_result *cut_results(const sample_device *d, char *base, size_t *at) {
    return cut(base, at, (size_t)d->depth * (size_t)d->n_results, sizeof(sample_result));
}

static size_t cut_dev(sample_device *d, char *base) {
    size_t at = 0;
    d->dev = cut_lists(d, base, &at);
    d->dev_results = cut_results(d, base, &at);
    return at;
}

static size_t cut_host(sample_device *d, char *base) {
    size_t at = 0;
    for (int32_t i = 0; i < d->depth; i++) d->hosts[i] = cut_lists(d, base, &at);
    d->host_results = cut_results(d, base, &at);
    return at;
}

int64_t sample_device_edits(int32_t vocab) {
    return MAX(vocab, EDITS_LEAST);
}

static sample_device sized(int32_t vocab, int32_t n_results, int32_t n_rows, int32_t depth) {
    CHECK(depth >= 1 && depth <= SAMPLE_STEPS_MAX);
    return (sample_device){.vocab = vocab,
                           .words = CEIL_DIV(vocab, 32),
                           .depth = depth,
                           .n_results = n_results,
                           .n_masks_max = n_rows,
                           .n_edits_max = sample_device_edits(vocab)};
}

size_t sample_device_bytes(int32_t vocab, int32_t n_results, int32_t n_rows, int32_t depth) {
    sample_device d = sized(vocab, n_results, n_rows, depth);
    return cut_dev(&d, NULL);
}

static status allocate(sample_device *d, error *err) {
    backend *b = d->b;
    d->dev_bytes = cut_dev(d, NULL);
    d->host_bytes = cut_host(d, NULL);
    TRY(b->v->mem_alloc(b, d->dev_bytes, &d->dev_block, err));
    cut_dev(d, d->dev_block);
    if (b->host_memory) {
        for (int32_t i = 0; i < d->depth; i++) d->hosts[i] = d->dev;
        d->host_results = d->dev_results;
        return OK;
    }
    TRY(b->v->host_alloc(b, d->host_bytes, &d->host_block, err));
    cut_host(d, d->host_block);
    return OK;
}

status sample_device_new(backend *b, int32_t vocab, int32_t n_results, int32_t n_rows,
                         int32_t depth, sample_device **ret, error *err) {
    sample_device *d = mem_alloc(sizeof *d);
    CHECK(b->v->sample);
    *d = sized(vocab, n_results, n_rows, depth);
    d->b = b;
    d->maker = edit_maker_new(vocab);
    status st = allocate(d, err);
    d->host = d->hosts[0];
    if (st == OK)
        *ret = d;
    else
        sample_device_free(d);
    return st;
}

void sample_device_free(sample_device *d) {
    if (!d) return;
    if (d->dev_block) d->b->v->mem_free(d->b, d->dev_block, d->dev_bytes);
    if (d->host_block) d->b->v->host_free(d->b, d->host_block, d->host_bytes);
    edit_maker_free(d->maker);
    mem_free(d);
}

void sample_device_begin(sample_device *d) {
    d->turn = (d->turn + 1) % d->depth;
    d->host = d->hosts[d->turn];
    d->n_rows = d->n_run = d->n_masks = d->masks_sent = 0;
    d->n_edits = d->edits_sent = 0;
}

void sample_device_open(sample_device *d, const logits_block *block) {
    CHECK(d->n_run == d->n_rows);
    d->block = *block;
}

/* Elements [from, to) of a list. */
static void send(sample_device *d, void *dev, const void *host, int64_t from, int64_t to,
                 size_t size) {
    size_t at = (size_t)from * size;
    if (dev == host || from == to) return;
    d->b->v->upload(d->b, (char *)dev + at, (const char *)host + at, (size_t)(to - from) * size);
}

/* Of the step's i-th row. */
static int32_t number(const sample_device *d, int32_t i) {
    return d->turn * d->n_results + i;
}

void sample_device_run(sample_device *d) {
    if (d->n_run == d->n_rows) return;
    send(d, d->dev.rows, d->host.rows, d->n_run, d->n_rows, sizeof *d->host.rows);
    send(d, d->dev.edits, d->host.edits, d->edits_sent, d->n_edits, sizeof *d->host.edits);
    send(d, d->dev.masks, d->host.masks, d->masks_sent, d->n_masks,
         (size_t)d->words * sizeof *d->host.masks);
    op_sample op = {.n_rows = d->n_rows - d->n_run,
                    .width = d->vocab,
                    .logits = d->block.x,
                    .logits_stride = d->vocab,
                    .lse = d->block.lse,
                    .argmax = d->block.argmax,
                    .host = d->host.rows + d->n_run,
                    .rows = d->dev.rows + d->n_run,
                    .edits = d->dev.edits,
                    .n_edits = d->n_edits,
                    .out = d->dev_results + number(d, d->n_run)};
    d->b->v->sample(d->b, &op);
    d->n_run = d->n_rows;
    d->edits_sent = d->n_edits;
    d->masks_sent = d->n_masks;
}

/* Room for the edits and the mask of one more row. */
static void make_room(sample_device *d, int32_t n_edits) {
    if (d->n_edits + n_edits <= d->n_edits_max && d->n_masks < d->n_masks_max) return;
    sample_device_run(d);
    (void)d->b->v->sync(d->b, NULL); /* a failure stays: the step's own sync tells of it */
    d->n_edits = d->edits_sent = 0;
    d->n_masks = d->masks_sent = 0;
}

static int32_t add_row(sample_device *d, const sample_row *p) {
    CHECK(d->n_rows < d->n_results);
    d->host.rows[d->n_rows] = *p;
    return number(d, d->n_rows++);
}

/* The list as a mask; its place in the backend's memory. */
static const uint32_t *add_mask(sample_device *d, const sample_params *p) {
    size_t at = (size_t)d->n_masks++ * (size_t)d->words;
    uint32_t *mask = d->host.masks + at;
    memset(mask, 0, (size_t)d->words * sizeof *mask);
    for (int32_t i = 0; i < p->n_allowed; i++) {
        int32_t id = p->allowed_ids[i];
        if (id >= 0 && id < d->vocab) mask[id / 32] |= 1u << id % 32;
    }
    return d->dev.masks + at;
}

int32_t sample_device_choose(sample_device *d, const batch_seq *q, int32_t row) {
    CHECK(q->params && sample_device_can(q->params));
    sample_row p = edit_row(q);
    make_room(d, edit_most(d->maker, q));
    p.row = row;
    p.edit0 = d->n_edits;
    p.n_edits = edit_make(d->maker, q, d->host.edits + d->n_edits);
    d->n_edits += p.n_edits;
    if (q->params->allowed_ids) p.mask = add_mask(d, q->params);
    return add_row(d, &p);
}

int32_t sample_device_describe(sample_device *d, int32_t token, int32_t n_logprobs, int32_t row) {
    CHECK(token >= 0 && token < d->vocab);
    sample_row p = {.row = row, .given = token, .n_logprobs = n_logprobs};
    return add_row(d, &p);
}

int32_t sample_device_put(sample_device *d, status st, const sample_out *out) {
    CHECK(d->n_run == d->n_rows && d->n_rows < d->n_results);
    int32_t i = number(d, d->n_rows++);
    sample_result *r = &d->host_results[i];
    d->n_run = d->n_rows;
    *r = (sample_result){.status = st == OK            ? SAMPLE_OK
                                   : st == ERR_INVALID ? SAMPLE_NOTHING
                                                       : SAMPLE_NOT_FINITE,
                         .token = -1};
    if (st == OK) {
        r->token = out->token;
        r->logprob = out->logprob;
        r->rank = out->rank;
        r->n_top = MIN(out->n_top, SAMPLE_TOP_MAX);
    }
    for (int32_t k = 0; k < r->n_top; k++) {
        r->top[k].id = out->top[k].id;
        r->top[k].logprob = out->top[k].logprob;
    }
    send(d, d->dev_results, d->host_results, i, i + 1, sizeof *r);
    return i;
}

void sample_device_fetch(sample_device *d) {
    CHECK(d->n_run == d->n_rows);
    if (d->n_rows == 0 || d->host_results == d->dev_results) return;
    int32_t first = number(d, 0);
    d->b->v->fetch(d->b, d->host_results + first, d->dev_results + first,
                   (size_t)d->n_rows * sizeof *d->host_results);
}

const sample_result *sample_device_results(const sample_device *d) {
    return d->dev_results;
}

bool sample_device_can(const sample_params *p) {
    return !(p->temperature > 0) || !(p->typical_p < 1);
}

status sample_device_result(const sample_device *d, int32_t i, sample_out *ret) {
    CHECK(i >= 0 && i < d->depth * d->n_results);
    const sample_result *r = &d->host_results[i];
    if (r->status != SAMPLE_OK) return r->status == SAMPLE_NOTHING ? ERR_INVALID : ERR_INTERNAL;
    ret->token = r->token;
    ret->logprob = r->logprob;
    ret->rank = r->rank;
    ret->n_top = MIN(r->n_top, SAMPLE_TOP_MAX);
    for (int32_t k = 0; k < ret->n_top; k++)
        ret->top[k] = (token_logprob){r->top[k].id, r->top[k].logprob};
    return OK;
}
