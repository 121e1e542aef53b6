/* The tests behind "is". */
#include "engine/base/mem.h"
#include "tokenizer/template_ast.h"
#include "tokenizer/template_run.h"
#include "tokenizer/template_strings.h"

#define TEST(name) static bool name(rt *r, const val *in)

TEST(t_defined) {
    return !is_undefined(in[0]);
}
TEST(t_undefined) {
    return is_undefined(in[0]);
}
TEST(t_none) {
    return in[0].type == V_NONE;
}
TEST(t_string) {
    return is_str(in[0]);
}
TEST(t_number) {
    return is_number(in[0]);
}
TEST(t_integer) {
    return in[0].type == V_INT;
}
TEST(t_float) {
    return in[0].type == V_FLOAT;
}
TEST(t_boolean) {
    return in[0].type == V_BOOL;
}
TEST(t_true) {
    return in[0].type == V_BOOL && in[0].b;
}
TEST(t_false) {
    return in[0].type == V_BOOL && !in[0].b;
}
TEST(t_mapping) {
    return in[0].type == V_DICT;
}
TEST(t_iterable) {
    return is_iterable(in[0]) || in[0].type == V_LOOP;
}
TEST(t_sequence) {
    return has_length(in[0]) && in[0].type != V_VIEW && in[0].type != V_LOOP;
}
TEST(t_callable) {
    switch ((vtype)in[0].type) {
    case V_UNDEFINED:
    case V_MACRO:
    case V_LOOP:
    case V_BOUND:
    case V_BUILTIN:
    case V_JOINER: return true;
    default: return false;
    }
}

static bool mod_is(rt *r, val v, val by, int64_t rest) {
    return val_equal(r, binary_op(r, T_MOD, v, by), val_int(rest));
}
TEST(t_odd) {
    return mod_is(r, in[0], val_int(2), 1);
}
TEST(t_even) {
    return mod_is(r, in[0], val_int(2), 0);
}
TEST(t_divisibleby) {
    return mod_is(r, in[0], in[1], 0);
}

TEST(t_lower) {
    return str_is_cased(to_str(r, in[0]), false);
}
TEST(t_upper) {
    return str_is_cased(to_str(r, in[0]), true);
}
TEST(t_sameas) {
    return val_same(in[0], in[1]);
}
TEST(t_escaped) {
    return is_str(in[0]) && in[0].flags & VAL_MARKUP;
}
TEST(t_in) {
    return contains(r, in[1], in[0]);
}
TEST(t_filter) {
    val_hash(r, in[0]);
    return is_str(in[0]) && find_filter(val_str(in[0]));
}
TEST(t_test) {
    val_hash(r, in[0]);
    return is_str(in[0]) && find_is_test(val_str(in[0]));
}

TEST(t_eq) {
    return val_equal(r, in[0], in[1]);
}
TEST(t_ne) {
    return !val_equal(r, in[0], in[1]);
}
TEST(t_lt) {
    return val_order(r, in[0], in[1], "<");
}
TEST(t_le) {
    return val_order(r, in[0], in[1], "<=");
}
TEST(t_gt) {
    return val_order(r, in[0], in[1], ">");
}
TEST(t_ge) {
    return val_order(r, in[0], in[1], ">=");
}

static const is_test tests[] = {
    {"defined", {"test_defined", "value"}, t_defined},
    {"undefined", {"test_undefined", "value"}, t_undefined},
    {"none", {"test_none", "value"}, t_none},
    {"string", {"test_string", "value"}, t_string},
    {"mapping", {"test_mapping", "value"}, t_mapping},
    {"iterable", {"test_iterable", "value"}, t_iterable},
    {"sequence", {"test_sequence", "value"}, t_sequence},
    {"number", {"test_number", "value"}, t_number},
    {"integer", {"test_integer", "value"}, t_integer},
    {"float", {"test_float", "value"}, t_float},
    {"boolean", {"test_boolean", "value"}, t_boolean},
    {"true", {"test_true", "value"}, t_true},
    {"false", {"test_false", "value"}, t_false},
    {"callable", {"callable", "/obj"}, t_callable},
    {"odd", {"test_odd", "value"}, t_odd},
    {"even", {"test_even", "value"}, t_even},
    {"divisibleby", {"test_divisibleby", "value,num"}, t_divisibleby},
    {"lower", {"test_lower", "value"}, t_lower},
    {"upper", {"test_upper", "value"}, t_upper},
    {"sameas", {"test_sameas", "value,other"}, t_sameas},
    {"escaped", {"test_escaped", "value"}, t_escaped},
    {"in", {"test_in", "value,seq"}, t_in},
    {"filter", {"test_filter", "value", 1}, t_filter},
    {"test", {"test_test", "value", 1}, t_test},
    {"eq", {"eq", "/a,b"}, t_eq},
    {"equalto", {"eq", "/a,b"}, t_eq},
    {"==", {"eq", "/a,b"}, t_eq},
    {"ne", {"ne", "/a,b"}, t_ne},
    {"!=", {"ne", "/a,b"}, t_ne},
    {"lt", {"lt", "/a,b"}, t_lt},
    {"lessthan", {"lt", "/a,b"}, t_lt},
    {"<", {"lt", "/a,b"}, t_lt},
    {"le", {"le", "/a,b"}, t_le},
    {"<=", {"le", "/a,b"}, t_le},
    {"gt", {"gt", "/a,b"}, t_gt},
    {"greaterthan", {"gt", "/a,b"}, t_gt},
    {">", {"gt", "/a,b"}, t_gt},
    {"ge", {"ge", "/a,b"}, t_ge},
    {">=", {"ge", "/a,b"}, t_ge},
};

const is_test *find_is_test(str name) {
    for (size_t i = 0; i < ARRAY_LEN(tests); i++)
        if (str_eqz(name, tests[i].name)) return &tests[i];
    return NULL;
}
