/* Design: stage i hands pieces to stage i + 1; the last one to the output. Before a Fuse (or
 * ByteLevel) stage a piece is a token; after it all pieces are fragments of one token, which the
 * reference would have built whole. Stages that can work on fragments do (Strip, Replace of a
 * literal); the others wait for the end.
 *
 * Why ByteFallback waits for the end of a run of byte tokens: in the reference one invalid byte
 * turns the whole run into U+FFFD, so no character of it is certain before. */
#include "tokenizer/decoder.h"

#include "engine/base/check.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/bytechars.h"

#define STAGES_MAX  16
#define REPLACEMENT "\xEF\xBF\xBD"

typedef enum stage_kind {
    STAGE_JOIN,  /* no decoder: spaces between tokens */
    STAGE_BYTES, /* tokens are bytes */
    STAGE_BYTE_LEVEL,
    STAGE_BYTE_FALLBACK,
    STAGE_FUSE,
    STAGE_REPLACE,
    STAGE_STRIP,
    STAGE_METASPACE,
    STAGE_WORDPIECE,
    STAGE_BPE,
    STAGE_CTC,
    STAGE_SPM,
} stage_kind;

typedef struct stage {
    stage_kind kind;
    bool fused; /* its input is one token in fragments */
    bool whole; /* fused, and must see all of it first */
    bool cleanup, drop_space, drop_all;
    int start, stop;   /* Strip */
    char *text, *with; /* Strip's, Metaspace's character; Replace's pattern; prefix, suffix */
    size_t text_n, with_n;
    matcher *m;
} stage;

struct decoder {
    stage stages[STAGES_MAX];
    int n;
};

typedef struct stage_state {
    strbuf held, tmp;
    size_t n_tokens;
    int cut; /* Strip: leading characters cut so far; -1: no more */
    bool text_seen, space_seen;
} stage_state;

struct decode_stream {
    const decoder *d;
    match_work match;
    strbuf *out;
    stage_state st[]; /* [d->n]: there is a stream for every open answer */
};

static void push(decode_stream *s, int i, str token, spm_type type);

static str text_of(const stage *g) {
    return str_n(g->text, g->text_n);
}

/* ---- UTF-8 ---- */

/* Pass bytes on as text: each maximal invalid part (each_byte: each byte of it) as U+FFFD. Returns
 * how many bytes were passed; the rest could still become a character (none if final). */
static size_t pass_bytes(decode_stream *s, int i, str b, bool final, bool each_byte) {
    size_t n = b.n - (final ? 0 : utf8_partial_tail(b.p, b.n)), from = 0, at = 0;
    while (at < n) {
        uint32_t cp;
        size_t k = utf8_get(b.p + at, n - at, &cp);
        if (k) {
            at += k;
            continue;
        }
        if (at > from) push(s, i + 1, str_cut(b, from, at), SPM_NORMAL);
        push(s, i + 1, STR(REPLACEMENT), SPM_NORMAL);
        size_t bad = 1;
        if (!each_byte)
            while (at + bad < n && utf8_partial_tail(b.p + at, bad + 1) == bad + 1) bad++;
        from = at += bad;
    }
    if (at > from) push(s, i + 1, str_cut(b, from, at), SPM_NORMAL);
    return n;
}

/* Bytes that arrive in pieces: what cannot be finished stays in held. */
static void stream_bytes(decode_stream *s, int i, str b, bool each_byte) {
    strbuf *held = &s->st[i].held;
    if (held->n) {
        strbuf_add(held, b);
        size_t done = pass_bytes(s, i, strbuf_str(held), false, each_byte);
        memmove(held->p, held->p + done, held->n - done);
        held->n -= done;
        return;
    }
    size_t done = pass_bytes(s, i, b, false, each_byte);
    strbuf_add(held, str_cut(b, done, b.n));
}

static void end_bytes(decode_stream *s, int i, bool each_byte) {
    strbuf *held = &s->st[i].held;
    if (held->n) pass_bytes(s, i, strbuf_str(held), true, each_byte);
    strbuf_clear(held);
}

