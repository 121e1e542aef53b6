/* The command line. options.def makes a table of rows; everything here walks that table, so an
 * option needs no code of its own. Values of all types are set from text by conf_set (value.c),
 * the same for defaults, file, environment and command line: what is valid in one place is valid in
 * all. */
#include "conf/conf.h"
#include "conf/mindformers.h"

#include <stdlib.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

#define DISTANCE_MAX 3 /* edits between what was typed and what was meant */

/* Words with a dash: the table's names are also those of functions. */
/* clang-format off */
#define make_tiny make-tiny
/* clang-format on */
#define WORD(name) #name
const conf_command conf_commands[CMD_COUNT] = {
#define COMMAND(id, name, positional, summary) {WORD(name), positional, summary},
#include "conf/commands.def"
#undef COMMAND
#undef make_tiny
};

bool conf_cmd_find(const char *name, conf_cmd *ret) {
    for (int i = 0; i < CMD_COUNT; i++) {
        if (strcmp(conf_commands[i].name, name) != 0) continue;
        *ret = (conf_cmd)i;
        return true;
    }
    return false;
}

/* '_' and '-' are the same in option names. */
static bool name_eq(str a, const char *name) {
    size_t n = strlen(name);
    if (a.n != n) return false;
    for (size_t i = 0; i < n; i++)
        if ((a.p[i] == '_' ? '-' : a.p[i]) != name[i]) return false;
    return true;
}

int conf_find(str name) {
    for (int i = 0; i < OPT_COUNT; i++)
        if (name_eq(name, conf_rows()[i].name)) return i;
    return -1;
}

const char *conf_nearest(str name, unsigned among) {
    const char *best = NULL;
    int best_distance = DISTANCE_MAX + 1;
    for (int i = 0; i < OPT_COUNT; i++) {
        const conf_row *row = &conf_rows()[i];
        int d = str_distance(name, str_z(row->name));
        if (!(row->commands & among) || d >= best_distance || (size_t)d >= name.n) continue;
        best = row->name;
        best_distance = d;
    }
    return best;
}

static status unknown_option(conf_cmd cmd, str name, error *err) {
    const char *near = conf_nearest(name, 1u << cmd);
    int elsewhere = conf_find(name);
    if (near)
        return error_set(err, ERR_INVALID, "unknown option --" STR_FMT "; did you mean --%s?",
                         STR_ARG(name), near);
    if (elsewhere >= 0)
        return error_set(err, ERR_INVALID, "--%s is not an option of `pagoda %s`",
                         conf_rows()[elsewhere].name, conf_commands[cmd].name);
    return error_set(err, ERR_INVALID,
                     "unknown option --" STR_FMT "; `pagoda %s --help` lists them", STR_ARG(name),
                     conf_commands[cmd].name);
}

/* An option as typed: its row, and whether it came as --no-NAME. */
static status option_find(conf_cmd cmd, str name, int *ret_opt, bool *ret_negated, error *err) {
    const conf_alias *a = conf_alias_find(name);
    int o = a ? a->opt : conf_find(name);
    bool negated = false;
    if (o < 0 && str_starts(name, STR("no-"))) {
        o = conf_find(str_cut(name, 3, name.n));
        negated = o >= 0 && conf_rows()[o].type == CONF_BOOL;
        if (!negated) o = -1;
    }
    if (o < 0 || !(conf_rows()[o].commands & 1u << cmd)) return unknown_option(cmd, name, err);
    *ret_opt = o;
    *ret_negated = negated;
    return OK;
}

/* An option that changes nothing: its value is the next word unless that is an option. */
static status fixed(const conf_alias *a, str value, int argc, char *const *argv, int *i,
                    error *err) {
    bool next = !value.p && *i + 1 < argc && strncmp(argv[*i + 1], "--", 2) != 0;
    if (next) value = str_z(argv[++*i]);
    return conf_alias_check(a, value.p ? value : STR("true"), err);
}

