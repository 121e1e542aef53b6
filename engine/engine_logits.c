/* Logits of a text by itself, without a scheduler: what `pagoda logits`, perplexity and the tests
 * of models ask. */
#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"

static status check_ids(const engine *e, const int32_t *ids, int32_t n, error *err) {
    int32_t most = e->plan.len - e->logits_adapter.n_virtual;
    if (n < 1 || n > most) return error_set(err, ERR_INVALID, "%d ids: expected 1 to %d", n, most);
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->a->vocab)
            return error_set(err, ERR_INVALID, "id %d at position %d is not in [0, %d)", ids[i], i,
                             e->a->vocab);
    return OK;
}

/* Logits of rows [row0, n_rows) of one chunk. */
static void chunk_logits(engine *e, int32_t row0, int32_t n_rows, float *ret) {
    size_t v = (size_t)e->a->vocab;
    int32_t rows[FORWARD_ROWS_MAX];
    for (int32_t r = row0; r < n_rows;) {
        int32_t m = MIN(n_rows - r, e->f.n_rows);
        for (int32_t i = 0; i < m; i++) rows[i] = r + i;
        forward_head(&e->f, rows, m);
        forward_fetch_logits(&e->f, m);
        memcpy(ret, e->f.got.logits, (size_t)m * v * sizeof *ret);
        ret += (size_t)m * v;
        r += m;
    }
}

/* The adapter's virtual tokens, then the ids: fresh. */
static int32_t *with_virtual(const engine *e, const int32_t *ids, int32_t n) {
    int32_t n_virtual = e->logits_adapter.n_virtual;
    int32_t *all = mem_alloc((size_t)(n_virtual + n) * sizeof *all);
    for (int32_t i = 0; i < n_virtual; i++) all[i] = e->a->vocab + i;
    memcpy(all + n_virtual, ids, (size_t)n * sizeof *ids);
    return all;
}

static status run_logits(engine *e, const int32_t *ids, int32_t n, bool all, int32_t chunk,
                         float *ret, error *err) {
    int32_t first = e->logits_adapter.n_virtual, total = first + n, step = e->max_tokens;
    int32_t n_pages = CEIL_DIV(total, KV_PAGE_TOKENS);
    int32_t *pages = mem_alloc((size_t)n_pages * sizeof *pages), *known = with_virtual(e, ids, n);
    for (int32_t i = 0; i < n_pages; i++) pages[i] = i;
    if (chunk > 0) step = MIN(step, chunk);
    for (int32_t at = 0; at < total; at += step) {
        batch_seq s = {.ids = known,
                       .n_known = total,
                       .n_prompt = total,
                       .pos = at,
                       .n_tokens = MIN(step, total - at),
                       .pages = pages,
                       .max_len = total,
                       .adapter = e->logits_adapter.id};
        batch_plan plan = {.n_seqs = 1, .n_tokens = s.n_tokens, .seqs = &s};
        forward_run(&e->f, &plan);
        int32_t from = all ? MAX(first - at, 0) : total - 1 - at;
        if (from >= s.n_tokens) {
            (void)e->b->v->sync(e->b, NULL); /* before the next chunk is laid out over this one */
            continue;
        }
        chunk_logits(e, from, s.n_tokens, ret);
        ret += (size_t)(s.n_tokens - from) * (size_t)e->a->vocab;
    }
    mem_free(known);
    mem_free(pages);
    return e->b->v->sync(e->b, err);
}

status engine_logits(engine *e, const int32_t *ids, int32_t n, bool all, int32_t chunk, float *ret,
                     error *err) {
    CHECK(e->loaded);
    TRY(check_ids(e, ids, n, err));
    if (arch_whole_prompt(e->a)) chunk = 0;
    if (arch_whole_prompt(e->a) && n + e->logits_adapter.n_virtual > e->max_tokens)
        return error_set(err, ERR_INVALID,
                         "%d ids: this model takes a prompt in one step, of at most %d tokens", n,
                         e->max_tokens);
    if (!e->a->has_head)
        return error_set(err, ERR_UNSUPPORTED, "%s: a model without a head has no logits",
                         e->info.architecture);
    return run_logits(e, ids, n, all, chunk, ret, err);
}
