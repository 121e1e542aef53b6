/* SentencePiece's models: BPE and Unigram.
 *
 * The model does its own normalising, as in the library: user-defined symbols pass untouched, then
 * the precompiled map, then white space (collapsed if the file says so, and written as U+2581 with
 * one in front). Control symbols are never recognised in text. */
#include "tokenizer/spm.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"

#define SPACE "\u2581"

static void spm_free(void *self) {
    spm *s = self;
    charsmap_free(s->map);
    added_set_free(s->user);
    if (s->bpe) bpe_done(s->bpe);
    mem_free(s->bpe);
    unigram_free(s->unigram);
    vec_done(&s->scores);
    vec_done(&s->types);
    mem_free(s);
}

/* ---- encoding ---- */

typedef struct normal {
    const spm *s;
    strbuf out;
    bool after_space; /* what went before ends with a space that swallows the next */
    bool traced;
    origins from; /* of out, in the text that is normalised */
} normal;

static void traced_to(normal *n, size_t from, size_t to) {
    if (n->traced) origins_fill(&n->from, n->out.n, (origin){(uint32_t)from, (uint32_t)to});
}

static void put_piece(normal *n, str piece) {
    while (n->after_space && str_starts(piece, STR(" "))) piece = str_cut(piece, 1, piece.n);
    if (piece.n) {
        for (size_t i = 0; i < piece.n; i++) {
            if (piece.p[i] == ' ' && n->s->escape)
                strbuf_addz(&n->out, SPACE);
            else
                strbuf_addc(&n->out, piece.p[i]);
        }
        n->after_space = str_ends(piece, STR(" "));
    }
    if (!n->s->remove_extra) n->after_space = false;
}

/* text, which begins at byte `base` of the whole. */
static void put_text(normal *n, str text, size_t base) {
    for (size_t at = 0; at < text.n;) {
        str rest = str_cut(text, at, text.n), piece;
        size_t k = n->s->map ? charsmap_longest(n->s->map, rest, &piece) : 0;
        if (!k) {
            uint32_t cp;
            k = utf8_get(rest.p, rest.n, &cp);
            if (!k) k = 1;
            piece = str_cut(rest, 0, k);
        }
        put_piece(n, piece);
        traced_to(n, base + at, base + at + k);
        at += k;
    }
}

/* Leading spaces go before the dummy prefix is put: "is there anything else" comes first. */
static void normalize(const spm *s, str text, const added_parts *parts, normal *n) {
    strbuf_reserve(&n->out, text.n + 16);
    n->after_space = s->remove_extra;
    for (size_t i = 0; i < parts->n; i++) {
        str t = str_cut(text, parts->p[i].from, parts->p[i].to);
        if (parts->p[i].id < 0) {
            put_text(n, t, parts->p[i].from);
            continue;
        }
        put_piece(n, t);
        traced_to(n, parts->p[i].from, parts->p[i].to);
    }
    str mark = s->escape ? STR(SPACE) : STR(" ");
    if (s->remove_extra)
        while (str_ends(strbuf_str(&n->out), mark)) n->out.n -= mark.n;
    if (n->traced) n->from.n = MIN(n->from.n, n->out.n);
}

static void model_encode(const spm *s, str text, vec_i32 *ids, span_vec *spans) {
    if (s->unigram && spans)
        unigram_spans(s->unigram, text, ids, spans);
    else if (s->unigram)
        unigram_encode(s->unigram, text, ids);
    else if (spans)
        bpe_spans(s->bpe, text, ids, spans);
    else
        bpe_encode(s->bpe, text, ids);
}

/* A BPE merges nothing across user-defined symbols. */
static void encode_normal(const spm *s, str text, vec_i32 *ids, span_vec *spans) {
    if (s->unigram || added_set_empty(s->user)) {
        model_encode(s, text, ids, spans);
        return;
    }
    added_parts parts = {0};
    added_set_split(s->user, text, &parts);
    for (size_t i = 0; i < parts.n; i++) {
        uint32_t from = (uint32_t)parts.p[i].from, to = (uint32_t)parts.p[i].to;
        size_t first = spans ? spans->n : 0;
        if (parts.p[i].id >= 0) {
            vec_push(ids, parts.p[i].id);
            if (spans) vec_push(spans, ((span){from, to - from}));
            continue;
        }
        model_encode(s, str_cut(text, from, to), ids, spans);
        for (size_t k = first; spans && k < spans->n; k++) spans->p[k].off += from;
    }
    vec_done(&parts);
}

