/* The lexer: template source to tokens, with Jinja's white-space rules for trim_blocks and
 * lstrip_blocks. All tokens are made at once; the parser then walks an array.
 *
 * Newlines (\r\n, \r) become \n first, and one newline at the very end is dropped, so every rule
 * below sees \n only. The text before a tag is cut by three rules: "-" strips all white space,
 * "+" nothing, and otherwise the blanks between a line's start and a block or comment tag go. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_text.h"

typedef struct lexer {
    parse_ctx *p;
    const char *s; /* the normalised source */
    size_t n, at;
    uint32_t line, cap;
    bool line_starting; /* the last match ended with a newline */
    char *balance;      /* expected closing brackets of the current tag */
    uint32_t n_balance;
} lexer;

static const struct {
    char text[3];
    uint8_t type;
} operators[] = {
    {"//", T_FLOORDIV}, {"**", T_POW},   {"==", T_EQ},      {"!=", T_NE},      {">=", T_GE},
    {"<=", T_LE},       {"+", T_ADD},    {"-", T_SUB},      {"/", T_DIV},      {"*", T_MUL},
    {"%", T_MOD},       {"~", T_TILDE},  {"[", T_LBRACKET}, {"]", T_RBRACKET}, {"(", T_LPAREN},
    {")", T_RPAREN},    {"{", T_LBRACE}, {"}", T_RBRACE},   {">", T_GT},       {"<", T_LT},
    {"=", T_ASSIGN},    {".", T_DOT},    {":", T_COLON},    {"|", T_PIPE},     {",", T_COMMA},
    {";", T_SEMICOLON},
};

static void push(lexer *l, token t) {
    parse_ctx *p = l->p;
    if (p->n_tokens == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 256;
        token *tokens = parse_alloc(p, cap * sizeof *tokens);
        if (p->n_tokens) memcpy(tokens, p->tokens, p->n_tokens * sizeof *tokens);
        p->tokens = tokens;
        l->cap = cap;
    }
    t.line = l->line;
    p->tokens[p->n_tokens++] = t;
}

static bool at(const lexer *l, size_t i, const char *z) {
    size_t n = strlen(z);
    return l->n - i >= n && memcmp(l->s + i, z, n) == 0;
}

/* Bytes of the white-space character at i, 0 if there is none. */
static size_t space_at(const lexer *l, size_t i) {
    uint32_t cp;
    size_t n = i < l->n ? utf8_get(l->s + i, l->n - i, &cp) : 0;
    return n && cp_is_space(cp) ? n : 0;
}

static size_t skip_space(const lexer *l, size_t i) {
    for (size_t n; (n = space_at(l, i)); i += n) {
    }
    return i;
}

static void count_lines(lexer *l, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) l->line += l->s[i] == '\n';
}

/* Go on at `to`; what was passed belonged to one match. */
static void advance(lexer *l, size_t to) {
    count_lines(l, l->at, to);
    l->line_starting = to > l->at && l->s[to - 1] == '\n';
    l->at = to;
}

/* Text from l->at to `end` that stands before a tag. */
static void push_data(lexer *l, size_t end, char sign, bool is_variable) {
    size_t from = l->at, to = end;
    if (sign == '-') {
        to = from + str_rstrip_n(str_n(l->s + from, end - from));
    } else if (sign != '+' && !is_variable) {
        size_t bol = end;
        while (bol > from && l->s[bol - 1] != '\n') bol--;
        if ((bol > from || l->line_starting) && skip_space(l, bol) >= end) to = bol;
    }
    if (to > from) push(l, (token){.type = T_DATA, .text = str_n(l->s + from, to - from)});
    count_lines(l, from, end);
    l->at = end;
}

static char sign_at(const lexer *l, size_t i) {
    return i < l->n && (l->s[i] == '-' || l->s[i] == '+') ? l->s[i] : 0;
}

/* The end of a block tag at i: "+%}", "-%}" and white space, "%}" and one newline; 0 if none. */
static size_t block_end_at(const lexer *l, size_t i) {
    if (at(l, i, "+%}")) return i + 3;
    if (at(l, i, "-%}")) return skip_space(l, i + 3);
    if (!at(l, i, "%}")) return 0;
    return i + 2 + (i + 2 < l->n && l->s[i + 2] == '\n');
}

/* "{% raw %}" at i: returns where its text begins, 0 if it is another block. */
static size_t raw_begin_at(const lexer *l, size_t i) {
    size_t k = skip_space(l, i + 2 + (sign_at(l, i + 2) != 0));
    if (!at(l, k, "raw")) return 0;
    k = skip_space(l, k + 3);
    if (at(l, k, "-%}")) return skip_space(l, k + 3);
    return at(l, k, "%}") ? k + 2 : 0;
}

