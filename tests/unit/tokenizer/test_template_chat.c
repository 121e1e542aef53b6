/* chat.h: where templates and special tokens are found, and how messages reach them. Each test
 * writes a small model directory. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/chat.h"
#include "tests/unit/suite.h"

static char dir[64];

static void setup(void) {
    strcpy(dir, "/tmp/pagoda-chat-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void) {
    static const char *const names[] = {"chat_template.jinja", "chat_template.json",
                                        "tokenizer_config.json", "special_tokens_map.json"};
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

static chat *open_chat(const char *override) {
    chat *c = NULL;
    error e = {0};
    chat_options o = {.override = override};
    ck_assert_msg(chat_open(dir, &o, NULL, &c, &e) == OK, "%s", e.text);
    return c;
}

/* q's members as JSON: messages, tools, kwargs, add, continue. */
static status render(const chat *c, const char *request, strbuf *out, error *e) {
    json_t *j;
    ck_assert_msg(js_parse(str_z(request), &j, e) == OK, "%s", e->text);
    chat_request q = {
        .messages = js_get(j, "messages"),
        .tools = js_get(j, "tools"),
        .documents = js_get(j, "documents"),
        .kwargs = js_get(j, "kwargs"),
        .chat_template = js_get_str(j, "template"),
        .add_generation_prompt = js_get_bool(j, "add", false),
        .continue_final_message = js_get_bool(j, "continue", false),
    };
    status st = chat_render(c, &q, out, e);
    json_decref(j);
    return st;
}

static void gives(const chat *c, const char *request, const char *want) {
    strbuf out = {0};
    error e = {0};
    status st = render(c, request, &out, &e);
    ck_assert_msg(st == OK, "%s: %s", request, e.text);
    ck_assert_str_eq(out.p ? out.p : "", want);
    strbuf_done(&out);
}

static void fails(const chat *c, const char *request, status want, const char *words) {
    strbuf out = {0};
    error e = {0};
    ck_assert_int_eq(render(c, request, &out, &e), want);
    ck_assert_msg(strstr(e.text, words), "%s", e.text);
    ck_assert_uint_eq(out.n, 0);
    strbuf_done(&out);
}

#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
static const char plain[] = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
                            "{% if add_generation_prompt %}assistant:{% endif %}";

START_TEST(file_order) {
    put("tokenizer_config.json", "{\"chat_template\": \"config{{ bos_token }}\","
                                 "\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": null}");
    chat *c = open_chat(NULL);
    gives(c, "{" HI "}", "config<s>");
    chat_free(c);
    put("chat_template.json", "{\"chat_template\": \"json{{ eos_token }}\"}");
    c = open_chat(NULL);
    gives(c, "{" HI "}", "json");
    chat_free(c);
    put("chat_template.jinja", "jinja{{ bos_token }}\n");
    c = open_chat(NULL);
    gives(c, "{" HI "}", "jinja<s>");
    chat_free(c);
    c = open_chat("text {{ bos_token }}");
    gives(c, "{" HI "}", "text <s>");
    chat_free(c);
    char *path = path_join(dir, "chat_template.jinja");
    c = open_chat(path);
    gives(c, "{" HI "}", "jinja<s>");
    gives(c, "{" HI ",\"template\":\"own {{ messages[0].content }}\"}", "own hi");
    gives(c, "{" HI ",\"kwargs\":{\"bos_token\":\"<b>\"}}", "jinja<b>");
    chat_free(c);
    mem_free(path);
}
END_TEST

START_TEST(named_templates) {
    put("tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"default\", \"template\": \"D\"},"
        "{\"name\": \"tool_use\", \"template\": \"T{{ tools | length }}\"}]}");
    chat *c = open_chat(NULL);
    gives(c, "{" HI "}", "D");
    gives(c, "{" HI ",\"tools\":[]}", "D");
    gives(c, "{" HI ",\"tools\":[{\"type\":\"function\"}]}", "T1");
    chat_free(c);
}
END_TEST

