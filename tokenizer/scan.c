/* Each scanner decides by the class of the first character or two, as the alternation's order
 * demands, and never backtracks more than one character ("\s+(?!\S)" gives the last space of a run
 * to the word that follows). */
#include "tokenizer/scan.h"

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/patterns.h"
#include "tokenizer/uclass.h"

/* Class of the character at `at` and its end; 0 classes and at itself at the end of the text. */
static inline unsigned class_at(const char *p, size_t n, size_t at, size_t *end) {
    if (at >= n) {
        *end = at;
        return 0;
    }
    unsigned char c = (unsigned char)p[at];
    if (c < 128) {
        *end = at + 1;
        return uclass_ascii[c];
    }
    uint32_t cp = 0xFFFD;
    size_t k = utf8_get(p + at, n - at, &cp);
    *end = at + (k ? k : 1);
    return uclass_slow(cp);
}

/* End of the run of characters with (class & want) != 0 from `at`. */
static inline size_t run_of(const char *p, size_t n, size_t at, unsigned want) {
    size_t end;
    while (at < n && class_at(p, n, at, &end) & want) at = end;
    return at;
}

/* End of the run of characters with (class & avoid) == 0 from `at`. */
static inline size_t run_not(const char *p, size_t n, size_t at, unsigned avoid) {
    size_t end;
    while (at < n && !(class_at(p, n, at, &end) & avoid)) at = end;
    return at;
}

/* 's 't 're 've 'm 'll 'd after the apostrophe at `at`: bytes of the match or 0. */
static size_t contraction(const char *p, size_t n, size_t at) {
    if (at + 1 >= n) return 0;
    char a = p[at + 1], b = at + 2 < n ? p[at + 2] : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return 0;
}

/* The same in any case; U+017F (long s) folds to s. */
static size_t contraction_any(const char *p, size_t n, size_t at) {
    if (at + 1 >= n) return 0;
    if ((unsigned char)p[at + 1] == 0xC5 && at + 2 < n && (unsigned char)p[at + 2] == 0xBF)
        return 3;
    char low[3] = {'\'', p[at + 1] | 0x20, at + 2 < n ? p[at + 2] | 0x20 : 0};
    if ((p[at + 1] & 0x40) == 0) return 0;
    if (at + 2 < n && (p[at + 2] & 0x40) == 0) low[2] = 0;
    return contraction(low, 3, 0);
}

/* \s+(?!\S)|\s+ from a space at `at`; `last` is where the run's last character begins. */
static size_t spaces(size_t n, size_t at, size_t last, size_t end) {
    return end == n || last == at ? end : last;
}

static size_t space_run(const char *p, size_t n, size_t at, size_t *last) {
    size_t end = at, next;
    *last = at;
    while (end < n && class_at(p, n, end, &next) & UC_SPACE) {
        *last = end;
        end = next;
    }
    return end;
}

#define UC_LNS (UC_L | UC_N | UC_SPACE)

