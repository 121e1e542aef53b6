/* Recursive descent that evaluates as it parses. A part that Python would not evaluate (the other
 * side of `if`, the right of a decided `and`) is parsed with `dead` set: it consumes text, asks
 * nothing of the environment and cannot fail but for its syntax. The condition of `a if c else b`
 * comes after `a`, so `a` is first parsed dead, then, if chosen, again alive; depth bounds the
 * repetition because nesting halves the text each time at best and EXPR_STEPS bounds all of it. */
#include "engine/expr.h"

#include <ctype.h>
#include <math.h>

#include "engine/base/mem.h"
#include "kernels/dtype.h"

#define EXPR_STEPS 20000
#define ARGS_MAX   4

typedef struct parser {
    str text;
    size_t at;
    int depth, steps;
    bool dead;
    const expr_env *env;
    error *err;
} parser;

static status parse_if(parser *p, value *ret);

bool value_true(value v) {
    return v.kind == VAL_STR ? v.text.n > 0 : v.kind != VAL_NONE && v.num != 0;
}

static status fail(parser *p, const char *what) {
    return error_set(p->err, ERR_FORMAT, "expression \"" STR_FMT "\": %s at column %zu",
                     STR_ARG(p->text), what, p->at + 1);
}

static void skip_space(parser *p) {
    while (p->at < p->text.n && p->text.p[p->at] == ' ') p->at++;
}

static bool is_word(char c) {
    return isalnum((unsigned char)c) || c == '_';
}

/* Take an operator or a whole word if it comes next. */
static bool take(parser *p, const char *token) {
    skip_space(p);
    size_t n = strlen(token);
    if (p->text.n - p->at < n || memcmp(p->text.p + p->at, token, n) != 0) return false;
    if (is_word(token[0]) && p->at + n < p->text.n && is_word(p->text.p[p->at + n])) return false;
    p->at += n;
    return true;
}

static status need_num(parser *p, value v) {
    if (p->dead || v.kind == VAL_NUM || v.kind == VAL_BOOL) return OK;
    return fail(p, v.kind == VAL_NONE ? "none where a number is needed"
                                      : "text where a number is needed");
}

static status call_builtin(parser *p, str name, const value *a, int n, value *ret) {
    bool two = str_eqz(name, "min") || str_eqz(name, "max");
    bool one = str_eqz(name, "int") || str_eqz(name, "bf16");
    if (!two && !one) {
        status st = p->env->call(p->env->ctx, name, a, n, ret, p->err);
        if (st != OK) error_prefix(p->err, "expression \"" STR_FMT "\"", STR_ARG(p->text));
        return st;
    }
    if (n != (two ? 2 : 1)) return fail(p, "wrong number of arguments");
    for (int i = 0; i < n; i++) TRY(need_num(p, a[i]));
    if (str_eqz(name, "min")) *ret = value_num(fmin(a[0].num, a[1].num));
    if (str_eqz(name, "max")) *ret = value_num(fmax(a[0].num, a[1].num));
    if (str_eqz(name, "int")) *ret = value_num(trunc(a[0].num));
    if (str_eqz(name, "bf16")) *ret = value_num(bf16_to_f32(f32_to_bf16((float)a[0].num)));
    return OK;
}

static status parse_call(parser *p, str name, value *ret) {
    value args[ARGS_MAX] = {0};
    int n = 0;
    if (!take(p, ")")) {
        do {
            if (n == ARGS_MAX) return fail(p, "too many arguments");
            TRY(parse_if(p, &args[n++]));
        } while (take(p, ","));
        if (!take(p, ")")) return fail(p, "expected )");
    }
    if (p->dead) return OK;
    return call_builtin(p, name, args, n, ret);
}