static void lex_raw(lexer *l) {
    for (size_t i = l->at; i + 1 < l->n; i++) {
        if (!at(l, i, "{%")) continue;
        size_t k = skip_space(l, i + 2 + (sign_at(l, i + 2) != 0));
        if (!at(l, k, "endraw")) continue;
        size_t end = block_end_at(l, skip_space(l, k + 6));
        if (!end) continue;
        push_data(l, i, sign_at(l, i + 2), false);
        advance(l, end);
        return;
    }
    parse_fail(l->p, l->line, "Missing end of raw directive");
}

static void lex_comment(lexer *l) {
    size_t from = l->at;
    for (size_t i = from; i + 1 < l->n; i++) {
        if (!at(l, i, "#}")) continue;
        char sign = i > from ? l->s[i - 1] : 0;
        size_t end = i + 2;
        if (sign == '-')
            end = skip_space(l, end);
        else if (sign != '+' && end < l->n && l->s[end] == '\n')
            end++;
        advance(l, end);
        return;
    }
    parse_fail(l->p, l->line, "Missing end of comment tag");
}

/* --- inside a tag */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* digits with single underscores between: \d(_?\d)*; returns the end, `i` if none */
static size_t digits(const lexer *l, size_t i) {
    if (i >= l->n || !is_digit(l->s[i])) return i;
    for (i++; i < l->n; i++) {
        if (is_digit(l->s[i])) continue;
        if (l->s[i] == '_' && i + 1 < l->n && is_digit(l->s[i + 1])) continue;
        break;
    }
    return i;
}

static size_t float_end(const lexer *l) {
    size_t i = digits(l, l->at);
    if (i == l->at || (l->at > 0 && l->s[l->at - 1] == '.')) return 0;
    size_t end = 0;
    if (i < l->n && l->s[i] == '.') {
        size_t k = digits(l, i + 1);
        if (k > i + 1) end = i = k;
    }
    if (i < l->n && (l->s[i] | 32) == 'e') {
        size_t k = i + 1 + (sign_at(l, i + 1) != 0), e = digits(l, k);
        if (e > k) end = e;
    }
    return end;
}

static size_t radix_end(const lexer *l, const char *set) {
    size_t i = l->at + 2, end = 0;
    for (;;) {
        size_t k = i + (i < l->n && l->s[i] == '_');
        if (k >= l->n || !l->s[k] || !strchr(set, l->s[k])) return end;
        end = i = k + 1;
    }
}

static size_t integer_end(const lexer *l, int *base) {
    *base = 10;
    size_t i = l->at;
    if (!is_digit(l->s[i])) return 0;
    if (l->s[i] != '0') return digits(l, i);
    size_t end = 0;
    char c = i + 1 < l->n ? (char)(l->s[i + 1] | 32) : 0;
    if (c == 'b') *base = 2, end = radix_end(l, "01");
    if (c == 'o') *base = 8, end = radix_end(l, "01234567");
    if (c == 'x') *base = 16, end = radix_end(l, "0123456789abcdefABCDEF");
    if (end) return end;
    *base = 10;
    for (i++; i < l->n; i++) {
        if (l->s[i] == '0') continue;
        if (l->s[i] == '_' && i + 1 < l->n && l->s[i + 1] == '0') continue;
        break;
    }
    return i;
}

/* A number's text without underscores, NUL-terminated. */
static char *number_text(lexer *l, size_t from, size_t to) {
    char *z = parse_alloc(l->p, to - from + 1);
    size_t n = 0;
    for (size_t i = from; i < to; i++)
        if (l->s[i] != '_') z[n++] = l->s[i];
    return z;
}

static bool lex_number(lexer *l) {
    token t = {.type = T_FLOAT};
    int base;
    size_t end = float_end(l);
    if (end) {
        t.value = val_float(strtod(number_text(l, l->at, end), NULL));
    } else if ((end = integer_end(l, &base))) {
        t.type = T_INT;
        int64_t v = 0;
        for (size_t i = l->at + (base == 10 ? 0 : 2); i < end; i++) {
            char c = l->s[i];
            if (c == '_') continue;
            int digit = is_digit(c) ? c - '0' : (c | 32) - 'a' + 10;
            if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, digit, &v))
                parse_fail(l->p, l->line, "integer literal does not fit 64 bits");
        }
        t.value = val_int(v);
    } else {
        return false;
    }
    t.text = str_n(l->s + l->at, end - l->at);
    push(l, t);
    advance(l, end);
    return true;
}

static bool lex_name(lexer *l) {
    size_t i = l->at;
    bool valid = true;
    for (uint32_t cp; i < l->n;) {
        size_t n = utf8_get(l->s + i, l->n - i, &cp);
        if (!n || !cp_is_word(cp)) break;
        if (i == l->at ? !cp_is_id_start(cp) : !cp_is_id_continue(cp)) valid = false;
        i += n;
    }
    if (i == l->at) return false;
    if (!valid) parse_fail(l->p, l->line, "Invalid character in identifier");
    push(l, (token){.type = T_NAME, .text = str_n(l->s + l->at, i - l->at)});
    advance(l, i);
    return true;
}

