/* Options: one table (options.def) read from the command line, a YAML file and one environment
 * variable into struct conf.
 *
 * Later wins: defaults, then the file of --config, then PAGODA_API_KEY, then the command line.
 * A conf is immutable after conf_parse and owns its strings until conf_done. */
#ifndef CONF_CONF_H
#define CONF_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef enum conf_cmd {
#define COMMAND(id, name, positional, summary) CMD_##id,
#include "conf/commands.def"
#undef COMMAND
    CMD_COUNT
} conf_cmd;

/* Sets of commands, for options.def. */
enum {
#define COMMAND(id, name, positional, summary) FOR_##id = 1 << CMD_##id,
#include "conf/commands.def"
#undef COMMAND
    ALL = (1 << CMD_COUNT) - 1,
    /* scheduler and engine in this process; of these, what generates */
    RUNS = FOR_SERVE + FOR_CHAT + FOR_GENERATE + FOR_PREDICT + FOR_EVAL,
    ANSWERS = RUNS - FOR_EVAL,
    ENGINE = RUNS + FOR_INSPECT + FOR_LOGITS, /* an engine in this process */
    CLIENT = FOR_CHAT + FOR_BENCH,            /* talks to a server */
};

typedef enum conf_type {
    CONF_INT,      /* int64_t */
    CONF_FLOAT,    /* double */
    CONF_BOOL,     /* bool */
    CONF_STRING,   /* char *, NULL = unset */
    CONF_BYTES,    /* uint64_t */
    CONF_DURATION, /* uint64_t microseconds; ranges in options.def are in seconds */
    CONF_ENUM,     /* char *, one of the choices */
    CONF_LIST,     /* char *: the values of an option that may be given again, one a line */
} conf_type;

typedef int64_t conf_INT;
typedef double conf_FLOAT;
typedef bool conf_BOOL;
typedef char *conf_STRING;
typedef uint64_t conf_BYTES;
#define CONF_AUTO UINT64_MAX
typedef uint64_t conf_DURATION;
typedef char *conf_ENUM;
typedef char *conf_LIST;

typedef enum conf_opt {
#define GROUP(title)
#define OPT(type, field, default_, lo, hi, what, commands, help) OPT_##field,
#include "conf/options.def"
#undef OPT
#undef GROUP
    OPT_COUNT
} conf_opt;

typedef enum conf_source { FROM_DEFAULT, FROM_FILE, FROM_ENV, FROM_CLI } conf_source;

/* What another program's file says and no option holds: to be compared with the model's config.json
 * and to be told to the user. */
typedef struct conf_expect {
    char *where;      /* "f.yaml, line 3: model.model_config.num_layers" */
    char *value;      /* as it stands there */
    const char *keys; /* of config.json: "a|b.c", the first that is there counts */
} conf_expect;

typedef struct conf_foreign {
    strbuf notes, unknown; /* lines: what has no effect and why; keys that nobody knows */
    conf_expect expect[32];
    int n_expect;
} conf_foreign;

typedef struct conf {
#define GROUP(title)
#define OPT(type, field, default_, lo, hi, what, commands, help) conf_##type field;
#include "conf/options.def"
#undef OPT
#undef GROUP
    uint8_t source[OPT_COUNT]; /* conf_source: where each value is from */
    bool help;                 /* --help was given: nothing else was read */
    conf_foreign *foreign;     /* NULL: the file is one of ours */
} conf;

/* Row of options.def. */
typedef struct conf_row {
    const char *group, *name; /* "max-model-len" */
    conf_type type;
    const char *default_text; /* NULL: unset */
    double lo, hi;
    const char *what; /* unit or metavariable; an ENUM's choices */
    unsigned commands;
    const char *help;
    size_t offset; /* of the field in struct conf */
} conf_row;
const conf_row *conf_rows(void); /* [OPT_COUNT] */

typedef struct conf_command {
    const char *name, *positional, *summary;
} conf_command;
extern const conf_command conf_commands[CMD_COUNT];
/* The command called `name`; false if there is none. */
bool conf_cmd_find(const char *name, conf_cmd *ret);

/* Read the arguments that follow the command's name. Errors name the option, what was found and
 * what is expected; an unknown option is answered with the nearest name. */
NODISCARD status conf_parse(conf_cmd cmd, int argc, char *const *argv, conf *ret, error *err);
/* The YAML file alone over the defaults (for tests and --config): options by name, or MindFormers'
 * predict YAML, told by its keys. */
NODISCARD status conf_load(const char *path, conf *c, error *err);
/* The same, with lines of KEY=VALUE (conf.options, may be NULL) over it. */
NODISCARD status conf_load_with(const char *path, const char *overrides, conf *c, error *err);
void conf_init(conf *c); /* the defaults */
void conf_done(conf *c);
static inline bool conf_given(const conf *c, conf_opt o) {
    return c->source[o] != FROM_DEFAULT;
}

/* The next value of a CONF_LIST: *at begins as the field and moves on; false at the end. */
bool conf_list_next(const char **at, str *ret);
/* Set one option from text; `from` is kept in c->source. A CONF_LIST grows by the text, unless what
 * it has came from another source: then it starts again. */
NODISCARD status conf_set(conf *c, conf_opt o, str text, conf_source from, error *err);
/* Index of the option called `name` ('_' counts as '-'), -1 if there is none. */
int conf_find(str name);

/* A name that another program has for an option (aliases.def). */
typedef struct conf_alias {
    const char *name;       /* "session-len" */
    int opt;                /* the option it stands for; -1: none, then */
    const char *only, *why; /* the values that are accepted (they change nothing); why no others */
    const char *program;
} conf_alias;
extern const conf_alias conf_aliases[];
extern const int conf_n_aliases;
const conf_alias *conf_alias_find(str name); /* NULL if there is none */
/* Check the value of an alias that stands for no option. */
NODISCARD status conf_alias_check(const conf_alias *a, str value, error *err);
/* The closest option name within a plausible typing error among `commands`, or NULL. */
const char *conf_nearest(str name, unsigned commands);

/* Texts made from the tables. */
void conf_help(conf_cmd cmd, strbuf *out); /* pagoda CMD --help */
void conf_help_all(strbuf *out);           /* pagoda --help */
void conf_markdown(strbuf *out);           /* conf/OPTIONS.md */
void conf_yaml_example(strbuf *out);       /* conf/pagoda.yaml */

#endif
