/* rope_kv and attention together, since the order inside a page is between the two: every level
 * writes and reads its own pages. Pages are handed out shuffled and full of NaN, so that reading
 * what nobody wrote shows. Then the same bits however a prompt is cut, whoever else is in the
 * call, and for any number of threads. */
#include <math.h>
#include <string.h>

#include "kernels/kv8.h"
#include "tests/kernels/checkkern.h"

typedef struct setting {
    int32_t d, g, r; /* head width, kv heads, query heads per kv head */
    int32_t page_tokens;
    dtype kv;
    rope_style style;
    int32_t rope_dim;
    int32_t window;
    float softcap;
    bool alibi;
    bool sinks;
    int32_t prefix; /* of every sequence that is as long */
} setting;

typedef struct world {
    setting s;
    paging p;
    mat qkv; /* as projected, before rope */
    float *slopes, *sinks;
} world;

/* What one backend made of a world. */
typedef struct kv_state {
    mat qkv; /* rotated */
    void *k, *v;
    size_t bytes;
} kv_state;

static world world_new(check_ctx *c, setting s, int32_t n_seqs, const int32_t *len) {
    world w = {.s = s, .p = paging_new(c, n_seqs, len, s.page_tokens, s.rope_dim)};
    int32_t width = (s.g * s.r + 2 * s.g) * s.d;
    w.qkv = mat_new(w.p.n_tokens, width, width + 7);
    mat_random(c, &w.qkv, 1);
    w.slopes = fenced_alloc((size_t)(s.g * s.r) * sizeof(float));
    w.sinks = fenced_alloc((size_t)(s.g * s.r) * sizeof(float));
    for (int32_t h = 0; h < s.g * s.r; h++) {
        w.slopes[h] = (float)pow(2, -1 - h % 8);
        w.sinks[h] = h == 1 ? 300 : (float)check_uniform(c) * 8 - 4;
    }
    return w;
}

static void world_free(world *w) {
    paging_free(&w->p);
    fenced_free(w->slopes), fenced_free(w->sinks);
    mat_free(&w->qkv);
}

/* Rotate and write all tokens, `step` at a time. */
static kv_state kv_new(backend *b, const world *w, int32_t step) {
    const setting *s = &w->s;
    kv_state kv = {.qkv = mat_new(w->p.n_tokens, w->qkv.width, w->qkv.stride)};
    mat_copy(&kv.qkv, &w->qkv);
    kv.bytes = (size_t)w->p.n_pages * kv_page_bytes(s->kv, s->page_tokens, s->g * s->d, s->g);
    kv.k = packed_alloc(kv.bytes);
    kv.v = packed_alloc(kv.bytes);
    memset(kv.k, 0xFF, kv.bytes);
    memset(kv.v, 0xFF, kv.bytes);
    for (int32_t t = 0; t < w->p.n_tokens; t += step) {
        op_rope_kv a = {MIN(step, w->p.n_tokens - t),
                        s->g * s->r,
                        s->g,
                        s->d,
                        s->rope_dim,
                        s->style,
                        kv.qkv.p + t * kv.qkv.stride,
                        kv.qkv.stride,
                        w->p.pos + t,
                        w->p.slot + t,
                        w->p.cosines,
                        w->p.sines,
                        kv.k,
                        kv.v,
                        s->kv,
                        s->page_tokens};
        CALL(b, rope_kv, &a);
    }
    return kv;
}

static void kv_free(kv_state *kv) {
    mat_free(&kv->qkv);
    fenced_free(kv->k);
    fenced_free(kv->v);
}

/* Attention for the given rows of each sequence; seqs[i].row0 counts in the buffer of all tokens,
 * so out has a row for every token and rows not asked for stay poisoned. */
