/* The template engine's bounds: hostile templates end in an error that names the limit, quickly and
 * without the end of the stack; and what the API promises around errors and output. */
#include <check.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/base/clock.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "tokenizer/template.h"
#include "tests/unit/suite.h"

static status render_limited(str source, const char *vars, const template_limits *limits,
                             strbuf *out, error *err) {
    template *t;
    TRY(template_parse(source, &t, err));
    json_t *j = NULL;
    ck_assert(js_parse(str_z(vars), &j, err) == OK);
    status st = template_render(t, j, limits, out, err);
    json_decref(j);
    template_free(t);
    return st;
}

static void gives(const char *source, const char *want) {
    strbuf out = {0};
    error e = {0};
    status st = render_limited(str_z(source), "{\"s\":\"x\",\"l\":[1,2,3]}", NULL, &out, &e);
    ck_assert_msg(st == OK, "%s: %s", source, e.text);
    ck_assert_msg(str_eqz(strbuf_str(&out), want), "%s: got '" STR_FMT "'", source,
                  STR_ARG(strbuf_str(&out)));
    strbuf_done(&out);
}

/* The rendering fails with this status, and its error contains the words. */
static void fails(const char *source, status want, const char *words) {
    strbuf out = {0};
    error e = {0};
    uint64_t before = clock_us();
    status st = render_limited(str_z(source), "{\"l\":[1,2,3]}", NULL, &out, &e);
    ck_assert_msg(st == want, "%s: %s, %s", source, status_name(st), e.text);
    ck_assert_msg(strstr(e.text, words), "%s: %s", source, e.text);
    ck_assert_uint_eq(out.n, 0);
    ck_assert_msg(clock_us() - before < 20u * LIMIT_TEMPLATE_US, "%s: too slow", source);
    strbuf_done(&out);
}

START_TEST(renders) {
    gives("a{{ s }}b", "axb");
    gives("{% for i in l %}{{ i }}{{ ',' if not loop.last }}{% endfor %}", "1,2,3");
    gives("", "");
    gives("{{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }}",
          "9223372036854775807 -9223372036854775808");
}
END_TEST

START_TEST(appends_only_on_success) {
    strbuf out = {0};
    error e;
    strbuf_addz(&out, "before ");
    ck_assert(render_limited(STR("x{{ nope.y }}"), "{}", NULL, &out, &e) == ERR_INVALID);
    ck_assert_str_eq(out.p, "before ");
    ck_assert_str_eq(e.text, "UndefinedError: 'nope' is undefined");
    ck_assert(render_limited(STR("after"), "{}", NULL, &out, NULL) == OK);
    ck_assert_str_eq(out.p, "before after");
    strbuf_done(&out);
}
END_TEST

START_TEST(own_message) {
    fails("{{ raise_exception('No system role, please') }}", ERR_INVALID,
          "TemplateError: No system role, please");
    fails("{{ raise_exception('x' * 5000) }}", ERR_INVALID, "TemplateError: xxxx");
}
END_TEST

START_TEST(bounds_of_work) {
    fails("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
          ERR_TOO_LARGE, "steps");
    fails("{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", ERR_TOO_LARGE, "output");
    fails("{% set ns = namespace(x='x') %}{% for a in range(100) %}{% set ns.x = ns.x + ns.x %}"
          "{% endfor %}",
          ERR_TOO_LARGE, "more than");
    fails("{% set ns = namespace(x=[1]) %}{% for a in range(100) %}{% set ns.x = ns.x + ns.x %}"
          "{% endfor %}",
          ERR_TOO_LARGE, "more than");
    fails("{{ 'x' * 1000000000 }}", ERR_TOO_LARGE, "repeated string");
    fails("{{ [1] * 1000000000 }}", ERR_TOO_LARGE, "repeated list");
    fails("{{ '%1000000000d' % 1 }}", ERR_TOO_LARGE, "formatted");
    fails("{{ '{:1000000000}'.format(1) }}", ERR_TOO_LARGE, "formatted");
    fails("{{ 'x'.center(1000000000) }}", ERR_TOO_LARGE, "padded");
    fails("{{ range(1000000000) }}", ERR_INVALID, "Range too big");
    fails("{{ l | batch(1000000000, 1) | list }}", ERR_TOO_LARGE, "group");
    fails("{{ l | tojson(indent=100000000) }}", ERR_TOO_LARGE, "repeated string");
}
END_TEST

