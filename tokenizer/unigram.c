/* best[i] is the best path that ends at byte i. Places are visited from the left; from each the
 * trie gives the pieces that start there, and a character without a piece of its own costs the
 * lowest score less a penalty, as in both references.
 *
 * Invariant: when place i is visited best[i] is final, for pieces are not empty. */
#include "tokenizer/unigram.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/jscan.h"

#define UNK_PENALTY 10.0

typedef struct node {
    double score;
    int32_t id;
    uint32_t start; /* UINT32_MAX: not reached */
} node;

unigram *unigram_new(void) {
    unigram *u = mem_calloc(1, sizeof *u);
    u->unk = -1;
    for (int i = 0; i < 256; i++) u->byte_id[i] = -1;
    u->cache = wordcache_new();
    return u;
}

void unigram_free(unigram *u) {
    if (!u) return;
    trie_done(&u->pieces);
    vec_done(&u->scores);
    vocab_done(&u->whole);
    wordcache_free(u->cache);
    mem_free(u);
}

static void relax(const unigram *u, node *to, double score, int32_t id, uint32_t start) {
    if (to->start != UINT32_MAX && !(score > to->score)) return;
    *to = (node){u->float_sums ? (float)score : score, id, start};
}

static double score_of(const unigram *u, int32_t id, size_t length) {
    if (u->types && u->types[id] == SPM_USER) return (double)((float)length * (float)u->max) - 0.1;
    return u->scores.p[id];
}

static void visit(const unigram *u, str w, uint32_t at, size_t char_n, node *best) {
    double here = best[at].score;
    bool single = false;
    uint32_t state = 0;
    for (size_t i = at; i < w.n;) {
        state = trie_next(&u->pieces, state, (uint8_t)w.p[i++]);
        if (!state) break;
        int32_t id = trie_value(&u->pieces, state);
        if (id < 0 || (u->types && u->types[id] == SPM_UNUSED)) continue;
        relax(u, &best[i], score_of(u, id, i - at) + here, id, at);
        single |= i - at == char_n;
    }
    if (single) return;
    double unk = u->min - UNK_PENALTY;
    relax(u, &best[at + char_n], u->float_sums ? (float)((float)unk + (float)here) : unk + here,
          u->unk, at);
}

/* A run of unknown text. */
static void add_unknown(const unigram *u, str text, vec_i32 *ids) {
    int32_t id = vocab_id(&u->whole, text);
    if (id < 0 && u->byte_id[0] >= 0) {
        for (size_t i = 0; i < text.n; i++) vec_push(ids, u->byte_id[(uint8_t)text.p[i]]);
        return;
    }
    if (id < 0) id = u->unk;
    if (id >= 0) vec_push(ids, id);
}

static void add_spans(span_vec *spans, size_t n, uint32_t from, uint32_t to) {
    while (spans && spans->n < n) vec_push(spans, ((span){from, to - from}));
}

static void back_track(const unigram *u, str w, const node *best, vec_i32 *ids, span_vec *spans) {
    size_t base = spans ? ids->n - spans->n : 0;
    VEC(node) path = {0}; /* from the end; score is not used, start and id are */
    for (uint32_t end = (uint32_t)w.n; end; end = best[end].start) vec_push(&path, best[end]);
    for (size_t i = path.n; i--;) {
        uint32_t from = path.p[i].start;
        bool known = path.p[i].id != u->unk;
        while (!known && i && path.p[i - 1].id == u->unk) i--;
        uint32_t to = i ? path.p[i - 1].start : (uint32_t)w.n;
        if (known)
            vec_push(ids, path.p[i].id);
        else
            add_unknown(u, str_cut(w, from, to), ids);
        add_spans(spans, ids->n - base, from, to);
    }
    vec_done(&path);
}

static void encode_uncached(const unigram *u, str w, vec_i32 *ids, span_vec *spans) {
    node small[256], *best = w.n < ARRAY_LEN(small) ? small : mem_alloc((w.n + 1) * sizeof *best);
    for (size_t i = 0; i <= w.n; i++) best[i] = (node){0, -1, UINT32_MAX};
    for (size_t at = 0, k; at < w.n; at += k) {
        uint32_t cp;
        k = utf8_get(w.p + at, w.n - at, &cp);
        if (!k) k = 1;
        visit(u, w, (uint32_t)at, k, best);
    }
    back_track(u, w, best, ids, spans);
    if (best != small) mem_free(best);
}

void unigram_encode(const unigram *u, str w, vec_i32 *ids) {
    wordkey k;
    if (!w.n) return;
    if (!wordcache_key(w, &k)) {
        encode_uncached(u, w, ids, NULL);
        return;
    }
    vec_reserve(ids, ids->n + WORDCACHE_IDS);
    int n = wordcache_get(u->cache, &k, ids->p + ids->n);
    size_t from = ids->n;
    if (n >= 0) {
        ids->n += (size_t)n;
        return;
    }
    encode_uncached(u, w, ids, NULL);
    wordcache_put(u->cache, &k, ids->p + from, ids->n - from);
}

