/* A YAML tree flattened: nested mappings become dotted paths. Aliases can make a small file large,
 * so levels and leaves are bounded while walking. */
#include "conf/yaml_leaves.h"

#include <yaml.h>

#include "engine/base/mem.h"

#define DEPTH_MAX  16
#define LEAVES_MAX 4096

typedef struct leaves_reader {
    const char *file;
    yaml_document_t doc;
    yaml_leaves *out;
} leaves_reader;

static bool is_empty_word(const char *v) {
    return !*v || strcmp(v, "~") == 0 || strcasecmp(v, "null") == 0 || strcasecmp(v, "none") == 0;
}

void yaml_leaves_add(yaml_leaves *to, str path, str value, int line) {
    yaml_leaf l = {.line = line};
    strbuf p = {0}, v = {0};
    strbuf_add(&p, path);
    strbuf_add(&v, value);
    l.path = strbuf_take(&p);
    l.value = strbuf_take(&v);
    if (is_empty_word(l.value)) l.value[0] = 0;
    vec_push(to, l);
}

static str scalar_of(const yaml_node_t *n) {
    return str_n((const char *)n->data.scalar.value, n->data.scalar.length);
}

static status flatten(leaves_reader *r, yaml_node_t *n, strbuf *path, int depth, error *err);

static status flatten_pairs(leaves_reader *r, yaml_node_t *n, strbuf *path, int depth, error *err) {
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        if (key->type != YAML_SCALAR_NODE)
            return error_set(err, ERR_INVALID, "%s, line %d: a key must be a word", r->file,
                             (int)key->start_mark.line + 1);
        size_t before = path->n;
        if (before) strbuf_addc(path, '.');
        strbuf_add(path, scalar_of(key));
        TRY(flatten(r, yaml_document_get_node(&r->doc, p->value), path, depth + 1, err));
        path->n = before;
        path->p[before] = 0;
    }
    return OK;
}

static status flatten(leaves_reader *r, yaml_node_t *n, strbuf *path, int depth, error *err) {
    int line = (int)n->start_mark.line + 1;
    if (depth > DEPTH_MAX || r->out->n >= LEAVES_MAX)
        return error_set(err, ERR_TOO_LARGE, "%s, line %d: more than %d levels or %d keys", r->file,
                         line, DEPTH_MAX, LEAVES_MAX);
    if (n->type == YAML_MAPPING_NODE) return flatten_pairs(r, n, path, depth, err);
    str value = n->type == YAML_SCALAR_NODE ? scalar_of(n) : STR("[...]");
    yaml_leaves_add(r->out, strbuf_str(path), value, line);
    return OK;
}

status yaml_leaves_read(const char *file, str text, yaml_leaves *ret, error *err) {
    leaves_reader r = {.file = file, .out = ret};
    yaml_parser_t parser;
    strbuf path = {0};
    status st = OK;
    if (!yaml_parser_initialize(&parser))
        return error_set(err, ERR_NOMEM, "no memory for the YAML reader");
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.p, text.n);
    if (!yaml_parser_load(&parser, &r.doc)) {
        st = error_set(err, ERR_INVALID, "%s, line %d: %s", file, (int)parser.problem_mark.line + 1,
                       parser.problem ? parser.problem : "not YAML");
        yaml_parser_delete(&parser);
        return st;
    }
    yaml_node_t *root = yaml_document_get_root_node(&r.doc);
    strbuf_addz(&path, "");
    if (root) st = flatten(&r, root, &path, 0, err);
    strbuf_done(&path);
    yaml_document_delete(&r.doc);
    yaml_parser_delete(&parser);
    return st;
}

void yaml_leaves_done(yaml_leaves *l) {
    for (size_t i = 0; i < l->n; i++) {
        mem_free(l->p[i].path);
        mem_free(l->p[i].value);
    }
    vec_done(l);
}