/* Read the argument at argv[*i] (and its value, if that is the next one). */
static status argument(conf_cmd cmd, int argc, char *const *argv, int *i, conf *c, error *err) {
    str arg = str_z(argv[*i]);
    arg = str_cut(arg, 2, arg.n);
    ptrdiff_t eq = str_find(arg, STR("="), 0);
    str name = eq < 0 ? arg : str_cut(arg, 0, (size_t)eq), value = {0};
    if (eq >= 0) value = str_cut(arg, (size_t)eq + 1, arg.n);
    const conf_alias *a = conf_alias_find(name);
    if (a && a->opt < 0) return fixed(a, value, argc, argv, i, err);
    int o = -1;
    bool negated = false;
    TRY(option_find(cmd, name, &o, &negated, err));
    const conf_row *row = &conf_rows()[o];
    if (eq >= 0 && negated) return error_set(err, ERR_INVALID, "--no-%s takes no value", row->name);
    if (eq < 0 && row->type == CONF_BOOL) {
        value = negated ? STR("false") : STR("true");
    } else if (eq < 0) {
        if (*i + 1 >= argc)
            return error_set(err, ERR_INVALID, "--%s needs a value (%s)", row->name, row->what);
        value = str_z(argv[++*i]);
    }
    TRY(conf_set(c, (conf_opt)o, value, FROM_CLI, err));
    /* As in MindFormers, more pairs may follow. */
    while (o == OPT_options && *i + 1 < argc && argv[*i + 1][0] != '-' && strchr(argv[*i + 1], '='))
        TRY(conf_set(c, (conf_opt)o, str_z(argv[++*i]), FROM_CLI, err));
    return OK;
}

static status positional(conf_cmd cmd, const char *word, conf *c, error *err) {
    int o = conf_find(str_z(conf_commands[cmd].positional));
    if (o < 0 || c->source[o] == FROM_CLI)
        return error_set(err, ERR_INVALID, "unexpected argument \"%s\" for `pagoda %s`", word,
                         conf_commands[cmd].name);
    return conf_set(c, (conf_opt)o, str_z(word), FROM_CLI, err);
}

static status parse_cli(conf_cmd cmd, int argc, char *const *argv, conf *c, error *err) {
    bool only_words = false;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        if (!only_words && strcmp(a, "--") == 0)
            only_words = true;
        else if (!only_words && strncmp(a, "--", 2) == 0)
            TRY(argument(cmd, argc, argv, &i, c, err));
        else if (!only_words && a[0] == '-' && a[1])
            return error_set(err, ERR_INVALID, "unknown option %s; `pagoda %s --help` lists them",
                             a, conf_commands[cmd].name);
        else
            TRY(positional(cmd, a, c, err));
    }
    return OK;
}

static bool asks_help(int argc, char *const *argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

/* --config, and --options over it. */
static status load_file(const conf *cli, conf *c, error *err) {
    if (cli->config) return conf_load_with(cli->config, cli->options, c, err);
    return mindformers_load("--options", STR(""), cli->options, c, err);
}

status conf_parse(conf_cmd cmd, int argc, char *const *argv, conf *ret, error *err) {
    status st;
    conf cli, c;
    conf_init(&cli);
    conf_init(&c);
    cli.help = c.help = asks_help(argc, argv);
    if (c.help) {
        conf_done(&cli);
        *ret = c;
        return OK;
    }
    /* Once to find --config (and every error of the command line), once over the file. */
    TRY_OUT(parse_cli(cmd, argc, argv, &cli, err));
    TRY_OUT(load_file(&cli, &c, err));
    const char *key = getenv("PAGODA_API_KEY");
    if (key && *key) TRY_OUT(conf_set(&c, OPT_api_key, str_z(key), FROM_ENV, err));
    TRY_OUT(parse_cli(cmd, argc, argv, &c, err));
    *ret = c;
    conf_done(&cli);
    return OK;
out:
    conf_done(&cli);
    conf_done(&c);
    return st;
}