void unigram_spans(const unigram *u, str w, vec_i32 *ids, span_vec *spans) {
    if (w.n) encode_uncached(u, w, ids, spans);
}

/* ---- tokenizer.json ---- */

static void encode_(const void *self, str word, vec_i32 *ids) {
    unigram_encode(self, word, ids);
}

static void spans_(const void *self, str word, vec_i32 *ids, span_vec *spans) {
    unigram_spans(self, word, ids, spans);
}

static void free_(void *self) {
    unigram_free(self);
}

/* A score as the reference's JSON reader makes it: the digits as an integer, rounded to double,
 * then scaled. It can be one unit off the nearest double, and that decides ties between paths of
 * equal length. False if raw is no number. */
static bool score_value(str raw, double *ret) {
    double exact;
    if (!raw.n || !str_to_f64(raw, &exact)) return false;
    uint64_t digits = 0;
    int64_t scale = 0, exponent = 0;
    bool fraction = false, full = false;
    size_t i = raw.p[0] == '-';
    for (; i < raw.n && (raw.p[i] | 0x20) != 'e'; i++) {
        if (raw.p[i] == '.') {
            fraction = true;
            continue;
        }
        uint64_t next;
        full = full || __builtin_mul_overflow(digits, 10u, &next) ||
               __builtin_add_overflow(next, (uint64_t)(raw.p[i] - '0'), &next);
        if (!full) digits = next;
        scale += full ? !fraction : -(int64_t)fraction;
    }
    if (i + 1 < raw.n) {
        i += raw.p[i + 1] == '+' ? 2 : 1;
        if (!str_to_i64(str_cut(raw, i, raw.n), &exponent)) exponent = 0;
    }
    scale += MAX(-10000, MIN(exponent, 10000));
    double f = (double)digits;
    for (; scale < -308 && f != 0; scale += 308) f /= 1e308;
    f = scale < 0 ? f / pow(10, (double)-scale) : f * pow(10, (double)scale);
    *ret = raw.p[0] == '-' ? -f : f;
    return true;
}

static bool read_entry(jscan *s, unigram *u, vocab *v) {
    str piece;
    str raw;
    double score;
    bool ok = jscan_enter(s, '[') && jscan_more(s, ']') && jscan_string(s, &piece);
    if (!ok) {
        if (!s->want) s->want = "a [piece, score] pair";
        return false;
    }
    int32_t id = (int32_t)u->scores.n;
    if (id >= LIMIT_VOCAB || !vocab_put(v, id, piece)) {
        s->want = "fewer pieces";
        return false;
    }
    if (!jscan_more(s, ']') || !jscan_raw(s, &raw) || !score_value(raw, &score)) {
        if (!s->want) s->want = "a score";
        return false;
    }
    vec_push(&u->scores, score);
    u->min = MIN(u->min, score);
    str stored = vocab_piece(v, id);
    if (stored.n) trie_add(&u->pieces, stored, id);
    if (jscan_more(s, ']') && !s->want) s->want = "the end of a [piece, score] pair";
    return !s->want;
}

static void fill_bytes(unigram *u, const vocab *v) {
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        u->byte_id[i] = vocab_id(v, str_z(name));
        if (u->byte_id[i] < 0) u->byte_id[0] = -1;
    }
    for (int i = 0; i < 256; i++)
        if (u->byte_id[i] < 0) u->byte_id[0] = -1;
}

status unigram_read(str list, str unk_id, bool byte_fallback, tokenizer *t, error *err) {
    unigram *u = unigram_new();
    t->model = (model){"unigram", u, encode_, spans_, free_};
    int64_t unk = -1;
    u->min = INFINITY;
    jscan s;
    jscan_init(&s, list);
    if (jscan_enter(&s, '['))
        while (jscan_more(&s, ']') && read_entry(&s, u, &t->pieces)) {
        }
    status st = jscan_status(&s, "model.vocab", err);
    jscan_done(&s);
    TRY(st);
    if (unk_id.p && (!str_to_i64(unk_id, &unk) || unk < 0 || (size_t)unk >= u->scores.n))
        return error_set(err, ERR_FORMAT, "model.unk_id is not an id of the vocabulary");
    u->unk = (int32_t)unk;
    for (int32_t id = 0; id < t->pieces.n; id++)
        vocab_put(&u->whole, id, vocab_piece(&t->pieces, id));
    if (byte_fallback) fill_bytes(u, &t->pieces);
    return OK;
}