START_TEST(tokens_of_the_map) {
    put("special_tokens_map.json",
        "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"
        "\"additional_special_tokens\":[\"<a>\",{\"content\":\"<b>\"}]}");
    put("chat_template.jinja", "{{ bos_token }}{{ eos_token }}{{ additional_special_tokens[1] }}");
    chat *c = open_chat(NULL);
    gives(c, "{" HI "}", "<s></s><b>");
    chat_free(c);
}
END_TEST

START_TEST(no_template) {
    chat *c = open_chat(NULL);
    ck_assert(!chat_has_template(c));
    fails(c, "{" HI "}", ERR_INVALID, "this model has no chat template");
    gives(c, "{" HI ",\"template\":\"x\"}", "x");
    chat_free(c);
    error e;
    chat_options o = {.override = "no-such-file.jinja"};
    ck_assert(chat_open(dir, &o, NULL, &c, &e) == ERR_INVALID);
    put("chat_template.jinja", "a\n{% if %}");
    ck_assert(chat_open(dir, NULL, NULL, &c, &e) == ERR_INVALID);
    ck_assert(strstr(e.text, "chat_template.jinja") && strstr(e.text, "line 2"));
}
END_TEST

START_TEST(templates_own_message) {
    chat *c = open_chat("{{ raise_exception('Roles must alternate') }}");
    strbuf out = {0};
    error e;
    ck_assert(render(c, "{" HI "}", &out, &e) == ERR_INVALID);
    ck_assert_str_eq(e.text, "Roles must alternate");
    chat_free(c);
    c = open_chat("{{ nope.x }}");
    ck_assert(render(c, "{" HI "}", &out, &e) == ERR_INVALID);
    ck_assert_str_eq(e.text, "chat template: UndefinedError: 'nope' is undefined");
    fails(c, "{\"messages\":[]}", ERR_INVALID, "at least one message");
    fails(c, "{\"messages\":[1]}", ERR_INVALID, "objects");
    chat_free(c);
}
END_TEST

#define PARTS                                                                                      \
    "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"            \
    "{\"type\":\"text\",\"text\":\"b\"}]}]"

START_TEST(content_parts) {
    chat *c = open_chat("{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}");
    gives(c, "{" PARTS "}", "<a\nb>");
    gives(c, "{" HI "}", "<hi>");
    fails(c, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
          ERR_UNSUPPORTED, "other than text");
    chat_free(c);
    c = open_chat("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
                  "{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}");
    gives(c, "{" PARTS "}", "[a][b]");
    gives(c, "{" HI "}", "hi");
    chat_free(c);
    c = open_chat("{% for m in messages %}{% for p in m.content %}[{{ p.text }}]{% endfor %}"
                  "{% endfor %}");
    gives(c, "{" HI "}", "[hi]");
    chat_free(c);
    c = open_chat("{% for m in messages %}{{ m.content }}{% endfor %}"); /* prints a list */
    gives(c, "{" PARTS "}", "a\nb");
    chat_free(c);
}
END_TEST

#define CALL                                                                                       \
    "\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":"     \
    "null,"                                                                                        \
    "\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"f\","            \
    "\"arguments\":\"{\\\"a\\\": [1, 2]}\"}}]}]"

START_TEST(tool_arguments) {
    static const char head[] = "{% for m in messages %}{{ m.content is defined }}"
                               "{% for c in m.tool_calls %}";
    char text[256];
    snprintf(text, sizeof text, "%s%s", head,
             "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}");
    chat *c = open_chat(text);
    gives(c, "{" CALL "}", "TrueFalse{\"a\": [1, 2]}");
    chat_free(c);
    snprintf(text, sizeof text, "%s%s", head, "{{ c.function.arguments }}{% endfor %}{% endfor %}");
    c = open_chat(text);
    gives(c, "{" CALL "}", "TrueFalse{\"a\": [1, 2]}");
    chat_free(c);
    snprintf(text, sizeof text, "%s%s", head,
             "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
             "{% endfor %}{% endfor %}");
    c = open_chat(text);
    gives(c, "{" CALL "}", "TrueFalsea=[1, 2]");
    chat_free(c);
}
END_TEST