/* Spans in the normal form -> spans in the text. */
static void spans_back(const normal *n, span_vec *spans, size_t first) {
    for (size_t i = first; i < spans->n; i++) {
        span *s = &spans->p[i];
        if (!s->len || (size_t)s->off + s->len > n->from.n) continue;
        uint32_t from = n->from.p[s->off].from, to = n->from.p[s->off + s->len - 1].to;
        *s = (span){from, MAX(to, from) - from};
    }
}

static void encode_text(const spm *s, str text, vec_i32 *ids, span_vec *spans) {
    added_parts parts = {0};
    if (added_set_empty(s->user))
        vec_push(&parts, ((added_part){-1, 0, text.n}));
    else
        added_set_split(s->user, text, &parts);
    normal n = {.s = s, .traced = spans != NULL};
    str mark = s->escape ? STR(SPACE) : STR(" ");
    if (s->dummy_prefix && !s->suffix) strbuf_add(&n.out, mark);
    size_t before = n.out.n, first = spans ? spans->n : 0;
    traced_to(&n, 0, 0);
    normalize(s, text, &parts, &n);
    /* the space in front stands where the first character does */
    for (size_t i = 0; n.traced && n.from.n > before && i < before; i++)
        n.from.p[i] = n.from.p[before];
    bool empty = s->remove_extra && n.out.n <= before;
    if (s->dummy_prefix && s->suffix) strbuf_add(&n.out, mark);
    traced_to(&n, text.n, text.n);
    if (!empty && n.out.n) encode_normal(s, strbuf_str(&n.out), ids, spans);
    if (spans) spans_back(&n, spans, first);
    strbuf_done(&n.out);
    vec_done(&n.from);
    vec_done(&parts);
}

static void spm_encode(const void *self, str text, vec_i32 *ids) {
    encode_text(self, text, ids, NULL);
}

static void spm_spans(const void *self, str text, vec_i32 *ids, span_vec *spans) {
    encode_text(self, text, ids, spans);
}

/* ---- models ---- */

static bool in_text(uint8_t type) {
    return type == SPM_NORMAL || type == SPM_USER || type == SPM_UNUSED;
}

static int32_t unknown_id(const spm *s) {
    for (size_t i = 0; i < s->types.n; i++)
        if (s->types.p[i] == SPM_UNKNOWN) return (int32_t)i;
    return -1;
}

/* byte_id of all bytes, or none when one is missing. */
static bool find_bytes(const spm *s, const tokenizer *t, int32_t byte_id[256]) {
    bool all = s->byte_fallback;
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        byte_id[i] = vocab_id(&t->pieces, str_z(name));
        all &= byte_id[i] >= 0;
    }
    for (int i = 0; i < 256 && !all; i++) byte_id[i] = -1;
    return all;
}

typedef struct scored {
    float score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b) {
    float x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x < y) - (x > y);
}

/* Equal scores, equal ranks: of those the leftmost is merged first. */
static uint32_t *ranks_of(const spm *s) {
    size_t n = s->scores.n;
    scored *order = mem_alloc(n * sizeof *order);
    uint32_t *rank = mem_alloc(n * sizeof *rank), r = 0;
    for (size_t i = 0; i < n; i++) order[i] = (scored){s->scores.p[i], (int32_t)i};
    qsort(order, n, sizeof *order, by_score);
    for (size_t i = 0; i < n; i++) {
        r += i && order[i].score != order[i - 1].score;
        rank[order[i].id] = r;
    }
    mem_free(order);
    return rank;
}

