/* Design: a step maps one list of spans to the next; two lists and two text buffers are used in
 * turns. Every splitting step is "find the matches, then decide what happens to match and
 * non-match" (the five behaviours), fed by one of three finders: a matcher, a test on single
 * characters, or a test on runs.
 *
 * Invariant: spans are in order, not empty, and lie within the current text. */
#include "tokenizer/pretok.h"

#include "engine/base/check.h"
#include "engine/base/json.h"
#include "engine/base/utf8.h"
#include "tokenizer/bytechars.h"
#include "tokenizer/patterns.h"
#include "tokenizer/uclass.h"
#include "tokenizer/uscript.h"

#define PRETOK_STEPS_MAX 32

typedef enum behavior { ISOLATED, REMOVED, MERGED_PREVIOUS, MERGED_NEXT, CONTIGUOUS } behavior;
typedef enum prepend { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } prepend;

typedef enum step_kind {
    STEP_MATCH,   /* Split, and ByteLevel's own pattern */
    STEP_CHAR,    /* each character with (class & test) is a match */
    STEP_CHAR_EQ, /* each character equal to `cp` is a match */
    STEP_DIGIT_RUNS,
    STEP_BERT,        /* white space removed, punctuation isolated */
    STEP_WORDS,       /* \w+|[^\w\s]+ */
    STEP_SCRIPTS,     /* a word ends where another script begins */
    STEP_LENGTH,      /* runs of `length` characters */
    STEP_SPACE_FRONT, /* ByteLevel's add_prefix_space */
    STEP_BYTES,       /* from here on words are bytes */
    STEP_METASPACE,
} step_kind;

typedef struct step {
    step_kind kind;
    behavior behavior;
    bool invert, split;
    unsigned test;
    uint32_t cp, length;
    prepend prepend;
    char rep[5]; /* Metaspace's replacement, UTF-8 */
    matcher *m;
} step;

struct pretok {
    step steps[PRETOK_STEPS_MAX];
    int n;
    bool bytes, first;
};

/* ---- cutting ---- */

typedef struct cutter {
    behavior behavior;
    bool invert, had, previous;
    span pending; /* MERGED_NEXT, MERGED_PREVIOUS, CONTIGUOUS: what may still grow */
    span_vec *out;
} cutter;

static void emit(span_vec *out, size_t from, size_t to) {
    if (to > from) vec_push(out, ((span){(uint32_t)from, (uint32_t)(to - from)}));
}

static void flush(cutter *c) {
    if (c->had) emit(c->out, c->pending.off, c->pending.off + c->pending.len);
    c->had = false;
}

static void hold(cutter *c, size_t from, size_t to, bool join) {
    if (join && c->had)
        c->pending.len = (uint32_t)(to - c->pending.off);
    else {
        flush(c);
        c->pending = (span){(uint32_t)from, (uint32_t)(to - from)};
        c->had = true;
    }
}

/* The next stretch of the text, a match or what lies between matches. */
static void stretch(cutter *c, size_t from, size_t to, bool is_match) {
    is_match ^= c->invert;
    switch (c->behavior) {
    case ISOLATED: emit(c->out, from, to); break;
    case REMOVED:
        if (!is_match) emit(c->out, from, to);
        break;
    case CONTIGUOUS: hold(c, from, to, is_match == c->previous); break;
    case MERGED_PREVIOUS: hold(c, from, to, is_match && !c->previous); break;
    case MERGED_NEXT: hold(c, from, to, c->previous && !is_match); break;
    }
    c->previous = is_match;
}

/* ---- finders ---- */

static inline size_t next_char(str t, size_t at, bool bytes, uint32_t *cp) {
    unsigned char b = (unsigned char)t.p[at];
    if (bytes) {
        *cp = bytechar_of(b);
        return at + 1;
    }
    if (b < 128) {
        *cp = b;
        return at + 1;
    }
    size_t k = utf8_get(t.p + at, t.n - at, cp);
    if (!k) *cp = 0xFFFD;
    return at + (k ? k : 1);
}

/* One empty match in a row is taken, then a character is passed: Oniguruma's iteration. */
static void cut_matches(const matcher *m, match_work *w, str t, size_t base, cutter *c) {
    size_t prev = 0, at = 0, s, e;
    bool any = false;
    while (at <= t.n && matcher_find(m, w, t, at, &s, &e)) {
        if (s == e && any && e == prev) {
            uint32_t cp;
            if (at >= t.n) break;
            at = next_char(t, at, false, &cp);
            continue;
        }
        if (prev != s) stretch(c, base + prev, base + s, false);
        stretch(c, base + s, base + e, true);
        prev = at = e;
        any = true;
    }
    if (prev != t.n) stretch(c, base + prev, base + t.n, false);
}

