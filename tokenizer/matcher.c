/* Oniguruma's Ruby syntax and PCRE2 agree on what tokenizer files use, except: ^ and $ always match
 * at line ends (PCRE2_MULTILINE), a class may nest ("[^a[bc]]" is a union; flattened here), "&&"
 * intersects classes and \h means a hex digit (both refused). $ in Ruby also matches before a final
 * newline, as in PCRE2's multi-line mode.
 *
 * JIT runs on its own stack (up to 1 MiB); a match that does not fit is run again by the
 * interpreter, whose memory is on the heap and bounded. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/matcher.h"

#include <pcre2.h>

#include "engine/base/mem.h"
#include "tokenizer/scan.h"

#define JIT_STACK_MAX ((size_t)1 << 20)

struct matcher {
    scan scan;        /* what: SCAN_NONE when code or literal serves */
    pcre2_code *code; /* NULL: literal */
    char *literal;
    size_t literal_n;
    bool jit;
};

void matcher_free(matcher *m) {
    if (!m) return;
    pcre2_code_free(m->code);
    mem_free(m->literal);
    mem_free(m);
}

matcher *matcher_literal(str text) {
    matcher *m = mem_calloc(1, sizeof *m);
    m->literal = mem_alloc(text.n + 1);
    m->literal_n = text.n;
    memcpy(m->literal, text.p, text.n);
    return m;
}

static status refuse(str pattern, const char *why, error *err) {
    return error_set(err, ERR_UNSUPPORTED,
                     "regular expression \"" STR_FMT "\": %s is not supported",
                     STR_ARG(str_cut(pattern, 0, MIN(pattern.n, 200))), why);
}

/* Copy one "[...]" that starts at *at, flattening nested classes that are not negated. */
static status translate_class(str p, size_t *at, strbuf *out, error *err) {
    int depth = 0;
    size_t i = *at;
    do {
        char c = p.p[i];
        if (c == '\\' && i + 1 < p.n) {
            if (p.p[i + 1] == 'h' || p.p[i + 1] == 'H') return refuse(p, "\\h", err);
            strbuf_add(out, str_cut(p, i, i + 2));
            i += 2;
            continue;
        }
        if (c == '[' && i + 1 < p.n && p.p[i + 1] == ':') {
            ptrdiff_t end = str_find(p, STR(":]"), i);
            if (end < 0) return refuse(p, "an unfinished [: :]", err);
            strbuf_add(out, str_cut(p, i, (size_t)end + 2));
            i = (size_t)end + 2;
            continue;
        }
        if (c == '&' && i + 1 < p.n && p.p[i + 1] == '&')
            return refuse(p, "an intersection of classes (&&)", err);
        if (c == '[') {
            if (depth++) {
                if (i + 1 < p.n && p.p[i + 1] == '^')
                    return refuse(p, "a negated class inside a class", err);
                c = 0;
            }
        } else if (c == ']' && --depth)
            c = 0;
        if (c) strbuf_addc(out, c);
        i++;
        if (depth == 1 && c == '[' && i < p.n && p.p[i] == '^') strbuf_addc(out, p.p[i++]);
    } while (depth && i < p.n);
    *at = i;
    return OK;
}

static status translate(str p, strbuf *out, error *err) {
    for (size_t i = 0; i < p.n;) {
        if (p.p[i] == '[') {
            TRY(translate_class(p, &i, out, err));
        } else if (p.p[i] == '\\' && i + 1 < p.n) {
            if (p.p[i + 1] == 'h' || p.p[i + 1] == 'H') return refuse(p, "\\h", err);
            strbuf_add(out, str_cut(p, i, i + 2));
            i += 2;
        } else
            strbuf_addc(out, p.p[i++]);
    }
    return OK;
}

status matcher_regex_plain(str pattern, matcher **ret, error *err) {
    strbuf b = {0};
    strbuf_reserve(&b, pattern.n + 1);
    status st = translate(pattern, &b, err);
    if (st != OK) {
        strbuf_done(&b);
        return st;
    }
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)b.p, b.n, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                   &code, &at, NULL);
    strbuf_done(&b);
    if (!re) {
        char text[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        return error_set(err, ERR_FORMAT, "regular expression \"" STR_FMT "\": %s (at byte %zu)",
                         STR_ARG(str_cut(pattern, 0, MIN(pattern.n, 200))), text, at);
    }
    matcher *m = mem_calloc(1, sizeof *m);
    m->code = re;
    m->jit = pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0;
    *ret = m;
    return OK;
}

status matcher_regex(str pattern, matcher **ret, error *err) {
    scan s = scan_of_pattern(pattern);
    if (s.kind == SCAN_NONE) return matcher_regex_plain(pattern, ret, err);
    matcher *m = mem_calloc(1, sizeof *m);
    m->scan = s;
    *ret = m;
    return OK;
}

const char *matcher_scanner(const matcher *m) {
    return scan_name(&m->scan);
}

void match_work_done(match_work *w) {
    pcre2_match_data_free(w->data);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    *w = (match_work){0};
}

static void prepare(match_work *w) {
    w->data = pcre2_match_data_create(1, NULL);
    w->context = pcre2_match_context_create(NULL);
    w->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_MAX, NULL);
    if (w->context && w->stack) pcre2_jit_stack_assign(w->context, NULL, w->stack);
}

static bool find_regex(const matcher *m, match_work *w, str text, size_t from, size_t *start,
                       size_t *end) {
    if (!w->data) prepare(w);
    PCRE2_SPTR p = (PCRE2_SPTR)(text.p ? text.p : "");
    int rc = m->jit ? pcre2_jit_match(m->code, p, text.n, from, 0, w->data, w->context)
                    : PCRE2_ERROR_JIT_STACKLIMIT;
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(m->code, p, text.n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->data,
                         w->context);
    if (rc < 0) {
        w->failed |= rc != PCRE2_ERROR_NOMATCH;
        return false;
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(w->data);
    *start = o[0];
    *end = o[1];
    return true;
}

bool matcher_find(const matcher *m, match_work *w, str text, size_t from, size_t *ret_start,
                  size_t *ret_end) {
    if (m->scan.kind != SCAN_NONE) return scan_find(&m->scan, text, from, ret_start, ret_end);
    if (m->code) return find_regex(m, w, text, from, ret_start, ret_end);
    ptrdiff_t at = str_find(text, str_n(m->literal, m->literal_n), from);
    if (at < 0) return false;
    *ret_start = (size_t)at;
    *ret_end = (size_t)at + m->literal_n;
    return true;
}
