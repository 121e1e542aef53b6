/* The parsed template: tokens, nodes, scopes. Written by the lexer, parser and scope pass, read by
 * the evaluator; immutable after template_parse. Inside of the template engine only. */
#ifndef TOKENIZER_TEMPLATE_AST_H
#define TOKENIZER_TEMPLATE_AST_H

#include "tokenizer/template_value.h"

/* --- tokens */

typedef enum token_type {
    T_EOF,
    T_DATA,
    T_VAR_BEGIN,
    T_VAR_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_ADD,
    T_SUB,
    T_DIV,
    T_FLOORDIV,
    T_MUL,
    T_MOD,
    T_POW,
    T_TILDE,
    T_LBRACKET,
    T_RBRACKET,
    T_LPAREN,
    T_RPAREN,
    T_LBRACE,
    T_RBRACE,
    T_EQ,
    T_NE,
    T_GT,
    T_GE,
    T_LT,
    T_LE,
    T_ASSIGN,
    T_DOT,
    T_COLON,
    T_PIPE,
    T_COMMA,
    T_SEMICOLON,
} token_type;

typedef struct token {
    uint8_t type;
    uint32_t line;
    str text; /* T_DATA, T_STRING: the decoded text; otherwise as written */
    val value;
} token;

/* --- nodes */

typedef struct node node;
typedef struct scope_plan scope_plan;
typedef struct func_plan func_plan;
struct filter;
struct is_test;

typedef struct body {
    node **p;
    uint32_t n;
} body;

/* Where a variable lives: `hops` function activations up, slot `idx`. */
typedef struct slot_ref {
    uint16_t hops, idx;
} slot_ref;

typedef struct args_node {
    body pos;
    body kw;
    val *kw_names; /* kw.n of them */
    node *star, *star_star;
} args_node;

/* Which fields a kind uses; n: text position `line` is always set. */
typedef enum node_kind {
    /* expressions */
    N_CONST,   /* value */
    N_NAME,    /* value (name), slot */
    N_NSREF,   /* value (attribute), a (the N_NAME): only as a target */
    N_LIST,    /* items */
    N_TUPLE,   /* items */
    N_DICT,    /* items: key, value, key, value, ... */
    N_ATTR,    /* a . value */
    N_ITEM,    /* a [ b ] */
    N_SLICE,   /* a [ items[0] : items[1] : items[2] ], each may be NULL */
    N_CALL,    /* a ( args ) */
    N_FILTER,  /* a | value ( args ); a is NULL for a filter block; filter */
    N_TEST,    /* a is value ( args ); test */
    N_NEG,     /* a */
    N_POS,     /* a */
    N_NOT,     /* a */
    N_AND,     /* a and b */
    N_OR,      /* a or b */
    N_BINARY,  /* a op b; op is T_ADD ... T_POW */
    N_CONCAT,  /* items joined by ~ */
    N_COMPARE, /* a, then ops[i] items[i]: T_EQ ... T_LE, OP_IN, OP_NOT_IN */
    N_COND,    /* b if a else c (c may be NULL) */
    /* statements */
    N_DATA,         /* value: printed as is */
    N_PRINT,        /* a */
    N_IF,           /* a, body, then items (further N_IF for elif), orelse */
    N_FOR,          /* for a in b if c: body else orelse; op: FOR_*; scope, func... */
    N_SET,          /* a = b */
    N_SET_BLOCK,    /* a = body | b */
    N_MACRO,        /* value (name), a (the N_NAME stored to), macro */
    N_CALL_BLOCK,   /* b (the N_CALL), macro */
    N_FILTER_BLOCK, /* b (N_FILTER), body */
    N_WITH,         /* items: target, value, target, value, ...; body */
    N_GENERATION,   /* macro without arguments, called at once */
    N_BREAK,
    N_CONTINUE,
} node_kind;

enum { OP_IN = 100, OP_NOT_IN };
enum { FOR_LOOP_VAR = 1, FOR_RECURSIVE = 2 };

/* One scope's entry actions (a loop body, a macro, ...): what each of its variables starts as. */
typedef enum load_kind { LOAD_PARAM, LOAD_RESOLVE, LOAD_ALIAS, LOAD_UNSET } load_kind;
typedef struct scope_load {
    uint8_t kind;
    uint16_t slot;
    slot_ref from; /* LOAD_ALIAS: the outer variable's */
    val name;      /* LOAD_RESOLVE: looked up in the context */
} scope_load;
struct scope_plan {
    scope_load *loads;
    uint32_t n;
};
/* One function: the template itself, a macro, a recursive loop, a loop's filter. */
struct func_plan {
    uint32_t n_slots;
    bool has_inner; /* functions inside keep its variables alive */
    uint32_t id;    /* numbers the template's functions */
};

