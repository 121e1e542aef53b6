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

/* ---- traced ---- */

typedef struct traced_char {
    utf8proc_int32_t cp;
    int32_t change;
} traced_char;
typedef VEC(traced_char) traced_chars;

/* Stable by class within runs of marks. Runs are short where offsets are asked for; a long one is
 * sorted by merging. */
static int by_class(const void *a, const void *b) {
    const traced_char *const *x = a, *const *y = b;
    int p = ccc((*x)->cp), q = ccc((*y)->cp);
    return p != q ? p - q : (*x > *y) - (*x < *y);
}

static void reorder_traced(traced_chars *v) {
    for (size_t i = 0; i < v->n; i++) {
        size_t from = i;
        while (i < v->n && ccc(v->p[i].cp)) i++;
        size_t n = i - from;
        if (n < 2) continue;
        traced_char *copy = mem_alloc(n * sizeof *copy), **order = mem_alloc(n * sizeof *order);
        memcpy(copy, v->p + from, n * sizeof *copy);
        for (size_t k = 0; k < n; k++) order[k] = &copy[k];
        qsort(order, n, sizeof *order, by_class);
        for (size_t k = 0; k < n; k++) v->p[from + k] = *order[k];
        mem_free(order);
        mem_free(copy);
    }
}

/* The composition of two characters, 0 if there is none. */
static utf8proc_int32_t pair(utf8proc_int32_t a, utf8proc_int32_t b) {
    utf8proc_int32_t v[2] = {a, b};
    bool one = utf8proc_normalize_utf32(v, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) == 1;
    return one ? v[0] : 0;
}

/* In place: a starter takes in what follows it and is not blocked by a mark of its class or higher
 * between. */
static void compose_traced(traced_chars *v) {
    size_t starter = SIZE_MAX, n = 0;
    int last = -1; /* class of the last one kept behind the starter; -1: none */
    for (size_t i = 0; i < v->n; i++) {
        traced_char c = v->p[i];
        int class = ccc(c.cp);
        bool free = starter != SIZE_MAX && last < class && (last != 0 || class == 0);
        utf8proc_int32_t r = free ? pair(v->p[starter].cp, c.cp) : 0;
        if (r) {
            v->p[starter] = (traced_char){r, v->p[starter].change + c.change - 1};
            continue;
        }
        if (!class) starter = n;
        last = class ? class : -1;
        v->p[n++] = c;
    }
    v->n = n;
}

void unorm_traced(unorm_form form, str t, strbuf *out, vec_i32 *changes) {
    bool compat = form >= UNORM_NFKC, compose = form == UNORM_NFC || form == UNORM_NFKC;
    cps one = {0};
    traced_chars v = {0};
    for (size_t i = 0; i < t.n;) {
        uint32_t cp;
        size_t k = utf8_get(t.p + i, t.n - i, &cp);
        one.n = 0;
        decompose(k ? cp : 0xFFFD, compat, &one);
        for (size_t d = 0; d < one.n; d++) vec_push(&v, ((traced_char){one.p[d], d > 0}));
        i += k ? k : 1;
    }
    reorder_traced(&v);
    if (compose) compose_traced(&v);
    for (size_t i = 0; i < v.n; i++) {
        strbuf_addcp(out, (uint32_t)v.p[i].cp);
        vec_push(changes, v.p[i].change);
    }
    vec_done(&one);
    vec_done(&v);
}
