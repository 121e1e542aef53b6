/* Two buffers in turns; a step that changes nothing for this text (NFC of ASCII) is not run.
 *
 * Case and accents follow the reference: Lowercase is Unicode's simple plus special lower-casing
 * of single characters, StripAccents drops combining marks (Mn and its kin) and expects NFD
 * before it. */
#include "tokenizer/normalize.h"

#include <utf8proc.h>

#include "engine/base/check.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/bytechars.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/marks.h"
#include "tokenizer/uclass.h"
#include "tokenizer/unorm.h"

#define NORMALIZER_STEPS_MAX 32

typedef struct step step;
struct step {
    void (*run)(const step *s, normal_work *w, str in, strbuf *out);
    unorm_form form;
    bool left, right;                              /* Strip */
    bool clean, chinese, strip_accents, lowercase; /* Bert */
    char *text;                                    /* Prepend, Replace: what is put */
    size_t text_n;
    matcher *m;
    charsmap *map;
};

struct normalizer {
    step steps[NORMALIZER_STEPS_MAX];
    int n;
};

/* ---- steps ---- */

static void trace_changes(trace *t, str in, const strbuf *out) {
    origins_change(t->out, in, t->in, strbuf_str(out), &t->changes, t->none);
}

static void run_unorm(const step *s, normal_work *w, str in, strbuf *out) {
    if (!w->trace.on) {
        unorm(s->form, in, out);
        return;
    }
    w->trace.changes.n = 0;
    unorm_traced(s->form, in, out, &w->trace.changes);
    trace_changes(&w->trace, in, out);
}

static bool is_white(str in, size_t at, size_t *ret_len) {
    uint32_t cp;
    *ret_len = utf8_get(in.p + at, in.n - at, &cp);
    return *ret_len && uclass(cp) & UC_SPACE;
}

static void run_strip(const step *s, normal_work *w, str in, strbuf *out) {
    size_t k;
    const char *begin = in.p;
    while (s->left && in.n && is_white(in, 0, &k)) in = str_cut(in, k, in.n);
    while (s->right && in.n) {
        size_t i = in.n - 1;
        while (i && ((unsigned char)in.p[i] & 0xC0) == 0x80) i--;
        if (!is_white(in, i, &k)) break;
        in.n = i;
    }
    strbuf_add(out, in);
    trace_copy(&w->trace, (size_t)(in.p - begin), in.n);
}

static void run_prepend(const step *s, normal_work *w, str in, strbuf *out) {
    if (!in.n) return;
    strbuf_add(out, str_n(s->text, s->text_n));
    trace_put(&w->trace, out, 0);
    strbuf_add(out, in);
    trace_copy(&w->trace, 0, in.n);
}

static void run_replace(const step *s, normal_work *w, str in, strbuf *out) {
    size_t at = 0, prev = 0, from, to;
    trace *t = &w->trace;
    while (at <= in.n && matcher_find(s->m, &w->match, in, at, &from, &to)) {
        strbuf_add(out, str_cut(in, prev, from));
        trace_copy(t, prev, from - prev);
        strbuf_add(out, str_n(s->text, s->text_n));
        if (t->on) origins_fill(t->out, out->n, to ? t->in[to - 1] : t->none);
        prev = at = to;
        if (from != to) continue;
        uint32_t cp;
        size_t k = at < in.n ? utf8_get(in.p + at, in.n - at, &cp) : 1;
        at += k ? k : 1;
    }
    if (prev >= in.n) return;
    strbuf_add(out, str_cut(in, prev, in.n));
    trace_copy(t, prev, in.n - prev);
}

/* One character in lower case: U+0130 is the only one that becomes two; a final sigma is not
 * told apart, as in the reference, which lowers character by character. */