typedef struct macro_plan {
    val name; /* V_NONE: a call block */
    func_plan func;
    scope_plan scope;
    uint32_t n_args;
    val *arg_names;
    uint16_t *arg_slots;
    node **defaults; /* of the last n_defaults arguments */
    uint32_t n_defaults;
    bool takes_caller, takes_kwargs, takes_varargs, explicit_caller;
    uint16_t caller_slot, kwargs_slot, varargs_slot;
    body body;
} macro_plan;

typedef struct for_plan {
    scope_plan loop, orelse, test;
    func_plan func;      /* FOR_RECURSIVE: the loop's own function */
    func_plan test_func; /* the filter's */
    node *test_target;   /* the target again, bound in the filter's scope */
    uint16_t loop_slot;
} for_plan;

struct node {
    uint8_t kind;
    uint8_t op;
    uint16_t height; /* of the tree below: bounded, so that recursion is */
    uint32_t line;
    node *a, *b, *c;
    body items;
    body body, orelse;
    val value;
    slot_ref slot;
    union {
        args_node *args;
        uint8_t *ops;
        macro_plan *macro;
        for_plan *loop;
        scope_plan *scope;
    };
    union {
        const struct filter *filter; /* NULL: unknown, an error when reached */
        const struct is_test *test;
    };
};

struct template {
    arena *mem;
    body body;
    func_plan func;
    scope_plan scope;
    uint32_t n_funcs;
    uint32_t n_names; /* variables of all scopes */
};

/* --- the passes: lexer -> parser -> scopes */

/* What the passes share. Errors leave by longjmp to template_parse. */
typedef struct parse_ctx {
    arena *mem;
    jmp_buf fail;
    error *err;
    status st;
    token *tokens;
    uint32_t n_tokens, at;
    int depth;
} parse_ctx;

_Noreturn void parse_fail(parse_ctx *p, uint32_t line, const char *fmt, ...) PRINTF_LIKE(3, 4);
void *parse_alloc(parse_ctx *p, size_t bytes);

/* Source text to p->tokens. */
void template_lex(parse_ctx *p, str source);
/* p->tokens to statements. */
body template_statements(parse_ctx *p);
/* Resolve names to slots, as Jinja's symbol analysis does; look up filters and tests. */
void template_scopes(parse_ctx *p, struct template *t);

/* --- between the statement and the expression parser */
static inline const token *peek(const parse_ctx *p) {
    return &p->tokens[p->at];
}
static inline const token *peek2(const parse_ctx *p) {
    return &p->tokens[p->at + 1 < p->n_tokens ? p->at + 1 : p->at];
}
const token *next_token(parse_ctx *p);
bool at_name(const parse_ctx *p, const char *name);
bool skip_name(parse_ctx *p, const char *name);
bool skip_type(parse_ctx *p, token_type type);
const token *expect(parse_ctx *p, token_type type);
_Noreturn void fail_token(parse_ctx *p, const char *expected); /* NULL: anything else */
_Noreturn void fail_no_expression(parse_ctx *p);
node *node_new(parse_ctx *p, node_kind kind, uint32_t line);
void parse_enter(parse_ctx *p);
void parse_leave(parse_ctx *p);
void body_add(parse_ctx *p, body *b, uint32_t *cap, node *n);
void node_raise(parse_ctx *p, node *n, const node *child); /* height */

enum { TUPLE_SIMPLE = 1, TUPLE_NO_COND = 2, TUPLE_PARENS = 4, TUPLE_NAMESPACE = 8 };
node *parse_expression(parse_ctx *p, bool with_cond);
/* `end`: a name that also ends the tuple ("in", "recursive"), or NULL. */
node *parse_tuple(parse_ctx *p, unsigned flags, const char *end);
node *parse_target(parse_ctx *p, bool with_namespace, const char *end);
node *parse_name_target(parse_ctx *p);
node *parse_filters(parse_ctx *p, node *input, bool start_inline);

/* Visit the direct children in Jinja's field order. */
typedef void (*node_visit)(void *ctx, node *child);
void node_children(node *n, node_visit visit, void *ctx);

#endif
