/* Chat formats: found by name, alias and config.json; a register directory; damaged files. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/map.h"
#include "engine/base/mem.h"
#include "tokenizer/chat.h"
#include "tokenizer/chat_builtin.h"
#include "tests/unit/suite.h"

static char dir[] = "/tmp/pagoda-formats-XXXXXX";

static void make_dir(void) {
    strcpy(dir + sizeof dir - 7, "XXXXXX");
    ck_assert(mkdtemp(dir));
}

static void remove_dir(void) {
    static const char *const names[] = {"mine.jinja", "llama2.jinja", "bad.jinja", "config.json"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = path_join(dir, names[i]);
        unlink(path);
        mem_free(path);
    }
    rmdir(dir);
}

static void put(const char *name, const char *text) {
    char *path = path_join(dir, name);
    error e;
    ck_assert_msg(file_write_atomic(path, str_z(text), &e) == OK, "%s", e.text);
    mem_free(path);
}

static void finds(const char *name, const char *path, const char *want) {
    chat_format f;
    error e;
    ck_assert_msg(chat_format_find(name, path, &f, &e) == OK, "%s", e.text);
    ck_assert_str_eq(f.name.p, want);
    chat_format_done(&f);
}

static void refuses(const char *name, const char *path, const char *text) {
    chat_format f;
    error e;
    ck_assert_int_ne(chat_format_find(name, path, &f, &e), OK);
    ck_assert_msg(strstr(e.text, text) != NULL, "%s", e.text);
}

START_TEST(names_and_aliases) {
    finds("llama2", NULL, "llama2");
    finds("LLaMA2-chat", NULL, "llama2");
    finds("mixtral", NULL, "mistral");
    finds("xtuner/llama2_chat", NULL, "xtuner/llama2_chat");
    refuses("xtuner", NULL, "names: alpaca, ");
    refuses("no-such", NULL, "\"no-such\"");
}
END_TEST

/* Every format is a template that takes texts, and no name is there twice. */
START_TEST(all_open) {
    strbuf list = {0};
    error e;
    map seen = {0};
    ck_assert(chat_format_list(NULL, &list, &e) == OK);
    size_t n = 0;
    for (char *save, *line = strtok_r(list.p, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save), n++) {
        line[strcspn(line, ": ")] = 0;
        chat *c = NULL;
        chat_options o = {.override = line};
        ck_assert_msg(chat_open(NULL, &o, NULL, &c, &e) == OK, "%s", e.text);
        ck_assert_str_eq(chat_format_name(c), line);
        str stops[LIMIT_TEMPLATE_STOPS];
        ck_assert_uint_le(chat_stops(c, stops), LIMIT_TEMPLATE_STOPS);
        ck_assert_msg(map_put(&seen, str_z(line), n), "%s is there twice", line);
        chat_free(c);
    }
    ck_assert_uint_ge(n, 50);
    map_done(&seen);
    strbuf_done(&list);
}
END_TEST

static void matches(const char *config, const char *want) {
    chat_format f;
    error e;
    json_t *c;
    bool found = false;
    ck_assert(js_parse(str_z(config), &c, &e) == OK);
    ck_assert_msg(chat_format_match(c, NULL, &f, &found, &e) == OK, "%s", e.text);
    ck_assert_int_eq(found, want != NULL);
    if (found) ck_assert_str_eq(f.name.p, want);
    if (found) chat_format_done(&f);
    json_decref(c);
}

START_TEST(by_config) {
    matches("{\"model_type\":\"internlm2\"}", "internlm2");
    matches("{\"model_type\":\"llama\"}", NULL);
    matches("{}", NULL);
    matches("{\"model_type\":\"baichuan\",\"vocab_size\":64000}", "baichuan");
    matches("{\"model_type\":\"baichuan\",\"vocab_size\":125696}", "baichuan2");
    matches("{\"model_type\":\"chatglm\",\"position_encoding_2d\":true}", "chatglm");
    matches("{\"model_type\":\"chatglm\",\"multi_query_attention\":true}", "chatglm2");
    matches("{\"model_type\":\"chatglm\",\"multi_query_attention\":true,"
            "\"_name_or_path\":\"THUDM/chatglm3-6b\"}",
            "chatglm3");
    matches("{\"model_type\":\"chatglm\",\"multi_query_attention\":true,"
            "\"padded_vocab_size\":151552}",
            "glm4");
}
END_TEST

START_TEST(register_directory) {
    put("mine.jinja",
        "{#- {\"aliases\": [\"ours\"], \"stop\": [\"<e>\"]} -#}\n[{{ messages[0].content }}]");
    put("llama2.jinja", "{# an ordinary comment #}own");
    finds("ours", dir, "mine");
    finds("vicuna", dir, "vicuna");
    chat *c = NULL;
    error e;
    chat_options o = {.override = "llama2", .register_path = dir};
    ck_assert(chat_open(NULL, &o, NULL, &c, &e) == OK);
    str stops[LIMIT_TEMPLATE_STOPS];
    ck_assert_uint_eq(chat_stops(c, stops), 0); /* the user's file hides the built-in one */
    chat_free(c);
    o.override = "mine";
    ck_assert(chat_open(NULL, &o, NULL, &c, &e) == OK);
    ck_assert_uint_eq(chat_stops(c, stops), 1);
    ck_assert(str_eqz(stops[0], "<e>"));
    chat_free(c);
    refuses("mine", "/nowhere", "/nowhere");
}
END_TEST

START_TEST(damaged_comments) {
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"{#- {\"stop\": \"x\"} -#}", "key \"stop\""},
        {"{#- {\"stop\": [1]} -#}", "key \"stop\""},
        {"{#- {\"stop\": [\"\"]} -#}", "key \"stop\""},
        {"{#- {\"stop\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]} -#}",
         "at most 8"},
        {"{#- {\"stops\": []} -#}", "key \"stops\""},
        {"{#- {\"match\": [1]} -#}", "key \"match\""},
        {"{#- {\"add_special_tokens\": 1} -#}", "add_special_tokens"},
        {"{#- {\"stop\": [} -#}", "bad.jinja: the JSON of the first comment"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        put("bad.jinja", bad[i].text);
        refuses("bad", dir, bad[i].why);
        refuses("bad", dir, "bad.jinja");
    }
    put("bad.jinja", "{#");
    finds("bad", dir, "bad");
}
END_TEST

/* A directory without template: the fallback's name, else what its config.json fits. */
START_TEST(model_without_template) {
    chat *c = NULL;
    error e;
    put("config.json", "{\"model_type\":\"moss\"}");
    ck_assert(chat_open(dir, NULL, NULL, &c, &e) == OK);
    ck_assert_str_eq(chat_format_name(c), "moss");
    chat_free(c);
    chat_options o = {.fallback = "vicuna"};
    ck_assert(chat_open(dir, &o, NULL, &c, &e) == OK);
    ck_assert_str_eq(chat_format_name(c), "vicuna");
    chat_free(c);
}
END_TEST

int main(void) {
    Suite *s = suite_create("chat_builtin");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, make_dir, remove_dir);
    tcase_add_test(t, names_and_aliases);
    tcase_add_test(t, all_open);
    tcase_add_test(t, by_config);
    tcase_add_test(t, register_directory);
    tcase_add_test(t, damaged_comments);
    tcase_add_test(t, model_without_template);
    suite_add_tcase(s, t);
    return suite_run(s);
}