static mat attend(backend *b, const world *w, const kv_state *kv, int32_t n, const attn_seq *seqs) {
    const setting *s = &w->s;
    int32_t width = s->g * s->r * s->d;
    mat out = mat_new(w->p.n_tokens, width, width + 3);
    attn_seq *dev = seqs_dev(n, seqs);
    op_attention a = {{n, seqs, dev, w->p.pages},
                      s->g * s->r,
                      s->g,
                      s->d,
                      kv->qkv.p,
                      kv->qkv.stride,
                      out.p,
                      out.stride,
                      1 / sqrtf((float)s->d),
                      s->softcap,
                      s->window,
                      s->alibi ? w->slopes : NULL,
                      kv->k,
                      kv->v,
                      s->kv,
                      s->page_tokens,
                      s->sinks ? w->sinks : NULL};
    CALL(b, attention, &a);
    fenced_free(dev);
    return out;
}

static attn_seq seq_rows(const world *w, int32_t i, int32_t pos0, int32_t n) {
    return paging_rows(&w->p, i, pos0, n, w->s.prefix);
}

static void compare(check_ctx *c, setting s, int32_t n_seqs, const int32_t *len, bool special) {
    world w = world_new(c, s, n_seqs, len);
    if (special) { /* a NaN in one query, an infinite key: their rows only */
        w.qkv.p[3] = NAN;
        w.qkv.p[(w.p.n_tokens - 1) * w.qkv.stride + s.g * s.r * s.d] = INFINITY;
    }
    kv_state want_kv = kv_new(c->ref, &w, w.p.n_tokens);
    attn_seq seqs[PAGING_SEQS];
    for (int32_t i = 0; i < n_seqs; i++) { /* the last rows: all, one or some */
        int32_t n = i % 3 == 0 ? len[i] : i % 3 == 1 ? 1 : check_int(c, 1, len[i]);
        seqs[i] = seq_rows(&w, i, len[i] - n, n);
    }
    mat want = attend(c->ref, &w, &want_kv, n_seqs, seqs);
    for (int t = 0; t < c->n_be; t++) {
        kv_state kv = kv_new(c->be[t], &w, w.p.n_tokens);
        check_close(c, &want_kv.qkv, &kv.qkv, check_tol("rope_kv", false),
                    "rope_kv d=%d g=%d r=%d rope=%d style=%d threads=%d", s.d, s.g, s.r, s.rope_dim,
                    s.style, t + 1);
        mat got = attend(c->be[t], &w, &kv, n_seqs, seqs);
        check_that(c, mat_guards_ok(&got), "wrote outside its rows", "attention d=%d", s.d);
        for (int32_t i = 0; i < n_seqs; i++) {
            mat a = mat_rows(&want, seqs[i].row0, seqs[i].n_rows);
            mat b = mat_rows(&got, seqs[i].row0, seqs[i].n_rows);
            check_close(c, &a, &b,
                        kv_is_8bit(s.kv) ? CHECK_KV8_TOL : check_tol("attention", s.kv != DT_F32),
                        "attention kv=%s d=%d g=%d r=%d page=%d window=%d cap=%g alibi=%d sinks=%d "
                        "prefix=%d len=%d rows=%d threads=%d",
                        dtype_name(s.kv), s.d, s.g, s.r, s.page_tokens, s.window, (double)s.softcap,
                        s.alibi, s.sinks, s.prefix, len[i], seqs[i].n_rows, t + 1);
        }
        mat_free(&got);
        kv_free(&kv);
    }
    mat_free(&want);
    kv_free(&want_kv);
    world_free(&w);
}

static void check_rows(check_ctx *c, const world *w, const mat *all, const mat *part,
                       const attn_seq *s, const char *how, int threads) {
    mat got = mat_rows(part, s->row0, s->n_rows);
    check_same(c, all, s->row0, &got,
               "attention bits kv=%s d=%d r=%d window=%d sinks=%d prefix=%d %s pos=%d rows=%d "
               "threads=%d",
               dtype_name(w->s.kv), w->s.d, w->s.r, w->s.window, w->s.sinks, w->s.prefix, how,
               s->pos0, s->n_rows, threads);
}