/* The same through the byte alphabet: match in the mapped word, carry the offsets back. */
static void cut_matches_bytes(const matcher *m, pretok_work *w, str t, size_t base, cutter *c) {
    strbuf_clear(&w->mapped);
    bytechars_encode(t, &w->mapped);
    str mapped = strbuf_str(&w->mapped);
    size_t prev = 0, at = 0, s, e, byte = 0, seen = 0;
    while (at <= mapped.n && matcher_find(m, &w->match, mapped, at, &s, &e)) {
        if (s == e) break; /* no pattern of a known file matches nothing here */
        size_t b[2], end[2] = {s, e};
        for (int i = 0; i < 2; i++) {
            for (; seen < end[i]; byte++) seen += bytechar_of((uint8_t)t.p[byte]) < 128 ? 1 : 2;
            b[i] = byte;
        }
        if (prev != b[0]) stretch(c, base + prev, base + b[0], false);
        stretch(c, base + b[0], base + b[1], true);
        prev = b[1];
        at = e;
    }
    if (prev != t.n) stretch(c, base + prev, base + t.n, false);
}

static void cut_chars(const step *st, str t, size_t base, bool bytes, cutter *c) {
    size_t prev = 0;
    for (size_t at = 0, next; at < t.n; at = next) {
        uint32_t cp;
        next = next_char(t, at, bytes, &cp);
        bool hit = st->kind == STEP_CHAR_EQ ? cp == st->cp : (uclass(cp) & st->test) != 0;
        if (!hit) continue;
        if (prev < at) stretch(c, base + prev, base + at, false);
        stretch(c, base + at, base + next, true);
        prev = next;
    }
    if (prev < t.n) stretch(c, base + prev, base + t.n, false);
}

/* Runs of one kind, where kind_of gives a number per class set; kind 0 is dropped, ALONE stands
 * alone. */
#define ALONE 9
static int kind_words(unsigned c) {
    return c & UC_WORD ? 1 : c & UC_SPACE ? 0 : 2;
}
static int kind_bert(unsigned c) {
    return c & UC_SPACE ? 0 : c & UC_PUNCT ? ALONE : 1;
}
static int kind_digits(unsigned c) {
    return c & UC_NUM ? 1 : 2;
}

static void cut_runs(int (*kind_of)(unsigned), str t, size_t base, bool bytes, span_vec *out) {
    size_t from = 0;
    int kind = 0;
    for (size_t at = 0, next; at < t.n; at = next) {
        uint32_t cp;
        next = next_char(t, at, bytes, &cp);
        int k = kind_of(uclass(cp));
        if (k == kind && k != ALONE) continue;
        if (kind) emit(out, base + from, base + at);
        from = at;
        kind = k;
    }
    if (kind) emit(out, base + from, base + t.n);
}

/* What comes before the first character of a certain script is lost, as in the reference. */
static void cut_scripts(str t, size_t base, bool bytes, span_vec *out) {
    size_t from = t.n;
    unsigned last = 0;
    for (size_t at = 0, next; at < t.n; at = next) {
        uint32_t cp;
        next = next_char(t, at, bytes, &cp);
        unsigned script = uscript(cp);
        if (!script || script == last) continue;
        if (last) emit(out, base + from, base + at);
        from = at;
        last = script;
    }
    emit(out, base + from, base + t.n);
}

static void cut_length(uint32_t length, str t, size_t base, bool bytes, span_vec *out) {
    uint32_t cp, n = 0;
    size_t from = 0;
    for (size_t at = 0; at < t.n;) {
        at = next_char(t, at, bytes, &cp);
        if (++n < length) continue;
        emit(out, base + from, base + at);
        from = at;
        n = 0;
    }
    emit(out, base + from, base + t.n);
}