static void add_lower(strbuf *out, uint32_t cp) {
    if (cp == 0x130) {
        strbuf_addcp(out, 'i');
        strbuf_addcp(out, 0x307);
    } else
        strbuf_addcp(out, cp < 128 ? (cp >= 'A' && cp <= 'Z' ? cp + 32 : cp)
                                   : (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
}

static inline void each_char(trace *t, str in, strbuf *out, void (*add)(strbuf *, uint32_t)) {
    const bool traced = t->on;
    for (size_t i = 0; i < in.n;) {
        uint32_t cp;
        size_t k = utf8_get(in.p + i, in.n - i, &cp);
        add(out, k ? cp : 0xFFFD);
        if (traced) trace_put(t, out, i);
        i += k ? k : 1;
    }
}

static void run_lowercase(const step *s, normal_work *w, str in, strbuf *out) {
    each_char(&w->trace, in, out, add_lower);
}

static void add_unaccented(strbuf *out, uint32_t cp) {
    if (!mark_is_accent(cp)) strbuf_addcp(out, cp);
}

static void run_strip_accents(const step *s, normal_work *w, str in, strbuf *out) {
    each_char(&w->trace, in, out, add_unaccented);
}

/* Nmt: control characters go, every kind of white space becomes a space. */
static void add_nmt(strbuf *out, uint32_t cp) {
    bool gone = (cp >= 1 && cp <= 8) || cp == 0xB || (cp >= 0xE && cp <= 0x1F) || cp == 0x7F ||
                cp == 0x8F || cp == 0x9F;
    bool space = cp == 9 || cp == 0xA || cp == 0xC || cp == 0xD || cp == 0x1680 ||
                 (cp >= 0x200B && cp <= 0x200F) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
                 cp == 0xFEFF || cp == 0xFFFD;
    if (!gone) strbuf_addcp(out, space ? ' ' : cp);
}

static void run_nmt(const step *s, normal_work *w, str in, strbuf *out) {
    each_char(&w->trace, in, out, add_nmt);
}

static void run_charsmap(const step *s, normal_work *w, str in, strbuf *out) {
    w->trace.changes.n = 0;
    charsmap_graphemes(s->map, in, out, w->trace.on ? &w->trace.changes : NULL);
    if (w->trace.on) trace_changes(&w->trace, in, out);
}

static bool is_chinese(uint32_t cp) {
    return (cp >= 0x4E00 && cp <= 0x9FFF) || (cp >= 0x3400 && cp <= 0x4DBF) ||
           (cp >= 0x20000 && cp <= 0x2A6DF) || (cp >= 0x2A700 && cp <= 0x2B73F) ||
           (cp >= 0x2B740 && cp <= 0x2B81F) || (cp >= 0x2B920 && cp <= 0x2CEAF) ||
           (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x2F800 && cp <= 0x2FA1F);
}

static void bert_clean(const step *s, trace *t, str in, strbuf *out) {
    const bool traced = t->on;
    for (size_t i = 0; i < in.n;) {
        uint32_t cp;
        size_t k = utf8_get(in.p + i, in.n - i, &cp), at = i;
        if (!k) cp = 0xFFFD;
        i += k ? k : 1;
        bool white = cp == '\t' || cp == '\n' || cp == '\r' || uclass(cp) & UC_SPACE;
        bool control = !(cp == '\t' || cp == '\n' || cp == '\r') && uclass(cp) & UC_CTRL;
        if (s->clean && (cp == 0 || cp == 0xFFFD || control)) continue;
        if (s->clean && white) cp = ' ';
        bool wide = s->chinese && is_chinese(cp);
        if (wide) strbuf_addc(out, ' ');
        strbuf_addcp(out, cp);
        if (wide) strbuf_addc(out, ' ');
        if (traced) trace_put(t, out, at);
    }
}

static void add_unaccented_bert(strbuf *out, uint32_t cp) {
    if (!mark_is_bert_accent(cp)) strbuf_addcp(out, cp);
}

/* What was written becomes what is read: text and its origins. */
static str turn(trace *t, origins *old, const strbuf *text) {
    if (t->on) {
        vec_done(old);
        *old = *t->out;
        *t->out = (origins){0};
        t->in = old->p;
    }
    return strbuf_str(text);
}

/* All of it for ASCII in one go; false (nothing written) if there is anything else. */
static bool bert_ascii(const step *s, str in, strbuf *out) {
    strbuf_reserve(out, in.n + 1);
    char *p = out->p + out->n;
    for (size_t i = 0; i < in.n; i++) {
        unsigned char c = (unsigned char)in.p[i];
        if (c >= 128) return false;
        unsigned class = uclass_ascii[c];
        bool line = c == '\t' || c == '\n' || c == '\r';
        if (s->clean && (c == 0 || (!line && class & UC_CTRL))) continue;
        if (s->clean && (line || class & UC_SPACE)) c = ' ';
        if (s->lowercase && c >= 'A' && c <= 'Z') c += 32;
        *p++ = (char)c;
    }
    *p = 0;
    out->n = (size_t)(p - out->p);
    return true;
}

static void run_bert(const step *s, normal_work *w, str in, strbuf *out) {
    static const step nfd = {.form = UNORM_NFD};
    strbuf a = {0}, b = {0}, c = {0};
    trace *t = &w->trace;
    origins old = {0};
    if (!t->on && bert_ascii(s, in, out)) return;
    bert_clean(s, t, in, &a);
    str text = strbuf_str(&a);
    if (s->strip_accents) {
        text = turn(t, &old, &a);
        run_unorm(&nfd, w, text, &b);
        text = turn(t, &old, &b);
        each_char(t, text, &c, add_unaccented_bert);
        text = strbuf_str(&c);
    }
    if (s->lowercase) {
        turn(t, &old, &c);
        each_char(t, text, out, add_lower);
    } else
        strbuf_add(out, text);
    strbuf_done(&a);
    strbuf_done(&b);
    strbuf_done(&c);
    vec_done(&old);
}

static void run_byte_level(const step *s, normal_work *w, str in, strbuf *out) {
    for (size_t i = 0; i < in.n; i++) {
        bytechars_encode(str_cut(in, i, i + 1), out);
        trace_put(&w->trace, out, i);
    }
}

#define BLANK_MAX 80

/* The longest blanks first, as the reference replaces them: of 81 spaces 80 and one. */
static void run_blanks(const step *s, normal_work *w, str in, strbuf *out) {
    for (size_t at = 0, k; at < in.n; at += k) {
        k = 1;
        while (in.p[at] == ' ' && k < BLANK_MAX && at + k < in.n && in.p[at + k] == ' ') k++;
        if (k > 1)
            strbuf_addf(out, "<|blank_%zu|>", k);
        else if (in.p[at] == '\n')
            strbuf_addz(out, "<n>");
        else if (in.p[at] == '\t')
            strbuf_addz(out, "<|tab|>");
        else
            strbuf_addc(out, in.p[at]);
        if (!w->trace.on) continue;
        origin first = w->trace.in[at], last = w->trace.in[at + k - 1];
        origins_fill(w->trace.out, out->n, (origin){first.from, last.to});
    }
}

normalizer *normalizer_of_blanks(void) {
    normalizer *n = mem_calloc(1, sizeof *n);
    n->steps[n->n++].run = run_blanks;
    return n;
}

/* ---- run ---- */

void normal_work_done(normal_work *w) {
    strbuf_done(&w->text[0]);
    strbuf_done(&w->text[1]);
    match_work_done(&w->match);
    trace_done(&w->trace);
}

str normalizer_run(const normalizer *n, normal_work *w, str text) {
    for (int i = 0; i < n->n; i++) {
        const step *s = &n->steps[i];
        if (s->run == run_unorm && s->form == UNORM_NFC && unorm_is_nfc_quick(text)) continue;
        int turn = text.p == w->text[0].p;
        strbuf *out = &w->text[turn];
        strbuf_clear(out);
        strbuf_reserve(out, text.n + 16);
        w->trace.out = &w->trace.buf[turn];
        w->trace.out->n = 0;
        s->run(s, w, text, out);
        text = strbuf_str(out);
        CHECK(!w->trace.on || w->trace.out->n == text.n);
        if (w->trace.on) w->trace.in = w->trace.out->p;
    }
    return text;
}

/* ---- from JSON ---- */

static void own_text(step *s, str t) {
    s->text = mem_alloc(t.n + 1);
    memcpy(s->text, t.p ? t.p : "", t.n);
    s->text_n = t.n;
}

static status parse_form(step *s, const json_t *j, error *err) {
    str t = js_get_str(j, "type");
    s->run = run_unorm;
    s->form = str_eqz(t, "NFC")    ? UNORM_NFC
              : str_eqz(t, "NFD")  ? UNORM_NFD
              : str_eqz(t, "NFKC") ? UNORM_NFKC
                                   : UNORM_NFKD;
    return OK;
}

static status parse_strip(step *s, const json_t *j, error *err) {
    s->run = run_strip;
    s->left = js_get_bool(j, "strip_left", true);
    s->right = js_get_bool(j, "strip_right", true);
    return OK;
}

static status parse_prepend(step *s, const json_t *j, error *err) {
    s->run = run_prepend;
    own_text(s, js_get_str(j, "prepend"));
    return OK;
}

static status parse_replace(step *s, const json_t *j, error *err) {
    json_t *pattern = js_get(j, "pattern");
    str regex = js_get_str(pattern, "Regex"), literal = js_get_str(pattern, "String");
    s->run = run_replace;
    own_text(s, js_get_str(j, "content"));
    if (regex.p) return matcher_regex(regex, &s->m, err);
    if (!literal.n)
        return error_set(err, ERR_FORMAT, "normalizer: Replace needs pattern.Regex or .String");
    s->m = matcher_literal(literal);
    return OK;
}

static status parse_bert(step *s, const json_t *j, error *err) {
    s->run = run_bert;
    s->clean = js_get_bool(j, "clean_text", true);
    s->chinese = js_get_bool(j, "handle_chinese_chars", true);
    s->lowercase = js_get_bool(j, "lowercase", true);
    s->strip_accents = js_get_bool(j, "strip_accents", s->lowercase);
    return OK;
}

static status parse_charsmap(step *s, const json_t *j, error *err) {
    str b64 = js_get_str(j, "precompiled_charsmap");
    s->run = run_charsmap;
    return charsmap_from_base64(b64, &s->map, err);
}

static status parse_byte_level(step *s, const json_t *j, error *err) {
    s->run = run_byte_level;
    return OK;
}
static status parse_lowercase(step *s, const json_t *j, error *err) {
    s->run = run_lowercase;
    return OK;
}
static status parse_strip_accents(step *s, const json_t *j, error *err) {
    s->run = run_strip_accents;
    return OK;
}
static status parse_nmt(step *s, const json_t *j, error *err) {
    s->run = run_nmt;
    return OK;
}

static status parse(normalizer *n, const json_t *j, int depth, error *err) {
    static const struct {
        const char *type;
        status (*parse)(step *, const json_t *, error *);
    } kinds[] = {
        {"NFC", parse_form},
        {"NFD", parse_form},
        {"NFKC", parse_form},
        {"NFKD", parse_form},
        {"Strip", parse_strip},
        {"Prepend", parse_prepend},
        {"Replace", parse_replace},
        {"Lowercase", parse_lowercase},
        {"Nmt", parse_nmt},
        {"StripAccents", parse_strip_accents},
        {"BertNormalizer", parse_bert},
        {"Precompiled", parse_charsmap},
        {"ByteLevel", parse_byte_level},
    };
    str type = js_get_str(j, "type");
    if (str_eqz(type, "Sequence") && depth < 8) {
        json_t *list = js_get(j, "normalizers");
        for (size_t i = 0; i < json_array_size(list); i++)
            TRY(parse(n, json_array_get(list, i), depth + 1, err));
        return OK;
    }
    if (n->n == NORMALIZER_STEPS_MAX)
        return error_set(err, ERR_UNSUPPORTED, "normalizer: more than %d steps",
                         NORMALIZER_STEPS_MAX);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_eqz(type, kinds[i].type)) return kinds[i].parse(&n->steps[n->n++], j, err);
    return error_set(err, ERR_UNSUPPORTED, "normalizer: type \"" STR_FMT "\" is not supported",
                     STR_ARG(type));
}

status normalizer_new(const json_t *spec, normalizer **ret, error *err) {
    normalizer *n = mem_calloc(1, sizeof *n);
    status st = spec ? parse(n, spec, 0, err) : OK;
    if (st == OK)
        *ret = n;
    else
        normalizer_free(n);
    return st;
}

void normalizer_free(normalizer *n) {
    if (!n) return;
    for (int i = 0; i < n->n; i++) {
        mem_free(n->steps[i].text);
        matcher_free(n->steps[i].m);
        charsmap_free(n->steps[i].map);
    }
    mem_free(n);
}
