/* One block of memory per request holds the group, its sequences, their ids, page tables and
 * hashes. It is made on the submitting thread (the prompt's page hashes too), so that the engine
 * thread only links it in. Large blocks are mapped: what a choice never reaches costs nothing.
 *
 * Invariant: r->sched is the group from group_new to group_free. */
#include <stdarg.h>
#include <string.h>

#include "engine/base/check.h"
#include "scheduler/state.h"

enum { BLOCK_MAPPED = 256 * 1024 };

static void *block_new(size_t bytes) {
    return bytes >= BLOCK_MAPPED ? mem_map(bytes) : mem_calloc(1, bytes);
}

/* Guesses are looked up in its own text. */
static bool has_index(const core *c) {
    return c->drafting.most > 0 && !c->drafting.model;
}

/* Sizes of one choice's arrays; false on overflow. Hashes first: they need 8-byte alignment. */
static bool choice_bytes(const core *c, const group *g, size_t *ret) {
    size_t ids, tables, index = has_index(c) ? ngram_bytes(g->len_max) : 0;
    if (!mul_ok((size_t)g->len_max, sizeof(int32_t), &ids)) return false;
    if (!mul_ok((size_t)g->n_pages_max, sizeof(hash128) + sizeof(int32_t), &tables)) return false;
    if (!add_ok(ids, tables, ret) || !add_ok(*ret, index, ret)) return false;
    *ret = ALIGN_UP(*ret, sizeof(hash128));
    return true;
}

static void lay_out(const core *c, group *g, size_t per_choice) {
    unsigned char *at = (unsigned char *)&g->seqs[g->r->n];
    at += ALIGN_UP((uintptr_t)at, sizeof(hash128)) - (uintptr_t)at;
    for (int32_t i = 0; i < g->r->n; i++, at += per_choice) {
        seq *s = &g->seqs[i];
        *s = (seq){
            .g = g, .choice = i, .state = SEQ_HELD, .n_known = g->r->n_prompt, .blocked_free = -1};
        s->hashes = (hash128 *)at;
        s->pages = (int32_t *)(s->hashes + g->n_pages_max);
        s->ids = s->pages + g->n_pages_max;
        if (has_index(c)) ngram_init(&s->drafts.index, s->ids + g->len_max, g->len_max);
    }
}

/* How long a choice may get: what was asked, what the model takes, what the cache holds (the last
 * token is never computed, so it needs no place). */
static void set_lengths(const core *c, group *g) {
    const request *r = g->r;
    int64_t want = (int64_t)r->n_prompt + r->max_tokens;
    int64_t holds = (int64_t)c->pages.n * c->step.page_tokens + (r->max_tokens > 0);
    g->rope_len = (int32_t)MIN(want, c->step.max_model_len);
    g->len_max = (int32_t)MIN((int64_t)g->rope_len, holds);
    g->n_pages_max = pages_for(c, MAX(r->n_prompt, g->len_max - 1));
}

/* Virtual tokens come first and in order; after them only what the vocabulary has. */
static status check_ids(const core *c, const request *r, error *err) {
    for (int32_t i = 0; i < r->n_prompt; i++) {
        int32_t id = r->prompt[i], vocab = c->step.vocab;
        if (i < r->n_virtual ? id == vocab + i : id >= 0 && id < vocab) continue;
        return error_set_param(err, ERR_INVALID, "prompt",
                               "token %d of the prompt is %d, but the vocabulary has %d",
                               i - r->n_virtual, id, vocab);
    }
    return OK;
}