static void cut(const step *st, pretok_work *w, str text, span s, bool bytes, span_vec *out) {
    cutter c = {.behavior = st->behavior, .invert = st->invert, .out = out};
    str t = str_n(text.p + s.off, s.len);
    switch (st->kind) {
    case STEP_MATCH:
        if (bytes)
            cut_matches_bytes(st->m, w, t, s.off, &c);
        else
            cut_matches(st->m, &w->match, t, s.off, &c);
        break;
    case STEP_CHAR:
    case STEP_CHAR_EQ: cut_chars(st, t, s.off, bytes, &c); break;
    case STEP_SCRIPTS: cut_scripts(t, s.off, bytes, out); break;
    case STEP_LENGTH: cut_length(st->length, t, s.off, bytes, out); break;
    case STEP_DIGIT_RUNS: cut_runs(kind_digits, t, s.off, bytes, out); break;
    case STEP_BERT: cut_runs(kind_bert, t, s.off, bytes, out); break;
    case STEP_WORDS: cut_runs(kind_words, t, s.off, bytes, out); break;
    default: CHECK(false); break;
    }
    flush(&c);
}

/* ---- rewriting ---- */

/* t, which begins at byte `base` of the text at hand. */
static void add_replaced(trace *tr, strbuf *out, str t, size_t base, const char *rep) {
    const bool traced = tr->on;
    size_t from = 0;
    for (size_t i = 0; i < t.n; i++) {
        if (t.p[i] != ' ') continue;
        strbuf_add(out, str_cut(t, from, i));
        strbuf_addz(out, rep);
        if (traced) {
            trace_copy(tr, base + from, i - from);
            trace_put(tr, out, base + i);
        }
        from = i + 1;
    }
    strbuf_add(out, str_cut(t, from, t.n));
    trace_copy(tr, base + from, t.n - from);
}

static void metaspace(const step *st, trace *tr, str t, size_t base, bool is_first, strbuf *out,
                      span_vec *words) {
    size_t from = out->n;
    str rep = str_z(st->rep);
    bool front = st->prepend == PREPEND_ALWAYS || (st->prepend == PREPEND_FIRST && is_first);
    if (front && !str_starts(t, rep) && !str_starts(t, STR(" "))) strbuf_add(out, rep);
    if (t.n) trace_put(tr, out, base);
    add_replaced(tr, out, t, base, st->rep);
    str all = str_cut(strbuf_str(out), from, out->n);
    if (!st->split) {
        emit(words, from, out->n);
        return;
    }
    size_t begin = 0;
    for (ptrdiff_t at = 0; (at = str_find(all, rep, (size_t)at)) >= 0; at += (ptrdiff_t)rep.n) {
        emit(words, from + begin, from + (size_t)at);
        begin = (size_t)at;
    }
    emit(words, from + begin, out->n);
}

static void rewrite(const step *st, trace *tr, str t, size_t base, bool is_first, strbuf *out,
                    span_vec *words) {
    if (st->kind == STEP_METASPACE) {
        metaspace(st, tr, t, base, is_first, out, words);
        return;
    }
    size_t from = out->n;
    if (!str_starts(t, STR(" "))) strbuf_addc(out, ' ');
    if (t.n) trace_put(tr, out, base);
    strbuf_add(out, t);
    trace_copy(tr, base, t.n);
    emit(words, from, out->n);
}

/* ---- run ---- */

void pretok_work_done(pretok_work *w) {
    for (int i = 0; i < 2; i++) {
        strbuf_done(&w->text[i]);
        vec_done(&w->words[i]);
    }
    strbuf_done(&w->mapped);
    match_work_done(&w->match);
    trace_done(&w->trace);
}

bool pretok_bytes(const pretok *p) {
    return p->bytes;
}

bool pretok_wants_first(const pretok *p) {
    return p->first;
}

void pretok_run(const pretok *p, pretok_work *w, str text, bool is_first, str *ret_text,
                const span_vec **ret_words) {
    int cur = 0;
    bool bytes = false;
    CHECK(text.n < UINT32_MAX);
    w->words[0].n = 0;
    emit(&w->words[0], 0, text.n);
    for (int i = 0; i < p->n; i++) {
        const step *st = &p->steps[i];
        if (st->kind == STEP_BYTES) {
            bytes = true;
            continue;
        }
        const span_vec *in = &w->words[cur];
        span_vec *out = &w->words[cur ^= 1];
        out->n = 0;
        if (st->kind != STEP_METASPACE && st->kind != STEP_SPACE_FRONT) {
            for (size_t k = 0; k < in->n; k++) cut(st, w, text, in->p[k], bytes, out);
            continue;
        }
        int turn = text.p == w->text[0].p;
        strbuf *buf = &w->text[turn];
        strbuf_clear(buf);
        w->trace.out = &w->trace.buf[turn];
        w->trace.out->n = 0;
        for (size_t k = 0; k < in->n; k++) {
            str t = str_n(text.p + in->p[k].off, in->p[k].len);
            rewrite(st, &w->trace, t, in->p[k].off, is_first && in->p[k].off == 0, buf, out);
        }
        text = strbuf_str(buf);
        CHECK(!w->trace.on || w->trace.out->n == text.n);
        if (w->trace.on) w->trace.in = w->trace.out->p;
    }
    *ret_text = text;
    *ret_words = &w->words[cur];
}

