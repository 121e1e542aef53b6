/* Options: command line, file and environment, their order, and the sentences of refusals. */
#include <check.h>
#include <stdlib.h>
#include <unistd.h>

#include "conf/conf.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "tests/unit/suite.h"

/* Parse the words up to NULL. */
static status parse(conf *c, error *err, conf_cmd cmd, char **words) {
    int n = 0;
    while (words[n]) n++;
    return conf_parse(cmd, n, words, c, err);
}

#define PARSE(c, err, cmd, ...) parse(c, err, cmd, (char *[]){__VA_ARGS__, NULL})

static void refused(conf_cmd cmd, char **words, const char *text) {
    conf c;
    error err = {0};
    ck_assert_int_eq(parse(&c, &err, cmd, words), ERR_INVALID);
    ck_assert_str_eq(err.text, text);
}

#define REFUSED(text, cmd, ...) refused(cmd, (char *[]){__VA_ARGS__, NULL}, text)

static char *temp_file(const char *text) {
    char *path = mem_strdup("/tmp/pagoda-test-conf.XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

START_TEST(test_defaults) {
    conf c;
    conf_init(&c);
    ck_assert_str_eq(c.host, "127.0.0.1");
    ck_assert_int_eq(c.port, 8000);
    ck_assert_uint_eq(c.max_body_bytes, 16u << 20);
    ck_assert_uint_eq(c.shutdown_timeout, 30u * 1000 * 1000);
    ck_assert_ptr_null(c.model);
    ck_assert(c.prefix_cache && !c.strict);
    ck_assert(!conf_given(&c, OPT_port));
    conf_done(&c);
}
END_TEST

START_TEST(test_command_line) {
    conf c;
    error err;
    ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--model", "m", "--port=9", "--kv_cache_bytes",
                           "1.5GiB", "--keep-alive", "500ms", "--no-prefix-cache", "--strict",
                           "--dtype", "bf16"),
                     OK);
    ck_assert_str_eq(c.model, "m");
    ck_assert_int_eq(c.port, 9);
    ck_assert_uint_eq(c.kv_cache_bytes, (uint64_t)3 << 29);
    ck_assert_uint_eq(c.keep_alive, 500000);
    ck_assert(!c.prefix_cache && c.strict);
    ck_assert_str_eq(c.dtype, "bf16");
    ck_assert(conf_given(&c, OPT_port) && !conf_given(&c, OPT_host));
    conf_done(&c);
}
END_TEST

START_TEST(test_positional) {
    conf c;
    error err;
    ck_assert_int_eq(PARSE(&c, &err, CMD_INSPECT, "--json", "dir"), OK);
    ck_assert_str_eq(c.model, "dir");
    conf_done(&c);
    ck_assert_int_eq(PARSE(&c, &err, CMD_INSPECT, "--", "--odd-name"), OK);
    ck_assert_str_eq(c.model, "--odd-name");
    conf_done(&c);
    REFUSED("unexpected argument \"b\" for `pagoda inspect`", CMD_INSPECT, "a", "b");
}
END_TEST

START_TEST(test_refusals) {
    REFUSED("unknown option --prot; did you mean --port?", CMD_SERVE, "--prot", "1");
    REFUSED("unknown option --zzzzzzzzzz; `pagoda serve --help` lists them", CMD_SERVE,
            "--zzzzzzzzzz");
    REFUSED("unknown option -p; `pagoda serve --help` lists them", CMD_SERVE, "-p");
    REFUSED("--concurrency is not an option of `pagoda serve`", CMD_SERVE, "--concurrency", "1");
    REFUSED("--port needs a value (PORT)", CMD_SERVE, "--port");
    REFUSED("--port: \"abc\" is not a whole number", CMD_SERVE, "--port", "abc");
    REFUSED("--port: 65536 is out of range (0 to 65535)", CMD_SERVE, "--port=65536");
    REFUSED("--port: \"\" is not a whole number", CMD_SERVE, "--port=");
    REFUSED("--dtype: \"int3\" is not auto|f32|bf16|f16", CMD_SERVE, "--dtype", "int3");
    REFUSED("--kv-cache-bytes: \"4 apples\" is not a size such as 512MiB or 4GiB", CMD_SERVE,
            "--kv-cache-bytes", "4 apples");
    REFUSED("--kv-swap: \"on\" is not a size such as 512MiB or 4GiB, auto or off", CMD_SERVE,
            "--kv-swap", "on");
    REFUSED("--kv-cache-bytes: \"auto\" is not a size such as 512MiB or 4GiB", CMD_SERVE,
            "--kv-cache-bytes", "auto");
    REFUSED("--idle-timeout: 0 is out of range (1 to 86400 seconds)", CMD_SERVE, "--idle-timeout",
            "0");
    REFUSED("--strict: \"perhaps\" is not true or false", CMD_SERVE, "--strict=perhaps");
    REFUSED("--no-strict takes no value", CMD_SERVE, "--no-strict=true");
    REFUSED("--temperature: \"nan\" is not a number", CMD_GENERATE, "--temperature", "nan");
    REFUSED("--temperature: -1 is out of range (0 to 100)", CMD_GENERATE, "--temperature", "-1");
}
END_TEST

