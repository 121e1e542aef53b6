/* A merge names its two parts and its product by their strings; all three must be in the
 * vocabulary. The file's order is the rank; of a pair listed twice the later rank counts, as in the
 * reference. */
#include "tokenizer/hf_bpe.h"

#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/bytechars.h"
#include "tokenizer/jscan.h"

status hf_vocab(str raw, vocab *v, error *err) {
    jscan s;
    jscan_init(&s, raw);
    str key;
    int64_t id;
    bool range = true, room = true;
    vocab_reserve(v, (int32_t)MIN(raw.n / 16, (size_t)LIMIT_VOCAB), raw.n / 2);
    if (jscan_enter(&s, '{'))
        while (range && room && jscan_more(&s, '}')) {
            if (!jscan_key(&s, &key)) break;
            /* the key may lie in the scanner's buffer: numbers do not use it */
            if (!jscan_int(&s, &id)) break;
            range = id >= 0 && id < LIMIT_VOCAB;
            room = range && vocab_put(v, (int32_t)id, key);
        }
    status st = jscan_status(&s, "model.vocab", err);
    jscan_done(&s);
    if (st == OK && !range)
        st = error_set(err, ERR_FORMAT, "model.vocab: id %lld is not in 0..%d", (long long)id,
                       LIMIT_VOCAB - 1);
    if (st == OK && !room) st = error_set(err, ERR_TOO_LARGE, "model.vocab is too large");
    return st;
}

/* Merges are looked up in batches, so that the table's cache lines are on their way before they are
 * needed: a third of the time to open a large file. */
#define BATCH 32

typedef struct merge_ctx {
    bpe *b;
    const vocab *v;
    strbuf text; /* of the batch: left, right, and where a prefix goes also their product */
    struct merge_at {
        size_t l, r, product, l_n, r_n, product_n;
        int32_t left, right, id;
    } at[BATCH];
    int n;
    uint32_t rank; /* of the batch's first merge */
} merge_ctx;

static str part(const merge_ctx *c, size_t at, size_t n) {
    return str_n(c->text.p + at, n);
}

static status look_up(merge_ctx *c, error *err) {
    struct merge_at *m = c->at;
    for (int i = 0; i < c->n; i++) {
        vocab_prefetch(c->v, part(c, m[i].l, m[i].l_n));
        vocab_prefetch(c->v, part(c, m[i].r, m[i].r_n));
        vocab_prefetch(c->v, part(c, m[i].product, m[i].product_n));
    }
    for (int i = 0; i < c->n; i++) {
        str l = part(c, m[i].l, m[i].l_n), r = part(c, m[i].r, m[i].r_n),
            product = part(c, m[i].product, m[i].product_n);
        int32_t a = vocab_id(c->v, l), b = vocab_id(c->v, r), id = vocab_id(c->v, product);
        str missing = a < 0 ? l : b < 0 ? r : product;
        if (a < 0 || b < 0 || id < 0)
            return error_set(
                err, ERR_FORMAT, "model.merges[%u]: \"" STR_FMT "\" is not in the vocabulary",
                c->rank + (unsigned)i, STR_ARG(str_cut(missing, 0, MIN(missing.n, (size_t)100))));
        m[i].left = a, m[i].right = b, m[i].id = id;
        bpe_prefetch_pair(c->b, a, b);
    }
    for (int i = 0; i < c->n; i++)
        bpe_add_pair(c->b, m[i].left, m[i].right, c->rank + (uint32_t)i, m[i].id);
    c->rank += (uint32_t)c->n;
    c->n = 0;
    strbuf_clear(&c->text);
    return OK;
}

static status add_merge(merge_ctx *c, str l, str r, error *err) {
    struct merge_at *m = &c->at[c->n++];
    *m = (struct merge_at){c->text.n, c->text.n + l.n, c->text.n, l.n, r.n, l.n + r.n, 0, 0, 0};
    strbuf_add(&c->text, l);
    strbuf_add(&c->text, r);
    if (c->b->prefix.n && str_starts(r, c->b->prefix)) {
        m->product = c->text.n;
        m->product_n -= c->b->prefix.n;
        strbuf_add(&c->text, l);
        strbuf_add(&c->text, str_cut(r, c->b->prefix.n, r.n));
    }
    return c->n == BATCH ? look_up(c, err) : OK;
}

static status merge_line(merge_ctx *c, str line, error *err) {
    ptrdiff_t space = str_find(line, STR(" "), 0);
    if (space < 0 || str_find(line, STR(" "), (size_t)space + 1) >= 0)
        return error_set(err, ERR_FORMAT, "model.merges[%u]: \"" STR_FMT "\" is not two tokens",
                         c->rank + (unsigned)c->n,
                         STR_ARG(str_cut(line, 0, MIN(line.n, (size_t)100))));
    return add_merge(c, str_cut(line, 0, (size_t)space), str_cut(line, (size_t)space + 1, line.n),
                     err);
}