/* Work that hides in one step: long near misses, long comparisons, conversion of the context. */
START_TEST(bounds_of_hidden_work) {
    fails("{% set a = 'a' * 4000000 %}{% set b = a[:2000000] + 'b' %}{{ a.rfind(b) }}",
          ERR_TOO_LARGE, "steps");
    fails("{% set a = 'a' * 4000000 %}{% set b = 'a' * 4000000 %}{% for i in range(100000) %}"
          "{% if a == b and a < b %}{% endif %}{% endfor %}",
          ERR_TOO_LARGE, "chat template");
    fails("{% set a = 'a' * 4000000 %}{% for i in range(100000) %}{% if a[3999999] == 'b' %}"
          "{% endif %}{% endfor %}",
          ERR_TOO_LARGE, "chat template");
    strbuf names = {0};
    template *t;
    error e;
    for (int i = 0; i < 20000; i++) strbuf_addf(&names, "{{ name%d }}", i);
    ck_assert(template_parse(strbuf_str(&names), &t, &e) == ERR_INVALID);
    ck_assert(strstr(e.text, "variables") != NULL);
    strbuf_done(&names);
}
END_TEST

START_TEST(bounds_of_integers) {
    fails("{{ 9223372036854775807 + 1 }}", ERR_INVALID, "OverflowError");
    fails("{{ 10 ** 30 }}", ERR_INVALID, "OverflowError");
    fails("{{ -(-9223372036854775807 - 1) }}", ERR_INVALID, "OverflowError");
    fails("{{ (-9223372036854775807 - 1) // -1 }}", ERR_INVALID, "OverflowError");
    fails("{{ 99999999999999999999 }}", ERR_INVALID, "64 bits");
    fails("{{ 1e300 | int }}", ERR_INVALID, "OverflowError");
    gives("{{ (-9223372036854775807 - 1) % -1 }}", "0");
}
END_TEST

START_TEST(bounds_of_depth) {
    fails("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", ERR_INVALID, "RecursionError");
    fails("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", ERR_INVALID, "RecursionError");
    fails("{% set ns = namespace(x=1) %}{% for a in range(5000) %}{% set ns.x = [ns.x] %}"
          "{% endfor %}{{ ns.x }}",
          ERR_INVALID, "RecursionError");
    fails("{% set ns = namespace(x=1) %}{% for a in range(5000) %}{% set ns.x = [ns.x] %}"
          "{% endfor %}{{ ns.x | tojson }}",
          ERR_INVALID, "RecursionError");
    fails("{% set ns = namespace(x=1, y=1) %}{% for a in range(5000) %}{% set ns.x = (ns.x,) %}"
          "{% set ns.y = (ns.y,) %}{% endfor %}{{ ns.x == ns.y }}",
          ERR_INVALID, "RecursionError");
    fails("{% set ns = namespace(x=1) %}{% for a in range(5000) %}{% set ns.x = (ns.x,) %}"
          "{% endfor %}{{ {}[ns.x] }}",
          ERR_INVALID, "RecursionError");
    fails("{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}", ERR_INVALID, "RecursionError");
    fails("{% set ns = namespace(g=l) %}{% for a in range(5000) %}{% set ns.g = ns.g | select %}"
          "{% endfor %}{{ ns.g | list }}",
          ERR_INVALID, "RecursionError");
}
END_TEST

/* n times `open`, `middle`, n times `close`. */
static status parse_nested(const char *open, const char *middle, const char *close, int n,
                           error *e) {
    strbuf s = {0};
    for (int i = 0; i < n; i++) strbuf_addz(&s, open);
    strbuf_addz(&s, middle);
    for (int i = 0; i < n; i++) strbuf_addz(&s, close);
    template *t = NULL;
    status st = template_parse(strbuf_str(&s), &t, e);
    template_free(t);
    strbuf_done(&s);
    return st;
}

