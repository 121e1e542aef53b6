/* latent_kv and latent_attention together, as rope_kv and attention are in check_attention.c: pages
 * of NaN in shuffled order, all cuts of a prompt, other sequences beside it, any number of threads.
 */
#include <math.h>
#include <string.h>

#include "kernels/kv8.h"
#include "tests/kernels/checkkern.h"

typedef struct setting {
    int32_t h, latent, rope;
    int32_t page_tokens;
    dtype kv;
    rope_style style;
    int32_t prefix;
} setting;

typedef struct world {
    setting s;
    paging p;
    mat q, kv; /* before rope; q [T,H*(L+R)], kv [T,L+R] */
} world;

/* What one backend made of a world. */
typedef struct cache {
    mat q, kv;
    void *pages;
    size_t bytes;
} cache;

static world world_new(check_ctx *c, setting s, int32_t n_seqs, const int32_t *len) {
    world w = {.s = s, .p = paging_new(c, n_seqs, len, s.page_tokens, s.rope)};
    int32_t width = s.latent + s.rope;
    w.q = mat_new(w.p.n_tokens, s.h * width, s.h * width + 5);
    w.kv = mat_new(w.p.n_tokens, width, width + 9);
    mat_random(c, &w.q, 1);
    mat_random(c, &w.kv, 1);
    return w;
}

static void world_free(world *w) {
    paging_free(&w->p);
    mat_free(&w->q), mat_free(&w->kv);
}

static cache cache_new(backend *b, const world *w, int32_t step) {
    const setting *s = &w->s;
    int32_t width = s->latent + s->rope;
    cache k = {.q = mat_new(w->p.n_tokens, w->q.width, w->q.stride),
               .kv = mat_new(w->p.n_tokens, width, w->kv.stride)};
    mat_copy(&k.q, &w->q);
    mat_copy(&k.kv, &w->kv);
    k.bytes = (size_t)w->p.n_pages * kv_page_bytes(s->kv, s->page_tokens, width, KV8_LATENT_SCALES);
    k.pages = packed_alloc(k.bytes);
    memset(k.pages, 0xFF, k.bytes);
    for (int32_t t = 0; t < w->p.n_tokens; t += step) {
        op_latent_kv a = {.n_tokens = MIN(step, w->p.n_tokens - t),
                          .n_heads = s->h,
                          .latent = s->latent,
                          .rope_dim = s->rope,
                          .style = s->style,
                          .q = k.q.p + t * k.q.stride,
                          .q_stride = k.q.stride,
                          .q_head_stride = width,
                          .q_off = s->latent,
                          .kv = k.kv.p + t * k.kv.stride,
                          .kv_stride = k.kv.stride,
                          .pos = w->p.pos + t,
                          .kv_slot = w->p.slot + t,
                          .cos = w->p.cosines,
                          .sin = w->p.sines,
                          .pages = k.pages,
                          .kv_dt = s->kv,
                          .page_tokens = s->page_tokens};
        CALL(b, latent_kv, &a);
    }
    return k;
}

static void cache_free(cache *k) {
    mat_free(&k->q), mat_free(&k->kv);
    fenced_free(k->pages);
}

static mat attend(backend *b, const world *w, const cache *k, int32_t n, const attn_seq *seqs) {
    const setting *s = &w->s;
    int32_t width = s->h * s->latent;
    mat out = mat_new(w->p.n_tokens, width, width + 3);
    attn_seq *dev = seqs_dev(n, seqs);
    op_latent_attention a = {.seqs = {n, seqs, dev, w->p.pages},
                             .n_heads = s->h,
                             .latent = s->latent,
                             .rope_dim = s->rope,
                             .q = k->q.p,
                             .q_stride = k->q.stride,
                             .out = out.p,
                             .out_stride = out.stride,
                             .scale = 1 / sqrtf((float)(s->latent + s->rope)),
                             .pages = k->pages,
                             .kv_dt = s->kv,
                             .page_tokens = s->page_tokens};
    CALL(b, latent_attention, &a);
    fenced_free(dev);
    return out;
}

/* An output of a few numbers can be small by cancellation, and its error is not: the tolerances are
 * of norms over many. */
static double attend_tol(const setting *s, int32_t n_rows) {
    bool narrow = s->kv != DT_F32, few = (int64_t)s->h * s->latent * n_rows < 16;
    double tol = kv_is_8bit(s->kv) ? CHECK_KV8_TOL : check_tol("latent_attention", narrow);
    return few && narrow ? 4 * tol : tol;
}

static void compare(check_ctx *c, setting s, int32_t n_seqs, const int32_t *len, bool special) {
    world w = world_new(c, s, n_seqs, len);
    if (special) { /* a NaN in one query: its row only */
        w.q.p[3] = NAN;
        w.q.p[2 * w.q.stride] = INFINITY;
    }
    cache want_k = cache_new(c->ref, &w, w.p.n_tokens);
    attn_seq seqs[PAGING_SEQS];
    for (int32_t i = 0; i < n_seqs; i++) {
        int32_t n = i % 3 == 0 ? len[i] : i % 3 == 1 ? 1 : check_int(c, 1, len[i]);
        seqs[i] = paging_rows(&w.p, i, len[i] - n, n, s.prefix);
    }
    mat want = attend(c->ref, &w, &want_k, n_seqs, seqs);
    for (int t = 0; t < c->n_be; t++) {
        cache k = cache_new(c->be[t], &w, w.p.n_tokens);
        double tol = check_tol("latent_kv", false);
        check_close(c, &want_k.q, &k.q, tol, "latent_kv q L=%d R=%d style=%d threads=%d", s.latent,
                    s.rope, s.style, t + 1);
        check_close(c, &want_k.kv, &k.kv, tol, "latent_kv kv L=%d R=%d style=%d threads=%d",
                    s.latent, s.rope, s.style, t + 1);
        mat got = attend(c->be[t], &w, &k, n_seqs, seqs);
        check_that(c, mat_guards_ok(&got), "wrote outside its rows", "latent L=%d", s.latent);
        for (int32_t i = 0; i < n_seqs; i++) {
            mat a = mat_rows(&want, seqs[i].row0, seqs[i].n_rows);
            mat b = mat_rows(&got, seqs[i].row0, seqs[i].n_rows);
            check_close(c, &a, &b, attend_tol(&s, seqs[i].n_rows),
                        "latent_attention kv=%s H=%d L=%d R=%d page=%d prefix=%d len=%d rows=%d "
                        "special=%d threads=%d",
                        dtype_name(s.kv), s.h, s.latent, s.rope, s.page_tokens, s.prefix, len[i],
                        seqs[i].n_rows, special, t + 1);
        }
        mat_free(&got);
        cache_free(&k);
    }
    mat_free(&want);
    cache_free(&want_k);
    world_free(&w);
}

