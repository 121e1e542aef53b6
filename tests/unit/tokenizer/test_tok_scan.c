/* The hand-written scanners against PCRE2 running the pattern itself, on generated text. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tokenizer/matcher.h"
#include "tokenizer/scan.h"
#include "tests/unit/suite.h"

static uint64_t seed = 1, drawn;

static uint32_t draw(uint32_t n) {
    return (uint32_t)(rng_uniform(seed, drawn++, 0) * n);
}

/* Ranges that every Unicode since 10 classes alike. */
static const uint32_t ranges[][2] = {
    {'a', 'z'},       {'A', 'Z'},         {'0', '9'},         {' ', '/'},       {':', '@'},
    {'[', '`'},       {'{', '~'},         {0xA0, 0xFF},       {0x100, 0x17F},   {0x1C4, 0x1CC},
    {0x2B0, 0x2C1},   {0x300, 0x36F},     {0x391, 0x3A1},     {0x3B1, 0x3C9},   {0x410, 0x44F},
    {0x5D0, 0x5EA},   {0x660, 0x669},     {0x905, 0x939},     {0x93E, 0x94D},   {0x1C90, 0x1C90},
    {0x2010, 0x2027}, {0x2160, 0x2188},   {0x2190, 0x21FF},   {0x3041, 0x3096}, {0x4E00, 0x4E40},
    {0xAC00, 0xAC40}, {0x1D400, 0x1D454}, {0x1F600, 0x1F64F},
};
static const char *const bits[] = {
    " ",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    "\v",
    "\xC2\x85",
    "\xC2\xA0",
    "\xE3\x80\x80",
    "\xE2\x80\xA8",
    "'s",
    "'S",
    "'re",
    "'RE",
    "'vE",
    "'ll",
    "'m",
    "'d",
    "'T",
    "'\xC5\xBF",
    "'",
    "''",
    "/",
    "//\n",
    " 'x",
    "don't",
    "WE'LL",
    "McDonald",
    "iPhone",
    "HTTPServer",
    "1",
    "12345",
    "...",
    " .",
    "\r",
};

static void add_some(strbuf *b) {
    if (draw(2)) {
        strbuf_addz(b, bits[draw(ARRAY_LEN(bits))]);
        return;
    }
    const uint32_t *r = ranges[draw(ARRAY_LEN(ranges))];
    for (uint32_t n = 1 + draw(4); n; n--) {
        uint32_t cp = r[0] + draw(r[1] - r[0] + 1);
        if (cp != 0x378) strbuf_addcp(b, cp);
    }
}

static void compare(const matcher *fast, const matcher *plain, str text) {
    match_work w = {0};
    for (size_t at = 0; at < text.n;) {
        size_t s1 = 0, e1 = 0, s2 = 0, e2 = 0;
        bool a = matcher_find(fast, &w, text, at, &s1, &e1),
             b = matcher_find(plain, &w, text, at, &s2, &e2);
        if (!a && !b) break; /* a run's pattern may match nowhere more */
        if (!a || !b || s1 != s2 || e1 != e2) {
            strbuf j = {0};
            strbuf_add_json(&j, text);
            ck_abort_msg("%s: at %zu: %zu..%zu, PCRE2 says %zu..%zu in %s (seed %llu)",
                         matcher_scanner(fast), at, s1, e1, s2, e2, j.p, (unsigned long long)seed);
        }
        at = e1;
    }
    match_work_done(&w);
}

START_TEST(scanner_equals_pcre2) {
    str pattern = str_z(scan_pattern((size_t)_i));
    matcher *fast, *plain;
    error err;
    ck_assert(matcher_regex(pattern, &fast, &err) == OK && matcher_scanner(fast));
    ck_assert(matcher_regex_plain(pattern, &plain, &err) == OK && !matcher_scanner(plain));
    strbuf b = {0};
    for (int i = 0; i < 20000; i++) {
        strbuf_clear(&b);
        for (uint32_t n = 1 + draw(12); n; n--) add_some(&b);
        compare(fast, plain, strbuf_str(&b));
    }
    strbuf_done(&b);
    matcher_free(fast);
    matcher_free(plain);
}
END_TEST

START_TEST(oniguruma_is_translated) {
    static const struct {
        const char *pattern, *text;
        size_t start, end;
    } cases[] = {
        {"[^(\\s|[.,!?]]+", "(ab.c", 1, 3}, /* a nested class is a union */
        {"\\s+$", "a  \nb", 1, 3},          /* $ before a line end */
        {"[\\[\\]]", "a]", 1, 2},           {"\\p{L}+", "1\xC3\xA9x", 1, 4},
        {"(?i:'s)", "'\xC5\xBF", 0, 3},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        matcher *m;
        error err;
        match_work w = {0};
        size_t s = 0, e = 0;
        ck_assert(matcher_regex(str_z(cases[i].pattern), &m, &err) == OK);
        ck_assert(matcher_find(m, &w, str_z(cases[i].text), 0, &s, &e));
        ck_assert_msg(s == cases[i].start && e == cases[i].end, "case %zu: %zu..%zu", i, s, e);
        match_work_done(&w);
        matcher_free(m);
    }
}
END_TEST

START_TEST(unknown_syntax_is_refused) {
    static const char *const patterns[] = {"[a&&b]", "[a[^b]]", "\\h+", "(", "[a"};
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
        matcher *m = NULL;
        error err;
        ck_assert(matcher_regex(str_z(patterns[i]), &m, &err) != OK && !m);
        ck_assert(strstr(err.text, "regular expression"));
    }
}
END_TEST

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--seed") == 0) seed = strtoull(argv[2], NULL, 10);
    Suite *s = suite_create("tokenizer scanners");
    TCase *c = tcase_create("all");
    int n = 0;
    while (scan_pattern((size_t)n)) n++;
    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, scanner_equals_pcre2, 0, n);
    tcase_add_test(c, oniguruma_is_translated);
    tcase_add_test(c, unknown_syntax_is_refused);
    suite_add_tcase(s, c);
    return suite_run(s);
}
