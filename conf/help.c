/* Texts made from the tables: --help, the Markdown table, the commented example file. */
#include <stdio.h>

#include "conf/conf.h"
#include "engine/base/mem.h"

#define HELP_COLUMN 34 /* where the help text of an option begins */
#define HELP_WIDTH  100

/* Words of `text`, wrapped; the cursor stands at column `at`. */
static void add_wrapped(strbuf *out, const char *text, size_t indent, size_t at) {
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > indent && at + 1 + n > HELP_WIDTH) {
            strbuf_addf(out, "\n%*s", (int)indent, "");
            at = indent;
        } else if (at > indent) {
            strbuf_addc(out, ' ');
            at++;
        }
        strbuf_add(out, str_n(text, n));
        at += n;
        text += n;
        while (*text == ' ') text++;
    }
    strbuf_addc(out, '\n');
}

/* "--max-model-len TOKENS", "--[no-]strict", "--dtype auto|f32|bf16" */
static size_t add_spelling(strbuf *out, const conf_row *row) {
    size_t before = out->n;
    if (row->type == CONF_BOOL)
        strbuf_addf(out, "--[no-]%s", row->name);
    else
        strbuf_addf(out, "--%s %s", row->name, row->what);
    return out->n - before;
}

static void add_option(strbuf *out, const conf_row *row) {
    strbuf_addz(out, "  ");
    size_t at = 2 + add_spelling(out, row);
    if (at + 2 > HELP_COLUMN) {
        strbuf_addf(out, "\n%*s", HELP_COLUMN, "");
    } else {
        strbuf_addf(out, "%*s", (int)(HELP_COLUMN - at), "");
    }
    strbuf text = {0};
    strbuf_addz(&text, row->help);
    if (row->default_text && row->type != CONF_BOOL)
        strbuf_addf(&text, " [%s]", row->default_text);
    else if (row->default_text)
        strbuf_addf(&text, " [%s]", row->default_text[0] == 't' ? "on" : "off");
    add_wrapped(out, text.p, HELP_COLUMN, HELP_COLUMN);
    strbuf_done(&text);
}

/* How a command is called: its positional argument as in the table of options. */
static void add_usage(strbuf *out, conf_cmd cmd) {
    const conf_command *c = &conf_commands[cmd];
    strbuf_addf(out, "usage: pagoda %s", c->name);
    int o = conf_find(str_z(c->positional));
    if (o >= 0) strbuf_addf(out, " [%s]", conf_rows()[o].what);
    strbuf_addz(out, " [options]\n");
}

void conf_help(conf_cmd cmd, strbuf *out) {
    strbuf_addf(out, "pagoda %s: %s\n\n", conf_commands[cmd].name, conf_commands[cmd].summary);
    add_usage(out, cmd);
    const char *group = NULL;
    for (int o = 0; o < OPT_COUNT; o++) {
        const conf_row *row = &conf_rows()[o];
        if (!(row->commands & 1u << cmd)) continue;
        if (group != row->group) strbuf_addf(out, "\n%s\n", row->group);
        group = row->group;
        add_option(out, row);
    }
}

void conf_help_all(strbuf *out) {
    strbuf_addz(out, "pagoda " PAGODA_VERSION ": serves large language models over the OpenAI REST "
                     "API\n\nusage: pagoda COMMAND [options]\n\n");
    for (int i = 0; i < CMD_COUNT; i++)
        strbuf_addf(out, "  %-10s %s\n", conf_commands[i].name, conf_commands[i].summary);
    strbuf_addz(out, "\n`pagoda COMMAND --help` lists its options; `pagoda --version` prints the "
                     "version.\n");
}

/* "serve, chat", or "all" */
static void add_commands(strbuf *out, unsigned set) {
    if (set == ALL) {
        strbuf_addz(out, "all");
        return;
    }
    const char *comma = "";
    for (int i = 0; i < CMD_COUNT; i++) {
        if (!(set & 1u << i)) continue;
        strbuf_addf(out, "%s%s", comma, conf_commands[i].name);
        comma = ", ";
    }
}

/* Cells of a Markdown table may not hold a bare bar. */
static void add_cell(strbuf *out, const char *text) {
    for (; *text; text++) {
        if (*text == '|') strbuf_addc(out, '\\');
        strbuf_addc(out, *text);
    }
}

/* The names of other programs, for the end of OPTIONS.md. */
static void add_aliases(strbuf *out) {
    strbuf_addz(out, "\n## Names of other programs\n\nAccepted too, on the command line and in the "
                     "file (aliases.def).\n\n| name | program | means |\n|---|---|---|\n");
    for (int i = 0; i < conf_n_aliases; i++) {
        const conf_alias *a = &conf_aliases[i];
        strbuf_addf(out, "| `--%s` | %s | ", a->name, a->program);
        if (a->opt >= 0) {
            strbuf_addf(out, "`--%s` |\n", conf_rows()[a->opt].name);
            continue;
        }
        strbuf_addz(out, "only ");
        add_cell(out, a->only);
        strbuf_addf(out, ": %s |\n", a->why);
    }
}

void conf_markdown(strbuf *out) {
    strbuf_addz(out, "# Options\n\nMade by `pagoda --help-markdown` from options.def; a test "
                     "compares.\nIn a YAML file (`--config FILE`) the names stand without the "
                     "leading dashes.\n");
    const char *group = NULL;
    for (int o = 0; o < OPT_COUNT; o++) {
        const conf_row *row = &conf_rows()[o];
        if (group != row->group)
            strbuf_addf(out,
                        "\n## %s\n\n| option | default | commands | meaning |\n|---|---|---|---|\n",
                        row->group);
        group = row->group;
        strbuf spelling = {0};
        add_spelling(&spelling, row);
        strbuf_addz(out, "| `");
        add_cell(out, spelling.p);
        strbuf_addf(out, "` | %s | ", row->default_text ? row->default_text : "");
        strbuf_done(&spelling);
        add_commands(out, row->commands);
        strbuf_addz(out, " | ");
        add_cell(out, row->help);
        strbuf_addz(out, " |\n");
    }
    add_aliases(out);
}

void conf_yaml_example(strbuf *out) {
    strbuf_addz(out,
                "# Options of `pagoda serve --config FILE`, each with its default. The command "
                "line overrides\n# what is here. Sizes: 512MiB, 4GiB. Times: 500ms, 30s, 5m. Made "
                "by\n# `pagoda --help-yaml` from conf/options.def; a test compares.\n");
    const char *group = NULL;
    for (int o = 0; o < OPT_COUNT; o++) {
        const conf_row *row = &conf_rows()[o];
        if (!(row->commands & FOR_SERVE) || o == OPT_config || o == OPT_print_kernels) continue;
        if (group != row->group) strbuf_addf(out, "\n# %s\n", row->group);
        group = row->group;
        strbuf_addf(out, "\n# %s", row->help);
        if (row->type == CONF_ENUM) strbuf_addf(out, " (%s)", row->what);
        strbuf_addf(out, "\n%s:%s%s\n", row->name, row->default_text ? " " : "",
                    row->default_text ? row->default_text : "");
    }
}
