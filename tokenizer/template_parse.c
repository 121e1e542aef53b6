/* The statement parser: recursive descent over the token array, in Jinja's grammar.
 *
 * Depth is bounded twice: by nesting while parsing (LIMIT_TEMPLATE_DEPTH) and by the height of the
 * tree (long chains like "a + b + c + ..." nest to the left without nesting in the source), so the
 * passes behind may recurse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "tokenizer/template_ast.h"

enum { HEIGHT_MAX = 400 };

static void parse_statement(parse_ctx *p, body *out, uint32_t *cap);

void parse_fail(parse_ctx *p, uint32_t line, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    p->st = error_set(p->err, ERR_INVALID, "TemplateSyntaxError: %s (line %u)", text, line);
    longjmp(p->fail, 1);
}

void *parse_alloc(parse_ctx *p, size_t bytes) {
    void *m = arena_alloc(p->mem, bytes);
    if (m) return m;
    p->st = error_set(p->err, ERR_TOO_LARGE, "chat template: too large");
    longjmp(p->fail, 1);
}

/* --- tokens */

const token *next_token(parse_ctx *p) {
    const token *t = peek(p);
    if (t->type != T_EOF) p->at++;
    return t;
}
bool at_name(const parse_ctx *p, const char *name) {
    return peek(p)->type == T_NAME && str_eqz(peek(p)->text, name);
}
bool skip_name(parse_ctx *p, const char *name) {
    if (!at_name(p, name)) return false;
    p->at++;
    return true;
}
bool skip_type(parse_ctx *p, token_type type) {
    if (peek(p)->type != type) return false;
    p->at++;
    return true;
}

static const char *const token_names[] = {
    [T_EOF] = "end of template",
    [T_DATA] = "template data",
    [T_VAR_BEGIN] = "begin of print statement",
    [T_VAR_END] = "end of print statement",
    [T_BLOCK_BEGIN] = "begin of statement block",
    [T_BLOCK_END] = "end of statement block",
    [T_NAME] = "name",
    [T_STRING] = "string",
    [T_INT] = "integer",
    [T_FLOAT] = "float",
    [T_ADD] = "+",
    [T_SUB] = "-",
    [T_DIV] = "/",
    [T_FLOORDIV] = "//",
    [T_MUL] = "*",
    [T_MOD] = "%",
    [T_POW] = "**",
    [T_TILDE] = "~",
    [T_LBRACKET] = "[",
    [T_RBRACKET] = "]",
    [T_LPAREN] = "(",
    [T_RPAREN] = ")",
    [T_LBRACE] = "{",
    [T_RBRACE] = "}",
    [T_EQ] = "==",
    [T_NE] = "!=",
    [T_GT] = ">",
    [T_GE] = ">=",
    [T_LT] = "<",
    [T_LE] = "<=",
    [T_ASSIGN] = "=",
    [T_DOT] = ".",
    [T_COLON] = ":",
    [T_PIPE] = "|",
    [T_COMMA] = ",",
    [T_SEMICOLON] = ";",
};

void fail_token(parse_ctx *p, const char *expected) {
    const token *t = peek(p);
    str got = t->type == T_NAME ? t->text : str_z(token_names[t->type]);
    if (got.n > 80) got.n = 80;
    if (expected && t->type == T_EOF)
        parse_fail(p, t->line, "unexpected end of template, expected '%s'.", expected);
    if (expected)
        parse_fail(p, t->line, "expected token '%s', got '" STR_FMT "'", expected, STR_ARG(got));
    parse_fail(p, t->line, "unexpected '" STR_FMT "'", STR_ARG(got));
}

void fail_no_expression(parse_ctx *p) {
    const token *t = peek(p);
    parse_fail(p, t->line, "Expected an expression, got '%s'", token_names[t->type]);
}

const token *expect(parse_ctx *p, token_type type) {
    if (peek(p)->type != type) fail_token(p, token_names[type]);
    return next_token(p);
}

static void expect_name(parse_ctx *p, const char *name) {
    if (!skip_name(p, name)) fail_token(p, name);
}

/* --- nodes */

node *node_new(parse_ctx *p, node_kind kind, uint32_t line) {
    node *n = parse_alloc(p, sizeof *n);
    n->kind = (uint8_t)kind;
    n->line = line;
    return n;
}

void node_raise(parse_ctx *p, node *n, const node *child) {
    if (!child || child->height < n->height) return;
    if (child->height >= HEIGHT_MAX) parse_fail(p, n->line, "expression is nested too deeply");
    n->height = (uint16_t)(child->height + 1);
}

void parse_enter(parse_ctx *p) {
    if (++p->depth > LIMIT_TEMPLATE_DEPTH)
        parse_fail(p, peek(p)->line, "more than %d levels of nesting", LIMIT_TEMPLATE_DEPTH);
}
void parse_leave(parse_ctx *p) {
    p->depth--;
}