/* ---- from JSON ---- */

static status add(pretok *p, step s, error *err) {
    if (p->n == PRETOK_STEPS_MAX) {
        matcher_free(s.m);
        return error_set(err, ERR_UNSUPPORTED, "pre_tokenizer: more than %d steps",
                         PRETOK_STEPS_MAX);
    }
    p->steps[p->n++] = s;
    return OK;
}

static status add_regex(pretok *p, str pattern, behavior b, bool invert, error *err) {
    step s = {.kind = STEP_MATCH, .behavior = b, .invert = invert};
    TRY(matcher_regex(pattern, &s.m, err));
    return add(p, s, err);
}

static status add_bytes(pretok *p, error *err) {
    if (p->bytes)
        return error_set(err, ERR_UNSUPPORTED, "pre_tokenizer: ByteLevel twice is not supported");
    p->bytes = true;
    return add(p, (step){.kind = STEP_BYTES}, err);
}

static status parse_byte_level(pretok *p, const json_t *j, error *err) {
    if (js_get_bool(j, "add_prefix_space", true))
        TRY(add(p, (step){.kind = STEP_SPACE_FRONT}, err));
    if (js_get_bool(j, "use_regex", true))
        TRY(add_regex(p, STR(PATTERN_GPT2), ISOLATED, false, err));
    return add_bytes(p, err);
}

static status parse_behavior(const json_t *j, behavior fallback, behavior *ret, error *err) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    str s = js_get_str(j, "behavior");
    if (!s.p) {
        *ret = fallback;
        return OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_eqz(s, names[i])) {
            *ret = (behavior)i;
            return OK;
        }
    return error_set(err, ERR_UNSUPPORTED, "pre_tokenizer: unknown behavior \"" STR_FMT "\"",
                     STR_ARG(s));
}

static status parse_split(pretok *p, const json_t *j, error *err) {
    behavior b;
    TRY(parse_behavior(j, ISOLATED, &b, err));
    bool invert = js_get_bool(j, "invert", false);
    json_t *pattern = js_get(j, "pattern");
    str regex = js_get_str(pattern, "Regex"), literal = js_get_str(pattern, "String");
    if (regex.p) return add_regex(p, regex, b, invert, err);
    if (!literal.n)
        return error_set(err, ERR_FORMAT, "pre_tokenizer: Split needs pattern.Regex or .String");
    return add(
        p,
        (step){.kind = STEP_MATCH, .behavior = b, .invert = invert, .m = matcher_literal(literal)},
        err);
}

static status parse_metaspace(pretok *p, const json_t *j, error *err) {
    step s = {.kind = STEP_METASPACE, .split = js_get_bool(j, "split", true)};
    str rep = js_get_str(j, "replacement"), scheme = js_get_str(j, "prepend_scheme");
    if (!rep.p) rep = STR("\u2581");
    if (p->bytes)
        return error_set(err, ERR_UNSUPPORTED,
                         "pre_tokenizer: Metaspace behind ByteLevel is not supported");
    uint32_t cp;
    if (utf8_get(rep.p, rep.n, &cp) != rep.n || !rep.n)
        return error_set(err, ERR_FORMAT,
                         "pre_tokenizer: Metaspace.replacement is not one "
                         "character");
    memcpy(s.rep, rep.p, rep.n);
    s.prepend = js_get_bool(j, "add_prefix_space", true) ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (str_eqz(scheme, "first"))
        s.prepend = PREPEND_FIRST;
    else if (str_eqz(scheme, "never"))
        s.prepend = PREPEND_NEVER;
    else if (str_eqz(scheme, "always"))
        s.prepend = PREPEND_ALWAYS;
    else if (scheme.p)
        return error_set(err, ERR_UNSUPPORTED,
                         "pre_tokenizer: unknown prepend_scheme \"" STR_FMT "\"", STR_ARG(scheme));
    p->first |= s.prepend == PREPEND_FIRST;
    return add(p, s, err);
}

