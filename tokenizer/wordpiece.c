/* Greedy longest match: from each place the longest piece of the vocabulary; the pieces after the
 * first carry the prefix. A word with a place where nothing matches is one unknown. The
 * vocabulary's longest piece bounds the look-ups at each place. */
#include "tokenizer/wordpiece.h"

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

typedef struct wordpiece {
    const vocab *pieces;
    int32_t n_model; /* ids at or above were added later and are not the model's */
    int32_t unk;
    str prefix;
    size_t max_chars, longest;
} wordpiece;

static void wordpiece_free(void *self) {
    wordpiece *w = self;
    mem_free((void *)w->prefix.p);
    mem_free(w);
}

/* The longest piece that starts at `at`: its id and end, -1 if none. */
static int32_t longest_at(const wordpiece *w, str word, size_t at, strbuf *key, size_t *end) {
    strbuf_clear(key);
    if (at) strbuf_add(key, w->prefix);
    size_t head = key->n, n = MIN(word.n - at, w->longest);
    strbuf_add(key, str_cut(word, at, at + n));
    for (; n; n--) {
        if (at + n < word.n && ((unsigned char)word.p[at + n] & 0xC0) == 0x80) continue;
        int32_t id = vocab_id(w->pieces, str_n(key->p, head + n));
        if (id < 0 || id >= w->n_model) continue;
        *end = at + n;
        return id;
    }
    return -1;
}

static void run(const wordpiece *w, str word, vec_i32 *ids, span_vec *spans) {
    size_t from = ids->n, spans_from = spans ? spans->n : 0, end;
    bool bad = utf8_count(word.p, word.n) > w->max_chars;
    strbuf key = {0};
    for (size_t at = 0; at < word.n && !bad; at = end) {
        int32_t id = longest_at(w, word, at, &key, &end);
        bad = id < 0;
        if (bad) break;
        vec_push(ids, id);
        if (spans) vec_push(spans, ((span){(uint32_t)at, (uint32_t)(end - at)}));
    }
    strbuf_done(&key);
    if (!bad) return;
    ids->n = from;
    if (spans) spans->n = spans_from;
    if (w->unk < 0) return;
    vec_push(ids, w->unk);
    if (spans) vec_push(spans, ((span){0, (uint32_t)word.n}));
}

static void wordpiece_encode(const void *self, str word, vec_i32 *ids) {
    run(self, word, ids, NULL);
}

static void wordpiece_spans(const void *self, str word, vec_i32 *ids, span_vec *spans) {
    run(self, word, ids, spans);
}

void wordpiece_make(int32_t unk, str prefix, int64_t max_chars, tokenizer *t) {
    wordpiece *w = mem_calloc(1, sizeof *w);
    w->pieces = &t->pieces;
    w->n_model = t->pieces.n;
    w->unk = unk;
    w->prefix = prefix;
    w->max_chars = (size_t)MAX(max_chars, 0);
    for (int32_t id = 0; id < t->pieces.n; id++)
        w->longest = MAX(w->longest, vocab_piece(&t->pieces, id).n);
    t->model = (model){"wordpiece", w, wordpiece_encode, wordpiece_spans, wordpiece_free};
}