START_TEST(test_sizes_that_may_be_chosen) {
    static const struct {
        char *text;
        uint64_t want;
    } cases[] = {{"auto", CONF_AUTO}, {"off", 0}, {"0", 0}, {"2GiB", (uint64_t)2 << 30}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        conf c;
        error err;
        ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--kv-swap", cases[i].text), OK);
        ck_assert_uint_eq(c.kv_swap, cases[i].want);
        conf_done(&c);
    }
}
END_TEST

START_TEST(test_file_then_command_line) {
    char *path = temp_file("# comment\nport: 7\nhost: \"0.0.0.0\"\nserved-model-name: null\n"
                           "max_num_seqs: 12\nstrict: yes\nadmit: reserve\n");
    conf c;
    error err;
    ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--port", "9", "--config", path), OK);
    ck_assert_int_eq(c.port, 9);
    ck_assert_str_eq(c.host, "0.0.0.0");
    ck_assert_ptr_null(c.served_model_name);
    ck_assert_int_eq(c.max_num_seqs, 12);
    ck_assert(c.strict);
    ck_assert_str_eq(c.admit, "reserve");
    ck_assert_int_eq(c.source[OPT_port], FROM_CLI);
    ck_assert_int_eq(c.source[OPT_host], FROM_FILE);
    conf_done(&c);
    unlink(path);
    mem_free(path);
}
END_TEST

static void file_refused(const char *yaml, const char *text) {
    char *path = temp_file(yaml);
    strbuf want = {0};
    strbuf_addf(&want, "%s%s", path, text);
    conf c;
    error err = {0};
    ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--config", path), ERR_INVALID);
    ck_assert_str_eq(err.text, want.p);
    strbuf_done(&want);
    unlink(path);
    mem_free(path);
}

START_TEST(test_file_refusals) {
    file_refused("port: 1\nhots: x\n", ", line 2: unknown option \"hots\"; did you mean host?");
    file_refused("port: 1\nport: 2\n", ", line 2: port is there twice");
    file_refused("port: [1, 2]\n", ", line 1: port takes one value, not a list or mapping");
    file_refused("port:\n", ", line 1: port has no value");
    file_refused("port: x\n", ", line 1: --port: \"x\" is not a whole number");
    file_refused("- port\n", ", line 1: expected \"option: value\" lines");
    file_refused("just words\n", ", line 1: expected \"option: value\" lines");
    file_refused("config: other.yaml\n", ", line 1: config belongs on the command line");
}
END_TEST

START_TEST(test_environment) {
    setenv("PAGODA_API_KEY", "from-env", 1);
    conf c;
    error err;
    ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--port", "1"), OK);
    ck_assert_str_eq(c.api_key, "from-env");
    conf_done(&c);
    ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--api-key", "from-cli"), OK);
    ck_assert_str_eq(c.api_key, "from-cli");
    conf_done(&c);
    unsetenv("PAGODA_API_KEY");
}
END_TEST

/* Every default is a value that the option itself accepts, every option belongs to a command, and
 * every text fits the table. */
START_TEST(test_table) {
    for (int o = 0; o < OPT_COUNT; o++) {
        const conf_row *row = &conf_rows()[o];
        ck_assert_msg(row->commands != 0 && row->commands <= ALL, "%s: no command", row->name);
        ck_assert_msg(row->group != NULL, "%s: no group", row->name);
        ck_assert_msg(strlen(row->help) > 10, "%s: no help", row->name);
        ck_assert_msg(row->type != CONF_ENUM || strchr(row->what, '|'), "%s: choices", row->name);
        ck_assert_int_eq(conf_find(str_z(row->name)), o);
    }
    for (int i = 0; i < CMD_COUNT; i++)
        ck_assert_msg(!*conf_commands[i].positional ||
                          conf_find(str_z(conf_commands[i].positional)) >= 0,
                      "%s", conf_commands[i].name);
}
END_TEST

