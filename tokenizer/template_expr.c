/* The expression parser, in Jinja's precedence (loosest first): inline if, or, and, not, comparison
 * and in, + -, ~, * / // %, ** (to the left, unlike Python), unary, then postfix, filters and
 * tests. One function per level. */
#include <string.h>

#include "engine/base/mem.h"
#include "tokenizer/template_ast.h"

static node *parse_cond(parse_ctx *p);
static node *parse_or(parse_ctx *p);
static node *parse_unary(parse_ctx *p, bool with_filters);

static node *binary(parse_ctx *p, node_kind kind, uint8_t op, node *a, node *b) {
    node *n = node_new(p, kind, a->line);
    n->op = op;
    n->a = a;
    n->b = b;
    node_raise(p, n, a);
    node_raise(p, n, b);
    return n;
}

node *parse_expression(parse_ctx *p, bool with_cond) {
    parse_enter(p);
    node *n = with_cond ? parse_cond(p) : parse_or(p);
    parse_leave(p);
    return n;
}

static node *parse_cond(parse_ctx *p) {
    uint32_t line = peek(p)->line;
    node *then = parse_or(p);
    while (skip_name(p, "if")) {
        node *n = node_new(p, N_COND, line);
        n->a = parse_or(p);
        n->b = then;
        if (skip_name(p, "else")) {
            parse_enter(p);
            n->c = parse_cond(p);
            parse_leave(p);
            node_raise(p, n, n->c);
        }
        node_raise(p, n, n->a);
        node_raise(p, n, n->b);
        then = n;
        line = peek(p)->line;
    }
    return then;
}

static node *parse_not(parse_ctx *p);

static node *parse_and(parse_ctx *p) {
    node *left = parse_not(p);
    while (skip_name(p, "and")) left = binary(p, N_AND, 0, left, parse_not(p));
    return left;
}

static node *parse_or(parse_ctx *p) {
    node *left = parse_and(p);
    while (skip_name(p, "or")) left = binary(p, N_OR, 0, left, parse_and(p));
    return left;
}

static node *unary(parse_ctx *p, node_kind kind, uint32_t line, node *a) {
    node *n = node_new(p, kind, line);
    n->a = a;
    node_raise(p, n, a);
    return n;
}

static node *parse_compare(parse_ctx *p);

static node *parse_not(parse_ctx *p) {
    uint32_t line = peek(p)->line;
    if (!skip_name(p, "not")) return parse_compare(p);
    parse_enter(p);
    node *n = unary(p, N_NOT, line, parse_not(p));
    parse_leave(p);
    return n;
}

static node *parse_concat(parse_ctx *p);

static node *parse_math1(parse_ctx *p) {
    node *left = parse_concat(p);
    for (uint8_t op; (op = peek(p)->type) == T_ADD || op == T_SUB;) {
        next_token(p);
        left = binary(p, N_BINARY, op, left, parse_concat(p));
    }
    return left;
}

static uint8_t compare_op(parse_ctx *p) {
    uint8_t type = peek(p)->type;
    if (type >= T_EQ && type <= T_LE) {
        next_token(p);
        return type;
    }
    if (skip_name(p, "in")) return OP_IN;
    const token *after = peek2(p);
    if (at_name(p, "not") && after->type == T_NAME && str_eqz(after->text, "in")) {
        p->at += 2;
        return OP_NOT_IN;
    }
    return 0;
}

static node *parse_compare(parse_ctx *p) {
    node *first = parse_math1(p), *n = NULL;
    uint32_t cap = 0;
    uint8_t ops[64];
    for (uint8_t op; (op = compare_op(p));) {
        if (!n) {
            n = unary(p, N_COMPARE, first->line, first);
        } else if (n->items.n == sizeof ops) {
            parse_fail(p, n->line, "more than %zu comparisons in a chain", sizeof ops);
        }
        ops[n->items.n] = op;
        node *operand = parse_math1(p);
        node_raise(p, n, operand);
        body_add(p, &n->items, &cap, operand);
    }
    if (!n) return first;
    n->ops = parse_alloc(p, n->items.n);
    memcpy(n->ops, ops, n->items.n);
    return n;
}

static node *parse_pow(parse_ctx *p) {
    node *left = parse_unary(p, true);
    while (skip_type(p, T_POW)) left = binary(p, N_BINARY, T_POW, left, parse_unary(p, true));
    return left;
}

static node *parse_math2(parse_ctx *p) {
    node *left = parse_pow(p);
    for (uint8_t op;
         (op = peek(p)->type) == T_MUL || op == T_DIV || op == T_FLOORDIV || op == T_MOD;) {
        next_token(p);
        left = binary(p, N_BINARY, op, left, parse_pow(p));
    }
    return left;
}