static status parse_name(parser *p, value *ret) {
    size_t from = p->at;
    while (p->at < p->text.n && is_word(p->text.p[p->at])) p->at++;
    str name = str_cut(p->text, from, p->at);
    if (take(p, "(")) return parse_call(p, name, ret);
    if (p->dead) return OK;
    if (str_eqz(name, "true") || str_eqz(name, "false"))
        *ret = value_bool(name.n == 4);
    else if (str_eqz(name, "none"))
        *ret = (value){0};
    else {
        status st = p->env->name(p->env->ctx, name, ret, p->err);
        if (st != OK) error_prefix(p->err, "expression \"" STR_FMT "\"", STR_ARG(p->text));
        return st;
    }
    return OK;
}

static status parse_number(parser *p, value *ret) {
    size_t from = p->at;
    while (p->at < p->text.n) {
        char c = p->text.p[p->at], before = p->at > from ? p->text.p[p->at - 1] : 0;
        bool sign = (c == '-' || c == '+') && (before == 'e' || before == 'E');
        if (!isalnum((unsigned char)c) && c != '.' && !sign) break;
        p->at++;
    }
    double x;
    if (!str_to_f64(str_cut(p->text, from, p->at), &x)) return fail(p, "not a number");
    *ret = value_num(x);
    return OK;
}

static status parse_atom(parser *p, value *ret) {
    skip_space(p);
    if (p->at == p->text.n) return fail(p, "unexpected end");
    char c = p->text.p[p->at];
    if (c == '\'') {
        size_t from = ++p->at;
        while (p->at < p->text.n && p->text.p[p->at] != '\'') p->at++;
        if (p->at == p->text.n) return fail(p, "unclosed text");
        *ret = value_str(str_cut(p->text, from, p->at++));
        return OK;
    }
    if (take(p, "(")) {
        TRY(parse_if(p, ret));
        return take(p, ")") ? OK : fail(p, "expected )");
    }
    if (isdigit((unsigned char)c) || c == '.') return parse_number(p, ret);
    if (is_word(c)) return parse_name(p, ret);
    return fail(p, "unexpected character");
}

static status parse_unary(parser *p, value *ret) {
    if (++p->steps > EXPR_STEPS) return fail(p, "too much work");
    if (++p->depth > EXPR_DEPTH) return fail(p, "nested too deep");
    status st;
    if (take(p, "-")) {
        st = parse_unary(p, ret);
        if (st == OK) st = need_num(p, *ret);
        if (st == OK) *ret = value_num(-ret->num);
    } else {
        st = parse_atom(p, ret);
        if (st == OK && take(p, "**")) {
            value e = {0};
            st = parse_unary(p, &e);
            if (st == OK) st = need_num(p, *ret);
            if (st == OK) st = need_num(p, e);
            if (st == OK) *ret = value_num(pow(ret->num, e.num));
        }
    }
    p->depth--;
    return st;
}

/* One level of left-associative binary operators: * / % or + -. */
static status apply(parser *p, char op, value *a, value b) {
    TRY(need_num(p, *a));
    TRY(need_num(p, b));
    if (p->dead) return OK;
    if ((op == '/' || op == '%') && b.num == 0) return fail(p, "division by zero");
    double x = a->num, y = b.num;
    *a = value_num(op == '*'   ? x * y
                   : op == '/' ? x / y
                   : op == '%' ? x - y * floor(x / y)
                   : op == '+' ? x + y
                               : x - y);
    return OK;
}

static status parse_term(parser *p, value *ret) {
    TRY(parse_unary(p, ret));
    for (;;) {
        char op = take(p, "*") ? '*' : take(p, "/") ? '/' : take(p, "%") ? '%' : 0;
        if (!op) return OK;
        value b = {0};
        TRY(parse_unary(p, &b));
        TRY(apply(p, op, ret, b));
    }
}

static status parse_sum(parser *p, value *ret) {
    TRY(parse_term(p, ret));
    for (;;) {
        char op = take(p, "+") ? '+' : take(p, "-") ? '-' : 0;
        if (!op) return OK;
        value b = {0};
        TRY(parse_term(p, &b));
        TRY(apply(p, op, ret, b));
    }
}