static void check_part(check_ctx *c, const world *w, const cache *k, const mat *all, int t,
                       int32_t n, const attn_seq *seqs) {
    mat part = attend(c->be[t], w, k, n, seqs);
    for (int32_t i = 0; i < n; i++) {
        mat got = mat_rows(&part, seqs[i].row0, seqs[i].n_rows);
        check_same(c, all, seqs[i].row0, &got,
                   "latent_attention bits kv=%s L=%d prefix=%d pos=%d rows=%d of %d threads=%d",
                   dtype_name(w->s.kv), w->s.latent, w->s.prefix, seqs[i].pos0, seqs[i].n_rows, n,
                   t + 1);
    }
    mat_free(&part);
}

/* Base: every sequence whole, one call, one thread. */
static void invariance(check_ctx *c, setting s) {
    const int32_t len[] = {c->small ? 560 : 1040, 40, c->small ? 20 : 530};
    world w = world_new(c, s, 3, len);
    cache k = cache_new(c->be[0], &w, w.p.n_tokens), pieces = cache_new(c->be[1], &w, 7);
    check_that(c, memcmp(k.pages, pieces.pages, k.bytes) == 0, "pages differ",
               "latent_kv bits kv=%s L=%d in pieces", dtype_name(s.kv), s.latent);
    check_same(c, &k.q, 0, &pieces.q, "latent_kv bits L=%d in pieces", s.latent);
    cache_free(&pieces);
    attn_seq whole[3];
    for (int i = 0; i < 3; i++) whole[i] = paging_rows(&w.p, i, 0, len[i], s.prefix);
    mat all = attend(c->be[0], &w, &k, 3, whole);
    static const int32_t all_cuts[] = {0, 1, 8, 71, 500, 513, 1039, 1040};
    static const int32_t few_cuts[] = {0, 1, 71, 511, 513, 559, 560};
    const int32_t *cuts = c->small ? few_cuts : all_cuts;
    size_t n_cuts = c->small ? ARRAY_LEN(few_cuts) : ARRAY_LEN(all_cuts);
    for (int t = 0; t < c->n_be; t++) {
        for (size_t i = 0; i + 1 < n_cuts; i++) {
            attn_seq one = paging_rows(&w.p, 0, cuts[i], cuts[i + 1] - cuts[i], s.prefix);
            check_part(c, &w, &k, &all, t, 1, &one);
        }
        attn_seq mixed[3] = {paging_rows(&w.p, 2, len[2] - 1, 1, s.prefix),
                             paging_rows(&w.p, 1, 3, 30, s.prefix),
                             paging_rows(&w.p, 0, len[0] - 10, 1, s.prefix)};
        check_part(c, &w, &k, &all, t, 3, mixed);
    }
    mat_free(&all);
    cache_free(&k);
    world_free(&w);
}

void check_latent(check_ctx *c) {
    static const dtype types[] = {DT_F32, DT_BF16, DT_INT8, DT_F8_E4M3};
    static const int32_t lens[] = {37, 20, 130, 1};
    static const struct {
        int32_t h, latent, rope;
    } shapes[] = {{1, 1, 0},   {2, 1, 2},   {3, 8, 4},    {5, 15, 2},  {7, 17, 6},
                  {4, 31, 10}, {25, 32, 8}, {16, 64, 16}, {13, 100, 6}};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
            setting s = {shapes[i].h,       shapes[i].latent, shapes[i].rope,
                         16 + 16 * (i % 3), types[t],         ROPE_HALF + i % 2};
            compare(c, s, 4, lens, i % 3 == 2);
            s.prefix = 25;
            compare(c, s, 4, lens, false);
        }
        compare(c, (setting){2, 512, 64, 16, types[t], ROPE_PAIR}, 2, lens, false);
        compare(c, (setting){1, 1000, 24, 16, types[t], ROPE_HALF}, 1, lens, false);
        compare(c, (setting){2, 40, 0, 16, types[t], ROPE_NONE}, 3, lens, true);
        for (int i = 0; i < (c->full ? 40 : c->small ? 1 : 4); i++) {
            setting s = {check_int(c, 1, 30),
                         check_int(c, 1, 200),
                         2 * check_int(c, 0, 40),
                         16 * check_int(c, 1, 4),
                         types[t],
                         check_int(c, 1, 2),
                         check_int(c, 0, 150)};
            compare(c, s, 3, lens, false);
        }
        invariance(c, (setting){3, 20, 4, 16, types[t], ROPE_HALF, 0});
        invariance(c, (setting){3, 20, 4, 32, types[t], ROPE_PAIR, 540});
        if (c->full) invariance(c, (setting){16, 512, 64, 16, types[t], ROPE_PAIR, 0});
    }
}