/* A committed text equals what the tables make. */
static void same_as_file(const char *path, void (*make)(strbuf *out)) {
    strbuf file = {0}, made = {0};
    error err;
    ck_assert_msg(file_read(path, 1 << 20, &file, &err) == OK, "%s", err.text);
    make(&made);
    ck_assert_msg(str_eq(strbuf_str(&file), strbuf_str(&made)),
                  "%s differs from the table; `pagoda --help-markdown` and --help-yaml make it",
                  path);
    strbuf_done(&file);
    strbuf_done(&made);
}

START_TEST(test_committed_texts) {
    same_as_file("conf/OPTIONS.md", conf_markdown);
    same_as_file("conf/pagoda.yaml", conf_yaml_example);
}
END_TEST

/* The example file says the defaults, field by field. */
START_TEST(test_example_file) {
    conf c, d;
    error err;
    conf_init(&d);
    conf_init(&c);
    ck_assert_msg(conf_load("conf/pagoda.yaml", &c, &err) == OK, "%s", err.text);
    for (int o = 0; o < OPT_COUNT; o++) {
        const conf_row *row = &conf_rows()[o];
        const char *a = (const char *)&c + row->offset, *b = (const char *)&d + row->offset;
        if (row->type == CONF_STRING || row->type == CONF_ENUM) {
            const char *x = *(char *const *)a, *y = *(char *const *)b;
            ck_assert_msg((!x && !y) || (x && y && strcmp(x, y) == 0), "%s", row->name);
        } else {
            size_t n = row->type == CONF_BOOL ? sizeof(bool) : 8;
            ck_assert_msg(memcmp(a, b, n) == 0, "%s", row->name);
        }
        bool in_file = c.source[o] == FROM_FILE;
        bool wanted = (row->commands & FOR_SERVE) && row->default_text && o != OPT_print_kernels;
        ck_assert_msg(in_file == wanted, "%s", row->name);
    }
    conf_done(&c);
    conf_done(&d);
}
END_TEST

START_TEST(test_help) {
    strbuf out = {0};
    for (int i = 0; i < CMD_COUNT; i++) {
        strbuf_clear(&out);
        conf_help((conf_cmd)i, &out);
        ck_assert_ptr_nonnull(strstr(out.p, conf_commands[i].summary));
        ck_assert_ptr_nonnull(strstr(out.p, "--config FILE"));
        for (const char *p = out.p, *e; (e = strchr(p, '\n')); p = e + 1)
            ck_assert_msg(e - p <= 100, "too long: %.*s", (int)(e - p), p);
    }
    strbuf_done(&out);
    conf c;
    error err;
    ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--nonsense", "--help"), OK);
    ck_assert(c.help);
    conf_done(&c);
}
END_TEST

START_TEST(test_lists_grow) {
    conf c;
    error err;
    char *path = temp_file("lora: [one=a, b]\n");
    static const struct {
        bool file, cli;
        const char *want;
    } cases[] = {{true, false, "one=a\nb"}, {false, true, "x=1\ny=2"}, {true, true, "x=1\ny=2"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *words[7] = {0};
        int n = 0;
        if (cases[i].file) words[n++] = "--config", words[n++] = path;
        if (cases[i].cli) words[n++] = "--lora", words[n++] = "x=1", words[n++] = "--lora=y=2";
        ck_assert_msg(parse(&c, &err, CMD_SERVE, words) == OK, "%s", err.text);
        ck_assert_str_eq(c.lora, cases[i].want);
        const char *at = c.lora;
        str v;
        ck_assert(conf_list_next(&at, &v) && v.n == strcspn(cases[i].want, "\n"));
        ck_assert(conf_list_next(&at, &v) && !conf_list_next(&at, &v));
        conf_done(&c);
    }
    REFUSED("--lora: \"\" is not text", CMD_SERVE, "--lora=");
    mem_free(path);
    path = temp_file("lora: [[a]]\n");
    ck_assert_int_eq(PARSE(&c, &err, CMD_SERVE, "--config", path), ERR_INVALID);
    ck_assert(strstr(err.text, "a list in a list"));
    mem_free(path);
}
END_TEST

int main(void) {
    Suite *s = suite_create("conf");
    TCase *t = tcase_create("conf");
    suite_add_tcase(s, t);
    tcase_add_test(t, test_defaults);
    tcase_add_test(t, test_command_line);
    tcase_add_test(t, test_positional);
    tcase_add_test(t, test_refusals);
    tcase_add_test(t, test_sizes_that_may_be_chosen);
    tcase_add_test(t, test_file_then_command_line);
    tcase_add_test(t, test_file_refusals);
    tcase_add_test(t, test_environment);
    tcase_add_test(t, test_table);
    tcase_add_test(t, test_committed_texts);
    tcase_add_test(t, test_example_file);
    tcase_add_test(t, test_help);
    tcase_add_test(t, test_lists_grow);
    return suite_run(s);
}
