/* The way of a text: invalid UTF-8 repaired -> added tokens cut out -> each rest normalised ->
 * normalised added tokens cut out -> each rest pre-tokenised -> each word through the model ->
 * special ids around. All scratch is on this call's stack or heap: a tokenizer is never written
 * after opening (the model's word cache excepted, which is made for that).
 *
 * Offsets go the same way: beside each text lie the places of its bytes in the text that was given
 * (trace.h), and words are encoded by the model's measuring twin. Without them nothing of it runs.
 */
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/bytechars.h"
#include "tokenizer/tok.h"
#include "tokenizer/uclass.h"

#define TEXT_MAX ((size_t)1 << 30)

/* An added token among the spans: white space at the ends of the text that it was found as. */
typedef struct added_place {
    size_t at;
    uint32_t front, back;
} added_place;

typedef struct encoder {
    const tokenizer *t;
    unsigned flags;
    size_t ids_max;
    vec_i32 *ids;
    normal_work norm;
    pretok_work pre;
    added_parts raw_parts, norm_parts;
    strbuf repaired;
    /* offsets; NULL: not asked for */
    token_spans *spans;
    origins text_origins;
    span_vec word_spans;
    VEC(added_place) added; /* in order */
    size_t first;           /* of *ids and *spans: the first that is this call's */
} encoder;

static bool over(const encoder *e) {
    return e->ids_max && e->ids->n > e->ids_max;
}

static void put_span(encoder *e, uint32_t from, uint32_t to) {
    if (e->spans) vec_push(e->spans, ((token_span){from, MAX(from, to)}));
}

static bool is_blank(uint32_t cp) {
    return cp == bytechar_of(' ') || uclass(cp) & UC_SPACE;
}

/* White space at the front of a piece (as it is stored) and at its end. */
static void blanks_of(str piece, uint32_t *front, uint32_t *back) {
    bool only = true;
    *front = *back = 0;
    for (size_t at = 0, k; at < piece.n; at += k) {
        uint32_t cp;
        k = utf8_get(piece.p + at, piece.n - at, &cp);
        bool blank = k && is_blank(cp);
        if (!k) k = 1;
        only &= blank;
        *front += only;
        *back = blank ? *back + 1 : 0;
    }
}

static void put_added(encoder *e, int32_t id, str text, uint32_t from, uint32_t to) {
    vec_push(e->ids, id);
    if (!e->spans) return;
    added_place a = {.at = e->spans->n};
    blanks_of(text, &a.front, &a.back);
    vec_push(&e->added, a);
    put_span(e, from, to);
}

/* One word with its offsets; o: the origins of its bytes. */
static void place_word(encoder *e, str word, const origin *o) {
    e->word_spans.n = 0;
    e->t->model.spans(e->t->model.self, word, e->ids, &e->word_spans);
    for (size_t i = 0; i < e->word_spans.n; i++) {
        span s = e->word_spans.p[i];
        size_t last = MIN((size_t)s.off + MAX(s.len, 1u), word.n);
        uint32_t from = s.off < word.n ? o[s.off].from : o[word.n - 1].to;
        put_span(e, from, s.len && s.off < word.n ? o[last - 1].to : from);
    }
}

static void encode_words(encoder *e, str text, bool is_first, const origin *o) {
    const tokenizer *t = e->t;
    str words_text = text;
    span whole = {0, (uint32_t)text.n};
    span_vec one = {.p = &whole, .n = 1};
    const span_vec *words = &one;
    if (!text.n) return;
    e->pre.trace.in = o;
    if (t->pre) pretok_run(t->pre, &e->pre, text, is_first, &words_text, &words);
    const char *p = words_text.p;
    if (e->spans)
        for (size_t i = 0; i < words->n && !over(e); i++)
            place_word(e, str_n(p + words->p[i].off, words->p[i].len),
                       e->pre.trace.in + words->p[i].off);
    else
        for (size_t i = 0; i < words->n && !over(e); i++)
            t->model.encode(t->model.self, str_n(p + words->p[i].off, words->p[i].len), e->ids);
}

static const origin *trace_section(encoder *e, str text, size_t base) {
    e->text_origins.n = 0;
    origins_of_text(&e->text_origins, text, base);
    e->norm.trace.none = (origin){(uint32_t)base, (uint32_t)base};
    return e->norm.trace.in = e->text_origins.p;
}

/* A Metaspace that prepends to the first section only looks where what is left of the text begins:
 * not when the normaliser took the first character away. Most first characters stay for sure. */
static bool front_is_doubtful(const tokenizer *t, str text) {
    return t->norm && t->pre && pretok_wants_first(t->pre) && text.n &&
           ((unsigned char)text.p[0] <= ' ' || (unsigned char)text.p[0] >= 0x7F);
}

/* `base`: the byte where text begins in the whole. */
static void encode_section(encoder *e, str text, size_t base) {
    const tokenizer *t = e->t;
    bool is_first = base == 0, doubtful = is_first && front_is_doubtful(t, text);
    const origin *o = NULL;
    if (e->spans || doubtful) o = trace_section(e, text, base);
    if (t->norm) {
        e->norm.trace.on = o != NULL;
        text = normalizer_run(t->norm, &e->norm, text);
        if (o) o = e->norm.trace.in;
        if (doubtful && text.n) is_first = o[0].from == 0;
        if (!e->spans) o = NULL;
    }
    if (!text.n) return;
    if (e->flags & ENCODE_NO_ADDED || added_set_empty(t->added_normalized)) {
        encode_words(e, text, is_first, o);
        return;
    }
    e->norm_parts.n = 0;
    added_set_split(t->added_normalized, text, &e->norm_parts);
    for (size_t i = 0; i < e->norm_parts.n && !over(e); i++) {
        added_part p = e->norm_parts.p[i];
        if (p.id < 0) {
            encode_words(e, str_cut(text, p.from, p.to), is_first && p.from == 0,
                         o ? o + p.from : NULL);
            continue;
        }
        put_added(e, p.id, str_cut(text, p.from, p.to), o ? o[p.from].from : 0,
                  o ? o[p.to - 1].to : 0);
    }
}