static node *parse_concat(parse_ctx *p) {
    node *first = parse_math2(p), *n = NULL;
    uint32_t cap = 0;
    while (skip_type(p, T_TILDE)) {
        if (!n) {
            n = node_new(p, N_CONCAT, first->line);
            node_raise(p, n, first);
            body_add(p, &n->items, &cap, first);
        }
        node *operand = parse_math2(p);
        node_raise(p, n, operand);
        body_add(p, &n->items, &cap, operand);
    }
    return n ? n : first;
}

/* --- literals */

static node *constant(parse_ctx *p, uint32_t line, val v) {
    node *n = node_new(p, N_CONST, line);
    n->value = v;
    return n;
}

static node *name_node(parse_ctx *p, const token *t) {
    node *n = node_new(p, N_NAME, t->line);
    n->value = val_strn(t->text.p, t->text.n);
    return n;
}

static node *parse_name(parse_ctx *p, bool with_namespace) {
    const token *t = next_token(p);
    static const struct {
        const char *name;
        uint8_t type;
        bool b;
    } constants[] = {{"true", V_BOOL, true},   {"True", V_BOOL, true}, {"false", V_BOOL, false},
                     {"False", V_BOOL, false}, {"none", V_NONE, 0},    {"None", V_NONE, 0}};
    for (size_t i = 0; i < ARRAY_LEN(constants); i++)
        if (str_eqz(t->text, constants[i].name))
            return constant(p, t->line, (val){.type = constants[i].type, .b = constants[i].b});
    if (!with_namespace || !skip_type(p, T_DOT)) return name_node(p, t);
    node *n = unary(p, N_NSREF, t->line, name_node(p, t));
    const token *attr = expect(p, T_NAME);
    n->value = val_strn(attr->text.p, attr->text.n);
    return n;
}

static node *parse_string(parse_ctx *p) {
    const token *t = next_token(p);
    str s = t->text;
    if (peek(p)->type == T_STRING) { /* "a" 'b': adjacent literals are one */
        size_t n = s.n, at = p->at;
        while (p->tokens[at].type == T_STRING) n += p->tokens[at++].text.n;
        char *joined = parse_alloc(p, n + 1);
        memcpy(joined, s.p, s.n);
        n = s.n;
        for (; peek(p)->type == T_STRING; next_token(p)) {
            memcpy(joined + n, peek(p)->text.p, peek(p)->text.n);
            n += peek(p)->text.n;
        }
        s = str_n(joined, n);
    }
    return constant(p, t->line, val_strn(s.p, s.n));
}

static node *parse_list(parse_ctx *p) {
    node *n = node_new(p, N_LIST, next_token(p)->line);
    uint32_t cap = 0;
    while (peek(p)->type != T_RBRACKET) {
        if (n->items.n) expect(p, T_COMMA);
        if (peek(p)->type == T_RBRACKET) break;
        node *item = parse_expression(p, true);
        node_raise(p, n, item);
        body_add(p, &n->items, &cap, item);
    }
    expect(p, T_RBRACKET);
    return n;
}

static node *parse_dict(parse_ctx *p) {
    node *n = node_new(p, N_DICT, next_token(p)->line);
    uint32_t cap = 0;
    while (peek(p)->type != T_RBRACE) {
        if (n->items.n) expect(p, T_COMMA);
        if (peek(p)->type == T_RBRACE) break;
        for (int i = 0; i < 2; i++) {
            if (i == 1) expect(p, T_COLON);
            node *item = parse_expression(p, true);
            node_raise(p, n, item);
            body_add(p, &n->items, &cap, item);
        }
    }
    expect(p, T_RBRACE);
    return n;
}

static node *parse_primary(parse_ctx *p, bool with_namespace) {
    const token *t = peek(p);
    switch (t->type) {
    case T_NAME: return parse_name(p, with_namespace);
    case T_STRING: return parse_string(p);
    case T_INT:
    case T_FLOAT: next_token(p); return constant(p, t->line, t->value);
    case T_LPAREN: {
        next_token(p);
        node *n = parse_tuple(p, TUPLE_PARENS, NULL);
        expect(p, T_RPAREN);
        return n;
    }
    case T_LBRACKET: return parse_list(p);
    case T_LBRACE: return parse_dict(p);
    default: fail_token(p, NULL);
    }
}

