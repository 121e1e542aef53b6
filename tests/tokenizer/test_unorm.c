/* Unicode's NormalizationTest.txt (read in ../shared/data; skipped where absent): every equality
 * that the file's head lists, for all four forms, and that the characters it does not name in its
 * first part are their own normal form. Exits 77 (skip) where the file is absent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/unorm.h"

#define FILE_PATH "../shared/data/corpora/unicode/NormalizationTest.txt"
#define CODES     0x110000

static const char *const names[] = {"NFC", "NFD", "NFKC", "NFKD"};
static int n_checks, n_bad;

static void check(unorm_form form, str in, str want, int line) {
    strbuf out = {0};
    unorm(form, in, &out);
    n_checks++;
    bool ok = str_eq(strbuf_str(&out), want);
    /* the quick look may only be too careful */
    if (form == UNORM_NFC && unorm_is_nfc_quick(in)) ok &= str_eq(in, want);
    if (!ok && n_bad++ < 20)
        printf("FAIL line %d: %s of \"" STR_FMT "\" is \"" STR_FMT "\", not \"" STR_FMT "\"\n",
               line, names[form], STR_ARG(in), STR_ARG(strbuf_str(&out)), STR_ARG(want));
    strbuf_done(&out);
}

/* The five columns of a line; false if it is none. *single: column one's only code point, or 0. */
static bool columns(str line, strbuf c[5], uint32_t *single) {
    int n_codes = 0;
    const char *p = line.p;
    *single = 0;
    for (int i = 0; i < 5; i++) {
        strbuf_clear(&c[i]);
        for (;;) {
            char *end;
            uint32_t cp = (uint32_t)strtoul(p, &end, 16);
            if (end == p) return false;
            strbuf_addcp(&c[i], cp);
            if (!i) *single = n_codes++ ? 0 : cp;
            p = end;
            if (*p == ';') break;
        }
        p++;
    }
    return true;
}

static void check_line(const strbuf c[5], int line) {
    static const int forms[4][2] = {{1, 3}, {2, 4}, {3, 3}, {4, 4}}; /* of columns 1-3 and 4-5 */
    for (int f = 0; f < 4; f++)
        for (int i = 0; i < 5; i++)
            check((unorm_form)f, strbuf_str(&c[i]), strbuf_str(&c[forms[f][i > 2]]), line);
}

/* Blocks that Unicode 15 and 16 brought, with characters that decompose: the file is of version 14.
 */
static bool is_later(uint32_t cp) {
    static const uint32_t blocks[][2] = {{0x105C0, 0x105FF}, {0x11380, 0x113FF},
                                         {0x16100, 0x1613F}, {0x16D40, 0x16D7F},
                                         {0x1CC00, 0x1CEBF}, {0x1E030, 0x1E08F}};
    bool later = cp >= 0xA7CB && cp <= 0xA7F4;
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        later |= cp >= blocks[i][0] && cp <= blocks[i][1];
    return later;
}

static void check_rest(const uint8_t *seen) {
    for (uint32_t cp = 1; cp < CODES; cp++) {
        char b[4];
        if (seen[cp] || (cp >= 0xD800 && cp < 0xE000) || is_later(cp)) continue;
        str s = str_n(b, utf8_put(cp, b));
        for (int f = 0; f < 4; f++) check((unorm_form)f, s, s, 0);
    }
}

int main(void) {
    strbuf file = {0}, c[5] = {{0}};
    error err;
    if (!file_exists(FILE_PATH)) {
        printf("SKIP: " FILE_PATH " is absent\n");
        return 77;
    }
    if (file_read(FILE_PATH, (size_t)16 << 20, &file, &err) != OK) {
        printf("FAIL: %s\n", err.text);
        return 1;
    }
    uint8_t *seen = mem_calloc(CODES, 1);
    str text = strbuf_str(&file);
    bool part1 = false;
    int number = 0;
    for (size_t at = 0; at < text.n;) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl;
        str line = str_cut(text, at, end);
        uint32_t single;
        at = end + 1;
        number++;
        if (str_starts(line, STR("@Part"))) part1 = str_starts(line, STR("@Part1 "));
        if (!line.n || line.p[0] == '#' || line.p[0] == '@' || !columns(line, c, &single)) continue;
        if (part1 && single < CODES) seen[single] = 1;
        check_line(c, number);
    }
    check_rest(seen);
    for (int i = 0; i < 5; i++) strbuf_done(&c[i]);
    strbuf_done(&file);
    mem_free(seen);
    printf("%d of %d checks passed\n", n_checks - n_bad, n_checks);
    return n_bad > 0 || n_checks < 100000;
}