/* Base: every sequence whole, one call, one thread. */
static void invariance(check_ctx *c, setting s) {
    const int32_t len[] = {c->small ? 560 : 1100, 40, c->small ? 20 : 530};
    world w = world_new(c, s, 3, len);
    kv_state kv = kv_new(c->be[0], &w, w.p.n_tokens);
    attn_seq whole[3] = {seq_rows(&w, 0, 0, len[0]), seq_rows(&w, 1, 0, len[1]),
                         seq_rows(&w, 2, 0, len[2])};
    mat all = attend(c->be[0], &w, &kv, 3, whole);
    kv_state pieces = kv_new(c->be[1], &w, 7);
    check_that(c, memcmp(kv.k, pieces.k, kv.bytes) == 0 && memcmp(kv.v, pieces.v, kv.bytes) == 0,
               "pages differ", "rope_kv bits kv=%s d=%d in pieces", dtype_name(s.kv), s.d);
    check_same(c, &kv.qkv, 0, &pieces.qkv, "rope_kv bits d=%d in pieces", s.d);
    kv_free(&pieces);
    static const int32_t all_cuts[] = {0, 1, 8, 71, 500, 513, 1030, 1099, 1100};
    static const int32_t few_cuts[] = {0, 1, 71, 511, 513, 559, 560};
    const int32_t *cuts = c->small ? few_cuts : all_cuts;
    size_t n_cuts = c->small ? ARRAY_LEN(few_cuts) : ARRAY_LEN(all_cuts);
    for (int t = 0; t < c->n_be; t++) {
        for (size_t i = 0; i + 1 < n_cuts; i++) { /* a prompt in chunks */
            attn_seq one = seq_rows(&w, 0, cuts[i], cuts[i + 1] - cuts[i]);
            mat part = attend(c->be[t], &w, &kv, 1, &one);
            check_rows(c, &w, &all, &part, &one, "chunk", t + 1);
            mat_free(&part);
        }
        attn_seq mixed[3] = {seq_rows(&w, 2, len[2] - 1, 1), seq_rows(&w, 1, 3, 30),
                             seq_rows(&w, 0, len[0] - 50, 1)};
        mat part = attend(c->be[t], &w, &kv, 3, mixed);
        for (int i = 0; i < 3; i++) check_rows(c, &w, &all, &part, &mixed[i], "mixed", t + 1);
        mat_free(&part);
    }
    mat_free(&all);
    kv_free(&kv);
    world_free(&w);
}

/* A sink that no score comes near changes nothing, to the bit. */
static void far_sinks(check_ctx *c, setting s) {
    const int32_t len[] = {90, 1};
    world w = world_new(c, s, 2, len);
    attn_seq seqs[2] = {seq_rows(&w, 0, 0, 90), seq_rows(&w, 1, 0, 1)};
    for (int t = 0; t < c->n_be; t++) {
        kv_state kv = kv_new(c->be[t], &w, w.p.n_tokens);
        w.s.sinks = false;
        mat want = attend(c->be[t], &w, &kv, 2, seqs);
        w.s.sinks = true;
        for (int32_t h = 0; h < s.g * s.r; h++) w.sinks[h] = h % 2 ? -INFINITY : -1e6f;
        mat got = attend(c->be[t], &w, &kv, 2, seqs);
        check_same(c, &want, 0, &got, "attention far sinks kv=%s d=%d threads=%d", dtype_name(s.kv),
                   s.d, t + 1);
        mat_free(&want), mat_free(&got);
        kv_free(&kv);
    }
    world_free(&w);
}

static setting random_setting(check_ctx *c, dtype kv) {
    int32_t d = 2 * check_int(c, 1, c->full ? 256 : 128), style = check_int(c, 1, 3);
    return (setting){.d = d,
                     .g = check_int(c, 1, 3),
                     .r = check_int(c, 1, 8),
                     .page_tokens = 16 * check_int(c, 1, 8),
                     .kv = kv,
                     .style = style,
                     .rope_dim = style == ROPE_HALVES ? d / 4 * 4 : d,
                     .window = check_int(c, 0, 1) * check_int(c, 1, 99),
                     .softcap = (float)check_int(c, 0, 1) * 20,
                     .alibi = check_int(c, 0, 1) == 1,
                     .sinks = check_int(c, 0, 1) == 1,
                     .prefix = check_int(c, 0, 1) * check_int(c, 0, 400)};
}