static void encode_text(encoder *e, str text) {
    if (!text.n) return;
    if (e->flags & ENCODE_NO_ADDED || added_set_empty(e->t->added)) {
        encode_section(e, text, 0);
        return;
    }
    added_set_split(e->t->added, text, &e->raw_parts);
    for (size_t i = 0; i < e->raw_parts.n && !over(e); i++) {
        added_part p = e->raw_parts.p[i];
        if (p.id < 0) {
            encode_section(e, str_cut(text, p.from, p.to), p.from);
            continue;
        }
        put_added(e, p.id, str_cut(text, p.from, p.to), (uint32_t)p.from, (uint32_t)p.to);
    }
}

/* Each maximal invalid part becomes one U+FFFD. */
static str repair(str text, strbuf *out) {
    size_t at = 0, from = 0;
    while (at < text.n) {
        uint32_t cp;
        size_t k = utf8_get(text.p + at, text.n - at, &cp);
        if (k) {
            at += k;
            continue;
        }
        strbuf_add(out, str_cut(text, from, at));
        strbuf_addz(out, "\xEF\xBF\xBD");
        size_t bad = 1;
        while (at + bad < text.n && utf8_partial_tail(text.p + at, bad + 1) == bad + 1) bad++;
        from = at += bad;
    }
    strbuf_add(out, str_cut(text, from, at));
    return strbuf_str(out);
}

static void encoder_done(encoder *e) {
    normal_work_done(&e->norm);
    pretok_work_done(&e->pre);
    vec_done(&e->raw_parts);
    vec_done(&e->norm_parts);
    strbuf_done(&e->repaired);
    vec_done(&e->text_origins);
    vec_done(&e->word_spans);
    vec_done(&e->added);
}

/* Bytes -> code points. */
static void count_points(encoder *e, str text) {
    uint32_t *at = mem_alloc((text.n + 1) * sizeof *at), n = 0;
    for (size_t i = 0; i < text.n; i++) {
        n += ((unsigned char)text.p[i] & 0xC0) != 0x80;
        at[i] = n ? n - 1 : 0;
    }
    at[text.n] = n;
    for (size_t i = e->first; i < e->spans->n; i++) {
        token_span *s = &e->spans->p[i];
        *s = (token_span){at[MIN(s->from, text.n)], at[MIN(s->to, text.n)]};
    }
    mem_free(at);
}

/* What a ByteLevel or Roberta post-processor does to the offsets: white space is no part of them.
 */
static void trim(encoder *e, unsigned how, size_t id_first) {
    size_t k = 0;
    for (size_t i = e->first; i < e->spans->n; i++) {
        token_span *s = &e->spans->p[i];
        uint32_t front, back;
        if (k < e->added.n && e->added.p[k].at == i) {
            front = e->added.p[k].front;
            back = e->added.p[k++].back;
        } else
            blanks_of(tokenizer_piece(e->t, e->ids->p[id_first + i - e->first]), &front, &back);
        bool keep = how & TOK_TRIM_KEEP && (i == e->first || s->from == 0);
        if (front) s->from = MIN(s->from + front - keep, s->to);
        if (back && s->to >= back) s->to = MAX(s->to - back, s->from);
    }
}

static void finish_spans(encoder *e, str text, size_t id_first) {
    if (!e->spans) return;
    count_points(e, text);
    for (int i = 0; i < e->t->n_trims; i++) trim(e, e->t->trims[i], id_first);
}

static void put_special(encoder *e, const vec_i32 *ids) {
    for (size_t i = 0; e->flags & ENCODE_SPECIAL && i < ids->n; i++) {
        vec_push(e->ids, ids->p[i]);
        put_span(e, 0, 0);
    }
}

status tokenizer_encode_spans(const tokenizer *t, str text, unsigned flags, size_t ids_max,
                              vec_i32 *ids, token_spans *spans, error *err) {
    if (text.n > TEXT_MAX)
        return error_set(err, ERR_TOO_LARGE, "the text has %zu bytes, more than %zu", text.n,
                         TEXT_MAX);
    encoder e = {.t = t, .flags = flags, .ids_max = ids_max, .ids = ids, .spans = spans};
    e.pre.trace.on = spans != NULL;
    size_t n_before = ids->n, spans_before = spans ? spans->n : 0;
    if (text.n && !utf8_valid(text.p, text.n)) text = repair(text, &e.repaired);
    put_special(&e, &t->before);
    e.first = spans ? spans->n : 0;
    size_t id_first = ids->n;
    encode_text(&e, text);
    finish_spans(&e, text, id_first);
    put_special(&e, &t->after);
    bool failed = e.pre.match.failed || e.norm.match.failed, large = over(&e);
    encoder_done(&e);
    if (!large && !failed) return OK;
    ids->n = n_before;
    if (spans) spans->n = spans_before;
    if (large) return error_set(err, ERR_TOO_LARGE, "the text has more than %zu tokens", ids_max);
    return error_set(err, ERR_TOO_LARGE,
                     "the tokenizer's regular expression gave up on this text (match limit)");
}

status tokenizer_encode(const tokenizer *t, str text, unsigned flags, size_t ids_max, vec_i32 *ids,
                        error *err) {
    return tokenizer_encode_spans(t, text, flags, ids_max, ids, NULL, err);
}