static status make_bpe(spm *s, tokenizer *t, error *err) {
    bpe *b = s->bpe = mem_calloc(1, sizeof *b);
    vocab text_pieces = {0};
    bpe_init(b);
    b->fuse_unk = true;
    b->unk = unknown_id(s);
    b->byte_fallback = find_bytes(s, t, b->byte_id);
    for (int32_t id = 0; id < t->pieces.n; id++) {
        str piece = vocab_piece(&t->pieces, id);
        uint32_t cp;
        bool unused = s->types.p[id] == SPM_UNUSED && piece.n;
        if (unused && !s->unused_apart) {
            vocab_done(&text_pieces);
            return error_set(err, ERR_UNSUPPORTED,
                             "piece %d: UNUSED pieces in a BPE model are not supported", id);
        }
        if (unused || !piece.n || !in_text(s->types.p[id])) continue;
        vocab_put(&text_pieces, id, piece);
        if (utf8_get(piece.p, piece.n, &cp) == piece.n) bpe_add_char(b, cp, id);
    }
    uint32_t *rank = ranks_of(s);
    bpe_pairs_from_pieces(b, &text_pieces, rank, t->pieces.n);
    bpe_set_breaks(b, &text_pieces);
    mem_free(rank);
    vocab_done(&text_pieces);
    t->model.kind = "sentencepiece bpe";
    return OK;
}

static void make_unigram(spm *s, tokenizer *t) {
    unigram *u = s->unigram = unigram_new();
    u->float_sums = !s->double_sums;
    u->types = s->types.p;
    u->unk = unknown_id(s);
    u->min = FLT_MAX;
    u->max = FLT_MIN;
    for (int32_t id = 0; id < t->pieces.n; id++) {
        double score = (double)s->scores.p[id];
        vec_push(&u->scores, score);
        if (s->types.p[id] == SPM_NORMAL) {
            u->min = MIN(u->min, score);
            u->max = MAX(u->max, score);
        }
        str piece = vocab_piece(&t->pieces, id);
        if (piece.n && in_text(s->types.p[id])) trie_add(&u->pieces, piece, id);
    }
    find_bytes(s, t, u->byte_id);
    t->model.kind = "sentencepiece unigram";
}

static void set_types(const spm *s, tokenizer *t) {
    size_t n = s->types.n;
    t->types = mem_alloc(n + 1);
    memcpy(t->types, s->types.p, n);
    t->special = mem_calloc(n + 1, 1);
    for (size_t i = 0; i < n; i++) {
        t->special[i] = s->types.p[i] == SPM_CONTROL;
        str piece = vocab_piece(&t->pieces, (int32_t)i);
        if (s->types.p[i] == SPM_USER && piece.n)
            added_set_add(s->user, &(added_token){.id = (int32_t)i, .pattern = piece});
    }
}

/* ---- building ---- */

spm *spm_new(tokenizer *t) {
    spm *s = mem_calloc(1, sizeof *s);
    *s = (spm){.dummy_prefix = true,
               .remove_extra = true,
               .escape = true,
               .algorithm = SPM_UNIGRAM,
               .user = added_set_new()};
    t->model = (model){"sentencepiece", s, spm_encode, spm_spans, spm_free};
    return s;
}

status spm_put(spm *s, tokenizer *t, int32_t id, str piece, float score, uint8_t type, error *err) {
    if (id < 0 || id >= LIMIT_VOCAB || !vocab_put(&t->pieces, id, piece))
        return error_set(err, ERR_TOO_LARGE, "more than %d pieces", LIMIT_VOCAB);
    while (s->scores.n <= (size_t)id) {
        vec_push(&s->scores, 0.0f);
        vec_push(&s->types, (uint8_t)SPM_UNUSED);
    }
    s->scores.p[id] = score;
    s->types.p[id] = type;
    return OK;
}

status spm_finish(spm *s, tokenizer *t, str unk_surface, error *err) {
    set_types(s, t);
    if (s->algorithm == SPM_BPE)
        TRY(make_bpe(s, t, err));
    else
        make_unigram(s, t);
    t->dec = decoder_of_spm(s->dummy_prefix || s->remove_extra, s->remove_extra, unk_surface);
    return OK;
}

/* transformers' "legacy": false: a space goes before the text only, not before what follows a
 * special token. */
status spm_prefix_first(tokenizer *t, error *err) {
    spm *s = t->model.self;
    if (!s->dummy_prefix || !s->escape) return OK;
    json_t *j =
        json_pack("{s:s,s:s,s:b}", "type", "Metaspace", "prepend_scheme", "first", "split", 0);
    status st = pretok_new(j, &t->pre, err);
    json_decref(j);
    if (st == OK) s->dummy_prefix = false;
    return st;
}