static size_t tile_gpt2(const char *p, size_t n, size_t at) {
    if (p[at] == '\'') {
        size_t k = contraction(p, n, at);
        if (k) return at + k;
    }
    size_t from = at, end;
    unsigned c = class_at(p, n, at, &end);
    if (p[at] == ' ') {
        size_t end2;
        unsigned c2 = class_at(p, n, end, &end2);
        if (end < n && !(c2 & UC_SPACE)) from = end, end = end2, c = c2;
    }
    if (c & UC_L) return run_of(p, n, end, UC_L);
    if (c & UC_N) return run_of(p, n, end, UC_N);
    if (!(c & UC_SPACE)) return run_not(p, n, end, UC_LNS);
    size_t last, stop = space_run(p, n, from, &last);
    return spaces(n, at, last, stop);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : up to the last newline of the run when there is one. */
static size_t spaces_newline(const char *p, size_t n, size_t at) {
    size_t end = at, next, last = at, newline = 0;
    while (end < n && class_at(p, n, end, &next) & UC_SPACE) {
        if (p[end] == '\n' || p[end] == '\r') newline = next;
        last = end;
        end = next;
    }
    return newline ? newline : spaces(n, at, last, end);
}

/* The llama 3 pattern and its relatives; digits: how many \p{N} one match takes at most. */
static inline size_t tile_modern(const char *p, size_t n, size_t at, int digits, unsigned letter) {
    if (p[at] == '\'') {
        size_t k = contraction_any(p, n, at);
        if (k) return at + k;
    }
    size_t end, end2;
    unsigned c = class_at(p, n, at, &end);
    if (c & letter) return run_of(p, n, end, letter);
    if (c & UC_N) {
        for (int i = 1; i < digits && class_at(p, n, end, &end2) & UC_N; i++) end = end2;
        return end;
    }
    if (p[at] != '\n' && p[at] != '\r' && class_at(p, n, end, &end2) & letter)
        return run_of(p, n, end2, letter);
    size_t from = end;
    if (p[at] == ' ') c = class_at(p, n, end, &from);
    if (c && !(c & UC_LNS)) {
        size_t stop = run_not(p, n, from, UC_LNS);
        while (stop < n && (p[stop] == '\n' || p[stop] == '\r')) stop++;
        return stop;
    }
    return spaces_newline(p, n, at);
}

static size_t tile_llama3(const char *p, size_t n, size_t at) {
    return tile_modern(p, n, at, 3, UC_L);
}
static size_t tile_qwen2(const char *p, size_t n, size_t at) {
    return tile_modern(p, n, at, 1, UC_L);
}

/* ---- o200k: words end where a capital begins ---- */

static bool is_upper_part(unsigned c) {
    return c & UC_M || (c & UC_L && !(c & UC_LOW));
}
static bool is_lower_part(unsigned c) {
    return c & UC_M || (c & UC_L && !(c & UC_UP));
}

/* Upper* Lower+ from `at`: its end, 0 if it does not match; *ret_upper: the end of Upper*. Letters
 * without case and marks are both, so the last of those in the first run can be given back. */
static size_t cased_word(const char *p, size_t n, size_t at, size_t *ret_upper) {
    size_t end = at, next, low_end = 0;
    unsigned c = 0;
    while (end < n && is_upper_part(c = class_at(p, n, end, &next))) {
        end = next;
        if (is_lower_part(c)) low_end = end;
    }
    *ret_upper = end;
    if (end >= n || !is_lower_part(c)) return low_end;
    while (end < n && is_lower_part(class_at(p, n, end, &next))) end = next;
    return end;
}

static size_t with_contraction(const char *p, size_t n, size_t end, bool contractions) {
    return contractions && end < n && p[end] == '\'' ? end + contraction_any(p, n, end) : end;
}

/* The word that starts at `at` or after the one character there that may come before it; 0: none.
 */
static size_t o200k_word(const char *p, size_t n, size_t at, size_t after, bool may_lead) {
    size_t upper_after = after, upper_at, end = 0;
    if (may_lead) end = cased_word(p, n, after, &upper_after);
    if (!end) end = cased_word(p, n, at, &upper_at);
    if (!end && may_lead && upper_after > after) end = upper_after;
    if (!end && upper_at > at) end = upper_at;
    return end;
}

static inline size_t tile_o200k_of(const char *p, size_t n, size_t at, int digits,
                                   bool contractions) {
    size_t end, end2;
    unsigned c = class_at(p, n, at, &end);
    if (c & UC_N) {
        for (int i = 1; i < digits && class_at(p, n, end, &end2) & UC_N; i++) end = end2;
        return end;
    }
    bool newline = p[at] == '\n' || p[at] == '\r';
    size_t word = newline ? 0 : o200k_word(p, n, at, end, !(c & UC_L));
    if (word) return with_contraction(p, n, word, contractions);
    size_t from = end;
    if (p[at] == ' ') c = class_at(p, n, end, &from);
    if (c && !(c & UC_LNS)) {
        size_t stop = run_not(p, n, from, UC_LNS);
        while (stop < n && (p[stop] == '\n' || p[stop] == '\r' || p[stop] == '/')) stop++;
        return stop;
    }
    return spaces_newline(p, n, at);
}

static size_t tile_o200k(const char *p, size_t n, size_t at) {
    return tile_o200k_of(p, n, at, 3, true);
}
static size_t tile_tekken(const char *p, size_t n, size_t at) {
    return tile_o200k_of(p, n, at, 1, false);
}

static const struct known {
    const char *name, *pattern;
    size_t (*tile)(const char *, size_t, size_t);
} known[] = {
    {"gpt2", PATTERN_GPT2, tile_gpt2},       {"llama3", PATTERN_LLAMA3, tile_llama3},
    {"qwen2", PATTERN_QWEN2, tile_qwen2},    {"o200k", PATTERN_O200K, tile_o200k},
    {"tekken", PATTERN_TEKKEN, tile_tekken},
};

const char *scan_pattern(size_t i) {
    static const char *const runs[] = {"\\s?\\p{L}+", "\\s?\\p{P}+", "\\p{N}{1,3}",
                                       "\\p{N}",      "\\s?\\p{S}",  "\\p{M}+"};
    if (i < ARRAY_LEN(known)) return known[i].pattern;
    i -= ARRAY_LEN(known);
    return i < ARRAY_LEN(runs) ? runs[i] : NULL;
}

/* \s? \p{X} and one of + {1,3} or nothing. */
static scan run_of_pattern(str p) {
    static const struct {
        char name;
        unsigned bits;
    } properties[] = {{'L', UC_L}, {'N', UC_N}, {'P', UC_P}, {'S', UC_S}, {'M', UC_M}};
    scan s = {.kind = SCAN_NONE, .name = "run", .run_max = 1};
    s.after_space = str_starts(p, STR("\\s?"));
    if (s.after_space) p = str_cut(p, 3, p.n);
    if (p.n < 5 || !str_starts(p, STR("\\p{")) || p.p[4] != '}') return s;
    for (size_t i = 0; i < ARRAY_LEN(properties); i++)
        if (properties[i].name == p.p[3]) s.run = properties[i].bits;
    p = str_cut(p, 5, p.n);
    if (str_eqz(p, "+")) s.run_max = UINT32_MAX;
    if (str_eqz(p, "{1,3}")) s.run_max = 3;
    if (s.run && (!p.n || s.run_max > 1)) s.kind = SCAN_RUN;
    return s;
}

static bool find_run(const scan *s, str t, size_t at, size_t *ret_start, size_t *ret_end) {
    for (size_t end, next; at < t.n; at = end) {
        unsigned c = class_at(t.p, t.n, at, &end);
        next = end;
        if (s->after_space && c & UC_SPACE) c = class_at(t.p, t.n, end, &next);
        if (!(c & s->run)) continue;
        *ret_start = at;
        for (unsigned n = 1; n < s->run_max && class_at(t.p, t.n, next, &end) & s->run; n++)
            next = end;
        *ret_end = next;
        return true;
    }
    return false;
}

scan scan_of_pattern(str pattern) {
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (str_eqz(pattern, known[i].pattern))
            return (scan){.kind = SCAN_TILE, .name = known[i].name, .tile = known[i].tile};
    return run_of_pattern(pattern);
}

const char *scan_name(const scan *s) {
    return s->kind == SCAN_NONE ? NULL : s->name;
}

bool scan_find(const scan *s, str text, size_t from, size_t *ret_start, size_t *ret_end) {
    if (s->kind == SCAN_RUN) return find_run(s, text, from, ret_start, ret_end);
    if (from >= text.n) return false;
    *ret_start = from;
    *ret_end = s->tile(text.p, text.n, from);
    return true;
}