START_TEST(bounds_of_parsing) {
    error e;
    ck_assert(parse_nested("{{ 1 }}", "", "", 20000, &e) == OK);
    ck_assert(parse_nested("{% if x %}", "", "{% endif %}", 20, &e) == OK);
    ck_assert(parse_nested("{% if x %}", "", "{% endif %}", 10000, &e) == ERR_INVALID);
    ck_assert(parse_nested("{{ ", "", "", 10000, &e) == ERR_INVALID);
    ck_assert(parse_nested("{%for a in b%}", "", "{%endfor%}", 10000, &e) == ERR_INVALID);
    const char *const opens[] = {"(", "[", "{1:", "not ", "-", "x[", "x(", "1 if ", "x is x("};
    const char *const closes[] = {")", "]", "}", "", "", "]", ")", " else 1", ")"};
    for (size_t i = 0; i < ARRAY_LEN(opens); i++) {
        strbuf open = {0};
        strbuf_addf(&open, "%s", opens[i]);
        strbuf s = {0};
        strbuf_addz(&s, "{{ ");
        for (int k = 0; k < 20000; k++) strbuf_addz(&s, opens[i]);
        strbuf_addz(&s, "x");
        for (int k = 0; k < 20000; k++) strbuf_addz(&s, closes[i]);
        strbuf_addz(&s, " }}");
        template *t = NULL;
        ck_assert_msg(template_parse(strbuf_str(&s), &t, &e) == ERR_INVALID, "%s", opens[i]);
        strbuf_done(&s);
        strbuf_done(&open);
    }
    const char *const chains[] = {" + 1", " ~ 1", ".x", " | e", "[0]", " and 1", " == 1", "()"};
    for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
        strbuf s = {0};
        strbuf_addz(&s, "{{ x");
        for (int k = 0; k < 20000; k++) strbuf_addz(&s, chains[i]);
        strbuf_addz(&s, " }}");
        template *t = NULL;
        status st = template_parse(strbuf_str(&s), &t, &e);
        ck_assert_msg(st == ERR_INVALID || chains[i][1] == '~', "%s", chains[i]);
        template_free(t);
        strbuf_done(&s);
    }
}
END_TEST

START_TEST(size_of_source) {
    strbuf s = {0};
    error e;
    template *t;
    for (size_t i = 0; i <= LIMIT_TEMPLATE_BYTES; i += 16) strbuf_addz(&s, "0123456789abcdef");
    ck_assert(template_parse(strbuf_str(&s), &t, &e) == ERR_TOO_LARGE);
    strbuf_done(&s);
    ck_assert(template_parse(STR("\xff\xfe"), &t, &e) == ERR_INVALID);
    ck_assert(template_parse(str_n("a\0b", 3), &t, &e) == OK);
    template_free(t);
}
END_TEST