void body_add(parse_ctx *p, body *b, uint32_t *cap, node *n) {
    if (b->n == *cap) {
        *cap = *cap ? *cap * 2 : 4;
        node **items = parse_alloc(p, *cap * sizeof *items);
        if (b->n) memcpy(items, b->p, b->n * sizeof *items);
        b->p = items;
    }
    b->p[b->n++] = n;
}

/* --- statements */

/* Statements up to a tag named by one of `ends` (up to three, NULL-padded); the tag's name is left
 * as the current token. ends == NULL: up to the end of the template. */
static body subparse(parse_ctx *p, const char *const ends[3]) {
    body out = {0};
    uint32_t cap = 0;
    parse_enter(p);
    for (;;) {
        const token *t = peek(p);
        if (t->type == T_EOF) break;
        next_token(p);
        if (t->type == T_DATA) {
            node *n = node_new(p, N_DATA, t->line);
            n->value = val_strn(t->text.p, t->text.n);
            body_add(p, &out, &cap, n);
        } else if (t->type == T_VAR_BEGIN) {
            node *n = node_new(p, N_PRINT, t->line);
            n->a = parse_tuple(p, 0, NULL);
            expect(p, T_VAR_END);
            body_add(p, &out, &cap, n);
        } else {
            for (int i = 0; ends && i < 3 && ends[i]; i++) {
                if (!at_name(p, ends[i])) continue;
                parse_leave(p);
                return out;
            }
            parse_statement(p, &out, &cap);
            expect(p, T_BLOCK_END);
        }
    }
    if (ends)
        parse_fail(
            p, peek(p)->line,
            "Unexpected end of template. Jinja was looking for the following tags: '%s'%s%s%s.",
            ends[0], ends[1] ? " or '" : "", ends[1] ? ends[1] : "", ends[1] ? "'" : "");
    parse_leave(p);
    return out;
}

static body statements(parse_ctx *p, const char *a, const char *b, const char *c) {
    const char *const ends[3] = {a, b, c};
    skip_type(p, T_COLON);
    expect(p, T_BLOCK_END);
    return subparse(p, ends);
}

static body statements_to(parse_ctx *p, const char *end) {
    body b = statements(p, end, NULL, NULL);
    next_token(p);
    return b;
}

static node *parse_for(parse_ctx *p, uint32_t line) {
    node *n = node_new(p, N_FOR, line);
    n->loop = parse_alloc(p, sizeof *n->loop);
    uint32_t target_at = p->at;
    n->a = parse_target(p, false, "in");
    uint32_t after = p->at;
    p->at = target_at; /* once more, for the filter's own scope */
    n->loop->test_target = parse_target(p, false, "in");
    p->at = after;
    expect_name(p, "in");
    n->b = parse_tuple(p, TUPLE_NO_COND, "recursive");
    if (skip_name(p, "if")) n->c = parse_expression(p, true);
    if (skip_name(p, "recursive")) n->op |= FOR_RECURSIVE;
    n->body = statements(p, "endfor", "else", NULL);
    if (str_eqz(next_token(p)->text, "else")) n->orelse = statements_to(p, "endfor");
    return n;
}

static node *parse_if(parse_ctx *p, uint32_t line) {
    node *result = node_new(p, N_IF, line), *n = result;
    uint32_t cap = 0;
    for (;;) {
        n->a = parse_tuple(p, TUPLE_NO_COND, NULL);
        n->body = statements(p, "elif", "else", "endif");
        const token *t = next_token(p);
        if (str_eqz(t->text, "elif")) {
            n = node_new(p, N_IF, peek(p)->line);
            body_add(p, &result->items, &cap, n);
            continue;
        }
        if (str_eqz(t->text, "else")) result->orelse = statements_to(p, "endif");
        return result;
    }
}

static node *parse_set(parse_ctx *p, uint32_t line) {
    node *target = parse_target(p, true, NULL);
    node *n = node_new(p, N_SET, line);
    n->a = target;
    if (skip_type(p, T_ASSIGN)) {
        n->b = parse_tuple(p, 0, NULL);
        return n;
    }
    n->kind = N_SET_BLOCK;
    n->scope = parse_alloc(p, sizeof *n->scope);
    n->b = parse_filters(p, NULL, false);
    n->body = statements_to(p, "endset");
    return n;
}

static node *parse_with(parse_ctx *p, uint32_t line) {
    node *n = node_new(p, N_WITH, line);
    n->scope = parse_alloc(p, sizeof *n->scope);
    uint32_t cap = 0;
    while (peek(p)->type != T_BLOCK_END) {
        if (n->items.n) expect(p, T_COMMA);
        body_add(p, &n->items, &cap, parse_target(p, false, NULL));
        expect(p, T_ASSIGN);
        body_add(p, &n->items, &cap, parse_expression(p, true));
    }
    n->body = statements_to(p, "endwith");
    return n;
}

