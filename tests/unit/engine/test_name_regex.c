/* Regular expressions over names against Python's re (name_regex.json, made by
 * tests/tools/make_name_regex.py), and their bounds. */
#include <check.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/name_regex.h"
#include "tests/unit/suite.h"

static json_t *read_cases(void) {
    strbuf text = {0};
    json_t *root = NULL;
    error err;
    ck_assert(file_read("tests/unit/engine/name_regex.json", 1 << 20, &text, &err) == OK);
    ck_assert_msg(js_parse(strbuf_str(&text), &root, &err) == OK, "%s", err.text);
    strbuf_done(&text);
    return root;
}

static void matches(str pattern, const json_t *names, str want) {
    name_regex *re = NULL;
    error err;
    ck_assert_msg(name_regex_new(pattern, &re, &err) == OK, "%s", err.text);
    ck_assert_uint_eq(want.n, json_array_size(names));
    for (size_t i = 0; i < want.n; i++) {
        str name = js_str(json_array_get(names, i));
        ck_assert_msg(name_regex_match(re, name) == (want.p[i] == '1'),
                      "\"" STR_FMT "\" on \"" STR_FMT "\"", STR_ARG(pattern), STR_ARG(name));
    }
    name_regex_free(re);
}

START_TEST(as_python) {
    json_t *root = read_cases(), *groups = js_get(root, "match");
    size_t n = 0;
    for (size_t g = 0; g < json_array_size(groups); g++) {
        json_t *group = json_array_get(groups, g), *rows = js_get(group, "patterns");
        for (size_t i = 0; i < json_array_size(rows); i++, n++) {
            json_t *row = json_array_get(rows, i);
            matches(js_str(json_array_get(row, 0)), js_get(group, "names"),
                    js_str(json_array_get(row, 1)));
        }
    }
    ck_assert_uint_gt(n, 300);
    json_decref(root);
}
END_TEST

static void refused(const json_t *list) {
    ck_assert_uint_gt(json_array_size(list), 20);
    for (size_t i = 0; i < json_array_size(list); i++) {
        str pattern = js_str(json_array_get(list, i));
        name_regex *re = NULL;
        error err;
        ck_assert_msg(name_regex_new(pattern, &re, &err) == ERR_UNSUPPORTED, STR_FMT,
                      STR_ARG(pattern));
        pattern.n = MIN(pattern.n, (size_t)200);
        ck_assert_msg(str_find(str_z(err.text), pattern, 0) > 0, "%s", err.text);
    }
}

START_TEST(what_is_not_read_is_named) {
    json_t *root = read_cases();
    refused(js_get(root, "bad"));
    refused(js_get(root, "beyond"));
    json_decref(root);
}
END_TEST

/* Patterns that keep a backtracking matcher busy for ages, and a bound on what repeats write out.
 */
START_TEST(time_and_memory_are_bounded) {
    static const char *const costly[] = {"(a*)*(a*)*(a*)*b", "(?:a|a|aa){60}c",
                                         "(?!(?:.*.*.*.*x))(a+)+$", "(?:(?:a?){40}){40}$"};
    char name[4000];
    memset(name, 'a', sizeof name);
    for (size_t i = 0; i < ARRAY_LEN(costly); i++) {
        name_regex *re = NULL;
        error err;
        ck_assert_msg(name_regex_new(str_z(costly[i]), &re, &err) == OK, "%s", err.text);
        ck_assert_uint_le(name_regex_states(re), NAME_REGEX_STATES);
        ck_assert_int_eq(name_regex_match(re, str_n(name, sizeof name)), i == 2);
        name_regex_free(re);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("name_regex");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 20);
    tcase_add_test(c, as_python);
    tcase_add_test(c, what_is_not_read_is_named);
    tcase_add_test(c, time_and_memory_are_bounded);
    suite_add_tcase(s, c);
    return suite_run(s);
}