static bool equal(value a, value b) {
    bool num_a = a.kind == VAL_NUM || a.kind == VAL_BOOL;
    bool num_b = b.kind == VAL_NUM || b.kind == VAL_BOOL;
    if (num_a && num_b) return a.num == b.num;
    return a.kind == b.kind && (a.kind != VAL_STR || str_eq(a.text, b.text));
}

static status parse_compare(parser *p, value *ret) {
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">"};
    TRY(parse_sum(p, ret));
    for (size_t k = 0; k < ARRAY_LEN(ops); k++) {
        if (!take(p, ops[k])) continue;
        value b = {0};
        TRY(parse_sum(p, &b));
        if (k < 2) {
            *ret = value_bool(equal(*ret, b) == (k == 0));
            return OK;
        }
        TRY(need_num(p, *ret));
        TRY(need_num(p, b));
        double x = ret->num, y = b.num;
        *ret = value_bool(k == 2 ? x <= y : k == 3 ? x >= y : k == 4 ? x < y : x > y);
        return OK;
    }
    return OK;
}

static status parse_not(parser *p, value *ret) {
    if (!take(p, "not")) return parse_compare(p, ret);
    if (++p->depth > EXPR_DEPTH) return fail(p, "nested too deep");
    status st = parse_not(p, ret);
    p->depth--;
    if (st == OK) *ret = value_bool(!value_true(*ret));
    return st;
}

/* `and` (decides on false) over not, `or` (decides on true) over and. */
static status parse_logic(parser *p, bool is_or, value *ret) {
    TRY(is_or ? parse_logic(p, false, ret) : parse_not(p, ret));
    while (take(p, is_or ? "or" : "and")) {
        value b = {0};
        bool was_dead = p->dead, decided = value_true(*ret) == is_or;
        p->dead = was_dead || decided;
        status st = is_or ? parse_logic(p, false, &b) : parse_not(p, &b);
        p->dead = was_dead;
        TRY(st);
        if (!decided) *ret = b;
    }
    return OK;
}

static status parse_dead(parser *p, bool dead, bool ternary, value *ret) {
    bool was_dead = p->dead;
    p->dead = was_dead || dead;
    status st = ternary ? parse_if(p, ret) : parse_logic(p, true, ret);
    p->dead = was_dead;
    return st;
}

static status parse_if_inner(parser *p, value *ret) {
    size_t start = p->at;
    TRY(parse_dead(p, true, false, ret));
    if (!take(p, "if")) {
        if (p->dead) return OK;
        p->at = start;
        return parse_logic(p, true, ret);
    }
    value cond = {0}, other = {0};
    TRY(parse_logic(p, true, &cond));
    if (!take(p, "else")) return fail(p, "expected else");
    bool chosen = value_true(cond);
    TRY(parse_dead(p, chosen, true, &other));
    size_t end = p->at;
    if (chosen && !p->dead) {
        p->at = start;
        TRY(parse_logic(p, true, ret));
        p->at = end;
    } else
        *ret = other;
    return OK;
}

static status parse_if(parser *p, value *ret) {
    if (++p->depth > EXPR_DEPTH) return fail(p, "nested too deep");
    status st = parse_if_inner(p, ret);
    p->depth--;
    return st;
}

status expr_eval(str text, const expr_env *env, value *ret, error *err) {
    if (text.n > EXPR_BYTES)
        return error_set(err, ERR_FORMAT, "an expression is longer than %d bytes", EXPR_BYTES);
    parser p = {.text = text, .env = env, .err = err};
    value v = {0};
    TRY(parse_if(&p, &v));
    skip_space(&p);
    if (p.at != text.n) return fail(&p, "unexpected text");
    if (v.kind == VAL_NUM && !isfinite(v.num)) return fail(&p, "the result is not finite");
    *ret = v;
    return OK;
}