node *parse_tuple(parse_ctx *p, unsigned flags, const char *end) {
    node *n = node_new(p, N_TUPLE, peek(p)->line);
    uint32_t cap = 0;
    bool is_tuple = false;
    parse_enter(p);
    for (;;) {
        if (n->items.n) expect(p, T_COMMA);
        uint8_t type = peek(p)->type;
        if (type == T_VAR_END || type == T_BLOCK_END || type == T_RPAREN) break;
        if (end && at_name(p, end)) break;
        node *item = flags & TUPLE_SIMPLE ? parse_primary(p, flags & TUPLE_NAMESPACE)
                                          : parse_expression(p, !(flags & TUPLE_NO_COND));
        node_raise(p, n, item);
        body_add(p, &n->items, &cap, item);
        if (peek(p)->type != T_COMMA) break;
        is_tuple = true;
    }
    parse_leave(p);
    if (!is_tuple && n->items.n) return n->items.p[0];
    if (!is_tuple && !(flags & TUPLE_PARENS)) fail_no_expression(p);
    return n;
}

/* --- targets of assignments */

static void check_target(parse_ctx *p, const node *n) {
    if (n->kind == N_TUPLE) {
        for (uint32_t i = 0; i < n->items.n; i++) check_target(p, n->items.p[i]);
    } else if (n->kind != N_NAME && n->kind != N_NSREF) {
        parse_fail(p, n->line, "can't assign to '%s'",
                   n->kind == N_CONST  ? "const"
                   : n->kind == N_LIST ? "list"
                                       : "dict");
    }
}

node *parse_target(parse_ctx *p, bool with_namespace, const char *end) {
    node *n = parse_tuple(p, TUPLE_SIMPLE | (with_namespace ? TUPLE_NAMESPACE : 0), end);
    check_target(p, n);
    return n;
}

node *parse_name_target(parse_ctx *p) {
    const token *t = expect(p, T_NAME);
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
        if (str_eqz(t->text, reserved[i])) parse_fail(p, t->line, "can't assign to 'name'");
    return name_node(p, t);
}

/* --- postfix */

static node *parse_slice(parse_ctx *p, node *object, node *start) {
    node *n = unary(p, N_SLICE, object->line, object);
    n->items.n = 3;
    n->items.p = parse_alloc(p, 3 * sizeof *n->items.p);
    n->items.p[0] = start;
    for (int i = 1; i < 3 && skip_type(p, T_COLON); i++) {
        uint8_t type = peek(p)->type;
        if (type != T_COLON && type != T_RBRACKET) n->items.p[i] = parse_expression(p, true);
    }
    for (int i = 0; i < 3; i++) node_raise(p, n, n->items.p[i]);
    return n;
}

static node *parse_subscript(parse_ctx *p, node *object) {
    const token *t = next_token(p);
    if (t->type == T_DOT) {
        const token *attr = next_token(p);
        if (attr->type == T_NAME) {
            node *n = unary(p, N_ATTR, t->line, object);
            n->value = val_strn(attr->text.p, attr->text.n);
            return n;
        }
        if (attr->type != T_INT) parse_fail(p, attr->line, "expected name or number");
        return binary(p, N_ITEM, 0, object, constant(p, attr->line, attr->value));
    }
    node *first = NULL, *n;
    if (peek(p)->type == T_RBRACKET) {
        n = binary(p, N_ITEM, 0, object, node_new(p, N_TUPLE, t->line));
    } else {
        if (peek(p)->type != T_COLON) first = parse_expression(p, true);
        if (peek(p)->type == T_COLON) {
            n = parse_slice(p, object, first);
        } else if (peek(p)->type == T_COMMA) {
            node *tuple = node_new(p, N_TUPLE, t->line);
            uint32_t cap = 0;
            node_raise(p, tuple, first);
            body_add(p, &tuple->items, &cap, first);
            while (skip_type(p, T_COMMA)) {
                node *item = parse_expression(p, true);
                node_raise(p, tuple, item);
                body_add(p, &tuple->items, &cap, item);
            }
            n = binary(p, N_ITEM, 0, object, tuple);
        } else {
            n = binary(p, N_ITEM, 0, object, first);
        }
    }
    expect(p, T_RBRACKET);
    return n;
}

static void parse_call_arg(parse_ctx *p, node *call, uint32_t *pos_cap, uint32_t *kw_cap,
                           uint32_t line) {
    static const char invalid[] = "invalid syntax for function call expression";
    args_node *a = call->args;
    node *v;
    if (skip_type(p, T_MUL)) {
        if (a->star || a->star_star) parse_fail(p, line, invalid);
        v = a->star = parse_expression(p, true);
    } else if (skip_type(p, T_POW)) {
        if (a->star_star) parse_fail(p, line, invalid);
        v = a->star_star = parse_expression(p, true);
    } else if (peek(p)->type == T_NAME && peek2(p)->type == T_ASSIGN) {
        if (a->star_star) parse_fail(p, line, invalid);
        const token *name = next_token(p);
        next_token(p);
        v = parse_expression(p, true);
        uint32_t cap = *kw_cap;
        body_add(p, &a->kw, kw_cap, v);
        if (*kw_cap != cap) {
            val *names = parse_alloc(p, *kw_cap * sizeof *names);
            if (a->kw.n > 1) memcpy(names, a->kw_names, (a->kw.n - 1) * sizeof *names);
            a->kw_names = names;
        }
        a->kw_names[a->kw.n - 1] = val_strn(name->text.p, name->text.n);
    } else {
        if (a->star || a->star_star || a->kw.n) parse_fail(p, line, invalid);
        v = parse_expression(p, true);
        body_add(p, &a->pos, pos_cap, v);
    }
    node_raise(p, call, v);
}