/* Prefixes: within a page, within a chunk, over the border of one, of one token, of the whole. */
static void check_prefixes(check_ctx *c, dtype kv) {
    const int32_t lens[] = {70, 33, c->small ? 90 : 530};
    static const int32_t prefixes[] = {1, 15, 16, 33, 65, 513, 999};
    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        for (int32_t window = 0; window < 40; window += 17) {
            setting s = {24, 2, 3, 32, kv, ROPE_HALF, 24, window, 0, i % 2 == 0};
            s.prefix = prefixes[i];
            s.sinks = i % 3 == 0;
            compare(c, s, 3, lens, false);
        }
}

void check_attention(check_ctx *c) {
    static const dtype types[] = {DT_F32, DT_BF16, DT_INT8, DT_F8_E4M3};
    static const int32_t lens[] = {70, 33, 17, 1, 200, 16};
    static const int32_t widths[] = {2, 4, 8, 16, 24, 64, 80, 96, 128, 256, 320, 512};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
            int32_t d = widths[i];
            setting s = {d, 1 + (int32_t)i % 2, 1 + (int32_t)i, 16, types[t], ROPE_HALF, d};
            compare(c, s, 3, lens, false);
        }
        static const int32_t pages[] = {16, 32, 48, 64, 256};
        for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
            setting s = {
                32,    2, 4, pages[i], types[t], ROPE_PAIR, 16, (int32_t)i * 19, i % 2 ? 3.0f : 0,
                i >= 2};
            compare(c, s, 6, lens, false);
        }
        compare(c, (setting){64, 2, 3, 16, types[t], ROPE_NONE, 0, 0, 0, true}, 4, lens, true);
        compare(c, (setting){40, 1, 71, 16, types[t], ROPE_HALF, 20, 10, 5, false}, 2, lens, false);
        compare(c, (setting){40, 1, 5, 16, types[t], ROPE_HALVES, 36}, 2, lens, false);
        compare(c, (setting){64, 2, 3, 16, types[t], ROPE_HALVES, 64, .sinks = true}, 4, lens,
                true);
        check_prefixes(c, types[t]);
        far_sinks(c, (setting){20, 1, 5, 16, types[t], ROPE_HALF, 20});
        for (int i = 0; i < (c->full ? 40 : c->small ? 2 : 4); i++) {
            int32_t seq_len[3];
            for (int j = 0; j < 3; j++)
                seq_len[j] = check_int(c, 1, c->full ? 1500 : c->small ? 100 : 300);
            compare(c, random_setting(c, types[t]), 3, seq_len, false);
        }
        invariance(c, (setting){16, 1, 2, 16, types[t], ROPE_HALF, 16, 0, 0, false});
        if (strcmp(c->isa, "ref") == 0) continue; /* it has no tiles to go wrong, and is slow */
        int32_t g = c->small ? 1 : 2, r = c->small ? 3 : 7;
        invariance(c, (setting){64, g, r, 32, types[t], ROPE_HALF, 64, 100, 30, true});
        invariance(c,
                   (setting){32, 1, r, 16, types[t], ROPE_HALF, 32, .sinks = true, .prefix = 540});
        if (c->small) continue;
        invariance(c, (setting){32, 1, 5, 16, types[t], ROPE_HALF, 32, 90, 0, true, .prefix = 600});
        if (types[t] != DT_F32) { /* a device has kernels by widths and numbers of rows */
            invariance(c, (setting){128, 1, 4, 16, types[t], ROPE_HALF, 128, 0, 0, false});
            invariance(c, (setting){256, 1, 2, 16, types[t], ROPE_HALF, 128, 300, .sinks = true});
        }
        if (c->full) invariance(c, (setting){128, 2, 4, 16, types[t], ROPE_HALF, 128, 0, 0, false});
    }
}
