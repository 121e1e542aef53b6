/* The options file: one YAML mapping from option names to scalars, read with libyaml's events. An
 * option that may be given again also takes a list of them. Anything else (nested mappings,
 * aliases, a second document, a repeated key) is an error that names file, line and key: a typing
 * error must not silently become a default. */
#include <yaml.h>

#include "conf/conf.h"
#include "conf/limits.h"
#include "conf/mindformers.h"
#include "engine/base/file.h"

typedef struct reader {
    const char *path;
    yaml_parser_t parser;
    conf *c;
    bool seen[OPT_COUNT];
} reader;

static int line_of(const yaml_event_t *e) {
    return (int)e->start_mark.line + 1;
}

static status next(reader *r, yaml_event_t *ret, error *err) {
    if (yaml_parser_parse(&r->parser, ret)) return OK;
    return error_set(err, ERR_INVALID, "%s, line %d: %s", r->path,
                     (int)r->parser.problem_mark.line + 1,
                     r->parser.problem ? r->parser.problem : "not YAML");
}

/* A plain empty, ~ or null: the key is there, its value is not. */
static bool is_null(const yaml_event_t *e) {
    const char *v = (const char *)e->data.scalar.value;
    return e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*v || strcmp(v, "~") == 0 || strcmp(v, "null") == 0);
}

/* *ret_fixed: the key changes nothing, and *ret is untouched. */
static status find_key(reader *r, const yaml_event_t *e, int *ret, const conf_alias **ret_fixed,
                       error *err) {
    if (e->type != YAML_SCALAR_EVENT)
        return error_set(err, ERR_INVALID, "%s, line %d: expected an option's name", r->path,
                         line_of(e));
    str name = str_n((const char *)e->data.scalar.value, e->data.scalar.length);
    const conf_alias *a = conf_alias_find(name);
    int o = a ? a->opt : conf_find(name);
    *ret_fixed = a && o < 0 ? a : NULL;
    if (*ret_fixed) return OK;
    if (o == OPT_config)
        return error_set(err, ERR_INVALID, "%s, line %d: config belongs on the command line",
                         r->path, line_of(e));
    if (o < 0) {
        const char *near = conf_nearest(name, ALL);
        return error_set(err, ERR_INVALID, "%s, line %d: unknown option \"%.60s\"%s%s%s", r->path,
                         line_of(e), (const char *)e->data.scalar.value,
                         near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    if (r->seen[o])
        return error_set(err, ERR_INVALID, "%s, line %d: %s is there twice", r->path, line_of(e),
                         conf_rows()[o].name);
    r->seen[o] = true;
    *ret = o;
    return OK;
}

static status set_value(reader *r, int o, const yaml_event_t *e, error *err);

/* The values of a sequence that has begun. */
static status set_list(reader *r, int o, error *err) {
    for (;;) {
        yaml_event_t e;
        TRY(next(r, &e, err));
        bool end = e.type == YAML_SEQUENCE_END_EVENT;
        status st = OK;
        if (e.type == YAML_SEQUENCE_START_EVENT)
            st = error_set(err, ERR_INVALID, "%s, line %d: %s: a list in a list", r->path,
                           line_of(&e), conf_rows()[o].name);
        else if (!end)
            st = set_value(r, o, &e, err);
        yaml_event_delete(&e);
        if (end || st != OK) return st;
    }
}

static status set_value(reader *r, int o, const yaml_event_t *e, error *err) {
    const char *name = conf_rows()[o].name;
    if (e->type == YAML_SEQUENCE_START_EVENT && conf_rows()[o].type == CONF_LIST)
        return set_list(r, o, err);
    if (e->type != YAML_SCALAR_EVENT)
        return error_set(err, ERR_INVALID, "%s, line %d: %s takes one value, not a list or mapping",
                         r->path, line_of(e), name);
    if (is_null(e)) {
        if (!conf_rows()[o].default_text) return OK;
        return error_set(err, ERR_INVALID, "%s, line %d: %s has no value", r->path, line_of(e),
                         name);
    }
    str text = str_n((const char *)e->data.scalar.value, e->data.scalar.length);
    status st = conf_set(r->c, (conf_opt)o, text, FROM_FILE, err);
    if (st != OK) error_prefix(err, "%s, line %d", r->path, line_of(e));
    return st;
}

static status check_fixed(reader *r, const conf_alias *a, const yaml_event_t *e, error *err) {
    str text = STR("a list or mapping");
    if (e->type == YAML_SCALAR_EVENT)
        text = str_n((const char *)e->data.scalar.value, e->data.scalar.length);
    status st = conf_alias_check(a, text, err);
    if (st != OK) error_prefix(err, "%s, line %d", r->path, line_of(e));
    return st;
}

/* One key and its value; *ret_done at the end of the mapping. */
static status pair(reader *r, bool *ret_done, error *err) {
    yaml_event_t key, value;
    const conf_alias *fixed = NULL;
    int o = -1;
    TRY(next(r, &key, err));
    *ret_done = key.type == YAML_MAPPING_END_EVENT;
    status st = *ret_done ? OK : find_key(r, &key, &o, &fixed, err);
    yaml_event_delete(&key);
    if (*ret_done || st != OK) return st;
    TRY(next(r, &value, err));
    st = fixed ? check_fixed(r, fixed, &value, err) : set_value(r, o, &value, err);
    yaml_event_delete(&value);
    return st;
}

/* Skip to the first event that carries content; an empty file is a valid one. */
static status document(reader *r, error *err) {
    for (;;) {
        yaml_event_t e;
        TRY(next(r, &e, err));
        yaml_event_type_t type = e.type;
        int line = line_of(&e);
        bool empty = type == YAML_SCALAR_EVENT && is_null(&e);
        yaml_event_delete(&e);
        if (type == YAML_STREAM_START_EVENT || type == YAML_DOCUMENT_START_EVENT) continue;
        if (type == YAML_STREAM_END_EVENT || empty) return OK;
        if (type == YAML_MAPPING_START_EVENT) break;
        return error_set(err, ERR_INVALID, "%s, line %d: expected \"option: value\" lines", r->path,
                         line);
    }
    for (bool done = false; !done;) TRY(pair(r, &done, err));
    return OK;
}

static status own_file(const char *path, str text, conf *c, error *err) {
    reader r = {.path = path, .c = c};
    if (!yaml_parser_initialize(&r.parser))
        return error_set(err, ERR_NOMEM, "no memory for the YAML reader");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text.p, text.n);
    status st = document(&r, err);
    yaml_parser_delete(&r.parser);
    return st;
}

status conf_load_with(const char *path, const char *overrides, conf *c, error *err) {
    strbuf file = {0};
    status st = file_read(path, LIMIT_CONFIG_BYTES, &file, err);
    str text = strbuf_str(&file);
    bool is_foreign = st == OK && mindformers_is(text);
    if (st == OK && !is_foreign) st = own_file(path, text, c, err);
    if (st == OK) st = mindformers_load(path, is_foreign ? text : STR(""), overrides, c, err);
    strbuf_done(&file);
    return st;
}

status conf_load(const char *path, conf *c, error *err) {
    return conf_load_with(path, NULL, c, err);
}
