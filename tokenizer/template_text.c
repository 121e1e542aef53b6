/* Text as Python sees it: classes and case from utf8proc's Unicode tables, the few full case
 * mappings from SpecialCasing.txt (template_case.inc), ASCII answered without a table. */
#include "tokenizer/template_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

static utf8proc_category_t category(uint32_t cp) {
    return utf8proc_category((utf8proc_int32_t)cp);
}

bool cp_is_space(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x1f);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool cp_is_alpha(uint32_t cp) {
    if (cp < 0x80) return (cp | 32) >= 'a' && (cp | 32) <= 'z';
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool cp_is_decimal(uint32_t cp) {
    if (cp < 0x80) return cp >= '0' && cp <= '9';
    return category(cp) == UTF8PROC_CATEGORY_ND;
}

bool cp_is_digit(uint32_t cp) {
    if (cp_is_decimal(cp)) return true;
    /* category No with a digit value: superscripts, subscripts, circled and similar digits */
    return cp == 0xb2 || cp == 0xb3 || cp == 0xb9 || (cp >= 0x1369 && cp <= 0x1371) ||
           cp == 0x19da || cp == 0x2070 || (cp >= 0x2074 && cp <= 0x2079) ||
           (cp >= 0x2080 && cp <= 0x2089) || (cp >= 0x2460 && cp <= 0x2468) ||
           (cp >= 0x2474 && cp <= 0x247c) || (cp >= 0x2488 && cp <= 0x2490) || cp == 0x24ea ||
           (cp >= 0x24f5 && cp <= 0x24fd) || cp == 0x24ff || (cp >= 0x2776 && cp <= 0x277e) ||
           (cp >= 0x2780 && cp <= 0x2788) || (cp >= 0x278a && cp <= 0x2792);
}

/* CJK ideographs that are numbers. */
static bool is_ideograph_number(uint32_t cp) {
    static const uint16_t numbers[] = {
        0x4e00, 0x4e03, 0x4e07, 0x4e09, 0x4e24, 0x4e5d, 0x4e8c, 0x4e94, 0x4ebf, 0x4edf,
        0x4ee8, 0x4f0d, 0x4f70, 0x4fe9, 0x5006, 0x5104, 0x5146, 0x5169, 0x516b, 0x516d,
        0x5341, 0x5343, 0x5344, 0x5345, 0x534c, 0x53c1, 0x53c2, 0x53c3, 0x53c4, 0x56db,
        0x58f1, 0x58f9, 0x5e7a, 0x5efe, 0x5eff, 0x5f0c, 0x5f0d, 0x5f0e, 0x5f10, 0x62d0,
        0x62fe, 0x634c, 0x67d2, 0x6d1e, 0x6f06, 0x7396, 0x767e, 0x7695, 0x79ed, 0x8086,
        0x842c, 0x8cae, 0x8cb3, 0x8d30, 0x920e, 0x94a9, 0x9621, 0x9646, 0x964c, 0x9678,
        0x96f6, 0xf96b, 0xf973, 0xf978, 0xf9b2, 0xf9d1, 0xf9d3, 0xf9fd};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        if (numbers[i] == cp) return true;
    return false;
}

bool cp_is_numeric(uint32_t cp) {
    if (cp < 0x80) return cp_is_decimal(cp);
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO ||
           is_ideograph_number(cp);
}

bool cp_is_word(uint32_t cp) {
    return cp == '_' || cp_is_alpha(cp) || cp_is_numeric(cp);
}

bool cp_is_id_start(uint32_t cp) {
    return cp == '_' || cp_is_alpha(cp) || category(cp) == UTF8PROC_CATEGORY_NL;
}

bool cp_is_id_continue(uint32_t cp) {
    utf8proc_category_t c = category(cp);
    return cp_is_id_start(cp) || c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_MN ||
           c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_PC;
}

bool cp_is_printable(uint32_t cp) {
    if (cp < 0x7f) return cp >= ' ';
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

/* Other_Lowercase and Other_Uppercase of PropList.txt, where they are not letters Ll or Lu. */
static bool is_other_lower(uint32_t cp) {
    return cp == 0xaa || cp == 0xba || (cp >= 0x2b0 && cp <= 0x2b8) || cp == 0x2c0 || cp == 0x2c1 ||
           (cp >= 0x2e0 && cp <= 0x2e4) || cp == 0x345 || cp == 0x37a ||
           (cp >= 0x1d2c && cp <= 0x1d6a) || cp == 0x1d78 || (cp >= 0x1d9b && cp <= 0x1dbf) ||
           cp == 0x2071 || cp == 0x207f || (cp >= 0x2090 && cp <= 0x209c) ||
           (cp >= 0x2170 && cp <= 0x217f) || (cp >= 0x24d0 && cp <= 0x24e9) ||
           (cp >= 0x2c7c && cp <= 0x2c7d) || (cp >= 0xa69c && cp <= 0xa69d) || cp == 0xa770 ||
           (cp >= 0xa7f8 && cp <= 0xa7f9) || (cp >= 0xab5c && cp <= 0xab5f);
}
static bool is_other_upper(uint32_t cp) {
    return (cp >= 0x2160 && cp <= 0x216f) || (cp >= 0x24b6 && cp <= 0x24cf) ||
           (cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
           (cp >= 0x1f170 && cp <= 0x1f189);
}

bool cp_is_lower(uint32_t cp) {
    if (cp < 0x80) return cp >= 'a' && cp <= 'z';
    return category(cp) == UTF8PROC_CATEGORY_LL || is_other_lower(cp);
}
bool cp_is_upper(uint32_t cp) {
    if (cp < 0x80) return cp >= 'A' && cp <= 'Z';
    return category(cp) == UTF8PROC_CATEGORY_LU || is_other_upper(cp);
}
bool cp_is_title(uint32_t cp) {
    return cp >= 0x80 && category(cp) == UTF8PROC_CATEGORY_LT;
}
bool cp_is_cased(uint32_t cp) {
    return cp_is_lower(cp) || cp_is_upper(cp) || cp_is_title(cp);
}

size_t str_rstrip_n(str s) {
    while (s.n) {
        size_t at = s.n - 1;
        uint32_t cp;
        while (at && ((unsigned char)s.p[at] & 0xc0) == 0x80) at--;
        if (!utf8_get(s.p + at, s.n - at, &cp) || !cp_is_space(cp)) break;
        s.n = at;
    }
    return s.n;
}

/* --- case */

typedef struct special_case {
    uint32_t cp;
    char upper[8], title[8];
} special_case;
static const special_case special_cases[] = {
#include "tokenizer/template_case.inc"
};

static int special_order(const void *key, const void *entry) {
    uint32_t a = *(const uint32_t *)key, b = ((const special_case *)entry)->cp;
    return a < b ? -1 : a > b;
}

static const special_case *special_find(uint32_t cp) {
    if (cp < 0x80) return NULL;
    return bsearch(&cp, special_cases, ARRAY_LEN(special_cases), sizeof special_cases[0],
                   special_order);
}

static bool add_upper(strbuf *out, uint32_t cp, bool title) {
    const special_case *s = special_find(cp);
    if (s) return strbuf_addz(out, title ? s->title : s->upper);
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    return strbuf_addcp(out, (uint32_t)(title ? utf8proc_totitle(c) : utf8proc_toupper(c)));
}

/* Marks and the like between letters: they do not end a word. */
static bool is_case_ignorable(uint32_t cp) {
    if (cp == '\'' || cp == '.' || cp == ':' || cp == '^' || cp == '`' || cp == 0xa8 ||
        cp == 0xad || cp == 0xaf || cp == 0xb4 || cp == 0xb7 || cp == 0xb8 || cp == 0x2018 ||
        cp == 0x2019 || cp == 0x2024 || cp == 0x2027)
        return true;
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK;
}

/* Greek capital sigma ends a word: a cased letter stands before it and none behind. */
static bool is_final_sigma(str s, size_t at) {
    uint32_t cp;
    size_t i = at;
    bool cased = false;
    while (i && !cased) {
        do i--;
        while (i && ((unsigned char)s.p[i] & 0xc0) == 0x80);
        if (!utf8_get(s.p + i, s.n - i, &cp)) return false;
        if (is_case_ignorable(cp)) continue;
        if (!cp_is_cased(cp)) return false;
        cased = true;
    }
    if (!cased) return false;
    for (i = at + 2; i < s.n;) {
        size_t n = utf8_get(s.p + i, s.n - i, &cp);
        if (!n) return true;
        i += n;
        if (!is_case_ignorable(cp)) return !cp_is_cased(cp);
    }
    return true;
}

static bool add_lower(strbuf *out, str s, size_t at, uint32_t cp) {
    if (cp == 0x3a3) return strbuf_addcp(out, is_final_sigma(s, at) ? 0x3c2 : 0x3c3);
    if (cp == 0x130) return strbuf_addz(out, "i\xcc\x87");
    return strbuf_addcp(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
}

static bool add_folded(strbuf *out, uint32_t cp) {
    utf8proc_int32_t folded[8];
    int boundary = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)cp, folded, 8, UTF8PROC_CASEFOLD, &boundary);
    for (utf8proc_ssize_t i = 0; i < n && i < 8; i++)
        if (!strbuf_addcp(out, (uint32_t)folded[i])) return false;
    return true;
}

bool text_case_add(strbuf *out, str s, text_case to) {
    bool in_word = false, ok = true;
    for (size_t i = 0, n; i < s.n && ok; i += n) {
        uint32_t cp;
        n = utf8_get(s.p + i, s.n - i, &cp);
        if (!n) return strbuf_add(out, str_cut(s, i, s.n)); /* not UTF-8: as it is */
        bool upper = to == CASE_UPPER || (to == CASE_SWAP && cp_is_lower(cp));
        bool title = to == CASE_FIRST ? i == 0 : to == CASE_TITLE && !in_word;
        if (to == CASE_FOLD)
            ok = add_folded(out, cp);
        else if (upper || title)
            ok = add_upper(out, cp, title);
        else if (to == CASE_SWAP && !cp_is_upper(cp))
            ok = strbuf_addcp(out, cp);
        else
            ok = add_lower(out, s, i, cp);
        in_word = cp_is_cased(cp);
    }
    return ok;
}

/* --- escapes */

size_t str_unescape_room(str raw) {
    size_t extra = 0; /* a backslash before a non-ASCII character becomes its escape as text */
    for (size_t i = 0; i < raw.n; i++) extra += (unsigned char)raw.p[i] >= 0x80;
    return raw.n + 8 * extra + 1;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* n hex digits at raw[i]; -1 if they are not there. */
static int64_t hex_at(str raw, size_t i, size_t n) {
    int64_t v = 0;
    if (raw.n - i < n) return -1;
    for (size_t k = 0; k < n; k++) {
        int d = hex_value(raw.p[i + k]);
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static size_t put_cp(char *out, int64_t cp) {
    if (cp >= 0xd800 && cp < 0xe000) cp = 0xfffd;
    char bytes[4];
    size_t n = utf8_put((uint32_t)cp, bytes);
    memcpy(out, bytes, n);
    return n;
}

/* \xhh, \uhhhh, \Uhhhhhhhh at raw[*i] (behind the letter); a surrogate pair is one character. */
static size_t unescape_hex(str raw, size_t *i, size_t digits, char *out, const char **problem) {
    int64_t cp = hex_at(raw, *i, digits);
    if (cp < 0 || cp > 0x10ffff) {
        *problem = cp < 0 ? "truncated escape in a string" : "illegal Unicode character";
        return 0;
    }
    *i += digits;
    if (cp >= 0xd800 && cp < 0xdc00 && raw.n - *i >= 6 && raw.p[*i] == '\\' &&
        raw.p[*i + 1] == 'u') {
        int64_t low = hex_at(raw, *i + 2, 4);
        if (low >= 0xdc00 && low < 0xe000) {
            cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
            *i += 6;
        }
    }
    return put_cp(out, cp);
}

static size_t unescape_octal(str raw, size_t *i, char *out) {
    int64_t v = 0;
    for (int k = 0; k < 3 && *i < raw.n && raw.p[*i] >= '0' && raw.p[*i] <= '7'; k++)
        v = v * 8 + (raw.p[(*i)++] - '0');
    return put_cp(out, v);
}

/* The character behind a backslash is no escape: both stay. */
static size_t keep_escape(str raw, size_t *i, char *out) {
    out[0] = '\\';
    uint32_t cp;
    size_t n = utf8_get(raw.p + *i, raw.n - *i, &cp);
    if (n <= 1) {
        out[1] = raw.p[(*i)++];
        return 2;
    }
    *i += n;
    char text[12];
    int len = cp < 0x100     ? snprintf(text, sizeof text, "x%02x", cp)
              : cp < 0x10000 ? snprintf(text, sizeof text, "u%04x", cp)
                             : snprintf(text, sizeof text, "U%08x", cp);
    memcpy(out + 1, text, (size_t)len);
    return 1 + (size_t)len;
}

size_t str_unescape(str raw, char *out, const char **problem) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    size_t n = 0;
    for (size_t i = 0; i < raw.n && !*problem;) {
        if (raw.p[i] != '\\' || i + 1 >= raw.n) {
            out[n++] = raw.p[i++];
            continue;
        }
        char c = raw.p[++i];
        const char *simple = c ? strchr(from, c) : NULL;
        if (simple) {
            out[n++] = to[simple - from];
            i++;
        } else if (c == '\n') {
            i++;
        } else if (c == 'x' || c == 'u' || c == 'U') {
            i++;
            n += unescape_hex(raw, &i, c == 'x' ? 2 : c == 'u' ? 4 : 8, out + n, problem);
        } else if (c >= '0' && c <= '7') {
            n += unescape_octal(raw, &i, out + n);
        } else if (c == 'N') {
            *problem = "character names (\\N{...}) are not supported";
        } else {
            n += keep_escape(raw, &i, out + n);
        }
    }
    return n;
}
