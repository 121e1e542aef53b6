/* Slices and growing buffers. Growth doubles; JSON escaping copies runs, not bytes. */
#include "engine/base/str.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

bool str_starts(str s, str x) {
    return s.n >= x.n && str_eq(str_cut(s, 0, x.n), x);
}
bool str_ends(str s, str x) {
    return s.n >= x.n && str_eq(str_cut(s, s.n - x.n, s.n), x);
}

ptrdiff_t str_find(str s, str needle, size_t from) {
    if (from > s.n) return -1;
    if (needle.n == 0) return (ptrdiff_t)from;
    if (needle.n > s.n - from) return -1; /* and so never NULL to memmem */
    const char *hit = memmem(s.p + from, s.n - from, needle.p, needle.n);
    return hit ? hit - s.p : -1;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

str str_trim(str s) {
    while (s.n && is_space(s.p[0])) s.p++, s.n--;
    while (s.n && is_space(s.p[s.n - 1])) s.n--;
    return s;
}

bool str_to_i64(str s, int64_t *ret) {
    char buf[32];
    if (s.n == 0 || s.n >= sizeof buf || is_space(s.p[0])) return false;
    memcpy(buf, s.p, s.n);
    buf[s.n] = 0;
    char *end;
    errno = 0;
    long long v = strtoll(buf, &end, 10);
    if (errno || end != buf + s.n) return false;
    *ret = v;
    return true;
}

bool str_to_f64(str s, double *ret) {
    char buf[64];
    if (s.n == 0 || s.n >= sizeof buf || is_space(s.p[0])) return false;
    memcpy(buf, s.p, s.n);
    buf[s.n] = 0;
    char *end;
    double v = strtod(buf, &end);
    if (end != buf + s.n || !isfinite(v)) return false;
    *ret = v;
    return true;
}

int str_distance(str a, str b) {
    enum { LIMIT = 64 };
    if (a.n > LIMIT || b.n > LIMIT) return LIMIT + 1;
    int row[LIMIT + 1];
    for (size_t j = 0; j <= b.n; j++) row[j] = (int)j;
    for (size_t i = 1; i <= a.n; i++) {
        int diag = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= b.n; j++) {
            int up = row[j], cost = diag + (a.p[i - 1] != b.p[j - 1]);
            row[j] = MIN(cost, MIN(up, row[j - 1]) + 1);
            diag = up;
        }
    }
    return row[b.n];
}

void strbuf_done(strbuf *b) {
    mem_free(b->p);
    *b = (strbuf){0};
}

bool strbuf_reserve(strbuf *b, size_t more) {
    size_t need;
    if (b->full || !add_ok(b->n, more, &need) || (b->max && need > b->max)) {
        b->full = true;
        return false;
    }
    if (need + 1 <= b->cap) return true;
    size_t cap = MAX(b->cap * 2, need + 1);
    b->p = mem_realloc(b->p, MAX(cap, 64));
    b->cap = MAX(cap, 64);
    return true;
}

bool strbuf_add(strbuf *b, str s) {
    if (!strbuf_reserve(b, s.n)) return false;
    if (s.n) memcpy(b->p + b->n, s.p, s.n);
    b->n += s.n;
    b->p[b->n] = 0;
    return true;
}

bool strbuf_addc(strbuf *b, char c) {
    return strbuf_add(b, (str){&c, 1});
}

bool strbuf_addf(strbuf *b, const char *fmt, ...) {
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    bool ok = n >= 0 && strbuf_reserve(b, (size_t)n);
    if (ok) {
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap2);
        b->n += (size_t)n;
    }
    va_end(ap2);
    return ok;
}

bool strbuf_addcp(strbuf *b, uint32_t cp) {
    char u[4];
    return strbuf_add(b, (str){u, utf8_put(cp, u)});
}

static bool add_escape(strbuf *b, unsigned char c) {
    switch (c) {
    case '"': return strbuf_addz(b, "\\\"");
    case '\\': return strbuf_addz(b, "\\\\");
    case '\n': return strbuf_addz(b, "\\n");
    case '\r': return strbuf_addz(b, "\\r");
    case '\t': return strbuf_addz(b, "\\t");
    case '\b': return strbuf_addz(b, "\\b");
    case '\f': return strbuf_addz(b, "\\f");
    default: return strbuf_addf(b, "\\u%04x", c);
    }
}

bool strbuf_add_json(strbuf *b, str s) {
    strbuf_addc(b, '"');
    size_t run = 0, i = 0;
    while (i < s.n) {
        unsigned char c = (unsigned char)s.p[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c < 0x80) {
            i++;
            continue;
        }
        uint32_t cp;
        size_t len = c < 0x80 ? 0 : utf8_get(s.p + i, s.n - i, &cp);
        bool breaks_lines = len && (cp == 0x85 || cp == 0x2028 || cp == 0x2029);
        if (len && !breaks_lines) {
            i += len;
            continue;
        }
        strbuf_add(b, str_cut(s, run, i));
        if (breaks_lines)
            strbuf_addf(b, "\\u%04x", cp);
        else if (c < 0x80)
            add_escape(b, c);
        else
            strbuf_addz(b, "\xEF\xBF\xBD");
        i += len ? len : 1;
        run = i;
    }
    strbuf_add(b, str_cut(s, run, s.n));
    return strbuf_addc(b, '"');
}

char *strbuf_take(strbuf *b) {
    char *p = b->p ? b->p : mem_strdup("");
    *b = (strbuf){.max = b->max};
    return p;
}
