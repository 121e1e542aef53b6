/* The program: finds the command, reads its options, runs it. The only file that ends the process.
 *
 * Exit status: 0 done, 1 the command failed (one sentence on stderr), 2 wrong usage, 3 the engine
 * of a server failed (a lost device, say): start it again. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include "server/cmd.h"

#define EXIT_USAGE 2

static int (*const run[CMD_COUNT])(const conf *c) = {
#define COMMAND(id, name, positional, summary) cmd_##name,
#include "conf/commands.def"
#undef COMMAND
};

static int print(void (*text)(strbuf *out)) {
    strbuf out = {0};
    text(&out);
    bool ok = fwrite(out.p, 1, out.n, stdout) == out.n;
    strbuf_done(&out);
    return ok ? 0 : 1;
}

static void version(strbuf *out) {
    strbuf_addz(out, "pagoda " PAGODA_VERSION "\n");
}

/* The nearest command name, or NULL. */
static const char *nearest(const char *word) {
    for (int i = 0; i < CMD_COUNT; i++)
        if (str_distance(str_z(word), str_z(conf_commands[i].name)) <= 2)
            return conf_commands[i].name;
    return NULL;
}

static int unknown_command(const char *word) {
    const char *near = nearest(word);
    if (near)
        cmd_failf("unknown command \"%s\"; did you mean `pagoda %s`?", word, near);
    else
        cmd_failf("unknown command \"%s\"; `pagoda --help` lists them", word);
    return EXIT_USAGE;
}

int cmd_fail(const error *err) {
    return cmd_failf("%s", err->text);
}

int cmd_failf(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("pagoda: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return 1;
}

static int run_command(conf_cmd cmd, int argc, char **argv) {
    conf c;
    error err;
    if (conf_parse(cmd, argc, argv, &c, &err) != OK) {
        cmd_fail(&err);
        return EXIT_USAGE;
    }
    int rc;
    if (c.help) {
        strbuf out = {0};
        conf_help(cmd, &out);
        rc = fwrite(out.p, 1, out.n, stdout) == out.n ? 0 : 1;
        strbuf_done(&out);
    } else {
        rc = run[cmd](&c);
    }
    conf_done(&c);
    return rc;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN); /* a closed pipe or socket is an error return, not a death */
    const char *word = argc > 1 ? argv[1] : "--help";
    conf_cmd cmd;
    if (conf_cmd_find(word, &cmd)) return run_command(cmd, argc - 2, argv + 2);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0)
        return print(conf_help_all);
    if (strcmp(word, "--version") == 0) return print(version);
    if (strcmp(word, "--help-markdown") == 0) return print(conf_markdown);
    if (strcmp(word, "--help-yaml") == 0) return print(conf_yaml_example);
    return unknown_command(word);
}