START_TEST(syntax_errors_name_the_line) {
    static const struct {
        const char *source, *want;
    } cases[] = {
        {"a\n{% if %}", "TemplateSyntaxError: Expected an expression, got 'end of statement block' "
                        "(line 2)"},
        {"{{ 1", "line 1"},
        {"{{ 'a }}", "unexpected char"},
        {"{# x", "Missing end of comment tag"},
        {"{% raw %}", "Missing end of raw directive"},
        {"{% for x in y %}\n", "Unexpected end of template"},
        {"{% include 'x' %}", "the tag 'include' is refused"},
        {"{% import 'x' as y %}", "the tag 'import' is refused"},
        {"{% from 'x' import y %}", "the tag 'from' is refused"},
        {"{% extends 'x' %}", "the tag 'extends' is refused"},
        {"{% block x %}{% endblock %}", "the tag 'block' is refused"},
        {"{% set 1 = 2 %}", "can't assign to 'const'"},
        {"{% for loop in x %}{% endfor %}", "special loop variable"},
        {"{{ (1] }}", "unexpected ']', expected ')'"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        error e = {0};
        template *t;
        ck_assert(template_parse(str_z(cases[i].source), &t, &e) == ERR_INVALID);
        ck_assert_msg(strstr(e.text, cases[i].want), "%s: %s", cases[i].source, e.text);
    }
}
END_TEST

START_TEST(own_limits) {
    strbuf out = {0};
    error e;
    template_limits few = {.steps_max = 100}, small = {.output_max = 4};
    template_limits quick = {.time_us_max = 1000, .steps_max = INT64_MAX / 2};
    ck_assert(render_limited(STR("{% for i in range(90000) %}{% endfor %}"), "{}", &few, &out,
                             &e) == ERR_TOO_LARGE);
    ck_assert(render_limited(STR("12345"), "{}", &small, &out, &e) == ERR_TOO_LARGE);
    ck_assert(render_limited(STR("1234"), "{}", &small, &out, &e) == OK);
    ck_assert(render_limited(STR("{% for i in range(90000) %}{% for k in range(90000) %}"
                                 "{% endfor %}{% endfor %}"),
                             "{}", &quick, &out, &e) == ERR_TOO_LARGE);
    ck_assert(strstr(e.text, "too long") != NULL);
    strbuf_done(&out);
}
END_TEST

/* Appending in a loop is linear: 20000 pieces of 50 bytes are 1 MB, not 10 GB of copies. */
START_TEST(accumulating_is_linear) {
    strbuf out = {0};
    error e;
    ck_assert(render_limited(STR("{% set ns = namespace(x='') %}{% for i in range(20000) %}"
                                 "{% set ns.x = ns.x + 'y' * 50 %}{% endfor %}{{ ns.x | length }}"),
                             "{}", NULL, &out, &e) == OK);
    ck_assert_str_eq(out.p, "1000000");
    strbuf_done(&out);
    gives("{% set a = 'x' * 300 + 'y' %}{% set b = a + 'B' %}{% set c = a + 'C' %}"
          "{{ b[-2:] }}{{ c[-2:] }}{{ a | length }}",
          "yByC301");
}
END_TEST

static template *shared;

static void *render_often(void *arg) {
    json_t *vars = json_pack("{s:[i,i,i]}", "l", 1, 2, 3);
    intptr_t bad = 0;
    for (int i = 0; i < 500; i++) {
        strbuf out = {0};
        bad += template_render(shared, vars, NULL, &out, NULL) != OK ||
               strcmp(out.p, "1:[1] 2:[2] 3:[3] ") != 0;
        strbuf_done(&out);
    }
    json_decref(vars);
    return (void *)bad;
}

START_TEST(one_template_many_threads) {
    error e;
    ck_assert(template_parse(STR("{% macro m(a) %}[{{ a }}]{% endmacro %}"
                                 "{% for i in l %}{{ i }}:{{ m(i) }} {% endfor %}"),
                             &shared, &e) == OK);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) threads[i] = thread_start("render", render_often, NULL);
    for (int i = 0; i < 4; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        ck_assert_ptr_null(bad);
    }
    template_free(shared);
}
END_TEST

int main(void) {
    Suite *s = suite_create("template");
    TCase *t = tcase_create("template");
    tcase_set_timeout(t, 100);
    tcase_add_test(t, renders);
    tcase_add_test(t, appends_only_on_success);
    tcase_add_test(t, own_message);
    tcase_add_test(t, bounds_of_work);
    tcase_add_test(t, bounds_of_hidden_work);
    tcase_add_test(t, bounds_of_integers);
    tcase_add_test(t, bounds_of_depth);
    tcase_add_test(t, bounds_of_parsing);
    tcase_add_test(t, size_of_source);
    tcase_add_test(t, syntax_errors_name_the_line);
    tcase_add_test(t, own_limits);
    tcase_add_test(t, accumulating_is_linear);
    tcase_add_test(t, one_template_many_threads);
    suite_add_tcase(s, t);
    return suite_run(s);
}
