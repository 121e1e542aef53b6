/* Strict UTF-8, table-free: the ranges of the second byte are what makes it strict. */
#include "engine/base/utf8.h"

/* Length that a first byte announces (0 = never valid) and the bounds of the second byte. */
static size_t lead(unsigned char c, unsigned char *lo, unsigned char *hi) {
    *lo = 0x80;
    *hi = 0xBF;
    if (c < 0x80) return 1;
    if (c >= 0xC2 && c <= 0xDF) return 2;
    if (c >= 0xE0 && c <= 0xEF) {
        if (c == 0xE0) *lo = 0xA0;
        if (c == 0xED) *hi = 0x9F;
        return 3;
    }
    if (c >= 0xF0 && c <= 0xF4) {
        if (c == 0xF0) *lo = 0x90;
        if (c == 0xF4) *hi = 0x8F;
        return 4;
    }
    return 0;
}

/* How many of the first n bytes fit the code point that p[0] begins; *ret_len = its full length. */
static size_t prefix(const unsigned char *p, size_t n, size_t *ret_len) {
    unsigned char lo, hi;
    size_t len = n ? lead(p[0], &lo, &hi) : 0;
    *ret_len = len;
    if (len == 0) return 0;
    size_t i = 1;
    while (i < len && i < n && p[i] >= lo && p[i] <= hi) {
        lo = 0x80;
        hi = 0xBF;
        i++;
    }
    return i;
}

size_t utf8_get(const char *s, size_t n, uint32_t *ret_cp) {
    const unsigned char *p = (const unsigned char *)s;
    size_t len;
    if (prefix(p, n, &len) != len || len == 0) return 0;
    static const unsigned char mask[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t cp = p[0] & mask[len];
    for (size_t i = 1; i < len; i++) cp = cp << 6 | (p[i] & 0x3F);
    *ret_cp = cp;
    return len;
}

size_t utf8_put(uint32_t cp, char o[4]) {
    if (cp < 0x80) {
        o[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        o[0] = (char)(0xC0 | cp >> 6);
        o[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        o[0] = (char)(0xE0 | cp >> 12);
        o[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        o[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    o[0] = (char)(0xF0 | cp >> 18);
    o[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    o[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    o[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool utf8_valid(const char *p, size_t n) {
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        size_t len = (unsigned char)p[i] < 0x80 ? 1 : utf8_get(p + i, n - i, &cp);
        if (!len) return false;
        i += len;
    }
    return true;
}

size_t utf8_partial_tail(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = p[n - back];
        if ((c & 0xC0) == 0x80) continue;
        size_t len, got = prefix(p + n - back, back, &len);
        return len > back && got == back ? back : 0;
    }
    return 0;
}

size_t utf8_count(const char *p, size_t n) {
    size_t count = 0;
    uint32_t cp;
    for (size_t i = 0; i < n; count++) {
        size_t len = utf8_get(p + i, n - i, &cp);
        i += len ? len : 1;
    }
    return count;
}
