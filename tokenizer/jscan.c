/* Design: one cursor, no recursion, no tree. jscan_raw() skips a value by counting brackets outside
 * strings, so finding the members of a 9 MB file costs one pass, and only the tables that are
 * wanted are looked at again. A jansson tree of the same file takes one allocation per entry.
 *
 * Invariant: at <= text.n; once `want` is set nothing moves. */
#include "tokenizer/jscan.h"

#include "conf/limits.h"

void jscan_init(jscan *s, str text) {
    *s = (jscan){.text = text};
}

void jscan_done(jscan *s) {
    strbuf_done(&s->buf);
}

static bool fail(jscan *s, const char *want) {
    if (!s->want) s->want = want;
    return false;
}

status jscan_status(const jscan *s, const char *what, error *err) {
    if (!s->want) return OK;
    return error_set(err, ERR_FORMAT, "%s: expected %s at byte %zu", what, s->want, s->at);
}

static void space(jscan *s) {
    while (s->at < s->text.n) {
        char c = s->text.p[s->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
        s->at++;
    }
}

char jscan_peek(jscan *s) {
    space(s);
    return s->at < s->text.n ? s->text.p[s->at] : 0;
}

static bool eat(jscan *s, char c, const char *want) {
    if (s->want) return false;
    if (jscan_peek(s) != c || s->at == s->text.n) return fail(s, want);
    s->at++;
    return true;
}

bool jscan_enter(jscan *s, char open) {
    s->first = true;
    return eat(s, open, open == '{' ? "an object" : "an array");
}

bool jscan_more(jscan *s, char close) {
    if (s->want) return false;
    bool first = s->first;
    s->first = false;
    char c = jscan_peek(s);
    if (c == close) {
        s->at++;
        return false;
    }
    if (first) return true;
    return eat(s, ',', "a comma or the end of the list");
}

static int hex4(const char *p) {
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i] | 0x20;
        int d = p[i] >= '0' && p[i] <= '9' ? p[i] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* The four digits after "\u" (the cursor stands on them), with the low half of a pair. */
static bool unicode_escape(jscan *s) {
    size_t left = s->text.n - s->at;
    const char *p = s->text.p + s->at;
    int v = left >= 4 ? hex4(p) : -1;
    if (v < 0) return fail(s, "four hex digits");
    s->at += 4;
    uint32_t cp = (uint32_t)v;
    if (cp >= 0xD800 && cp < 0xE000) {
        int low = left >= 10 && p[4] == '\\' && p[5] == 'u' ? hex4(p + 6) : -1;
        if (cp >= 0xDC00 || low < 0xDC00 || low > 0xDFFF) return fail(s, "a surrogate pair");
        s->at += 6;
        cp = 0x10000 + ((cp - 0xD800) << 10) + ((uint32_t)low - 0xDC00);
    }
    strbuf_addcp(&s->buf, cp);
    return true;
}

static bool escape(jscan *s) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (s->at >= s->text.n) return fail(s, "an escape");
    char c = s->text.p[s->at++];
    if (c == 'u') return unicode_escape(s);
    const char *f = c ? strchr(from, c) : NULL;
    if (!f) return fail(s, "an escape");
    strbuf_addc(&s->buf, to[f - from]);
    return true;
}

/* End of the run of ordinary characters that starts at `at`. */
static size_t plain_end(const jscan *s, size_t at) {
    const char *p = s->text.p;
    while (at < s->text.n && p[at] != '"' && p[at] != '\\' && (unsigned char)p[at] >= 0x20) at++;
    return at;
}

bool jscan_string(jscan *s, str *ret) {
    if (!eat(s, '"', "a string")) return false;
    size_t end = plain_end(s, s->at);
    if (end < s->text.n && s->text.p[end] == '"') {
        *ret = str_cut(s->text, s->at, end);
        s->at = end + 1;
        return true;
    }
    strbuf_clear(&s->buf);
    for (;;) {
        end = plain_end(s, s->at);
        strbuf_add(&s->buf, str_cut(s->text, s->at, end));
        s->at = end;
        if (end == s->text.n) return fail(s, "the end of a string");
        char c = s->text.p[s->at++];
        if (c == '"') break;
        if (c != '\\') return fail(s, "no control character in a string");
        if (!escape(s)) return false;
    }
    *ret = strbuf_str(&s->buf);
    return true;
}

bool jscan_key(jscan *s, str *ret) {
    return jscan_string(s, ret) && eat(s, ':', "a colon");
}

static str number(jscan *s) {
    jscan_peek(s);
    size_t from = s->at;
    while (s->at < s->text.n && s->text.p[s->at] && strchr("+-.0123456789eE", s->text.p[s->at]))
        s->at++;
    return str_cut(s->text, from, s->at);
}

bool jscan_int(jscan *s, int64_t *ret) {
    if (s->want) return false;
    size_t at = s->at;
    if (str_to_i64(number(s), ret)) return true;
    s->at = at;
    return fail(s, "an integer");
}

static bool skip_string(jscan *s) {
    const char *p = s->text.p;
    size_t i = s->at + 1, n = s->text.n;
    while (i < n && p[i] != '"') i += p[i] == '\\' ? 2 : 1;
    if (i >= n) return fail(s, "the end of a string");
    s->at = i + 1;
    return true;
}

static bool skip_scalar(jscan *s) {
    size_t from = s->at;
    while (s->at < s->text.n && !strchr(" \t\r\n,]}[{\":", s->text.p[s->at])) s->at++;
    return s->at > from || fail(s, "a value");
}

bool jscan_raw(jscan *s, str *ret) {
    if (s->want) return false;
    jscan_peek(s);
    size_t from = s->at;
    int depth = 0;
    do {
        char c = jscan_peek(s);
        if (c == '"') {
            if (!skip_string(s)) return false;
        } else if (c == '{' || c == '[') {
            if (++depth > LIMIT_JSON_DEPTH) return fail(s, "less nesting");
            s->at++;
        } else if (depth && (c == '}' || c == ']')) {
            depth--;
            s->at++;
        } else if (depth && (c == ',' || c == ':'))
            s->at++;
        else if (!skip_scalar(s))
            return false;
    } while (depth);
    *ret = str_cut(s->text, from, s->at);
    return true;
}

status jscan_members(str object, const char *what, const char *const *names, size_t n, str *ret,
                     error *err) {
    jscan s;
    jscan_init(&s, object);
    for (size_t i = 0; i < n; i++) ret[i] = (str){0};
    str key, raw;
    if (jscan_enter(&s, '{')) {
        while (jscan_more(&s, '}')) {
            if (!jscan_key(&s, &key)) break;
            size_t i = 0;
            while (i < n && !str_eqz(key, names[i])) i++;
            if (!jscan_raw(&s, &raw)) break;
            if (i < n) ret[i] = str_eqz(raw, "null") ? (str){0} : raw;
        }
    }
    status st = jscan_status(&s, what, err);
    jscan_done(&s);
    return st;
}
