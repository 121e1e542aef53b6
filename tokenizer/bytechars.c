/* The bytes that are printable in Latin-1 stand for themselves, the other 68 in order for U+0100
 * and up: both directions by arithmetic. */
#include "tokenizer/bytechars.h"

#include "engine/base/utf8.h"

static bool itself(uint32_t c) {
    return (c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

uint32_t bytechar_of(uint8_t b) {
    if (itself(b)) return b;
    if (b <= 0x20) return 0x100u + b;
    if (b <= 0xA0) return 0x100u + 33 + (b - 0x7Fu);
    return 0x143; /* 0xAD */
}

int bytechar_byte(uint32_t cp) {
    if (cp < 0x100) return itself(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)cp - 0x100;
    if (cp <= 0x142) return (int)cp - 0x121 + 0x7F;
    return cp == 0x143 ? 0xAD : -1;
}

bool bytechars_decode(str s, strbuf *out) {
    size_t before = out->n;
    for (size_t i = 0; i < s.n;) {
        uint32_t cp;
        size_t k = utf8_get(s.p + i, s.n - i, &cp);
        int b = k ? bytechar_byte(cp) : -1;
        if (b < 0) {
            out->n = before;
            return false;
        }
        strbuf_addc(out, (char)b);
        i += k;
    }
    return true;
}

void bytechars_encode(str bytes, strbuf *out) {
    for (size_t i = 0; i < bytes.n; i++) strbuf_addcp(out, bytechar_of((uint8_t)bytes.p[i]));
}