START_TEST(reasoning_under_all_names) {
    chat *c = open_chat("{{ messages[0].thinking }}|{{ messages[0].reasoning_content }}");
    gives(c, "{\"messages\":[{\"role\":\"assistant\",\"reasoning_content\":\"r\"}]}", "r|r");
    gives(c, "{\"messages\":[{\"role\":\"assistant\",\"thinking\":\"t\"}]}", "t|t");
    chat_free(c);
}
END_TEST

START_TEST(variables) {
    chat *c = open_chat("{{ tools is none }}{{ documents is none }}{{ enable_thinking }}"
                        "{{ add_generation_prompt }}{{ messages | length }}");
    gives(c, "{" HI ",\"kwargs\":{\"enable_thinking\":false,\"messages\":[]},\"add\":true}",
          "TrueTrueFalseTrue1");
    gives(c, "{" HI ",\"documents\":[{\"title\":\"t\"}]}", "TrueFalseFalse1");
    chat_free(c);
}
END_TEST

#define TWO(words)                                                                                 \
    "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":"    \
    "\"" words "\"}]"

START_TEST(continue_final_message) {
    chat *c = open_chat(plain);
    gives(c, "{" TWO("so far ") "}", "user:hi;assistant:so far ;");
    gives(c, "{" TWO("so far ") ",\"continue\":true}", "user:hi;assistant:so far ");
    fails(c, "{" TWO("x") ",\"continue\":true,\"add\":true}", ERR_INVALID, "exclude");
    fails(c, "{\"messages\":[{\"role\":\"assistant\"}],\"continue\":true}", ERR_INVALID,
          "no content");
    chat_free(c);
    c = open_chat("{% for m in messages %}{{ m.role }}:{{ m.content | trim }};{% endfor %}");
    gives(c, "{" TWO("so far ") ",\"continue\":true}", "user:hi;assistant:so far");
    chat_free(c);
    c = open_chat("{{ messages[0].content }}");
    fails(c, "{" TWO("gone") ",\"continue\":true}", ERR_INVALID, "does not show");
    chat_free(c);
    c = open_chat("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
                  "{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}");
    gives(c, "{" PARTS ",\"continue\":true}", "[a][b");
    chat_free(c);
}
END_TEST

START_TEST(variables_as_given) {
    put("tokenizer_config.json", "{\"chat_template\": \"{{ bos_token }}{{ x }}{{ tools is defined "
                                 "}}\", \"bos_token\": \"<s>\"}");
    chat *c = open_chat(NULL);
    strbuf out = {0};
    error e;
    json_t *vars = json_pack("{s:i}", "x", 5);
    ck_assert(chat_render_vars(c, vars, &out, &e) == OK);
    ck_assert_str_eq(out.p, "<s>5False");
    json_decref(vars);
    strbuf_done(&out);
    chat_free(c);
}
END_TEST

int main(void) {
    Suite *s = suite_create("chat");
    TCase *t = tcase_create("chat");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, file_order);
    tcase_add_test(t, named_templates);
    tcase_add_test(t, tokens_of_the_map);
    tcase_add_test(t, no_template);
    tcase_add_test(t, templates_own_message);
    tcase_add_test(t, content_parts);
    tcase_add_test(t, tool_arguments);
    tcase_add_test(t, reasoning_under_all_names);
    tcase_add_test(t, variables);
    tcase_add_test(t, continue_final_message);
    tcase_add_test(t, variables_as_given);
    suite_add_tcase(s, t);
    return suite_run(s);
}