/* ["a", "b"]: the first string is copied, the scanner may use its buffer again. */
static status merge_pair(merge_ctx *c, jscan *s, strbuf *left, error *err) {
    str l, r;
    bool ok = jscan_enter(s, '[') && jscan_more(s, ']') && jscan_string(s, &l);
    if (ok) {
        strbuf_clear(left);
        strbuf_add(left, l);
        ok = jscan_more(s, ']') && jscan_string(s, &r);
    }
    if (ok) TRY(add_merge(c, strbuf_str(left), r, err));
    ok = ok && !jscan_more(s, ']');
    if (!ok && !s->want) s->want = "a pair of tokens";
    return OK;
}

status hf_merges(str raw, const vocab *v, bpe *b, error *err) {
    jscan s;
    jscan_init(&s, raw);
    merge_ctx c = {.b = b, .v = v};
    strbuf left = {0};
    status st = OK;
    str line;
    bpe_reserve_pairs(b, MIN(raw.n / 12, (size_t)LIMIT_VOCAB));
    if (jscan_enter(&s, '['))
        while (st == OK && jscan_more(&s, ']')) {
            if (jscan_peek(&s) == '[')
                st = merge_pair(&c, &s, &left, err);
            else if (jscan_string(&s, &line))
                st = merge_line(&c, line, err);
            if (s.want) break;
        }
    if (st == OK) st = jscan_status(&s, "model.merges", err);
    if (st == OK) st = look_up(&c, err);
    jscan_done(&s);
    strbuf_done(&left);
    strbuf_done(&c.text);
    return st;
}

/* The vocabulary as the words are: bytes behind the byte alphabet, or characters. */
static void fill_whole(bpe *b, const vocab *v) {
    strbuf raw = {0};
    vocab_reserve(&b->whole, v->n, v->bytes.n);
    for (size_t i = 0; i < (size_t)v->n + v->aliases.n; i++) {
        int32_t id;
        str s = vocab_string(v, i, &id);
        if (!s.p) continue;
        strbuf_clear(&raw);
        if (b->bytes && !bytechars_decode(s, &raw)) continue;
        vocab_put(&b->whole, id, b->bytes ? strbuf_str(&raw) : s);
    }
    strbuf_done(&raw);
}

static void fill_symbols(bpe *b, const vocab *v) {
    for (int i = 0; i < 256; i++) {
        char buf[8];
        size_t n = b->bytes ? utf8_put(bytechar_of((uint8_t)i), buf)
                            : (size_t)snprintf(buf, sizeof buf, "<0x%02X>", i);
        b->byte_id[i] = vocab_id(v, str_n(buf, n));
    }
    for (size_t i = 0; i < (size_t)v->n + v->aliases.n && !b->bytes; i++) {
        int32_t id;
        str s = vocab_string(v, i, &id);
        uint32_t cp;
        if (s.n && utf8_get(s.p, s.n, &cp) == s.n) bpe_add_char(b, cp, id);
    }
}

static void bpe_free_(void *self) {
    bpe_done(self);
    mem_free(self);
}

static void bpe_encode_(const void *self, str word, vec_i32 *ids) {
    bpe_encode(self, word, ids);
}

static void bpe_spans_(const void *self, str word, vec_i32 *ids, span_vec *spans) {
    bpe_spans(self, word, ids, spans);
}

status hf_merges_text(str text, const vocab *v, bpe *b, error *err) {
    merge_ctx c = {.b = b, .v = v};
    status st = OK;
    bpe_reserve_pairs(b, MIN(text.n / 6, (size_t)LIMIT_VOCAB));
    for (size_t at = 0; st == OK && at < text.n;) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl;
        str line = str_cut(text, at, end);
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        bool version = at == 0 && str_starts(line, STR("#version"));
        at = end + 1;
        if (line.n && !version) st = merge_line(&c, line, err);
    }
    if (st == OK) st = look_up(&c, err);
    strbuf_done(&c.text);
    return st;
}

bpe *hf_bpe_make(tokenizer *t, bool bytes) {
    bpe *b = mem_calloc(1, sizeof *b);
    bpe_init(b);
    b->bytes = bytes;
    t->model = (model){bytes ? "bpe (byte level)" : "bpe (characters)", b, bpe_encode_, bpe_spans_,
                       bpe_free_};
    return b;
}

void hf_bpe_finish(tokenizer *t, bpe *b) {
    fill_symbols(b, &t->pieces);
    if (b->ignore_merges || b->prefix.n || b->suffix.n) fill_whole(b, &t->pieces);
    if (!b->ignore_merges) bpe_set_breaks(b, &t->pieces);
}
