/* utf8proc decomposes a character and composes a run; the canonical ordering between is done here,
 * since utf8proc's exchanges neighbours, which is quadratic on a long run of marks.
 *
 * Work goes by segments: a segment ends before a character that no normal form joins with what
 * precedes it (a starter that is "safe": see safe()). */
#include "tokenizer/unorm.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/base/vec.h"

typedef VEC(utf8proc_int32_t) cps;

/* Starters that are their own NFC form and never the second part of a composition. */
static bool safe(uint32_t cp) {
    return cp < 0x300 || (cp >= 0x3400 && cp <= 0x9FFF) || (cp >= 0xAC00 && cp <= 0xD7A3) ||
           (cp >= 0x400 && cp <= 0x482) || (cp >= 0x3041 && cp <= 0x3096) ||
           (cp >= 0x309B && cp <= 0x30FF) || (cp >= 0x2010 && cp <= 0x2027) ||
           (cp >= 0x3001 && cp <= 0x3029) || (cp >= 0xFF01 && cp <= 0xFFEE);
}

bool unorm_is_nfc_quick(str t) {
    for (size_t i = 0; i < t.n;) {
        if ((unsigned char)t.p[i] < 0xCC) {
            i++; /* ASCII, and continuation bytes of what was let pass */
            continue;
        }
        uint32_t cp;
        size_t k = utf8_get(t.p + i, t.n - i, &cp);
        if (!k || !safe(cp)) return false;
        i += k;
    }
    return true;
}

static void decompose(uint32_t cp, bool compat, cps *out) {
    int options = UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0), last = 0;
    vec_reserve(out, out->n + 32);
    for (;;) {
        utf8proc_ssize_t room = (utf8proc_ssize_t)(out->cap - out->n),
                         n = utf8proc_decompose_char((utf8proc_int32_t)cp, out->p + out->n, room,
                                                     (utf8proc_option_t)options, &last);
        if (n < 0) return;
        if (n <= room) {
            out->n += (size_t)n;
            return;
        }
        vec_reserve(out, out->n + (size_t)n);
    }
}

static int ccc(utf8proc_int32_t cp) {
    return cp < 0x300 ? 0 : utf8proc_get_property(cp)->combining_class;
}

/* Stable sort of the marks of each run by class: counting, or insertion when short. */
static void reorder_run(utf8proc_int32_t *p, size_t n, cps *tmp) {
    if (n < 16) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t c = p[i];
            size_t k = i;
            for (int cls = ccc(c); k && ccc(p[k - 1]) > cls; k--) p[k] = p[k - 1];
            p[k] = c;
        }
        return;
    }
    size_t at[257] = {0};
    vec_reserve(tmp, n);
    for (size_t i = 0; i < n; i++) at[ccc(p[i]) + 1]++;
    for (int i = 0; i < 256; i++) at[i + 1] += at[i];
    for (size_t i = 0; i < n; i++) tmp->p[at[ccc(p[i])]++] = p[i];
    memcpy(p, tmp->p, n * sizeof *p);
}

static void reorder(cps *v) {
    cps tmp = {0};
    for (size_t i = 0; i < v->n; i++) {
        if (!ccc(v->p[i])) continue;
        size_t from = i;
        while (i < v->n && ccc(v->p[i])) i++;
        if (i - from > 1) reorder_run(v->p + from, i - from, &tmp);
    }
    vec_done(&tmp);
}

static void segment(str t, bool compat, bool compose, cps *v, strbuf *out) {
    v->n = 0;
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        size_t k = utf8_get(t.p + i, t.n - i, &cp);
        if (!k) cp = 0xFFFD;
        decompose(cp, compat, v);
        i += k ? k : 1;
    }
    reorder(v);
    utf8proc_ssize_t n = (utf8proc_ssize_t)v->n;
    if (compose) n = utf8proc_normalize_utf32(v->p, n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < n; i++) strbuf_addcp(out, (uint32_t)v->p[i]);
}

/* End of the segment from `at`: before the next safe character. */
static size_t segment_end(str t, size_t at) {
    uint32_t cp;
    bool first = true;
    for (; at < t.n; first = false) {
        size_t k = utf8_get(t.p + at, t.n - at, &cp);
        if (!first && k && safe(cp)) break;
        at += k ? k : 1;
    }
    return at;
}

void unorm(unorm_form form, str t, strbuf *out) {
    bool compat = form >= UNORM_NFKC, compose = form == UNORM_NFC || form == UNORM_NFKC;
    cps v = {0};
    for (size_t at = 0; at < t.n;) {
        size_t ascii = at;
        while (ascii < t.n && (unsigned char)t.p[ascii] < 128) ascii++;
        if (ascii < t.n && ascii > at) ascii--; /* a mark may follow the last one */
        strbuf_add(out, str_cut(t, at, ascii));
        if (ascii == t.n) break;
        size_t end = segment_end(t, ascii);
        segment(str_cut(t, ascii, end), compat, compose, &v, out);
        at = end;
    }
    vec_done(&v);
}