static status parse_delimiter(pretok *p, const json_t *j, error *err) {
    str d = js_get_str(j, "delimiter");
    step s = {.kind = STEP_CHAR_EQ, .behavior = REMOVED};
    if (!d.n || utf8_get(d.p, d.n, &s.cp) != d.n)
        return error_set(err, ERR_FORMAT,
                         "pre_tokenizer: CharDelimiterSplit.delimiter is not one character");
    return add(p, s, err);
}

static status parse_punctuation(pretok *p, const json_t *j, error *err) {
    step s = {.kind = STEP_CHAR, .test = UC_PUNCT};
    TRY(parse_behavior(j, ISOLATED, &s.behavior, err));
    return add(p, s, err);
}

static status parse_digits(pretok *p, const json_t *j, error *err) {
    if (!js_get_bool(j, "individual_digits", false))
        return add(p, (step){.kind = STEP_DIGIT_RUNS}, err);
    return add(p, (step){.kind = STEP_CHAR, .test = UC_NUM, .behavior = ISOLATED}, err);
}

static status parse_length(pretok *p, const json_t *j, error *err) {
    int64_t n = js_get_int(j, "length", 5);
    if (n < 1 || n > UINT32_MAX)
        return error_set(err, ERR_FORMAT, "pre_tokenizer: FixedLength.length is %lld",
                         (long long)n);
    return add(p, (step){.kind = STEP_LENGTH, .length = (uint32_t)n}, err);
}

static status parse_bert(pretok *p, const json_t *j, error *err) {
    return add(p, (step){.kind = STEP_BERT}, err);
}
static status parse_scripts(pretok *p, const json_t *j, error *err) {
    return add(p, (step){.kind = STEP_SCRIPTS}, err);
}
static status parse_whitespace(pretok *p, const json_t *j, error *err) {
    return add(p, (step){.kind = STEP_WORDS}, err);
}
static status parse_whitespace_split(pretok *p, const json_t *j, error *err) {
    return add(p, (step){.kind = STEP_CHAR, .test = UC_SPACE, .behavior = REMOVED}, err);
}

static status parse(pretok *p, const json_t *j, int depth, error *err);

static status parse_sequence(pretok *p, const json_t *j, int depth, error *err) {
    json_t *list = js_get(j, "pretokenizers");
    if (!json_is_array(list) || depth > 8)
        return error_set(err, ERR_FORMAT, "pre_tokenizer: Sequence needs a list pretokenizers");
    for (size_t i = 0; i < json_array_size(list); i++)
        TRY(parse(p, json_array_get(list, i), depth + 1, err));
    return OK;
}

static status parse(pretok *p, const json_t *j, int depth, error *err) {
    static const struct {
        const char *type;
        status (*parse)(pretok *, const json_t *, error *);
    } kinds[] = {
        {"ByteLevel", parse_byte_level},         {"Split", parse_split},
        {"Metaspace", parse_metaspace},          {"Digits", parse_digits},
        {"Punctuation", parse_punctuation},      {"BertPreTokenizer", parse_bert},
        {"Whitespace", parse_whitespace},        {"WhitespaceSplit", parse_whitespace_split},
        {"CharDelimiterSplit", parse_delimiter}, {"FixedLength", parse_length},
        {"UnicodeScripts", parse_scripts},
    };
    str type = js_get_str(j, "type");
    if (str_eqz(type, "Sequence")) return parse_sequence(p, j, depth, err);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_eqz(type, kinds[i].type)) return kinds[i].parse(p, j, err);
    return error_set(err, ERR_UNSUPPORTED, "pre_tokenizer: type \"" STR_FMT "\" is not supported",
                     STR_ARG(type));
}

status pretok_new(const json_t *spec, pretok **ret, error *err) {
    pretok *p = mem_calloc(1, sizeof *p);
    status st = spec ? parse(p, spec, 0, err) : OK;
    if (st == OK)
        *ret = p;
    else
        pretok_free(p);
    return st;
}

status pretok_of_regexes(const char *const *patterns, size_t n, pretok **ret, error *err) {
    pretok *p = mem_calloc(1, sizeof *p);
    status st = OK;
    for (size_t i = 0; st == OK && i < n; i++)
        st = add_regex(p, str_z(patterns[i]), ISOLATED, false, err);
    if (st == OK) st = add_bytes(p, err);
    if (st == OK)
        *ret = p;
    else
        pretok_free(p);
    return st;
}

void pretok_free(pretok *p) {
    if (!p) return;
    for (int i = 0; i < p->n; i++) matcher_free(p->steps[i].m);
    mem_free(p);
}