/* "( ... )" into n->args. */
static void parse_call_args(parse_ctx *p, node *n) {
    uint32_t line = expect(p, T_LPAREN)->line, pos_cap = 0, kw_cap = 0;
    bool comma = false;
    while (peek(p)->type != T_RPAREN) {
        if (comma) {
            expect(p, T_COMMA);
            if (peek(p)->type == T_RPAREN) break;
        }
        parse_call_arg(p, n, &pos_cap, &kw_cap, line);
        comma = true;
    }
    expect(p, T_RPAREN);
}

static node *with_args(parse_ctx *p, node_kind kind, uint32_t line, node *a) {
    node *n = node_new(p, kind, line);
    n->a = a;
    n->args = parse_alloc(p, sizeof *n->args);
    node_raise(p, n, a);
    return n;
}

static node *parse_call(parse_ctx *p, node *function) {
    node *n = with_args(p, N_CALL, peek(p)->line, function);
    parse_call_args(p, n);
    return n;
}

static node *parse_postfix(parse_ctx *p, node *n) {
    for (;;) {
        uint8_t type = peek(p)->type;
        if (type == T_DOT || type == T_LBRACKET)
            n = parse_subscript(p, n);
        else if (type == T_LPAREN)
            n = parse_call(p, n);
        else
            return n;
    }
}

/* The name of a filter or test: parts joined by dots. */
static val parse_dotted(parse_ctx *p) {
    str name = expect(p, T_NAME)->text;
    if (peek(p)->type == T_DOT) parse_fail(p, peek(p)->line, "no filter or test has a dotted name");
    return val_strn(name.p, name.n);
}

node *parse_filters(parse_ctx *p, node *input, bool start_inline) {
    while (start_inline || peek(p)->type == T_PIPE) {
        if (!start_inline) next_token(p);
        node *n = with_args(p, N_FILTER, peek(p)->line, input);
        n->value = parse_dotted(p);
        if (peek(p)->type == T_LPAREN) parse_call_args(p, n);
        input = n;
        start_inline = false;
    }
    return input;
}

static bool at_test_argument(parse_ctx *p) {
    switch (peek(p)->type) {
    case T_NAME: return !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and");
    case T_STRING:
    case T_INT:
    case T_FLOAT:
    case T_LPAREN:
    case T_LBRACKET:
    case T_LBRACE: return true;
    default: return false;
    }
}

static node *parse_test(parse_ctx *p, node *input) {
    uint32_t line = next_token(p)->line;
    bool negated = skip_name(p, "not");
    node *n = with_args(p, N_TEST, line, input);
    n->value = parse_dotted(p);
    if (peek(p)->type == T_LPAREN) {
        parse_call_args(p, n);
    } else if (at_test_argument(p)) {
        if (at_name(p, "is")) parse_fail(p, line, "You cannot chain multiple tests with is");
        uint32_t cap = 0;
        parse_enter(p);
        node *arg = parse_postfix(p, parse_primary(p, false));
        parse_leave(p);
        node_raise(p, n, arg);
        body_add(p, &n->args->pos, &cap, arg);
    }
    return negated ? unary(p, N_NOT, line, n) : n;
}

static node *parse_filter_expr(parse_ctx *p, node *n) {
    for (;;) {
        if (peek(p)->type == T_PIPE)
            n = parse_filters(p, n, false);
        else if (at_name(p, "is"))
            n = parse_test(p, n);
        else if (peek(p)->type == T_LPAREN)
            n = parse_call(p, n);
        else
            return n;
    }
}

static node *parse_unary(parse_ctx *p, bool with_filters) {
    const token *t = peek(p);
    node *n;
    if (t->type == T_SUB || t->type == T_ADD) {
        next_token(p);
        parse_enter(p);
        n = unary(p, t->type == T_SUB ? N_NEG : N_POS, t->line, parse_unary(p, false));
        parse_leave(p);
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    return with_filters ? parse_filter_expr(p, n) : n;
}