/* "(a, b=1)" of a macro or call block. */
static void parse_signature(parse_ctx *p, macro_plan *m) {
    body names = {0}, defaults = {0};
    uint32_t names_cap = 0, defaults_cap = 0;
    expect(p, T_LPAREN);
    while (peek(p)->type != T_RPAREN) {
        if (names.n) expect(p, T_COMMA);
        uint32_t line = peek(p)->line;
        node *name = parse_name_target(p);
        if (skip_type(p, T_ASSIGN))
            body_add(p, &defaults, &defaults_cap, parse_expression(p, true));
        else if (defaults.n)
            parse_fail(p, line, "non-default argument follows default argument");
        body_add(p, &names, &names_cap, name);
    }
    expect(p, T_RPAREN);
    if (names.n > UINT16_MAX) parse_fail(p, peek(p)->line, "too many arguments");
    m->n_args = names.n;
    m->arg_names = parse_alloc(p, names.n * sizeof *m->arg_names);
    m->arg_slots = parse_alloc(p, names.n * sizeof *m->arg_slots);
    for (uint32_t i = 0; i < names.n; i++) m->arg_names[i] = names.p[i]->value;
    m->defaults = defaults.p;
    m->n_defaults = defaults.n;
}

static node *parse_macro(parse_ctx *p, uint32_t line) {
    node *n = node_new(p, N_MACRO, line);
    n->macro = parse_alloc(p, sizeof *n->macro);
    n->a = parse_name_target(p);
    n->macro->name = n->a->value;
    parse_signature(p, n->macro);
    n->macro->body = statements_to(p, "endmacro");
    return n;
}

static node *parse_call_block(parse_ctx *p, uint32_t line) {
    node *n = node_new(p, N_CALL_BLOCK, line);
    n->macro = parse_alloc(p, sizeof *n->macro);
    n->macro->name = val_none();
    if (peek(p)->type == T_LPAREN) parse_signature(p, n->macro);
    n->b = parse_expression(p, true);
    if (n->b->kind != N_CALL) parse_fail(p, line, "expected call");
    n->macro->body = statements_to(p, "endcall");
    return n;
}

static node *parse_filter_block(parse_ctx *p, uint32_t line) {
    node *n = node_new(p, N_FILTER_BLOCK, line);
    n->scope = parse_alloc(p, sizeof *n->scope);
    n->b = parse_filters(p, NULL, true);
    n->body = statements_to(p, "endfilter");
    return n;
}

/* transformers' marker around what the assistant says: prints its body. */
static node *parse_generation(parse_ctx *p, uint32_t line) {
    node *n = node_new(p, N_GENERATION, line);
    n->macro = parse_alloc(p, sizeof *n->macro);
    n->macro->name = val_none();
    n->macro->body = statements_to(p, "endgeneration");
    return n;
}

static node *parse_break(parse_ctx *p, uint32_t line) {
    return node_new(p, N_BREAK, line);
}
static node *parse_continue(parse_ctx *p, uint32_t line) {
    return node_new(p, N_CONTINUE, line);
}

/* "{% print a, b %}" becomes one N_PRINT per value. */
static void parse_print(parse_ctx *p, uint32_t line, body *out, uint32_t *cap) {
    bool first = true;
    while (peek(p)->type != T_BLOCK_END) {
        if (!first) expect(p, T_COMMA);
        node *n = node_new(p, N_PRINT, line);
        n->a = parse_expression(p, true);
        body_add(p, out, cap, n);
        first = false;
    }
}

static const struct {
    const char *name;
    node *(*parse)(parse_ctx *p, uint32_t line); /* NULL: refused */
} tags[] = {
    {"for", parse_for},
    {"if", parse_if},
    {"set", parse_set},
    {"with", parse_with},
    {"macro", parse_macro},
    {"call", parse_call_block},
    {"filter", parse_filter_block},
    {"generation", parse_generation},
    {"break", parse_break},
    {"continue", parse_continue},
    {"include", NULL},
    {"import", NULL},
    {"from", NULL},
    {"extends", NULL},
    {"block", NULL},
    {"autoescape", NULL},
};

static void parse_statement(parse_ctx *p, body *out, uint32_t *cap) {
    const token *t = peek(p);
    if (t->type != T_NAME) parse_fail(p, t->line, "tag name expected");
    next_token(p);
    if (str_eqz(t->text, "print")) {
        parse_print(p, t->line, out, cap);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        if (!str_eqz(t->text, tags[i].name)) continue;
        if (!tags[i].parse)
            parse_fail(p, t->line, "the tag '%s' is refused: a chat template stands alone",
                       tags[i].name);
        body_add(p, out, cap, tags[i].parse(p, t->line));
        return;
    }
    str name = t->text;
    if (name.n > 80) name.n = 80;
    parse_fail(p, t->line, "Encountered unknown tag '" STR_FMT "'.", STR_ARG(name));
}

body template_statements(parse_ctx *p) {
    return subparse(p, NULL);
}