static bool lex_string(lexer *l) {
    char quote = l->s[l->at];
    if (quote != '\'' && quote != '"') return false;
    size_t i = l->at + 1;
    while (i < l->n && l->s[i] != quote) i += l->s[i] == '\\' ? 2 : 1;
    if (i >= l->n) return false;
    str raw = str_n(l->s + l->at + 1, i - l->at - 1);
    token t = {.type = T_STRING, .text = raw};
    if (raw.n && memchr(raw.p, '\\', raw.n)) {
        char *out = parse_alloc(l->p, str_unescape_room(raw));
        const char *problem = NULL;
        t.text = str_n(out, str_unescape(raw, out, &problem));
        if (problem) parse_fail(l->p, l->line, "%s", problem);
    }
    push(l, t);
    advance(l, i + 1);
    return true;
}

static void balance(lexer *l, char c) {
    if (c == '{') l->balance[l->n_balance++] = '}';
    if (c == '(') l->balance[l->n_balance++] = ')';
    if (c == '[') l->balance[l->n_balance++] = ']';
    if (c != '}' && c != ')' && c != ']') return;
    if (!l->n_balance) parse_fail(l->p, l->line, "unexpected '%c'", c);
    char want = l->balance[--l->n_balance];
    if (want != c) parse_fail(l->p, l->line, "unexpected '%c', expected '%c'", c, want);
}

static bool lex_operator(lexer *l) {
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        const char *z = operators[i].text;
        if (!at(l, l->at, z)) continue;
        balance(l, z[0]);
        push(l, (token){.type = operators[i].type, .text = str_n(l->s + l->at, strlen(z))});
        advance(l, l->at + strlen(z));
        return true;
    }
    return false;
}

static size_t variable_end_at(const lexer *l, size_t i) {
    if (at(l, i, "-}}")) return skip_space(l, i + 3);
    return at(l, i, "}}") ? i + 2 : 0;
}

static void lex_tag(lexer *l, bool is_variable) {
    l->n_balance = 0;
    while (l->at < l->n) {
        size_t end = l->n_balance  ? 0
                     : is_variable ? variable_end_at(l, l->at)
                                   : block_end_at(l, l->at);
        if (end) {
            push(l, (token){.type = is_variable ? T_VAR_END : T_BLOCK_END});
            advance(l, end);
            return;
        }
        size_t space = skip_space(l, l->at);
        if (space > l->at) {
            advance(l, space);
            continue;
        }
        if (lex_number(l) || lex_name(l) || lex_string(l) || lex_operator(l)) continue;
        parse_fail(l->p, l->line, "unexpected char '%c' at %zu", l->s[l->at], l->at);
    }
}

/* \r\n and \r to \n; the last newline goes. */
static void normalise(lexer *l, str source) {
    char *s = parse_alloc(l->p, source.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < source.n; i++) {
        if (source.p[i] == '\r') {
            s[n++] = '\n';
            if (i + 1 < source.n && source.p[i + 1] == '\n') i++;
        } else {
            s[n++] = source.p[i];
        }
    }
    if (n && s[n - 1] == '\n') n--;
    l->s = s;
    l->n = n;
}

static size_t next_tag(const lexer *l) {
    for (size_t i = l->at; i + 1 < l->n; i++) {
        const char *brace = memchr(l->s + i, '{', l->n - 1 - i);
        if (!brace) break;
        i = (size_t)(brace - l->s);
        char c = l->s[i + 1];
        if (c == '{' || c == '%' || c == '#') return i;
    }
    return l->n;
}

void template_lex(parse_ctx *p, str source) {
    lexer l = {.p = p, .line = 1, .line_starting = true};
    if (!utf8_valid(source.p, source.n)) parse_fail(p, 1, "the template is not valid UTF-8");
    normalise(&l, source);
    l.balance = parse_alloc(p, l.n + 1);
    while (l.at < l.n) {
        size_t tag = next_tag(&l);
        if (tag == l.n) {
            push(&l, (token){.type = T_DATA, .text = str_n(l.s + l.at, l.n - l.at)});
            break;
        }
        char c = l.s[tag + 1], sign = sign_at(&l, tag + 2);
        size_t raw = c == '%' ? raw_begin_at(&l, tag) : 0;
        push_data(&l, tag, sign, c == '{');
        if (raw) {
            advance(&l, raw);
            lex_raw(&l);
            continue;
        }
        if (c != '#') push(&l, (token){.type = c == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN});
        advance(&l, tag + 2 + (sign != 0));
        if (c == '#')
            lex_comment(&l);
        else
            lex_tag(&l, c == '{');
    }
    push(&l, (token){.type = T_EOF});
}