/* "<0x41>": its byte, -1 for any other token. */
static int byte_token(str t) {
    if (t.n != 6 || memcmp(t.p, "<0x", 3) != 0 || t.p[5] != '>') return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = t.p[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* ---- stages ---- */

static void end_byte_run(decode_stream *s, int i) {
    strbuf *held = &s->st[i].held;
    if (!held->n) return;
    if (utf8_valid(held->p, held->n))
        push(s, i + 1, strbuf_str(held), SPM_NORMAL);
    else
        for (size_t k = 0; k < held->n; k++) push(s, i + 1, STR(REPLACEMENT), SPM_NORMAL);
    strbuf_clear(held);
}

static void byte_fallback(decode_stream *s, int i, str t) {
    int b = byte_token(t);
    if (b >= 0) {
        strbuf_addc(&s->st[i].held, (char)b);
        return;
    }
    end_byte_run(s, i);
    push(s, i + 1, t, SPM_NORMAL);
}

static void replace_all(decode_stream *s, const stage *g, str t, strbuf *out) {
    size_t at = 0, prev = 0, from, to;
    while (at <= t.n && matcher_find(g->m, &s->match, t, at, &from, &to)) {
        strbuf_add(out, str_cut(t, prev, from));
        strbuf_add(out, str_n(g->with, g->with_n));
        prev = at = to;
        if (from == to) at++;
    }
    if (prev < t.n) strbuf_add(out, str_cut(t, prev, t.n));
}

static void replace(decode_stream *s, int i, str t) {
    const stage *g = &s->d->stages[i];
    size_t from, to;
    if (!matcher_find(g->m, &s->match, t, 0, &from, &to)) {
        push(s, i + 1, t, SPM_NORMAL);
        return;
    }
    strbuf_clear(&s->st[i].tmp);
    replace_all(s, g, t, &s->st[i].tmp);
    push(s, i + 1, strbuf_str(&s->st[i].tmp), SPM_NORMAL);
}

/* Take up to *left of `what` off the front. */
static str strip_front(str t, str what, int *left) {
    while (*left > 0 && str_starts(t, what)) {
        t = str_cut(t, what.n, t.n);
        --*left;
    }
    return t;
}

static str strip_back(str t, str what, int max) {
    while (max-- > 0 && t.n && str_ends(t, what)) t.n -= what.n;
    return t;
}

static void strip_token(decode_stream *s, int i, str t) {
    const stage *g = &s->d->stages[i];
    int left = g->start;
    t = strip_front(t, text_of(g), &left);
    push(s, i + 1, strip_back(t, text_of(g), g->stop), SPM_NORMAL);
}

/* Fragments: the front is cut while nothing else was seen; up to `stop` characters that might be
 * the end wait in held. */
static void strip_fragment(decode_stream *s, int i, str t) {
    const stage *g = &s->d->stages[i];
    stage_state *st = &s->st[i];
    if (st->cut >= 0) {
        int left = g->start - st->cut;
        str rest = strip_front(t, text_of(g), &left);
        st->cut = rest.n || !left ? -1 : g->start - left;
        t = rest;
    }
    if (!t.n) return;
    if (!g->stop) {
        push(s, i + 1, t, SPM_NORMAL);
        return;
    }
    strbuf_add(&st->held, t);
    str all = strbuf_str(&st->held), body = strip_back(all, text_of(g), g->stop);
    push(s, i + 1, body, SPM_NORMAL);
    memmove(st->held.p, st->held.p + body.n, all.n - body.n);
    st->held.n = all.n - body.n;
}

static void metaspace(decode_stream *s, int i, str t) {
    const stage *g = &s->d->stages[i];
    bool first = g->fused || s->st[i].n_tokens == 0;
    strbuf *b = &s->st[i].tmp;
    strbuf_clear(b);
    while (t.n) {
        if (str_starts(t, text_of(g))) {
            if (!first || !g->drop_space) strbuf_addc(b, ' ');
            t = str_cut(t, g->text_n, t.n);
        } else {
            strbuf_addc(b, t.p[0]);
            t = str_cut(t, 1, t.n);
        }
    }
    s->st[i].n_tokens++;
    push(s, i + 1, strbuf_str(b), SPM_NORMAL);
}

static void replace_text(strbuf *b, str what, str with) {
    str t = strbuf_str(b);
    ptrdiff_t at = str_find(t, what, 0);
    if (at < 0) return;
    strbuf out = {0};
    size_t prev = 0;
    for (; at >= 0; at = str_find(t, what, prev)) {
        strbuf_add(&out, str_cut(t, prev, (size_t)at));
        strbuf_add(&out, with);
        prev = (size_t)at + what.n;
    }
    strbuf_add(&out, str_cut(t, prev, t.n));
    strbuf_done(b);
    *b = out;
}

static void wordpiece_cleanup(strbuf *b) {
    static const char *const pairs[][2] = {
        {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
        {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
    };
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        replace_text(b, str_z(pairs[i][0]), str_z(pairs[i][1]));
}

static void wordpiece(decode_stream *s, int i, str t) {
    const stage *g = &s->d->stages[i];
    strbuf *b = &s->st[i].tmp;
    strbuf_clear(b);
    if (!g->fused && s->st[i].n_tokens++) {
        if (str_starts(t, text_of(g)))
            t = str_cut(t, g->text_n, t.n);
        else
            strbuf_addc(b, ' ');
    }
    strbuf_add(b, t);
    if (g->cleanup) wordpiece_cleanup(b);
    push(s, i + 1, strbuf_str(b), SPM_NORMAL);
}

/* "</w>" becomes a space, except in the last token: one token is held. */
static void bpe_token(decode_stream *s, int i, str t, bool last) {
    const stage *g = &s->d->stages[i];
    strbuf *b = &s->st[i].tmp;
    strbuf_clear(b);
    strbuf_add(b, t);
    if (g->text_n) replace_text(b, text_of(g), last ? STR("") : STR(" "));
    push(s, i + 1, strbuf_str(b), SPM_NORMAL);
}

static void bpe(decode_stream *s, int i, str t) {
    stage_state *st = &s->st[i];
    if (st->n_tokens++) bpe_token(s, i, strbuf_str(&st->held), false);
    strbuf_clear(&st->held);
    strbuf_add(&st->held, t);
}

/* Of equal tokens in a row one counts; the one before is held. */
static void ctc(decode_stream *s, int i, str t) {
    const stage *g = &s->d->stages[i];
    stage_state *st = &s->st[i];
    if (st->n_tokens++ && str_eq(t, strbuf_str(&st->held))) return;
    strbuf_clear(&st->held);
    strbuf_add(&st->held, t);
    strbuf *b = &s->st[i].tmp;
    strbuf_clear(b);
    strbuf_add(b, t);
    replace_text(b, text_of(g), STR(""));
    if (g->cleanup) {
        wordpiece_cleanup(b);
        replace_text(b, str_n(g->with, g->with_n), STR(" "));
    }
    if (b->n) push(s, i + 1, strbuf_str(b), SPM_NORMAL);
}

static void byte_level(decode_stream *s, int i, str t) {
    strbuf_clear(&s->st[i].tmp);
    if (bytechars_decode(t, &s->st[i].tmp)) t = strbuf_str(&s->st[i].tmp);
    stream_bytes(s, i, t, false);
}

static void spm(decode_stream *s, int i, str t, spm_type type) {
    const stage *g = &s->d->stages[i];
    stage_state *st = &s->st[i];
    if (type == SPM_BYTE) {
        char b = (char)byte_token(t);
        size_t before = st->held.n;
        stream_bytes(s, i, str_n(&b, 1), true);
        st->text_seen |= st->held.n <= before;
        return;
    }
    st->text_seen |= st->held.n > 0;
    end_bytes(s, i, true);
    st->text_seen |= st->space_seen;
    st->space_seen = false;
    if (type == SPM_CONTROL) return;
    if (type == SPM_UNKNOWN) {
        st->text_seen |= g->with_n > 0;
        push(s, i + 1, str_n(g->with, g->with_n), SPM_NORMAL);
        return;
    }
    static const str mark = {"\u2581", 3};
    if (!st->text_seen && g->drop_space && str_starts(t, mark)) {
        t = str_cut(t, mark.n, t.n);
        st->space_seen = !g->drop_all;
    }
    st->text_seen |= t.n > 0;
    strbuf *b = &s->st[i].tmp;
    strbuf_clear(b);
    strbuf_add(b, t);
    replace_text(b, mark, STR(" "));
    push(s, i + 1, strbuf_str(b), SPM_NORMAL);
}

static void run_stage(decode_stream *s, int i, str t, spm_type type) {
    const stage *g = &s->d->stages[i];
    switch (g->kind) {
    case STAGE_JOIN:
        if (s->st[i].n_tokens++) push(s, i + 1, STR(" "), SPM_NORMAL);
        push(s, i + 1, t, SPM_NORMAL);
        break;
    case STAGE_BYTES: stream_bytes(s, i, t, false); break;
    case STAGE_BYTE_LEVEL: byte_level(s, i, t); break;
    case STAGE_BYTE_FALLBACK: byte_fallback(s, i, t); break;
    case STAGE_FUSE: push(s, i + 1, t, SPM_NORMAL); break;
    case STAGE_REPLACE: replace(s, i, t); break;
    case STAGE_STRIP: g->fused ? strip_fragment(s, i, t) : strip_token(s, i, t); break;
    case STAGE_METASPACE: metaspace(s, i, t); break;
    case STAGE_WORDPIECE: wordpiece(s, i, t); break;
    case STAGE_BPE: bpe(s, i, t); break;
    case STAGE_CTC: ctc(s, i, t); break;
    case STAGE_SPM: spm(s, i, t, type); break;
    }
}

static void push(decode_stream *s, int i, str token, spm_type type) {
    if (i == s->d->n)
        strbuf_add(s->out, token);
    else if (s->d->stages[i].whole)
        strbuf_add(&s->st[i].held, token);
    else
        run_stage(s, i, token, type);
}

static void flush_stage(decode_stream *s, int i) {
    const stage *g = &s->d->stages[i];
    stage_state *st = &s->st[i];
    if (g->whole) {
        strbuf all = st->held;
        st->held = (strbuf){0};
        run_stage(s, i, strbuf_str(&all), SPM_NORMAL);
        strbuf_done(&all);
    }
    switch (g->kind) {
    case STAGE_BYTES:
    case STAGE_BYTE_LEVEL: end_bytes(s, i, false); break;
    case STAGE_SPM: end_bytes(s, i, true); break;
    case STAGE_BYTE_FALLBACK: end_byte_run(s, i); break;
    case STAGE_BPE:
        if (st->n_tokens) bpe_token(s, i, strbuf_str(&st->held), true);
        break;
    default: break;
    }
    strbuf_clear(&st->held);
}

/* ---- streams ---- */

decode_stream *decode_begin(const decoder *d) {
    decode_stream *s = mem_calloc(1, sizeof *s + (size_t)d->n * sizeof *s->st);
    s->d = d;
    return s;
}

void decode_end(decode_stream *s) {
    if (!s) return;
    for (int i = 0; i < s->d->n; i++) {
        strbuf_done(&s->st[i].held);
        strbuf_done(&s->st[i].tmp);
    }
    match_work_done(&s->match);
    mem_free(s);
}

void decode_push(decode_stream *s, str token, spm_type type, strbuf *out) {
    s->out = out;
    push(s, 0, token, type);
}

void decode_flush(decode_stream *s, strbuf *out) {
    s->out = out;
    for (int i = 0; i < s->d->n; i++) flush_stage(s, i);
}

bool decoder_wants_raw(const decoder *d) {
    return d->stages[0].kind == STAGE_BYTES;
}

void decoder_token_bytes(const decoder *d, str token, spm_type type, strbuf *out) {
    strbuf b = {0};
    strbuf_add(&b, token);
    for (int i = 0; i < d->n; i++) {
        const stage *g = &d->stages[i];
        int byte = (g->kind == STAGE_SPM && type == SPM_BYTE) || g->kind == STAGE_BYTE_FALLBACK
                       ? byte_token(strbuf_str(&b))
                       : -1;
        if (byte >= 0) {
            strbuf_clear(&b);
            strbuf_addc(&b, (char)byte);
        }
        if (g->kind == STAGE_FUSE || byte >= 0) break;
        if (g->kind == STAGE_SPM && type == SPM_CONTROL) strbuf_clear(&b);
        if (g->kind == STAGE_SPM) replace_text(&b, STR("\u2581"), STR(" "));
        if (g->kind == STAGE_METASPACE) replace_text(&b, text_of(g), STR(" "));
        if (g->kind == STAGE_BPE && g->text_n) replace_text(&b, text_of(g), STR(" "));
        if (g->kind == STAGE_CTC) replace_text(&b, str_n(g->with, g->with_n), STR(" "));
        if (g->kind == STAGE_REPLACE && !g->fused) {
            decode_stream s = {.d = d};
            strbuf r = {0};
            replace_all(&s, g, strbuf_str(&b), &r);
            match_work_done(&s.match);
            strbuf_done(&b);
            b = r;
        }
        if (g->kind == STAGE_WORDPIECE && str_starts(strbuf_str(&b), text_of(g)) && g->text_n) {
            memmove(b.p, b.p + g->text_n, b.n - g->text_n);
            b.n -= g->text_n;
        }
    }
    strbuf_add(out, strbuf_str(&b));
    strbuf_done(&b);
}

/* ---- from JSON ---- */

static char *own(str t) {
    char *p = mem_alloc(t.n + 1);
    memcpy(p, t.p ? t.p : "", t.n);
    p[t.n] = 0;
    return p;
}

static void set_text(stage *g, str t) {
    g->text = own(t);
    g->text_n = t.n;
}

static void set_with(stage *g, str t) {
    g->with = own(t);
    g->with_n = t.n;
}

static status parse_replace(stage *g, const json_t *j, error *err) {
    json_t *pattern = js_get(j, "pattern");
    str regex = js_get_str(pattern, "Regex"), literal = js_get_str(pattern, "String");
    set_with(g, js_get_str(j, "content"));
    g->kind = STAGE_REPLACE;
    if (regex.p) return matcher_regex(regex, &g->m, err);
    if (!literal.n)
        return error_set(err, ERR_FORMAT, "decoder: Replace needs pattern.Regex or .String");
    g->m = matcher_literal(literal);
    return OK;
}

static status parse_strip(stage *g, const json_t *j, error *err) {
    str c = js_get_str(j, "content");
    int64_t start = js_get_int(j, "start", 0), stop = js_get_int(j, "stop", 0);
    g->kind = STAGE_STRIP;
    if (!c.n || start < 0 || stop < 0 || start > 1 << 20 || stop > 1 << 20)
        return error_set(err, ERR_FORMAT, "decoder: Strip needs content, start and stop");
    set_text(g, c);
    g->start = (int)start;
    g->stop = (int)stop;
    return OK;
}

static status parse_metaspace(stage *g, const json_t *j, error *err) {
    str rep = js_get_str(j, "replacement"), scheme = js_get_str(j, "prepend_scheme");
    g->kind = STAGE_METASPACE;
    set_text(g, rep.n ? rep : STR("\u2581"));
    g->drop_space = scheme.p ? !str_eqz(scheme, "never") : js_get_bool(j, "add_prefix_space", true);
    return OK;
}

static status parse_wordpiece(stage *g, const json_t *j, error *err) {
    str prefix = js_get_str(j, "prefix");
    g->kind = STAGE_WORDPIECE;
    set_text(g, prefix.p ? prefix : STR("##"));
    g->cleanup = js_get_bool(j, "cleanup", true);
    return OK;
}

static status parse_bpe(stage *g, const json_t *j, error *err) {
    str suffix = js_get_str(j, "suffix");
    g->kind = STAGE_BPE;
    set_text(g, suffix.p ? suffix : STR("</w>"));
    return OK;
}

static status parse_ctc(stage *g, const json_t *j, error *err) {
    str pad = js_get_str(j, "pad_token"), delimiter = js_get_str(j, "word_delimiter_token");
    g->kind = STAGE_CTC;
    g->cleanup = js_get_bool(j, "cleanup", true);
    if ((pad.p && !pad.n) || (delimiter.p && !delimiter.n))
        return error_set(err, ERR_FORMAT, "decoder: CTC's tokens are empty");
    set_text(g, pad.p ? pad : STR("<pad>"));
    set_with(g, delimiter.p ? delimiter : STR("|"));
    return OK;
}

static status parse_byte_level(stage *g, const json_t *j, error *err) {
    g->kind = STAGE_BYTE_LEVEL;
    return OK;
}
static status parse_byte_fallback(stage *g, const json_t *j, error *err) {
    g->kind = STAGE_BYTE_FALLBACK;
    return OK;
}
static status parse_fuse(stage *g, const json_t *j, error *err) {
    g->kind = STAGE_FUSE;
    return OK;
}

static status parse(decoder *d, const json_t *j, int depth, error *err) {
    static const struct {
        const char *type;
        status (*parse)(stage *, const json_t *, error *);
    } kinds[] = {
        {"ByteLevel", parse_byte_level},
        {"ByteFallback", parse_byte_fallback},
        {"Fuse", parse_fuse},
        {"Replace", parse_replace},
        {"Strip", parse_strip},
        {"Metaspace", parse_metaspace},
        {"WordPiece", parse_wordpiece},
        {"BPEDecoder", parse_bpe},
        {"CTC", parse_ctc},
    };
    str type = js_get_str(j, "type");
    if (str_eqz(type, "Sequence") && depth < 8) {
        json_t *list = js_get(j, "decoders");
        for (size_t i = 0; i < json_array_size(list); i++)
            TRY(parse(d, json_array_get(list, i), depth + 1, err));
        return OK;
    }
    if (d->n == STAGES_MAX)
        return error_set(err, ERR_UNSUPPORTED, "decoder: more than %d stages", STAGES_MAX);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_eqz(type, kinds[i].type)) return kinds[i].parse(&d->stages[d->n++], j, err);
    return error_set(err, ERR_UNSUPPORTED, "decoder: type \"" STR_FMT "\" is not supported",
                     STR_ARG(type));
}

static void mark_fused(decoder *d) {
    bool fused = false;
    for (int i = 0; i < d->n; i++) {
        stage *g = &d->stages[i];
        g->fused = fused;
        g->whole =
            fused && g->kind != STAGE_FUSE && g->kind != STAGE_STRIP && g->kind != STAGE_METASPACE;
        fused |= g->kind == STAGE_FUSE || g->kind == STAGE_BYTE_LEVEL;
    }
    if (d->n && d->stages[0].kind == STAGE_BYTE_LEVEL) d->stages[0].kind = STAGE_BYTES;
}

static decoder *decoder_single(stage_kind kind) {
    decoder *d = mem_calloc(1, sizeof *d);
    d->stages[d->n++].kind = kind;
    return d;
}

status decoder_new(const json_t *spec, decoder **ret, error *err) {
    if (!spec) {
        *ret = decoder_single(STAGE_JOIN);
        return OK;
    }
    decoder *d = mem_calloc(1, sizeof *d);
    status st = parse(d, spec, 0, err);
    mark_fused(d);
    if (st == OK)
        *ret = d;
    else
        decoder_free(d);
    return st;
}

decoder *decoder_of_bytes(void) {
    return decoder_single(STAGE_BYTES);
}

decoder *decoder_of_spm(bool drop_space, bool drop_all, str unk_surface) {
    decoder *d = decoder_single(STAGE_SPM);
    stage *g = &d->stages[0];
    g->drop_space = drop_space;
    g->drop_all = drop_all;
    set_with(g, unk_surface);
    return d;
}

void decoder_free(decoder *d) {
    if (!d) return;
    for (int i = 0; i < d->n; i++) {
        mem_free(d->stages[i].text);
        mem_free(d->stages[i].with);
        matcher_free(d->stages[i].m);
    }
    mem_free(d);
}
