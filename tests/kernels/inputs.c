/* Inputs that several checks need: sequences on shuffled pages, packed weights. */
#include <math.h>
#include <string.h>

#include "tests/kernels/checkkern.h"

static int32_t *shuffled(check_ctx *c, int32_t n) {
    int32_t *ids = fenced_alloc((size_t)n * sizeof *ids);
    for (int32_t i = 0; i < n; i++) ids[i] = i;
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = check_int(c, 0, i), t = ids[i];
        ids[i] = ids[j];
        ids[j] = t;
    }
    return ids;
}

static void fill_angles(paging *p, int32_t len_max, int32_t rope_dim) {
    int32_t half = rope_dim / 2;
    p->cosines = fenced_alloc((size_t)len_max * (size_t)half * 4 + 4);
    p->sines = fenced_alloc((size_t)len_max * (size_t)half * 4 + 4);
    for (int32_t t = 0; t < len_max; t++)
        for (int32_t j = 0; j < half; j++) {
            double angle = t * pow(10000, -2.0 * j / rope_dim);
            p->cosines[t * half + j] = (float)cos(angle);
            p->sines[t * half + j] = (float)sin(angle);
        }
}

paging paging_new(check_ctx *c, int32_t n_seqs, const int32_t *len, int32_t page_tokens,
                  int32_t rope_dim) {
    paging p = {.n_seqs = n_seqs};
    int32_t len_max = 1, next = 0;
    for (int32_t i = 0; i < n_seqs; i++) {
        p.len[i] = len[i];
        p.first[i] = p.n_tokens;
        p.n_tokens += len[i];
        p.n_pages += CEIL_DIV(len[i], page_tokens);
        len_max = MAX(len_max, len[i]);
    }
    p.pages = shuffled(c, p.n_pages);
    p.pos = fenced_alloc((size_t)p.n_tokens * sizeof *p.pos);
    p.slot = fenced_alloc((size_t)p.n_tokens * sizeof *p.slot);
    for (int32_t i = 0; i < n_seqs; i++) {
        int32_t n = CEIL_DIV(len[i], page_tokens);
        p.page0[i] = next;
        for (int32_t t = 0; t < len[i]; t++) {
            p.pos[p.first[i] + t] = t;
            int32_t page = p.pages[next + t / page_tokens];
            p.slot[p.first[i] + t] = (int64_t)page * page_tokens + t % page_tokens;
        }
        next += n;
    }
    fill_angles(&p, len_max, rope_dim);
    return p;
}

void paging_free(paging *p) {
    fenced_free(p->pages), fenced_free(p->pos), fenced_free(p->slot);
    fenced_free(p->cosines), fenced_free(p->sines);
}

attn_seq paging_rows(const paging *p, int32_t i, int32_t pos0, int32_t n, int32_t prefix) {
    return (attn_seq){p->first[i] + pos0, n, pos0, MIN(prefix, p->len[i]), p->page0[i]};
}

attn_seq *seqs_dev(int32_t n, const attn_seq *seqs) {
    attn_seq *dev = fenced_alloc((size_t)n * sizeof *dev);
    memcpy(dev, seqs, (size_t)n * sizeof *dev);
    return dev;
}

wmat wmat_new(backend *b, const mat *w, dtype dt) {
    wmat p;
    size_t bytes = b->v->wmat_bytes(b, w->rows, w->width, dt);
    void *data = packed_alloc(bytes);
    memset(data, 0x7F, bytes); /* padding must be written, not found */
    b->v->wmat_init(b, &p, w->rows, w->width, dt, data);
    int32_t a = w->rows / 3, m = w->rows * 2 / 3;
    b->v->wmat_pack(b, &p, m, w->rows - m, w->p + m * w->stride, DT_F32, w->stride);
    b->v->wmat_pack(b, &p, 0, a, w->p, DT_F32, w->stride);
    b->v->wmat_pack(b, &p, a, m - a, w->p + a * w->stride, DT_F32, w->stride);
    check_wait(b);
    return p;
}

void wmat_free(wmat *w) {
    fenced_free(w->data);
}