static status check_request(const core *c, const request *r, error *err) {
    CHECK(r->events && r->choice_done && !r->sched);
    CHECK(r->n >= 1 && r->max_tokens >= 0 && r->tenant >= 0 && r->tenant_weight > 0);
    CHECK(r->adapter >= 0 && r->adapter <= LIMIT_ADAPTERS);
    CHECK(r->n_virtual >= 0 && r->n_virtual <= r->n_prompt);
    if (r->n_prompt < 1)
        return error_set_param(err, ERR_INVALID, "prompt", "the prompt has no tokens");
    int64_t need = (int64_t)r->n_prompt + (r->max_tokens > 0);
    if (need > c->step.max_model_len)
        return error_set_param(err, ERR_INVALID, "prompt",
                               "the prompt has %d tokens, but the context holds %d, output "
                               "included",
                               r->n_prompt, c->step.max_model_len);
    if (c->step.whole_prompt && r->n_prompt > c->o.token_budget)
        return error_set_param(err, ERR_INVALID, "prompt",
                               "the prompt has %d tokens, but this model takes a prompt in one "
                               "step, which holds %d (max_num_batched_tokens)",
                               r->n_prompt, c->o.token_budget);
    if (r->n_prompt > (int64_t)c->pages.n * c->step.page_tokens)
        return error_set_param(err, ERR_INVALID, "prompt",
                               "the prompt has %d tokens, but the KV cache holds %lld", r->n_prompt,
                               (long long)c->pages.n * c->step.page_tokens);
    return check_ids(c, r, err);
}

static void hash_prompt(const core *c, group *g) {
    seq *s = &g->seqs[0];
    const request *r = g->r;
    uint64_t kv_class = 0;
    if (c->step.kv_class)
        kv_class = c->step.kv_class(c->step.self, r->n_prompt, g->rope_len, r->adapter);
    g->root = prefix_root(c->key, g->r->cache_salt, kv_class);
    int32_t n = c->o.prefix_cache ? g->r->n_prompt / c->step.page_tokens : 0;
    for (int32_t i = 0; i < n; i++)
        s->hashes[i] = prefix_next(c->key, i ? s->hashes[i - 1] : g->root,
                                   s->ids + (size_t)i * c->step.page_tokens, c->step.page_tokens);
    s->n_hashed = n;
}

status group_new(const core *c, request *r, group **ret, error *err) {
    TRY(check_request(c, r, err));
    group shape = {.r = r}, *g;
    set_lengths(c, &shape);
    size_t per_choice, choices, bytes;
    if (!choice_bytes(c, &shape, &per_choice) ||
        !mul_ok((size_t)r->n, sizeof(seq) + per_choice, &choices) ||
        !add_ok(sizeof *g + sizeof(hash128), choices, &bytes) || !(g = block_new(bytes)))
        return error_set(err, ERR_NOMEM, "no memory for %d choices of %d tokens", r->n,
                         shape.len_max);
    *g = shape;
    g->bytes = bytes;
    g->n_open = r->n;
    g->ring_cap = g->ring_room = request_ring_cap(r);
    g->charge = 1.0 / (double)r->tenant_weight;
    lay_out(c, g, per_choice);
    memcpy(g->seqs[0].ids, r->prompt, (size_t)r->n_prompt * sizeof(int32_t));
    hash_prompt(c, g);
    r->sched = g;
    *ret = g;
    return OK;
}

void group_free(group *g) {
    g->r->sched = NULL;
    if (g->bytes >= BLOCK_MAPPED)
        mem_unmap(g, g->bytes);
    else
        mem_free(g);
}

int32_t group_room(group *g, int32_t at_most) {
    if (g->ring_room <= at_most)
        g->ring_room = g->ring_cap - (int32_t)spsc_count(g->r->events) - g->ring_promised;
    return g->ring_room;
}

bool group_has_room(group *g) {
    return group_room(g, g->n_open) > g->n_open;
}

void group_news(core *c, group *g) {
    if (g->is_ready) return;
    g->is_ready = true;
    g->ready_next = NULL;
    *(c->ready_tail ? &c->ready_tail->ready_next : &c->ready_head) = g;
    c->ready_tail = g;
}

void group_error(group *g, status code, const char *fmt, ...) {
    if (g->r->err.code != OK) return;
    va_list ap;
    va_start(ap, fmt);
    (void)error_setv(&g->r->err, code, fmt, ap);
    va_end(ap);
}

void group_retire(core *c, group *g) {
    if (!g->is_ended || g->is_ready || g->n_flight > 0) return;
    request *r = g->r;
    *(g->prev ? &g->prev->next : &c->groups) = g->next;
    if (g->next) g->next->prev = g->prev;
    c->n_groups--;
    c->n_ended++;
    group_free(g);
    request_unref(r);
}
