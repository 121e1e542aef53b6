/* Patterns are compiled once by the C library; what differs between the dialects is rewritten, and
 * what cannot be is refused rather than read as something else. */
#include "engine/quant_match.h"

#include <ctype.h>
#include <stdlib.h>

#include "engine/base/mem.h"

#define PATTERN_BYTES 512
#define REPEAT_MAX    255

/* The number after '{' or ',' is small. */
static bool repeat_ok(str p, size_t at) {
    size_t n = 0;
    int value = 0;
    while (at + n < p.n && isdigit((unsigned char)p.p[at + n]) && n < 4)
        value = value * 10 + (p.p[at + n++] - '0');
    return n < 4 && value <= REPEAT_MAX;
}

/* Append the piece at p[i]; returns how many bytes it was, 0 if it has no POSIX form. */
static size_t translate_piece(str p, size_t i, bool in_class, strbuf *out) {
    char c = p.p[i], next = i + 1 < p.n ? p.p[i + 1] : 0;
    if (c == '\\') {
        if (next == 'd')
            strbuf_addz(out, in_class ? "0-9" : "[0-9]");
        else if (isdigit((unsigned char)next) || (isalpha((unsigned char)next) && in_class))
            return 0;
        else if (isalpha((unsigned char)next) && !strchr("wWsSbB", next))
            return 0;
        else if (in_class)
            strbuf_addc(out, next);
        else
            strbuf_addf(out, "\\%c", next);
        return next ? 2 : 0;
    }
    if (!in_class && c == '(' && next == '?') {
        if (i + 2 >= p.n || p.p[i + 2] != ':') return 0;
        strbuf_addc(out, '(');
        return 3;
    }
    if (!in_class && c == '{' && !repeat_ok(p, i + 1)) return 0;
    if (!in_class && c == ',' && !repeat_ok(p, i + 1)) return 0;
    strbuf_addc(out, c);
    return !in_class && strchr("*+?}", c) && next == '?' ? 2 : 1;
}

static bool translate(str p, strbuf *out) {
    bool in_class = false;
    strbuf_addz(out, "^(");
    for (size_t i = 0, n; i < p.n; i += n) {
        n = translate_piece(p, i, in_class, out);
        if (n == 0) return false;
        if (p.p[i] == '[' && !in_class) {
            in_class = true;
            if (i + 1 < p.n && p.p[i + 1] == ']') return false;
        } else if (p.p[i] == ']')
            in_class = false;
    }
    strbuf_addc(out, ')');
    return !in_class;
}

status name_pattern_init(name_pattern *p, str text, bool is_regex, error *err) {
    strbuf posix = {0};
    *p = (name_pattern){.is_regex = is_regex};
    if (memchr(text.p, 0, text.n) || text.n > PATTERN_BYTES)
        return error_set(err, ERR_INVALID, "a name pattern of %zu bytes, or with a NUL", text.n);
    if (is_regex &&
        (!translate(text, &posix) || regcomp(&p->regex, posix.p, REG_EXTENDED | REG_NOSUB) != 0)) {
        strbuf_done(&posix);
        return error_set(err, ERR_UNSUPPORTED, "the pattern \"" STR_FMT "\" cannot be read here",
                         STR_ARG(text));
    }
    strbuf_done(&posix);
    p->text = mem_alloc(text.n + 1);
    memcpy(p->text, text.p, text.n);
    p->text[text.n] = 0;
    return OK;
}

void name_pattern_done(name_pattern *p) {
    if (p->is_regex && p->text) regfree(&p->regex);
    mem_free(p->text);
    *p = (name_pattern){0};
}

bool name_pattern_is(const name_pattern *p, const char *name) {
    if (p->is_regex) return regexec(&p->regex, name, 0, NULL, 0) == 0;
    return strcmp(p->text, name) == 0;
}

bool name_pattern_in(const name_pattern *p, const char *name) {
    size_t n = strlen(p->text);
    if (name_pattern_is(p, name)) return true;
    if (p->is_regex || n == 0) return false;
    for (const char *at = name; (at = strstr(at, p->text)); at++)
        if ((at == name || at[-1] == '.') && (at[n] == 0 || at[n] == '.')) return true;
    return false;
}
