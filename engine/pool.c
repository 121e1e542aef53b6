/* Pooling: rows of the last layer, normed, become one vector per sequence. Rows are added in the
 * order of positions, whatever the chunks, so a mean has one result. */
#include <math.h>

#include "engine/base/check.h"
#include "engine/engine_internal.h"

/* An adapter's virtual tokens come before it and are no part of the text. */
static int32_t first_token(const engine *e, const batch_seq *s) {
    int32_t n = 0;
    while (n < s->n_prompt && s->ids[n] >= e->a->vocab) n++;
    return n;
}

static bool wanted(const batch_seq *s, int32_t pos, int32_t first) {
    return pos >= first && pos < s->n_prompt &&
           (s->pool == POOL_MEAN    ? true
            : s->pool == POOL_FIRST ? pos == first
                                    : pos == s->n_prompt - 1);
}

static void add_rows(engine *e, float *sum, int32_t n) {
    size_t width = (size_t)e->a->hidden;
    for (int32_t r = 0; r < n; r++)
        for (size_t k = 0; k < width; k++) sum[k] += e->f.got.rows[(size_t)r * width + k];
}

static void pool_seq(engine *e, const batch_seq *s, int32_t row0) {
    int32_t rows[FORWARD_ROWS_MAX], n = 0, last = s->pos + s->n_tokens;
    int32_t first = first_token(e, s);
    size_t width = (size_t)e->a->hidden;
    if (s->pos == 0 || s->pool == POOL_LAST) memset(s->pool_out, 0, width * sizeof(float));
    for (int32_t p = s->pos; p < last; p++) {
        if (wanted(s, p, first)) rows[n++] = row0 + p - s->pos;
        if (n == 0 || (n < e->f.n_rows && p + 1 < last)) continue;
        forward_final(&e->f, rows, n);
        forward_fetch_rows(&e->f, n);
        add_rows(e, s->pool_out, n);
        n = 0;
    }
    if (s->pool == POOL_MEAN && last >= s->n_prompt)
        for (size_t k = 0; k < width; k++) s->pool_out[k] /= (float)(s->n_prompt - first);
}

void engine_pool(engine *e, const batch_plan *plan, status *ret_status) {
    for (int32_t i = 0; i < plan->n_seqs; i++) {
        const batch_seq *s = &plan->seqs[i];
        if (!s->pool_out) continue;
        pool_seq(e, s, e->f.in.seqs[i].row0);
        for (int32_t k = 0; k < e->a->hidden; k++)
            if (!isfinite(s->pool_out[k])) ret_status[i] = ERR_INTERNAL;
    }
}
