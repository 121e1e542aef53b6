/* The double array: unit = offset(22 bits, shifted) | leaf flag | label, as darts-clone writes it.
 * Every step is checked against the array's length, so a damaged map yields no match, never a read
 * outside. */
#include "tokenizer/charsmap.h"

#include <utf8proc.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

struct charsmap {
    uint32_t *units;
    uint32_t n_units;
    char *text; /* replacements; text[n_text] is NUL */
    size_t n_text;
};

static uint32_t load32(const char *p) {
    const unsigned char *u = (const unsigned char *)p;
    return u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

status charsmap_new(str blob, charsmap **ret, error *err) {
    uint32_t bytes = blob.n >= 4 ? load32(blob.p) : 0;
    if (blob.n < 4 || bytes % 4 || bytes > blob.n - 4)
        return error_set(err, ERR_FORMAT,
                         "precompiled_charsmap: %zu bytes do not hold a trie of %u bytes", blob.n,
                         bytes);
    charsmap *m = mem_calloc(1, sizeof *m);
    m->n_units = bytes / 4;
    m->units = mem_alloc(bytes + 1);
    for (uint32_t i = 0; i < m->n_units; i++) m->units[i] = load32(blob.p + 4 + 4 * (size_t)i);
    m->n_text = blob.n - 4 - bytes;
    m->text = mem_alloc(m->n_text + 1);
    memcpy(m->text, blob.p + 4 + bytes, m->n_text);
    m->text[m->n_text] = 0;
    *ret = m;
    return OK;
}

bool base64_decode(str s, strbuf *out) {
    uint32_t acc = 0;
    int bits = 0;
    while (s.n && s.p[s.n - 1] == '=') s.n--;
    strbuf_reserve(out, s.n);
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        int v = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '+'             ? 62
                : c == '/'             ? 63
                                       : -1;
        if (v < 0) return false;
        acc = acc << 6 | (uint32_t)v;
        bits += 6;
        if (bits >= 8) strbuf_addc(out, (char)(acc >> (bits -= 8)));
    }
    return bits < 6;
}

status charsmap_from_base64(str text, charsmap **ret, error *err) {
    strbuf b = {0};
    status st = base64_decode(text, &b)
                    ? charsmap_new(strbuf_str(&b), ret, err)
                    : error_set(err, ERR_FORMAT, "precompiled_charsmap is not base64");
    strbuf_done(&b);
    return st;
}

void charsmap_free(charsmap *m) {
    if (!m) return;
    mem_free(m->units);
    mem_free(m->text);
    mem_free(m);
}

static uint32_t offset_of(uint32_t unit) {
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/* Walk s; calls for each entry on the way are folded into "longest" or "first". */
static size_t walk(const charsmap *m, str s, bool longest, str *ret) {
    size_t taken = 0;
    if (!m->n_units) return 0;
    uint32_t at = offset_of(m->units[0]);
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = (uint8_t)s.p[i];
        at ^= c;
        if (at >= m->n_units) break;
        uint32_t unit = m->units[at];
        if ((unit & ((1u << 31) | 0xFF)) != c) break;
        at ^= offset_of(unit);
        if (!(unit >> 8 & 1)) continue;
        if (at >= m->n_units) break;
        uint32_t value = m->units[at] & 0x7FFFFFFF;
        if (value > m->n_text) break;
        *ret = str_z(m->text + value);
        taken = i + 1;
        if (!longest) break;
    }
    return taken;
}

size_t charsmap_longest(const charsmap *m, str s, str *ret) {
    return walk(m, s, true, ret);
}

/* The reference takes the first (shortest) entry on the way, whatever is left of the piece. */
static bool whole(const charsmap *m, str s, strbuf *out, vec_i32 *changes) {
    str r;
    if (!walk(m, s, false, &r)) return false;
    strbuf_add(out, r);
    if (!changes) return true;
    int32_t before = (int32_t)utf8_count(s.p, s.n), after = (int32_t)utf8_count(r.p, r.n);
    for (int32_t i = 0; i < after; i++) vec_push(changes, i >= before);
    if (after < before && changes->n) changes->p[changes->n - 1] -= before - after;
    return true;
}

void charsmap_graphemes(const charsmap *m, str in, strbuf *out, vec_i32 *changes) {
    for (size_t at = 0; at < in.n;) {
        size_t end = at;
        utf8proc_int32_t state = 0, prev = -1;
        for (;;) {
            uint32_t cp = 0xFFFD;
            size_t k = end < in.n ? utf8_get(in.p + end, in.n - end, &cp) : 0;
            if (end >= in.n) break;
            /* printable ASCII always ends one before more of it */
            if (prev >= 0x20 && prev < 0x7F && cp >= 0x20 && cp < 0x7F) break;
            if (prev >= 0 && utf8proc_grapheme_break_stateful(prev, (utf8proc_int32_t)cp, &state))
                break;
            prev = (utf8proc_int32_t)cp;
            end += k ? k : 1;
        }
        str cluster = str_cut(in, at, end);
        at = end;
        if (cluster.n < 6 && whole(m, cluster, out, changes)) continue;
        for (size_t i = 0, k; i < cluster.n; i += k) {
            uint32_t cp;
            k = utf8_get(cluster.p + i, cluster.n - i, &cp);
            if (!k) k = 1;
            str ch = str_cut(cluster, i, i + k);
            if (whole(m, ch, out, changes)) continue;
            strbuf_add(out, ch);
            if (changes) vec_push(changes, 0);
        }
    }
}
